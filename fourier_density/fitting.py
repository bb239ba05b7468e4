"""Fitting densities to samples: orders, bases and boundaries chosen from the data.

The mathematics are in `likelihood` (the circle) and `line_search` (the real line). All of it
runs on the host in float64; the densities returned have JAX's default precision.
"""

import math
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np

from fourier_density import likelihood, line_search, transforms
from fourier_density.density import PeriodicDensity
from fourier_density.real_line import RealLineDensity
from fourier_density.reflected import ReflectedDensity

MOST_ORDER = likelihood.MAX_NODES // 8
ORDERS = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64)
BASES = ("tanh", "normal", "student_t", transforms.StudentT(6.0))
SAMPLES_PER_PARAMETER = 5  # below this, empty gaps in the data attract roots of the density


class Fit(NamedTuple):
    """Result of a fit.

    Attributes:
        density: the fitted `PeriodicDensity`, `ReflectedDensity` or `RealLineDensity`.
        train_nll: mean negative log-likelihood of the data, nats.
        certificate: upper bound, in nats, on how much lower train_nll could be at this order
            (on the line: with this base, location and scale). A large value means "unproven",
            not "bad".
        iterations: steps of the last optimisation, L-BFGS and Newton.
        scores: criterion in nats per sample by order; empty if only one order was tried.
    """

    density: Any
    train_nll: float
    certificate: float
    iterations: int
    scores: dict[int, float]


class _Family(NamedTuple):
    """What is fitted, apart from the order."""

    support: str
    even: bool
    bases: list[Any]
    loc: float | None
    scale: float | None
    floor: float
    max_iterations: int


def fit(
    samples: Any,
    order: Any = None,
    support: str = "circle",
    *,
    boundary: str = "periodic",
    base: Any = None,
    loc: float | None = None,
    scale: float | None = None,
    floor: float = 0.0,
    weights: Any = None,
    criterion: str = "aic",
    folds: int = 5,
    seed: int = 0,
    max_iterations: int = 1000,
) -> Fit:
    """Fit a density to samples by maximum likelihood.

    On the circle the maximum is found from a Fejer-smoothed estimate by L-BFGS and Newton's
    method over binned data. On the line the base, location and scale of highest likelihood are
    searched too.

    Args:
        samples: [n] points; in [-1, 1] on the circle.
        order: N >= 1; or several, of which the criterion chooses; or None for a grid of orders
            from 1 to 64 that leave five samples or more for each degree of freedom.
        support: "circle" or "real".
        boundary: "periodic", or "reflect" for densities whose ends need not meet (an even
            density of twice the period). A reflected density of order N has N degrees of
            freedom, a periodic one 2 N.
        base: on the line, a name, an object like those of `transforms`, or a sequence to choose
            from by the likelihood. None: tanh, normal, and Student's t with 3 and 6 degrees of
            freedom.
        loc, scale: on the line, fixed values instead of a search.
        floor: weight of a uniform component (on the line: of the base) in [0, 1), held fixed.
            Without it the density can vanish between samples; 1 / n is then a good weight.
        weights: non-negative weights [n]; they need not sum to one.
        criterion: how several orders are compared. "aic" and "bic" add D / n and log(n) D / (2 n)
            to the loss, for D degrees of freedom and n distinct (with weights, effective) samples;
            "cv" is the loss in `folds`-fold cross-validation, with folds drawn by `seed`.
        max_iterations: bound on L-BFGS iterations.

    Raises:
        ValueError: empty, masked or non-finite samples, samples outside the support, equal samples
            on the line, order < 1, weights of another shape, negative or with zero sum, unknown
            names, floor outside [0, 1), scale not positive, loc not finite, an
            argument of the line for the circle.

    Warns:
        UserWarning: fewer than five samples for each degree of freedom, and no floor; samples on
            the line too far from zero, for their spread, to differ in JAX's default precision.

    Source: https://kexue.fm/archives/10007, equation 2, for the densities of equations 14, 15.

    >>> result = fit(np.array([-0.5, 0.1, 0.2, 0.3, 0.6] * 2), order=1)
    >>> result.certificate < 1e-4
    True
    """
    x = _points(samples, support)
    if support == "circle" and not (base is None and loc is None and scale is None):
        raise ValueError('base, loc, scale: only for support="real", got support="circle"')
    family = _Family(
        support,
        boundary == "reflect",
        _bases(base) if support == "real" else [],
        loc,
        scale,
        float(floor),
        max_iterations,
    )
    _check_choices(family, boundary, criterion)
    _check_iterations(max_iterations)
    w = _normalised(weights, x.shape)
    if support == "real" and np.ptp(x[w > 0]) == 0:
        raise ValueError(
            f"samples: expected different values of positive weight, got {x[w > 0][0]:.6g} alone"
        )
    count = min(1.0 / np.sum(w**2), float(np.unique(x).size))
    orders = _orders(order, count, family)
    with likelihood.ON_ONE_THREAD:
        chosen = _choose(x, w, orders, family, count, criterion, folds, seed)
    if support == "real":
        _warn_of_rounding(x)
    if floor == 0:
        _warn_of_few(count, _freedom(chosen.density.order, family))
    return chosen


def fit_weights(weights: Any, order: int, *, max_iterations: int = 1000) -> Fit:
    """Fit a `PeriodicDensity` to a histogram or known density: masses at M nodes.

    The nodes are x_j = -1 + 2 j / M. With the exact masses of a known density this gives the
    population optimum: the smallest Kullback-Leibler divergence that order N can reach.

    Args:
        weights: [M] non-negative masses, M >= 4 (order + 1).
        order: N >= 1.
        max_iterations: bound on L-BFGS iterations.

    Raises:
        ValueError: order < 1, too few nodes, negative masses, zero sum.

    Source: derived from https://kexue.fm/archives/10007, equation 2, the sum as an expectation.
    """
    _check_order(order)
    _check_iterations(max_iterations)
    order, shape = int(order), np.shape(weights)
    if len(shape) != 1 or shape[0] < 4 * (order + 1):
        raise ValueError(
            f"weights: expected a vector of at least {4 * (order + 1)} nodes for order {order}, "
            f"got shape {shape}"
        )
    w = _normalised(weights, shape)
    with likelihood.ON_ONE_THREAD:
        a, iterations = likelihood.maximise_on_grid(w, order, 0.0, False, max_iterations)
    x = -1.0 + 2.0 * np.arange(w.size) / w.size
    best = likelihood.assess(a, iterations, x, w, 0.0)
    return Fit(PeriodicDensity(best.a), best.nll, best.certificate, iterations, {})


def _choose(
    x: np.ndarray,
    w: np.ndarray,
    orders: list[int],
    family: _Family,
    count: float,
    criterion: str,
    folds: int,
    seed: int,
) -> Fit:
    """The best order by the criterion."""
    if len(orders) == 1:
        return _fit(x, w, orders[0], family)
    if criterion == "cv":
        scores = {n: _held_out(x, w, n, family, folds, seed) for n in orders}
        chosen = _fit(x, w, min(scores, key=lambda n: scores[n]), family)
        return chosen._replace(scores=scores)
    fits = {n: _fit(x, w, n, family) for n in orders}
    price = 1.0 if criterion == "aic" else 0.5 * math.log(count)
    scores = {n: float(f.train_nll + price * _freedom(n, family) / count) for n, f in fits.items()}
    return fits[min(scores, key=lambda n: scores[n])]._replace(scores=scores)


def _fit(x: np.ndarray, w: np.ndarray, order: int, family: _Family) -> Fit:
    """One order."""
    options: Any = {"floor": family.floor, "even": family.even}
    options["max_iterations"] = family.max_iterations
    if family.support == "real":
        place = {"loc": family.loc, "scale": family.scale}
        line = line_search.maximise(x, w, order, family.bases, **place, **options)
        boundary = "reflect" if family.even else "periodic"
        a = np.real(line.circle.a) if family.even else line.circle.a
        density = RealLineDensity(
            a, line.loc, line.scale, line.base, family.floor, boundary=boundary
        )
        return Fit(density, line.nll, line.circle.certificate, line.circle.iterations, {})
    circle = likelihood.maximise(0.5 * (x + 1.0) if family.even else x, w, order, **options)
    kind = ReflectedDensity if family.even else PeriodicDensity
    a = np.real(circle.a) if family.even else circle.a
    density = kind(a, family.floor)
    return Fit(density, circle.nll, circle.certificate, circle.iterations, {})


def _held_out(
    x: np.ndarray, w: np.ndarray, order: int, family: _Family, folds: int, seed: int
) -> float:
    """Loss of samples under fits to the other folds, nats per sample."""
    if not 2 <= folds <= x.size:
        raise ValueError(f"folds: expected 2 to {x.size} (the samples), got {folds}")
    fold = np.random.default_rng(seed).permutation(x.size) % folds
    total = 0.0
    for index in range(folds):
        kept, out = fold != index, fold == index
        density = _fit(x[kept], w[kept] / w[kept].sum(), order, family).density
        total -= float(np.sum(w[out] * np.asarray(density.log_prob(x[out]), np.float64)))
    return total


def _freedom(order: int, family: _Family) -> int:
    """Degrees of freedom of a density."""
    place = (family.loc is None) + (family.scale is None) if family.support == "real" else 0
    return (order if family.even else 2 * order) + place


def _points(samples: Any, support: str) -> np.ndarray:
    kind = getattr(samples, "dtype", type(samples).__name__)
    try:
        if np.iscomplexobj(samples):
            raise TypeError
        kind = "a traced array" if isinstance(samples, jax.Array) else kind
        x = np.asarray(samples, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"samples: expected a vector of real numbers, got {kind}") from None
    if np.ma.is_masked(samples):
        raise ValueError("samples: some are masked; leave them out: samples.compressed()")
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"samples: expected a non-empty vector, got shape {x.shape}")
    if not np.all(np.isfinite(x)):
        raise ValueError("samples: expected finite values, got NaN or infinity")
    if support == "circle" and np.any(np.abs(x) > 1):
        raise ValueError(
            f"samples: expected values in [-1, 1], got [{x.min():.6g}, {x.max():.6g}]; "
            "rescale them (angles: angles.wrap(degrees / 180) or angles.wrap(radians / pi)), "
            'or fit with support="real"'
        )
    return x


def _bases(base: Any) -> list[Any]:
    choices = BASES if base is None else base
    choices = choices if isinstance(choices, list | tuple) else [choices]
    return [transforms.named(choice) for choice in choices]


def _check_choices(family: _Family, boundary: str, criterion: str) -> None:
    for name, value, known in (
        ("support", family.support, ("circle", "real")),
        ("boundary", boundary, ("periodic", "reflect")),
        ("criterion", criterion, ("aic", "bic", "cv")),
    ):
        if value not in known:
            more = " (on an interval: circle with boundary reflect)" * (name == "support")
            raise ValueError(f"{name}: expected one of {', '.join(known)}{more}, got {value!r}")
    if not 0 <= family.floor < 1:
        raise ValueError(f"floor: expected a weight in [0, 1), got {family.floor}")
    if family.scale is not None and not 0 < family.scale < math.inf:
        raise ValueError(f"scale: expected a positive value, got {family.scale}")
    if family.loc is not None and not math.isfinite(family.loc):
        raise ValueError(f"loc: expected a finite value, got {family.loc}")
    if family.support == "real" and not family.bases:
        raise ValueError("base: expected at least one, got an empty sequence")


def _orders(order: Any, count: float, family: _Family) -> list[int]:
    if order is None:
        carried = [n for n in ORDERS if SAMPLES_PER_PARAMETER * _freedom(n, family) <= count]
        return carried or [1]
    single = isinstance(order, str) or np.ndim(order) == 0
    orders: list[Any] = [order] if single else list(order)
    if not orders:
        raise ValueError("order: expected at least one, got an empty sequence")
    for value in orders:
        _check_order(value)
    return [int(value) for value in orders]


def _check_order(order: Any) -> None:
    number = np.ndim(order) == 0 and np.issubdtype(np.asarray(order).dtype, np.number)
    if not number or not math.isfinite(order) or order < 1 or order != int(order):
        raise ValueError(f"order: expected an integer >= 1, got {order!r}")
    if order > MOST_ORDER:
        raise ValueError(f"order: expected at most {MOST_ORDER}, got {order!r}")


def _check_iterations(count: Any) -> None:
    if not isinstance(count, int | np.integer) or count < 1:
        raise ValueError(f"max_iterations: expected an integer >= 1, got {count!r}")


def _warn_of_rounding(x: np.ndarray) -> None:
    """Densities compute in JAX's precision, whatever the fit does."""
    apart = float(np.spacing(np.asarray(np.abs(x).max(), jax.dtypes.canonicalize_dtype(float))))
    low, high = np.quantile(x, [0.25, 0.75])
    if apart > 1e-3 * (high - low) > 0:
        warnings.warn(
            f"samples: half of them lie within {high - low:.3g}, but numbers near {x.max():.3g} "
            f"are {apart:.3g} apart in JAX's precision; subtract their mean, or set jax_enable_x64",
            stacklevel=3,
        )


def _warn_of_few(count: float, freedom: int) -> None:
    if count < SAMPLES_PER_PARAMETER * freedom:
        warnings.warn(
            f"order: {freedom} degrees of freedom for {count:.0f} different samples; the density "
            "may vanish between them. Use a lower order or a floor.",
            UserWarning,
            stacklevel=3,
        )


def _normalised(weights: Any, shape: tuple[int, ...]) -> np.ndarray:
    if weights is None:
        return np.full(shape, 1.0 / shape[0])
    w = np.asarray(weights, np.float64)
    if w.shape != shape:
        raise ValueError(f"weights: expected shape {shape} like samples, got {w.shape}")
    if not np.all(np.isfinite(w)) or np.any(w < 0) or w.sum() <= 0:
        raise ValueError(
            "weights: expected finite, non-negative values with a positive sum, got some from "
            f"{w.min():g} to {w.max():g}"
        )
    return w / w.sum()
