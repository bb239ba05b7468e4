"""The ledger: every claim against the published runs, and its summary in the README."""

from itertools import groupby
from pathlib import Path
from typing import Any

from docs.pages import results
from experiments import catalog, report
from experiments.harness import ledger

PATH = Path("docs/claims.md")
HEAD = """---
hide: [navigation]
---

# Claims

What sources say and what the published runs measured: {count} claims, from the files in
`results/`. `python -m experiments report` shows the same with your own runs. The four verdicts are
explained in [Running experiments](experiments.md#verdicts); small runs may *match* exact identities
and orderings only. "> x" is an ordering: the number measured has to exceed x with its whole
interval, which stands in brackets (over seeds, or of the measurement); "±" is the tolerance. A
value marked † has not been read in its source.

"""
MARKS = "<!-- claims: written by python -m docs.pages -->", "<!-- end of claims -->"


def page() -> str:
    """The ledger as Markdown."""
    rows = results.claims()
    lines = [HEAD.format(count=len(rows)), report.summary(rows)]
    for name, mine in groupby(rows, key=lambda row: row["experiment"]):
        lines += [f"## {name}\n", catalog.get(name).summary, ""]
        mine = list(mine)
        commands = dict.fromkeys(row["command"] for row in mine)
        lines += ["    " + command for command in commands]
        lines += ["", "| claim, source | stated | measured | run | verdict |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        lines += [_line(row) for row in mine]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _line(row: dict[str, Any]) -> str:
    mark = "†" if "unverified" in row["source"] else ""
    tolerance = f" ± {row['tolerance']:.2g}" if row["tolerance"] else ""
    seeds = f", {row['seeds']} seed{'s' * (row['seeds'] > 1)}" if row["seeds"] else ""
    measured = ledger.measured(row)
    cells = [
        f"`{row['id']}`: {row['statement']}<br>*{row['source']}*",
        ledger.stated(row) + mark + tolerance,
        measured,
        "-" if measured == "-" or row["ours"] is None else f"{row['scale'] or '-'}{seeds}",
        row["verdict"],
    ]
    return f"| {' | '.join(map(results.cell, cells))} |"


def readme(text: str) -> str:
    """The README with the present summary between its marks."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n{report.summary(results.claims())}{MARKS[1]}{after}"
