"""Rows of a run's metrics by arm and seed: names, values, effects over pairs, a panel of them.

A row holds `arm`, `seed` and metrics; arms share their seeds, so that they are paired.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experiments.harness import figures, paired
from experiments.harness.ledger import Measurement
from experiments.harness.run import Record


def names(record: Record) -> list[str]:
    """Arms in the order in which they were run."""
    return list(dict.fromkeys(row["arm"] for row in _in_order(record)))


def values(record: Record, arm: str, metric: str) -> list[float]:
    """A metric of an arm, by seed."""
    rows = [row for row in _in_order(record) if row["arm"] == arm]
    return [row[metric] for row in sorted(rows, key=lambda row: row["seed"])]


def ratio(record: Record, above: str, below: str, metric: str) -> Measurement | None:
    """A metric of one arm over that of another, over seeds; None if the run lacks either."""
    pairs = _pairs(record, above, below, metric)
    return pairs and paired.ratio(*pairs)


def difference(record: Record, above: str, below: str, metric: str) -> Measurement | None:
    """A metric of one arm minus that of another, over seeds; None if the run lacks either."""
    pairs = _pairs(record, above, below, metric)
    return pairs and paired.difference(*pairs)


def largest(effects: Iterable[Measurement | None]) -> Measurement | None:
    """The one of the largest value; None if there is none, or one is missing."""
    found = list(effects)
    known = [effect for effect in found if effect is not None]
    return max(known, key=lambda effect: effect.value) if found and known == found else None


def draw(axis: Any, record: Record, arms: Sequence[str], metric: str, label: str) -> None:
    """Seeds of every arm as dots, joined in pairs, with their geometric means."""
    every = np.array([values(record, arm, metric) for arm in arms])
    for seed in range(every.shape[1]):
        name = "seeds, joined" if seed == 0 else None
        look = {"color": "#aaaaaa", "linewidth": 0.7, "marker": ".", "label": name}
        axis.plot(every[:, seed], range(len(arms)), **look)
    means = np.exp(np.log(every).mean(axis=1))
    look = {"color": figures.COLORS[0], "marker": "D", "linestyle": "none"}
    axis.plot(means, range(len(arms)), label="geometric mean", **look)
    axis.set_yticks(range(len(arms)), list(arms))
    axis.set(xlabel=label, ylim=(len(arms) - 0.5, -0.5))
    axis.locator_params(axis="x", nbins=5)


def _pairs(record: Record, above: str, below: str, metric: str) -> Any:
    pair = values(record, above, metric), values(record, below, metric)
    seeds = values(record, above, "seed"), values(record, below, "seed")
    return pair if seeds[0] == seeds[1] and len(seeds[0]) >= 2 else None


def _in_order(record: Record) -> list[dict[str, Any]]:
    return sorted((row for row in record.rows if "arm" in row), key=lambda row: row["step"])
