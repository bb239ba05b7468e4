"""Every quantitative figure and table of the papers, and what stands for it here."""

import fnmatch
import tomllib
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from docs.pages import results
from docs.pages.sources import ROOT
from experiments.harness import ledger
from experiments.names import RESULTS

PATH = Path("docs/figures.md")
THEORIES = ("fourier_density", "attention", "diffusion", "hippo", "s4_rtf")
HEAD = """---
hide: [navigation]
---

# Figures of the papers

Every quantitative figure and table that is known to us of the papers behind the posts, and what
stands for it here: {count} of them, {ours} with an experiment. None has been run at a paper's full
scale; the last column says what differs. Numbers as printed in the papers; where a paper could not
be read, the entry says "not read", and † marks what is known from memory or second hand. The list
is kept in `docs/figures/*.toml`; verdicts are those of the [claims](claims.md).

"""


@dataclass(frozen=True)
class Entry:
    """A figure or table of a paper.

    Attributes:
        paper, number, shows: what it is.
        experiments, preset: ours, published; empty if there are none.
        claims: patterns of ids.
        why: what differs, or why there is none.
        unverified: known from memory or second hand.
    """

    paper: str
    number: str
    shows: str
    experiments: tuple[str, ...]
    preset: str
    claims: tuple[str, ...]
    why: str
    unverified: bool

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Claims that belong to it."""
        return [
            row
            for row in results.claims()
            if row["experiment"] in self.experiments
            and any(fnmatch.fnmatch(row["id"], pattern) for pattern in self.claims)
        ]

    @property
    def pictures(self) -> list[Path]:
        """Of the experiments, relative to the root."""
        folders = (RESULTS / name / self.preset for name in self.experiments)
        return [folder / "figure.png" for folder in folders]


def entries() -> list[Entry]:
    """All, in the order of the theories."""
    found = []
    for theory in THEORIES:
        path = ROOT / "docs" / "figures" / f"{theory}.toml"
        for one in tomllib.loads(path.read_text())["figure"]:
            names = one.pop("experiment", [])
            found.append(
                Entry(
                    paper=one.pop("paper"),
                    number=one.pop("number"),
                    shows=one.pop("shows"),
                    experiments=(names,) if isinstance(names, str) else tuple(names),
                    preset=one.pop("preset", ""),
                    claims=tuple(one.pop("claims", ())),
                    why=one.pop("why", ""),
                    unverified=one.pop("unverified", False),
                )
            )
            if one:
                raise ValueError(f"{path}: unknown {', '.join(one)} in {found[-1].number}")
    return found


def page() -> str:
    """The list as Markdown."""
    found = entries()
    ours = sum(bool(entry.experiments) for entry in found)
    lines = [HEAD.format(count=len(found), ours=ours)]
    for paper, mine in groupby(found, key=lambda entry: entry.paper):
        lines += [
            f"## {paper}\n",
            "| in the paper | shows | here | what differs, or why there is nothing |",
        ]
        lines += ["| --- | --- | --- | --- |"]
        lines += [_line(entry) for entry in mine]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _line(entry: Entry) -> str:
    number = entry.number + ("†" if entry.unverified else "")
    here = [
        f"[{name}](../{picture.as_posix()})"
        for name, picture in zip(entry.experiments, entry.pictures, strict=True)
    ]
    cells = [number, entry.shows, "<br>".join([*here, _verdicts(entry)]), entry.why or "-"]
    return f"| {' | '.join(map(results.cell, cells))} |"


def _verdicts(entry: Entry) -> str:
    count = Counter(row["verdict"] for row in entry.rows)
    text = ", ".join(
        f"{count[verdict]} x {verdict}" for verdict in ledger.VERDICTS if count[verdict]
    )
    return text or ("shown, no claim" if entry.experiments else "-")
