"""The generated pages: up to date, complete, and every entry of theirs leads somewhere."""

import fnmatch
import re

import pytest

from docs.pages import claims, docstrings, equations, figures, results, sources, tables, texts
from experiments import catalog

CHOICES = sources.ROOT / "docs" / "which.md"
PACKAGES = {
    "Fourier densities": "fourier_density",
    "Attention": "attention",
    "State spaces": "ssm",
    "Diffusion": "diffusion",
}
NUMBER = re.compile(r"(?<![\w.])[-+]?(\d+(?:\.(\d+))?)(?:e([-+]?\d+))?(?!\w)")


def test_pages_and_readme_say_what_results_and_code_say():
    stale = [path for path, text in texts().items() if (sources.ROOT / path).read_text() != text]
    assert not stale, f"run: python -m docs.pages ({stale})"


def test_the_summary_in_the_readme_counts_every_claim():
    text = (sources.ROOT / "README.md").read_text()
    rows = results.claims()
    assert len(rows) >= 60
    assert f"| all | {len(rows)} |" in text and claims.readme(text) == text
    broken = text.replace(f"| all | {len(rows)} |", "| all | 1000 |")
    assert claims.readme(broken) == text


def test_every_claim_has_a_verdict_a_scale_and_a_command():
    for row in results.claims():
        assert row["verdict"] and row["source"] and row["command"].startswith("python -m")
        assert row["scale"] is not None, f"{row['id']}: no published run"


def test_tables_inside_of_pages_are_those_that_were_measured():
    mark = "<!-- table of results/benchmarks/ssm.json: Kernels of RTF -->"
    found = tables.filled(f"Before.\n{mark}\nstale\n<!-- end of table -->\nBehind.")
    assert found.startswith(f"Before.\n{mark}\n\n| L | N | ms |") and "stale" not in found
    assert found.endswith("|\n\n<!-- end of table -->\nBehind.")
    whole = tables.table("results/ssm/delay/cpu/table.md")
    assert whole == (sources.ROOT / "results/ssm/delay/cpu/table.md").read_text().strip() + "\n"
    with pytest.raises(ValueError, match="expected a table below 'Kernels of RFT', found none"):
        tables.table("results/benchmarks/ssm.json", "Kernels of RFT")


def test_every_equation_leads_to_a_function_and_a_test():
    found = equations.entries()
    assert len(found) >= 150
    assert not [entry.name for entry in found if not entry.tests]
    for entry in found:
        path, _, test = entry.tests[0].partition("::")
        assert f"def {test}(" in (sources.ROOT / path).read_text()


def test_a_test_reaches_a_function_by_helpers_and_through_callers():
    by_name = {entry.name: entry for entry in equations.entries()}
    direct = by_name["fourier_density.density.PeriodicDensity.cdf"]
    assert direct.via == "" and direct.tests[0].startswith("tests/fourier_density/test_density")
    assert by_name["attention.latent.release"].via == "attention.latent.attend"
    assert equations._checked("ssm.s4.no_such_function") == ((), "")


def test_figures_of_the_papers_name_what_is_there():
    found = figures.entries()
    assert len(found) >= 100
    for entry in found:
        assert entry.paper and entry.number and entry.shows
        assert entry.experiments or entry.why, f"{entry.paper}, {entry.number}: nothing, no reason"
        assert set(entry.experiments) <= set(catalog.names())
        for picture in entry.pictures:
            assert (sources.ROOT / picture).is_file(), picture
        ids = [row["id"] for row in entry.rows]
        for pattern in entry.claims:
            assert fnmatch.filter(ids, pattern), f"{entry.paper}, {entry.number}: {pattern}"


def test_every_experiment_is_in_the_gallery():
    published = {record.data["experiment"] for record in results.records()}
    assert published == set(catalog.names())


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("P_r^*, [B, H].", "P_r^&#42;, &#91;B, H&#93;."),
        ("*Absorbed*: `a[0] * b`", "<em>Absorbed</em>: `a[0] * b`"),
        ("Notation\n    A   B * C\n\nText.", "Notation:\n\n```text\nA   B * C\n```\n\nText."),
        ("Args:\n    low, high: [N].", "Args:\n    low: &#91;N&#93;.\n    high: &#91;N&#93;."),
        ("One.\n\n    y = a[0] * x\n\nTwo.", "One.\n\n```text\ny = a[0] * x\n```\n\nTwo."),
        (">>> f(1)\n2", "```pycon\n>>> f(1)\n2\n```"),
        ("a < b", "a &lt; b"),
    ],
)
def test_docstrings_as_markdown(docstring, expected):
    assert docstrings.markdown(docstring) == expected


def published():
    """Numbers of each experiment: of its tables, and of its claims."""
    found = {}
    for record in results.records():
        text = (record.directory / "table.md").read_text()
        mine = found.setdefault(record.data["experiment"], set())
        mine.update(abs(float(number[0])) for number in NUMBER.finditer(text))
    for row in results.claims():
        if row["ours"] is not None:
            ends = row["interval"] or ()
            found[row["experiment"]].update(abs(value) for value in (row["ours"], *ends))
    return found


def quoted(text, known):
    """Numbers with a fraction or an exponent, and the experiments that their row names."""
    package, default = "", None
    for line in text.splitlines():
        if line.startswith("#"):
            package, default = PACKAGES.get(line.strip("# "), package), None
        if re.match(r"\*\*Which density", line):
            default = "fourier_density/kl_vs_parameters"
        if not line.startswith("|"):
            continue
        words = re.findall(r"`([\w/]+)`", line)
        named = [word for word in words if word in known]
        named += [f"{package}/{word}" for word in words if f"{package}/{word}" in known]
        evidence = line.split("|")[3]
        for number in NUMBER.finditer(evidence):
            if (number[2] or number[3]) and (named or default):
                yield number, named or [default]


def stands(number, values):
    """Whether a number is one of the values, rounded as it is, or as a percentage."""
    value, power = abs(float(number[0])), int(number[3] or 0) - len(number[2] or "")
    half = 0.51 * 10.0**power
    return any(abs(one * scale - value) <= half for one in values for scale in (1, 100, 0.01))


def lost(text):
    """Numbers that no named experiment has, and of how many."""
    known = published()
    found = [
        (number[0], stands(number, set().union(*(known[name] for name in named))))
        for number, named in quoted(text, known)
    ]
    return [number for number, there in found if not there], len(found)


def test_numbers_of_the_page_of_choices_stand_in_what_it_names():
    missing, count = lost(CHOICES.read_text())
    assert not missing and count > 150


@pytest.mark.parametrize(("old", "new"), [("1.6e-4 (14", "1.9e-4 (14"), ("+0.133 [", "+0.155 [")])
def test_a_stale_number_is_found(old, new):
    text = CHOICES.read_text()
    assert text.count(old) == 1
    assert lost(text.replace(old, new))[0] == [new.partition(" ")[0]]
