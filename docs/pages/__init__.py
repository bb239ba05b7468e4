"""Pages of the site, and tables in them, made from the code, the tests and the published results.

`python -m docs.pages` writes them; a test fails where one is not what it would write.
"""

from pathlib import Path

from docs.pages.sources import ROOT


def texts() -> dict[Path, str]:
    """Every generated file, relative to the root, and what has to stand in it."""
    from docs.pages import api, claims, colab, equations, figures, gallery, performance, tables

    made_by = (claims, figures, gallery, equations, performance, api, colab)
    found = {made.PATH: made.page() for made in made_by}
    readme = Path("README.md")
    found[readme] = claims.readme((ROOT / readme).read_text())
    return {**found, **tables.pages()}


def write() -> list[Path]:
    """Write what has changed."""
    changed = []
    for path, text in texts().items():
        file = ROOT / path
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
            changed.append(path)
    return changed
