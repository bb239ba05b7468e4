"""Maximum likelihood on the real line: base, location and scale together with the coefficients.

Notation
    u     (y - loc) / scale
    v     2 B(u) - 1, the point of the circle (its half (v + 1) / 2 for even densities)
    b, B  density and distribution function of the base (see `transforms`)

The loss of q(y) = 2 p(v) b(u) / scale is that of v on the circle, plus
-E[log b(u)] + log(2 scale). A few scales are tried around the one that matches the quartiles;
the best are improved by L-BFGS on coefficients, location and scale together, the best of each
base to the end; the coefficients are then fitted once more, with certificate, on all the data,
which choose the base.

Source: derived here from arXiv 2402.15345, section 2, with other bases than tanh.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.interpolate
import scipy.optimize

from fourier_density import certificate, likelihood, transforms

POINTS = 2048  # the data are summarised by this many during the search
MULTIPLES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)  # of the scale that matches the quartiles
STARTS = 6  # scales improved further
SEVERAL = 3  # the same of each base, if there are several
SCREENING = 25  # iterations after which the best of each base is chosen


class LineMaximum(NamedTuple):
    """A fit on the line; `circle.nll` is that of v, `nll` that of the data."""

    circle: likelihood.Maximum
    base: Any
    loc: float
    scale: float
    nll: float


class Problem(NamedTuple):
    """What to fit: sorted points with weights, and the family."""

    y: np.ndarray
    w: np.ndarray
    order: int
    floor: float
    even: bool


class Start(NamedTuple):
    """One base at one place, its loss there and its table."""

    loss: float
    a: np.ndarray
    base: Any
    table: "Table"
    loc: float
    scale: float


def maximise(
    y: np.ndarray,
    w: np.ndarray,
    order: int,
    bases: list[Any],
    *,
    loc: float | None = None,
    scale: float | None = None,
    floor: float = 0.0,
    even: bool = False,
    max_iterations: int = 1000,
) -> LineMaximum:
    """Fit to points [n] with weights [n]; see `fitting.fit` for the arguments."""
    problem = Problem(*summarise(y, w), order, floor, even)
    starts = [s for base in bases for s in _starts(problem, base, loc, scale)]
    starts = _best_of_each_base(starts, STARTS if len(bases) == 1 else SEVERAL)
    if loc is None or scale is None:
        free = (loc is None, scale is None)
        starts = [_improve(problem, start, free, SCREENING) for start in starts]
        starts = [_improve(problem, s, free, max_iterations) for s in _best_of_each_base(starts, 1)]
    # The summary favours one base over another by as much as they differ: all the data decide.
    fits = [_finish(y, w, problem, start, max_iterations) for start in starts]
    return min(fits, key=lambda fit: fit.nll)


def _finish(
    y: np.ndarray, w: np.ndarray, problem: Problem, start: Start, max_iterations: int
) -> LineMaximum:
    """The coefficients once more, from all the data."""
    v, log_b, _ = base_values(start.base, (y - start.loc) / start.scale)
    x = 0.5 * (v + 1.0) if problem.even else v
    circle = likelihood.maximise(
        x,
        w,
        problem.order,
        floor=problem.floor,
        even=problem.even,
        max_iterations=max_iterations,
    )
    nll = circle.nll + np.log(0.5 * start.scale) - float(np.sum(w * log_b))
    return LineMaximum(circle, start.base, start.loc, start.scale, nll)


class Table:
    """v and log b as functions of u, by cubic interpolation in asinh(u)."""

    def __init__(self, base: Any):
        s = np.linspace(-40.0, 40.0, 2**13 + 1)
        v, log_b, slope = base_values(base, np.sinh(s))
        slopes = np.stack([2.0 * np.exp(log_b), slope], axis=1) * np.cosh(s)[:, None]
        values = np.stack([v, log_b], axis=1)
        self.spline = scipy.interpolate.CubicHermiteSpline(s, values, slopes)
        self.quartiles = np.sinh(np.interp([-0.5, 0.0, 0.5], v, s))

    def __call__(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """V and log b at u."""
        v, log_b = self.spline(np.arcsinh(u)).T
        return np.clip(v, -1.0, 1.0), log_b

    def slopes(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dv/du and d(log b)/du."""
        dv, score = self.spline(np.arcsinh(u), 1).T / np.hypot(1.0, u)
        return dv, score


def base_values(base: transforms.Base, u: np.ndarray) -> tuple[np.ndarray, ...]:
    """v, log b and its slope at u [n], in float64."""
    size = max(1024, 2 ** int(u.size - 1).bit_length())  # few programs for all sample sizes
    with jax.enable_x64(True):
        values = _base_values(base, jnp.asarray(np.pad(u, (0, size - u.size))))
    return tuple(np.asarray(value)[: u.size] for value in values)


@jax.jit
def _base_values(base: transforms.Base, u: jax.Array) -> tuple[jax.Array, ...]:
    lower = 2.0 * jnp.exp(base.log_cdf(jnp.minimum(u, 0.0))) - 1.0
    upper = 1.0 - 2.0 * jnp.exp(base.log_survival_function(jnp.maximum(u, 0.0)))
    log_b, slope = jax.jvp(base.log_prob, (u,), (jnp.ones_like(u),))
    return jnp.where(u < 0, lower, upper), log_b, slope


def summarise(y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS order statistics; the points between two are shared by them linearly."""
    order = np.argsort(y)
    y, w = y[order], w[order]
    if y.size <= POINTS:
        return y, w
    nodes = np.unique(y[np.linspace(0, y.size - 1, POINTS).round().astype(int)])
    left = np.clip(np.searchsorted(nodes, y, side="right") - 1, 0, nodes.size - 2)
    share = (y - nodes[left]) / (nodes[left + 1] - nodes[left])
    mass = np.bincount(left, w * (1.0 - share), nodes.size)
    return nodes, mass + np.bincount(left + 1, w * share, nodes.size)


def _starts(problem: Problem, base: Any, loc: float | None, scale: float | None) -> list[Start]:
    """Fits with this base, located at the median, at several scales."""
    table = Table(base)
    y, w = problem.y, problem.w
    low, median, high = np.interp([0.25, 0.5, 0.75], np.cumsum(w) - 0.5 * w, y)
    spread = high - low if high > low else np.sqrt(np.cov(y, aweights=w))
    matched = spread / (table.quartiles[2] - table.quartiles[0])
    scales = [scale] if scale is not None else [matched * m for m in MULTIPLES]
    starts = []
    for s in scales:
        place = loc if loc is not None else median - s * table.quartiles[1]
        v, log_b = table((y - place) / s)
        x = 0.5 * (v + 1.0) if problem.even else v
        grid = likelihood.bin_linearly(x, w, 128 * (problem.order + 1))
        a, _ = likelihood.maximise_on_grid(grid, problem.order, problem.floor, problem.even, 25)
        values = certificate.polynomial(a, x)
        loss, _, _ = likelihood.losses(values, 1.0, w, problem.floor)
        loss += np.log(s) - np.sum(w * log_b)
        starts.append(Start(float(loss), a, base, table, float(place), float(s)))
    return starts


def _best_of_each_base(starts: list[Start], count: int) -> list[Start]:
    """The `count` starts of least loss of every base."""
    taken: dict[int, list[Start]] = {}
    for start in sorted(starts, key=lambda start: start.loss):
        taken.setdefault(id(start.base), []).append(start)
    return [start for some in taken.values() for start in some[:count]]


def _powers(z: np.ndarray, order: int) -> np.ndarray:
    """z^0..z^N, [N+1, n]."""
    return np.cumprod(np.broadcast_to(z, (order + 1, z.size)), axis=0) / z


def _improve(problem: Problem, start: Start, free: tuple[bool, bool], max_iterations: int) -> Start:
    """L-BFGS on coefficients, location and logarithm of the scale together."""
    y, w, floor = problem.y, problem.w, problem.floor
    half = 0.5 if problem.even else 1.0
    k = np.arange(problem.order + 1)

    def place(parts: np.ndarray) -> tuple[float, float]:
        return start.loc + start.scale * parts[0], start.scale * np.exp(parts[1])

    def objective(parts: np.ndarray) -> tuple[float, np.ndarray]:
        loc, scale = place(parts)
        a = likelihood.join(parts[2:], problem.even)
        u = (y - loc) / scale
        v, log_b = start.table(u)
        dv, score = start.table.slopes(u)
        x = half * (v + 1.0) if problem.even else v
        powers = _powers(np.exp(1j * np.pi * x), problem.order)
        values, derivative = a @ powers, (1j * np.pi * k * a) @ powers
        loss, ratio, along = likelihood.losses(values, np.sum(np.abs(a) ** 2), w, floor)
        by_a = along * a - powers.conj() @ ratio
        by_u = -np.real(ratio.conj() * derivative) * half * dv - w * score
        by_place = [-np.sum(by_u) * start.scale / scale, 1.0 - np.sum(by_u * u)]
        by_place = np.where(free, by_place, 0.0)
        loss += np.log(scale) - np.sum(w * log_b)
        return loss, np.concatenate([by_place, likelihood.split(by_a, problem.even)])

    parts = np.concatenate([np.zeros(2), likelihood.split(start.a, problem.even)])
    options = {**likelihood.OPTIONS, "ftol": 1e-10, "maxiter": max_iterations}
    result = scipy.optimize.minimize(objective, parts, jac=True, method="L-BFGS-B", options=options)
    a = likelihood.join(result.x[2:], problem.even)
    loc, scale = place(result.x)
    return start._replace(loss=float(result.fun), a=a, loc=float(loc), scale=float(scale))
