"""Measured tables inside of hand-written pages, between two comments.

`<!-- table of results/ssm/delay/cpu/table.md -->` stands before a whole file,
`<!-- table of results/benchmarks/ssm.json: Kernels of RTF -->` before one table of what a benchmark
printed, found by what its caption begins with; `<!-- end of table -->` stands behind either.
"""

import itertools
import json
import re
from pathlib import Path

from docs.pages.sources import ROOT

MARKS = re.compile(
    r"(<!-- table of (?P<file>[^\s:]+)(?:: (?P<caption>[^\n]+))? -->\n).*?"
    r"(?P<end><!-- end of table -->)",
    re.DOTALL,
)


def pages() -> dict[Path, str]:
    """The pages with such tables, relative to the root, and what has to stand in them."""
    found = {path.relative_to(ROOT): path.read_text() for path in sorted(ROOT.glob("docs/*.md"))}
    return {path: filled(text) for path, text in found.items() if MARKS.search(text)}


def filled(text: str) -> str:
    """A page with the present tables between its marks."""
    return MARKS.sub(
        lambda found: f"{found[1]}\n{table(found['file'], found['caption'])}\n{found['end']}", text
    )


def table(file: str, caption: str | None = None) -> str:
    """A published table as Markdown.

    Raises:
        ValueError: none has such a caption.
    """
    text = (ROOT / file).read_text()
    if caption is None:
        return text.strip() + "\n"
    lines = json.loads(text)["output"].splitlines()
    behind = itertools.dropwhile(lambda line: not line.startswith(caption), lines)
    rows = itertools.dropwhile(lambda line: not line.startswith("|"), behind)
    found = list(itertools.takewhile(lambda line: line.startswith("|"), rows))
    if not found:
        raise ValueError(f"{file}: expected a table below {caption!r}, found none")
    return "\n".join(found) + "\n"
