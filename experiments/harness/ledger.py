"""Claims against results: four verdicts, never blank, never rounded in our favour."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from experiments.harness import config as configs
from experiments.harness.run import Record

Verdict = Literal["matches", "differs", "inconclusive", "not comparable at this scale"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Measurement:
    """A number and the interval in which the truth lies (equal ends if it is exact)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Claim:
    """Something a source states and a run can check.

    Attributes:
        id: unique, "<experiment>.<name>".
        statement: one sentence.
        source: where it is stated.
        measure: record -> Measurement or a number; None if this run does not cover it.
        paper: the stated value; for an ordering, the bound that must be exceeded.
        tolerance: absolute; how far from `paper` still agrees.
        kind: an "identity" holds exactly at any scale; an "ordering" says measured > paper;
            a "value" belongs to the paper's scale and is compared at presets "paper..." only.
    """

    id: str
    statement: str
    source: str
    measure: Callable[[Record], Measurement | float | None]
    paper: float
    tolerance: float = 0.0
    kind: Literal["identity", "ordering", "value"] = "identity"


def falling(x: Sequence[float], y: Sequence[float]) -> Measurement:
    """The exponent p of a fit y ~ x^-p to at least three points, with its standard error."""
    u, v = np.log(x), np.log(y)
    (slope, offset), total = np.polyfit(u, v, 1), np.sum((u - u.mean()) ** 2)
    error = float(np.sqrt(np.sum((v - slope * u - offset) ** 2) / (len(u) - 2) / total))
    return Measurement(-float(slope), -float(slope) - error, -float(slope) + error)


def below(
    name: str, statement: str, bound: float, measure: Callable[[Record], float | None]
) -> Claim:
    """A bound of the project's own: `bound` over what was measured has to exceed 1."""

    def margin(record: Record) -> Measurement | None:
        value = measure(record)
        return None if value is None else Measurement(*(bound / max(value, 1e-6 * bound),) * 3)

    return Claim(
        id=name,
        statement=f"{statement}: {bound:g} over it, above 1",
        source="the project's own bound; no published value",
        measure=margin,
        paper=1.0,
        kind="ordering",
    )


def judge(claim: Claim, measured: Measurement | None, scale: str | None) -> Verdict:
    """The verdict: inside the accepted range, outside, or covering both."""
    if claim.kind == "value" and scale is not None and not scale.startswith("paper"):
        return "not comparable at this scale"
    if measured is None or not math.isfinite(measured.value):
        return "inconclusive"
    if claim.kind == "ordering":
        if measured.low == measured.high == claim.paper:  # all seeds are equal: nothing differs
            return "inconclusive"
        if measured.low > claim.paper:
            return "matches"
        return "differs" if measured.high <= claim.paper else "inconclusive"
    low, high = claim.paper - claim.tolerance, claim.paper + claim.tolerance
    if low <= measured.low and measured.high <= high:
        return "matches"
    return "differs" if measured.high < low or measured.low > high else "inconclusive"


def row(experiment: str, claim: Claim, record: Record | None, command: str) -> dict[str, Any]:
    """A claim's row of the report, in plain types."""
    measured = None if record is None else claim.measure(record)
    if isinstance(measured, int | float):
        measured = Measurement(float(measured), float(measured), float(measured))
    scale = None if record is None else record.data["preset"]
    return {
        "id": claim.id,
        "experiment": experiment,
        "kind": claim.kind,
        "statement": claim.statement,
        "paper": claim.paper,
        "source": claim.source,
        "ours": measured and measured.value,
        "interval": measured and [measured.low, measured.high],
        "tolerance": claim.tolerance,
        "scale": scale,
        "seeds": None if record is None else _seeds(record.config),
        "verdict": judge(claim, measured, scale),
        "command": command,
    }


def _seeds(config: dict[str, Any]) -> int | None:
    """How many seeds a run has; None if nothing in it is random."""
    fields = {
        name: value
        for name, value in configs.flatten(config).items()
        if name.rpartition(".")[2] in ("seed", "seeds")
    }
    several = [value for name, value in fields.items() if name.rpartition(".")[2] == "seeds"]
    counts = [len(value) if isinstance(value, list) else int(value) for value in several]
    return max(counts) if counts else (1 if fields else None)


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """The report as a Markdown table; brackets hold intervals."""
    lines = [
        "| claim | statement | source says | ours | tolerance | scale | seeds | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in table:
        cells = [row["id"], f"{row['statement']} ({row['source']})", stated(row), measured(row)]
        cells += [f"{row['tolerance']:.2g}", row["scale"] or "-", str(row["seeds"] or "-")]
        lines.append(f"| {' | '.join([*cells, row['verdict']])} |")
    return "\n".join(lines) + "\n"


def brief(table: Sequence[dict[str, Any]]) -> str:
    """Names, values and verdicts alone, in aligned columns for a terminal."""
    cells = [("claim", "source says", "measured", "verdict")]
    cells += [(row["id"], stated(row), measured(row), row["verdict"]) for row in table]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
    return "\n".join(lines) + "\n"


def stated(row: dict[str, Any]) -> str:
    """The source's value in short; of an ordering, what has to be exceeded."""
    return f"{'> ' if row['kind'] == 'ordering' else ''}{_short(row['paper'])}"


def measured(row: dict[str, Any]) -> str:
    """Our value in short, with its interval where it has one; "-" if a smaller task gave it."""
    if row["ours"] is None:
        covered = row["verdict"] == "inconclusive" and row["scale"]
        return f"not in {covered}" if covered else "not run"
    if row["verdict"] == "not comparable at this scale":
        return "-"
    low, high = row["interval"]
    interval = "" if low == high else f" [{low:.4g}, {high:.4g}]"
    return f"{_short(row['ours'])}{interval}"


def _short(value: float) -> str:
    whole = math.isfinite(value) and value == round(value) and abs(value) < 1e7
    return f"{value:.0f}" if whole else f"{value:.4g}"
