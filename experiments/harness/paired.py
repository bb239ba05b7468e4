"""Effects from paired runs: the same seeds on both sides, an interval for the mean difference."""

import math
from collections.abc import Sequence

import numpy as np

from experiments.harness.ledger import Measurement


def difference(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> Measurement:
    """The mean of first - second over pairs, with Student's interval.

    Raises:
        ValueError: fewer than two pairs, or sides of different lengths.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"first, second: expected as many on both sides and at least two, got {len(first)} "
            f"and {len(second)}"
        )
    from scipy import stats

    each = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    half = stats.t.ppf(0.5 + 0.5 * level, len(each) - 1) * each.std(ddof=1) / math.sqrt(len(each))
    return Measurement(float(each.mean()), float(each.mean() - half), float(each.mean() + half))


def ratio(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> Measurement:
    """The geometric mean of first / second over pairs, with its interval.

    Raises:
        ValueError: as `difference`, or numbers that are not positive.
    """
    if min([*first, *second], default=1.0) <= 0:
        raise ValueError("first, second: expected positive numbers")
    found = difference(np.log(first), np.log(second), level)  # pyright: ignore[reportArgumentType]
    return Measurement(math.exp(found.value), math.exp(found.low), math.exp(found.high))
