"""Measures of arms against the size of their state: curves, a table, comparisons of two mixers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.harness import by_arm, figures, paired
from experiments.harness.ledger import Measurement
from experiments.harness.run import Record

Change = Callable[[float], float]


def mixers(record: Record) -> list[str]:
    """Those of a run, in order."""
    return list(dict.fromkeys(row["mixer"] for row in record.rows if "arm" in row))


def sizes(record: Record) -> list[int]:
    """Those of a run, rising."""
    return sorted({row["size"] for row in record.rows if "arm" in row})


def values(record: Record, mixer: str, size: int, metric: str, change: Change) -> list[float]:
    """A measure by seed, changed."""
    return [change(value) for value in by_arm.values(record, f"{mixer}, {size}", metric)]


def draw(axis: Any, record: Record, metric: str, label: str, change: Change = float) -> None:
    """Medians of seeds, and every seed as a dot."""
    for mixer, style in zip(mixers(record), figures.styles(), strict=False):
        here = [size for size in sizes(record) if values(record, mixer, size, metric, change)]
        every = [values(record, mixer, size, metric, change) for size in here]
        medians = [np.median(each) for each in every]
        axis.plot(here, medians, label=figures.spelled(mixer), **style)
        for size, each in zip(here, every, strict=True):
            dots = {"color": style["color"], "markersize": 3, "alpha": 0.5}
            axis.plot([size] * len(each), each, ".", **dots)
    axis.plot([], [], ".", color="#777777", markersize=3, label="seeds; lines: medians")
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes(record), list(map(str, sizes(record))))
    axis.minorticks_off()
    axis.set(xlabel="N, numbers of a channel's state", ylabel=label)
    axis.legend()


def table(
    record: Record,
    metric: str,
    form: str,
    change: Change = float,
    beside: dict[str, str] | None = None,
) -> str:
    """Medians of seeds and their range, by mixer and size.

    Args:
        beside: further lines of cells by title, for instance what a paper printed.
    """
    lines = [
        "| mixer | " + " | ".join(f"N = {size}" for size in sizes(record)) + " |",
        "| --- |" + " --- |" * len(sizes(record)),
    ]
    for mixer in mixers(record):
        cells = []
        for size in sizes(record):
            found = values(record, mixer, size, metric, change)
            if not found:
                cells.append("-")
                continue
            low, high = (format(end(found), form) for end in (min, max))
            middle = format(float(np.median(found)), form)
            cells.append(middle if low == high else f"{middle} ({low} to {high})")
        lines.append("| " + " | ".join([mixer, *cells]) + " |")
    lines += [f"| {title} | {cells} |" for title, cells in (beside or {}).items()]
    ends = ", ".join(record.result["rates_at_an_end"]) or "none"
    count = record.result["seeds"]
    lines += [
        "",
        f"{count} seeds: median and range. Learning rates at an end of their grid: {ends}.",
    ]
    return "\n".join(lines) + "\n"


def log_ratio(
    record: Record,
    above: str,
    below: str,
    size: int,
    metric: str,
    floor: float,
    change: Change = float,
) -> Measurement | None:
    """Logarithm of one mixer's measure over another's at a size, over paired seeds; None without.

    Args:
        floor: measures below count as this, the least that can be told from none.
    """
    pair = [values(record, mixer, size, metric, change) for mixer in (above, below)]
    if min(map(len, pair)) < 2:
        return None
    first, second = ([float(np.log(max(value, floor))) for value in each] for each in pair)
    return paired.difference(first, second)
