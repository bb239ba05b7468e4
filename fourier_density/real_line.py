"""The Fourier basis density on the real line.

Notation
    a, p     coefficients and density on the circle (see `density`)
    u        (y - loc) / scale
    B, b     distribution function and density of the base (see `transforms`)
    v        2 B(u) - 1 in (-1, 1)
    q        q(y) = 2 p(v) b(u) / scale
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, register_pytree_with_keys_class
from jaxtyping import Array

from fourier_density import (
    angles,
    checks,
    extrema,
    masses,
    plotting,
    quadrature,
    transforms,
)
from fourier_density.checks import Seed, Shape
from fourier_density.common import Density
from fourier_density.density import PeriodicDensity
from fourier_density.reflected import ReflectedDensity

LEAVES = ("turned", "loc", "scale", "base")


@register_pytree_with_keys_class
class RealLineDensity(Density):
    """q(y) = 2 p(2 B(u) - 1) b(u) / scale with u = (y - loc) / scale.

    With the base of the paper, "tanh", that is p(tanh(u)) sech(u)^2 / scale. The tails of q are
    those of the base times 2 p(1) = 2 p(-1). All methods stay accurate there: points near the ends
    of the circle are represented by their distance from the end.

    Args:
        coefficients: complex [..., N+1], a_0..a_N; scale and phase do not matter. Real for
            `boundary="reflect"`.
        loc, scale: location and positive scale, of the batch shape or broadcast against it.
        base: "tanh", "normal", "laplace", "student_t" (three degrees of freedom) or an object
            with the functions of `transforms.Base`; for `jax.vmap` its arrays need batch axes too.
        floor: weight in [0, 1) of the base: the density is (1 - floor) q(y) + floor b(u) / scale.
        boundary: "periodic", where both tails are the base's times the same factor, or
            "reflect", where the two factors may differ: p is then a `ReflectedDensity`.

    Raises:
        ValueError: as `PeriodicDensity`; scale not positive, an unknown name of a base. Traced
            values are not checked: a negative scale then gives NaN.

    Source: https://kexue.fm/archives/10007, equation 15; arXiv 2402.15345, equations 6 and 7.

    >>> density = RealLineDensity([1.0, 0.5], loc=0.0, scale=1.0)
    >>> round(float(density.prob(0.0)), 3)
    0.9
    """

    event_shape: tuple[int, ...] = ()
    turned: PeriodicDensity
    loc: Array
    scale: Array
    base: Any
    reflect: bool
    _kind: type  # of the base, which may be a placeholder of JAX

    def __init__(
        self,
        coefficients: Any,
        loc: Any,
        scale: Any,
        base: Any = "tanh",
        floor: Any = 0.0,
        *,
        boundary: str = "periodic",
    ):
        if boundary not in ("periodic", "reflect"):
            raise ValueError(f"boundary: expected periodic or reflect, got {boundary!r}")
        reflect = boundary == "reflect"
        place = checks.joint_shape(np.shape(floor), loc=loc, scale=scale)
        xp: Any = jnp if isinstance(floor, jax.Array) else np  # NumPy's can be checked under jit
        floor = xp.broadcast_to(floor, place)
        circle: Any = (ReflectedDensity if reflect else PeriodicDensity)(coefficients, floor)
        # Half a turn puts both ends of the line at 0, where floating point is densest.
        turned = (circle.even if reflect else circle).half_turn()
        base = transforms.named(base)
        self._set(reflect=reflect, turned=turned, base=base, _kind=type(base))
        shape, dtype = turned.batch_shape, turned.re.dtype
        self._set(loc=jnp.broadcast_to(jnp.asarray(loc, dtype), shape))
        self._set(scale=jnp.broadcast_to(jnp.asarray(scale, dtype), shape))
        checks.check_place(loc, scale)

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """Leaves with their names, for JAX."""
        # The class of the base as well: JAX does not tell dataclasses of one shape apart.
        structure = (self.reflect, self._kind)
        return tuple((GetAttrKey(name), getattr(self, name)) for name in LEAVES), structure

    @classmethod
    def tree_unflatten(cls, structure: Any, leaves: Any) -> "RealLineDensity":
        """Rebuild without validation: JAX passes placeholders here."""
        density = object.__new__(cls)
        reflect, kind = structure
        density._set(reflect=reflect, _kind=kind, **dict(zip(LEAVES, leaves, strict=True)))
        return density

    def __repr__(self) -> str:
        if not hasattr(self.loc, "shape"):
            return f"RealLineDensity({self.turned}, {self.loc}, {self.scale}, {self.base})"
        return (
            f"RealLineDensity(order={self.order}, batch_shape={self.batch_shape}, base={self.base})"
        )

    @property
    def order(self) -> int:
        """N: the order of the density on the circle."""
        return self.turned.order

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of densities."""
        return self.turned.batch_shape

    @property
    def coefficients(self) -> Array:
        """a_0..a_N, [..., N+1]; real with reflected ends."""
        return self.circle.coefficients

    @property
    def circle(self) -> PeriodicDensity | ReflectedDensity:
        """The density p of v = 2 B(u) - 1."""
        whole = self.turned.half_turn()
        return ReflectedDensity.tree_unflatten(None, (whole,)) if self.reflect else whole

    def _from_ends(self, function: Callable[..., Array], low: Array, *mass: Array) -> Array:
        """A function of a density around its end and of probabilities of the base from there.

        Args:
            function: of (density, middle, half): a density on the circle with the end at 0.
            low: where the nearer end is the lower one.
            mass: distances from that end and widths, as probabilities of the base.
        """
        if self.reflect:  # an even density has one end at 0 and one at 1
            # The end that is not asked for stays clear of roots, whose slope would be NaN.
            near, far = ([jnp.where(low == side, 0.5 * m, 0.25) for m in mass] for side in (1, 0))
            lower = function(self.turned.half_turn(), *near)
            return jnp.where(low, lower, function(self.turned, *far))
        distance, *rest = mass
        return function(self.turned, jnp.where(low, distance, -distance), *rest)

    def _standardise(self, y: Any) -> Array:
        y = checks.real(y, self.loc.dtype, "y")
        checks.joint_shape(self.batch_shape, y=y)
        infinite = jnp.isinf(y)  # infinite for every loc and scale: they have no slope there
        u = (jnp.where(infinite, 0.0, y) - self.loc) / self._positive_scale()
        return jnp.where(infinite, y, u)

    def _positive_scale(self) -> Array:
        return jnp.where(self.scale > 0, self.scale, jnp.nan)

    @jax.jit
    def log_prob(self, y: Any) -> Array:
        """Natural logarithm of the density at y: log 2 p(v) + log b(u) - log scale.

        Source: https://kexue.fm/archives/10007, equation 15, its logarithm, with any base.
        """
        u = self._standardise(y)
        low = u < 0  # not `jnp.minimum`: at 0 it has half the slope
        below = jnp.exp(self.base.log_cdf(jnp.where(low, u, 0.0)))
        above = jnp.exp(self.base.log_survival_function(jnp.where(low, 0.0, u)))
        ratio = self._log_ratio(low, jnp.where(low, below, above))
        return ratio + self.base.log_prob(u) - jnp.log(self._positive_scale())

    def _log_ratio(self, low: Array, mass: Array) -> Array:
        """Log 2 p(v) at the point with this probability of the base beyond it."""
        return jnp.log(2.0) + self._from_ends(PeriodicDensity.log_prob_near_0, low, 2.0 * mass)

    @jax.jit
    def prob(self, y: Any) -> Array:
        """Density at y, per unit of y."""
        return jnp.exp(self.log_prob(y))

    @jax.jit
    def log_cdf(self, y: Any) -> Array:
        """Log P(Y <= y), accurate in both tails."""
        u = self._standardise(y)
        return masses.smaller_log(self._log_tail(u, 1.0), self._log_tail(u, -1.0))

    @jax.jit
    def log_survival_function(self, y: Any) -> Array:
        """Log P(Y > y), accurate in both tails."""
        u = self._standardise(y)
        return masses.smaller_log(self._log_tail(u, -1.0), self._log_tail(u, 1.0))

    def _width(self, lower: Any, upper: Any) -> Array:
        """Of an interval, in scales, with all its digits; of one without end, those of length 1."""
        lower, upper = (checks.real(end, self.loc.dtype) for end in (lower, upper))
        infinite = jnp.isinf(lower) | jnp.isinf(upper)
        return jnp.where(infinite, 1.0, upper - lower) / self._positive_scale()

    def _log_tail(self, u: Array, side: float) -> Array:
        """Log mass beyond u on the lower (side 1) or upper (-1) side."""
        log_mass = transforms.log_tails(self.base, u)[0 if side > 0 else 1]
        mass = jnp.exp(log_mass)
        average = PeriodicDensity.log_average
        return log_mass + self._from_ends(average, jnp.asarray(side > 0), mass, mass)

    @jax.jit
    def cdf(self, y: Any) -> Array:
        """P(Y <= y)."""
        return jnp.exp(self.log_cdf(y))

    @jax.jit
    def survival_function(self, y: Any) -> Array:
        """P(Y > y)."""
        return jnp.exp(self.log_survival_function(y))

    @jax.jit
    def log_interval_prob(self, lower: Any, upper: Any) -> Array:
        """Log P(lower <= Y <= upper) in nats, relatively accurate in the tails; NaN if reversed."""
        u, w = self._standardise(lower), self._standardise(upper)
        log_mass = transforms.log_interval(self.base, u, w, self._width(lower, upper))
        # The middle of [v(u), v(w)], as a distance from the end nearer to it.
        tails = transforms.log_tails(self.base, u), transforms.log_tails(self.base, w)
        from_left, from_right = (
            jnp.exp(one) + jnp.exp(other) for one, other in zip(*tails, strict=True)
        )
        left = from_left < from_right
        middle = jnp.where(left, from_left, from_right)
        half = angles.limit(jnp.exp(log_mass), 0.0, 1.0)
        mean = self._from_ends(PeriodicDensity.log_average, left, middle, half)
        return jnp.where(w >= u, log_mass + mean, jnp.nan)

    @jax.jit
    def interval_prob(self, lower: Any, upper: Any) -> Array:
        """P(lower <= Y <= upper), NaN if upper < lower."""
        return jnp.exp(self.log_interval_prob(lower, upper))

    @jax.jit
    def quantile(self, probability: Any) -> Array:
        """The point y with cdf(y) = probability; infinite at 0 and 1, NaN outside [0, 1].

        Levels within 1e-3 of 0 or 1 are solved for on the line (see `quantiles.solve`): even
        tiny levels have quantiles of their own, up to 1e17 scales away (1e43 in double precision).
        """
        level = checks.real(probability, self.loc.dtype, "probability")
        level = jnp.broadcast_to(level, jnp.broadcast_shapes(level.shape, self.batch_shape))
        middle = self._quantile_by_circle(level)
        tail = jnp.minimum(level, 1.0 - level) < 1e-3
        leaves = (self.turned, jnp.zeros_like(self.loc), jnp.ones_like(self.scale), self.base)
        standard = RealLineDensity.tree_unflatten((self.reflect, self._kind), leaves)

        def by_tails() -> Array:
            far = transforms.solve(standard, jnp.where(tail, level, 0.5))
            return jnp.where(tail, self.loc + self._positive_scale() * far, middle)

        return jax.lax.cond(jnp.any(tail), by_tails, lambda: middle)

    def _quantile_by_circle(self, level: Array) -> Array:
        """Quantiles with the resolution of v in [-1, 1], of which the ends are no part."""
        end = jnp.finfo(self.loc.dtype).eps
        v = jnp.clip(0.5 * (self.circle.quantile(level) + 1.0), 0.25 * end, 1.0 - 0.5 * end)
        return self.loc + self._positive_scale() * self.base.quantile(v)

    def expectation(self, function: Callable[[Array], Array]) -> Array:
        """E[function(Y)] by quadrature over the base (see `quadrature`).

        Args:
            function: elementwise, of points [K, *batch_shape].

        Returns:
            [*batch_shape]; NaN where the integral has not converged within the floating-point
            range, as for moments that do not exist or barely exist.
        """
        return self._expectation(lambda u: function(self.loc + self._positive_scale() * u))

    def _expectation(self, function: Callable[[Array], Array]) -> Array:
        """E of a function of (Y - loc) / scale: no digits are lost where loc is large."""
        mass, weights, last = quadrature.halves(self.order, self.loc.dtype)
        mass, weights = (
            part.reshape(-1, *(1,) * len(self.batch_shape)) for part in (mass, weights)
        )
        upper = -transforms.Mirrored(self.base).quantile(mass)
        total, remainder, size = 0.0, 0.0, 0.0
        for low, u in ((True, self.base.quantile(mass)), (False, upper)):
            density = jnp.exp(self._log_ratio(jnp.asarray(low), mass))
            terms = weights * density * function(u)
            total += jnp.sum(terms, axis=0)
            remainder += jnp.sum(jnp.abs(terms[-last:]), axis=0)
            size += jnp.sum(jnp.abs(terms), axis=0)
        enough = 1e-9 if mass.dtype == jnp.float64 else 1e-5
        return jnp.where(remainder <= enough * size, total, jnp.nan)

    @jax.jit
    def mean(self) -> Array:
        """E[Y]; NaN where the base has no mean."""
        return self.loc + self._positive_scale() * self._expectation(lambda u: u)

    @jax.jit
    def variance(self) -> Array:
        """E[(Y - E[Y])^2]; NaN where the base has no variance."""
        return self.stddev() ** 2

    @jax.jit
    def stddev(self) -> Array:
        """The standard deviation, also where its square, the variance, over- or underflows."""
        mean = self._expectation(lambda u: u)
        return self._positive_scale() * jnp.sqrt(self._expectation(lambda u: (u - mean) ** 2))

    @jax.jit
    def entropy(self) -> Array:
        """Differential entropy in nats: of the circle in closed form, E[log b] by quadrature.

        Source: derived from https://kexue.fm/archives/10007, equations 14 and 15.
        """
        log_base = self._expectation(self.base.log_prob)
        return self.circle.entropy() - jnp.log(2.0) - log_base + jnp.log(self._positive_scale())

    def kl_divergence(self, other: Any) -> Array:
        """KL(self || other) in nats by quadrature, for any density with `log_prob` on the line.

        For the same base, loc, scale and boundary it equals the divergence of the `circle`s,
        whose own `kl_divergence` is in closed form.

        Raises:
            ValueError: something without `log_prob`, or a density on the circle.
        """
        if isinstance(other, PeriodicDensity | ReflectedDensity) or not hasattr(other, "log_prob"):
            raise ValueError(
                f"other: expected a density on the line with log_prob, got {type(other).__name__}"
            )
        return self.expectation(lambda y: self.log_prob(y) - other.log_prob(y))

    @jax.jit
    def characteristic_function(self, t: Any) -> Array:
        """E[exp(i t Y)] by quadrature, for one t; good for |t| up to about 8 / scale."""
        return jax.lax.complex(
            self.expectation(lambda y: jnp.cos(t * y)), self.expectation(lambda y: jnp.sin(t * y))
        )

    @jax.jit
    def modes(self) -> Array:
        """Modes in ascending order, [..., 2N + 1], padded with NaN; of more, the first ones."""
        return self._maxima(2 * self.order + 1)

    def _maxima(self, count: int | None = None) -> Array:
        cells = 48 * (self.order + 1)
        levels = jnp.sin(0.5 * jnp.pi * jnp.arange(1, cells, dtype=self.loc.dtype) / cells) ** 2
        levels = levels.reshape(-1, *(1,) * len(self.batch_shape))
        u, mass = self.base.quantile(levels), jnp.minimum(levels, 1.0 - levels)
        edges = self.loc + self._positive_scale() * u
        rate = jnp.exp(self.base.log_prob(u)) / self._positive_scale() * (1 if self.reflect else 2)

        def error(circle: PeriodicDensity, x: Array) -> Array:
            return extrema.log_slope_error(*circle._unit_coefficients(), circle.floor, x)

        def slope(y: Array) -> Array:
            return jax.jvp(self.log_prob, (y,), (jnp.ones_like(y),))[1]

        doubt = rate * self._from_ends(error, levels < 0.5, 2.0 * mass)
        return extrema.maxima(slope, edges, count or cells - 2, doubt)

    @jax.jit
    def mode(self) -> Array:
        """The point of largest density."""
        modes = jnp.moveaxis(self._maxima(), -1, 0)
        highest = jnp.nanargmax(jax.lax.stop_gradient(self.log_prob(modes)), axis=0)
        return jnp.take_along_axis(modes, highest[None], axis=0)[0]

    def plot(self, ax: Any = None, **line: Any) -> Any:
        """Draw a single density between its 0.1 % and 99.9 % quantiles; see `plotting.plot`."""
        levels = jnp.array([1e-3, 1.0 - 1e-3]).reshape(-1, *(1,) * len(self.batch_shape))
        low, high = self.quantile(levels)
        points = jnp.linspace(low, high, plotting.points(self.order))
        return plotting.plot(self, points, ax, **line)

    def sample(self, *, seed: Seed, sample_shape: Shape = ()) -> Array:
        """Samples of shape sample_shape + batch_shape, with reparameterised gradients.

        They lie between the quantiles of eps and 1 - eps, eps a rounding error (float32: 1e-7).
        """
        seed, shape = checks.draws(seed, sample_shape)
        shape = (*shape, *self.batch_shape)
        tiny = jnp.finfo(self.loc.dtype).eps
        levels = jax.random.uniform(seed, shape, self.loc.dtype, tiny, 1.0 - tiny)
        return self._quantile_by_circle(levels)
