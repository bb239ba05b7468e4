"""How far samples are from data: distances on supplied features, in float64 on the host.

    frechet_distance     between normal laws of the same means and covariances; never called FID,
                         which is this on the features of one published network
    sliced_wasserstein   W2 in one dimension, root mean square over fixed directions
    energy_distance      2 E|X - Y| - E|X - X'| - E|Y - Y'|, unbiased: may fall below 0
    mmd                  squared maximum mean discrepancy of a Gaussian kernel, unbiased
    prdc                 precision and recall, density and coverage, by k nearest neighbours

All of them depend on the number of samples: compare equal numbers only. `report` sees to that, and
keeps the number, the seed, the floor (real data against real data) and ceilings beside the value.

Source: Dowson & Landau (1982) for normal laws; Szekely & Rizzo (2013); Gretton et al. (2012);
Kynkaanniemi et al. (arXiv 1904.06991); Naeem et al. (2002.09797).
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from diffusion.schedule import whole

FEW = 2  # samples a feature below which a covariance is warned about


def _pair(samples: Any, reference: Any, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [n, d].

    Raises:
        ValueError: shapes, too few, or values that are not finite.
    """
    found = []
    for name, values in (("samples", samples), ("reference", reference)):
        values = np.asarray(values, np.float64)
        values = values.reshape(len(values), -1) if values.ndim else values
        if values.ndim != 2 or len(values) < least:
            raise ValueError(f"{name}: expected at least {least} rows, got shape {values.shape}")
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{name}: expected finite values, got others")
        found.append(values)
    if found[0].shape[1] != found[1].shape[1]:
        raise ValueError(
            f"samples, reference: expected features of one width, got {found[0].shape[1]} and "
            f"{found[1].shape[1]}"
        )
    return found[0], found[1]


def frechet_distance(samples: Any, reference: Any) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of features [n, d].

    Warns:
        UserWarning: fewer than two samples a feature, naming n: the value is mostly bias.

    Source: Dowson & Landau (1982).
    """
    a, b = _pair(samples, reference)
    few = min(len(a), len(b))
    if few < FEW * a.shape[1]:
        warnings.warn(
            f"samples: n = {few} for {a.shape[1]} features; the distance is mostly bias",
            stacklevel=2,
        )
    mean = np.sum((a.mean(0) - b.mean(0)) ** 2)
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    crossed = np.linalg.eigvalsh(root @ second @ root)
    shared = np.sum(np.sqrt(np.maximum(crossed, 0.0)))
    return max(0.0, float(mean + np.trace(first) + np.trace(second) - 2.0 * shared))


def wasserstein_1d(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared W2 of columns of [n, d] and [m, d], exactly, also for n other than m: [d].

    Source: the coupling by quantiles is optimal in one dimension, a standard result.
    """
    a, b = np.sort(a, axis=0), np.sort(b, axis=0)
    if len(a) == len(b):
        return np.mean((a - b) ** 2, axis=0)
    ends = np.union1d(np.arange(1, len(a) + 1) / len(a), np.arange(1, len(b) + 1) / len(b))
    middle = 0.5 * (ends + np.concatenate([[0.0], ends[:-1]]))
    share = np.diff(ends, prepend=0.0)
    picked = [x[np.minimum((middle * len(x)).astype(int), len(x) - 1)] for x in (a, b)]
    return share @ (picked[0] - picked[1]) ** 2


def sliced_wasserstein(samples: Any, reference: Any, directions: int = 256, seed: int = 0) -> float:
    """The root of the mean over directions, drawn from `seed`, of squared W2.

    Raises:
        ValueError: no directions.

    Source: the sliced Wasserstein distance of order 2, a standard metric, by random directions.
    """
    whole("directions", directions)
    a, b = _pair(samples, reference, 1)
    vectors = np.random.default_rng(seed).normal(size=(a.shape[1], directions))
    vectors /= np.linalg.norm(vectors, axis=0)
    return float(np.sqrt(np.mean(wasserstein_1d(a @ vectors, b @ vectors))))


def _mean_apart(x: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> float:
    """Mean of a function of distances over pairs of different rows."""
    values = function(cdist(x, x))
    np.fill_diagonal(values, 0.0)
    return float(values.sum() / (len(x) * (len(x) - 1)))


def energy_distance(samples: Any, reference: Any) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| over different rows.

    Source: Szekely & Rizzo (2013).
    """
    a, b = _pair(samples, reference)

    def plain(x: np.ndarray) -> np.ndarray:
        return x

    return float(2.0 * cdist(a, b).mean()) - _mean_apart(a, plain) - _mean_apart(b, plain)


def mmd(samples: Any, reference: Any, bandwidth: float | None = None) -> float:
    """Squared discrepancy with the kernel exp(-|x - y|^2 / (2 bandwidth^2)).

    Args:
        bandwidth: the median distance within the reference by default.

    Raises:
        ValueError: a bandwidth that is not positive.

    Source: Gretton et al. (2012), the unbiased estimate.
    """
    a, b = _pair(samples, reference)
    if bandwidth is None:
        bandwidth = float(np.median(cdist(b, b)[np.triu_indices(len(b), 1)]))
    if not bandwidth > 0:
        raise ValueError(f"bandwidth: expected a positive number, got {bandwidth}")

    def kernel(x: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * (x / bandwidth) ** 2)

    crossed = float(kernel(cdist(a, b)).mean())
    return _mean_apart(a, kernel) + _mean_apart(b, kernel) - 2.0 * crossed


class PRDC(NamedTuple):
    """Fractions in [0, 1]; the ball of a row reaches to its k-th nearest neighbour in its own set.

    Attributes:
        precision: fraction of samples inside the ball of some real row.
        recall: fraction of real rows inside the ball of some sample.
        density: mean number of balls of real rows that contain a sample, over k; may exceed 1.
        coverage: fraction of real rows whose ball contains a sample.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(samples: Any, reference: Any, k: int = 5) -> PRDC:
    """Precision, recall, density and coverage.

    Raises:
        ValueError: k < 1, or no more than k rows.

    Source: Kynkaanniemi et al. (arXiv 1904.06991), precision and recall; Naeem et al. (2002.09797),
    density and coverage.
    """
    whole("k", k)
    fake, real = _pair(samples, reference, k + 1)
    radii = [np.sort(cdist(x, x), axis=1)[:, k] for x in (real, fake)]
    apart = cdist(real, fake)
    inside = apart <= radii[0][:, None]
    return PRDC(
        precision=float(inside.any(axis=0).mean()),
        recall=float((apart <= radii[1]).any(axis=1).mean()),
        density=float(inside.sum(axis=0).mean() / k),
        coverage=float((apart.min(axis=1) <= radii[0]).mean()),
    )


class Report(NamedTuple):
    """A distance and what it has to be read against.

    Attributes:
        value: distance of the samples from the reference.
        n: number of rows that were drawn from every set.
        seed: of that draw.
        floor: distance of held-out data from the reference.
        ceilings: distances of other sets from it, by name.
    """

    value: float
    n: int
    seed: int
    floor: float
    ceilings: dict[str, float]


def report(
    metric: Callable[[Any, Any], float],
    samples: Any,
    reference: Any,
    held_out: Any,
    ceilings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Report:
    """The distance of samples from a reference, of equal numbers, with its floor and ceilings.

    Args:
        metric: (samples, reference) -> number.
        held_out: real data that is not in the reference.
        ceilings: sets that should be worse, by name.

    Raises:
        ValueError: a set without rows.
    """
    worse = dict(ceilings or {})
    sets = [samples, reference, held_out, *worse.values()]
    n = min(len(values) for values in sets)
    if n < 1:
        raise ValueError(
            "samples, reference, held_out, ceilings: expected some rows each, got none"
        )
    rng = np.random.default_rng(seed)
    fake, real, held, *rest = (
        np.asarray(values)[np.sort(rng.permutation(len(values))[:n])] for values in sets
    )
    return Report(
        value=metric(fake, real),
        n=n,
        seed=seed,
        floor=metric(held, real),
        ceilings={name: metric(one, real) for name, one in zip(worse, rest, strict=True)},
    )
