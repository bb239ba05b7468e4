"""The Fourier basis density on the real line.

Notation
    a, p     coefficients and density on the circle (see `density`)
    u        (y - loc) / scale
    B, b     distribution function and density of the base (see `transforms`)
    v        2 B(u) - 1 in (-1, 1)
    q        q(y) = 2 p(v) b(u) / scale
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey, register_pytree_with_keys_class
from jaxtyping import Array, Key

from fourier_density import masses, series, transforms
from fourier_density.density import PeriodicDensity, concrete


@register_pytree_with_keys_class
class RealLineDensity:
    """q(y) = 2 p(2 B(u) - 1) b(u) / scale with u = (y - loc) / scale.

    With the base of the paper, "tanh", that is p(tanh(u)) sech(u)^2 / scale. The tails of q are
    those of the base times p(1) = p(-1). All methods stay accurate there: points near the ends
    of the circle are kept as distances from the end.

    Args:
        coefficients: complex [..., N+1], a_0..a_N; scale and phase do not matter.
        loc, scale: location and positive scale, of the batch shape or broadcast against it.
        base: "tanh", "normal", "laplace", "student_t" (three degrees of freedom) or an object
            with the functions of `transforms.Base`.
        floor: weight in [0, 1) of the base itself in the mixture (1 - floor) q + floor b.

    Raises:
        ValueError: as `PeriodicDensity`; scale not positive, an unknown name of a base. Traced
            values are not checked: a negative scale then gives NaN.

    Source: arXiv 2402.15345, section 2; https://kexue.fm/archives/10007.

    >>> density = RealLineDensity([1.0, 0.5], loc=0.0, scale=1.0)
    >>> round(float(density.prob(0.0)), 3)
    0.9
    """

    event_shape: tuple[int, ...] = ()

    def __init__(
        self, coefficients: Any, loc: Any, scale: Any, base: Any = "tanh", floor: Any = 0.0
    ):
        circle = PeriodicDensity(coefficients, floor)
        if isinstance(base, str):
            if base not in transforms.NAMED:
                names = ", ".join(transforms.NAMED)
                raise ValueError(f"base: expected one of {names} or an object, got {base!r}")
            base = transforms.NAMED[base]
        sign = jnp.where(jnp.arange(circle.order + 1) % 2, -1.0, 1.0).astype(circle.re.dtype)
        # Half a turn puts both ends of the line at 0, where floating point is densest.
        turned = (circle.re * sign, circle.im * sign, circle.floor)
        self.turned = PeriodicDensity.tree_unflatten(None, turned)
        self.loc = jnp.asarray(loc, circle.re.dtype)
        self.scale = jnp.asarray(scale, circle.re.dtype)
        self.base = base
        values = concrete(self.scale)
        if values is not None and not (values > 0).all():
            raise ValueError(f"scale: expected positive values, got {scale}")

    def tree_flatten_with_keys(self):
        """Leaves with their names, for JAX."""
        names = ("turned", "loc", "scale", "base")
        return tuple((GetAttrKey(name), getattr(self, name)) for name in names), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: Any) -> "RealLineDensity":
        """Rebuild without validation: JAX passes placeholders here."""
        density = object.__new__(cls)
        density.turned, density.loc, density.scale, density.base = leaves
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
        return jnp.broadcast_shapes(self.turned.batch_shape, self.loc.shape, self.scale.shape)

    @property
    def circle(self) -> PeriodicDensity:
        """The density p of v = 2 B(u) - 1."""
        return self.turned.rotate(jnp.ones((), self.loc.dtype))

    def _standardise(self, y: Any) -> Array:
        return (jnp.asarray(y, self.loc.dtype) - self.loc) / self._positive_scale()

    def _positive_scale(self) -> Array:
        return jnp.where(self.scale > 0, self.scale, jnp.nan)

    def _offset(self, u: Array) -> Array:
        """Signed distance of v from the nearer end of the circle: v + 1 or v - 1."""
        below = 2.0 * jnp.exp(self.base.log_cdf(jnp.minimum(u, 0.0)))
        above = 2.0 * jnp.exp(self.base.log_survival_function(jnp.maximum(u, 0.0)))
        return jnp.where(u < 0, below, -above)

    def log_prob(self, y: Any) -> Array:
        """Natural logarithm of the density at y: log 2 p(v) + log b(u) - log scale."""
        u = self._standardise(y)
        log_p = _log_prob(self.turned, self._offset(u))
        return log_p + jnp.log(2.0) + self.base.log_prob(u) - jnp.log(self._positive_scale())

    def prob(self, y: Any) -> Array:
        """Density at y, per unit of y."""
        return jnp.exp(self.log_prob(y))

    def log_cdf(self, y: Any) -> Array:
        """Log P(Y <= y), accurate in the lower tail."""
        u = self._standardise(y)
        lower = self._log_tail(jnp.minimum(u, 0.0), 1.0)
        upper = jnp.log1p(-jnp.exp(self._log_tail(jnp.maximum(u, 0.0), -1.0)))
        return jnp.where(u < 0, lower, upper)

    def log_survival_function(self, y: Any) -> Array:
        """Log P(Y > y), accurate in the upper tail."""
        u = self._standardise(y)
        upper = self._log_tail(jnp.maximum(u, 0.0), -1.0)
        lower = jnp.log1p(-jnp.exp(self._log_tail(jnp.minimum(u, 0.0), 1.0)))
        return jnp.where(u < 0, lower, upper)

    def _log_tail(self, u: Array, side: float) -> Array:
        """Log mass beyond u on the lower (side 1) or upper (-1) side."""
        base = self.base
        log_mass = base.log_cdf(u) if side > 0 else base.log_survival_function(u)
        half = jnp.exp(log_mass)
        mean = masses.average(self.turned._moments(), side * half, half, self.turned.prob)
        return log_mass + jnp.log(mean)

    def cdf(self, y: Any) -> Array:
        """P(Y <= y)."""
        return jnp.exp(self.log_cdf(y))

    def survival_function(self, y: Any) -> Array:
        """P(Y > y)."""
        return jnp.exp(self.log_survival_function(y))

    def log_interval_prob(self, lower: Any, upper: Any) -> Array:
        """Log P(lower <= Y <= upper) in nats; relative accuracy in the tails. NaN if reversed."""
        u, w = self._standardise(lower), self._standardise(upper)
        log_mass = transforms.log_interval(self.base, u, w)
        # The middle of [v(u), v(w)], as a distance from the end nearer to it.
        left = u + w < 0
        from_left = jnp.exp(self.base.log_cdf(u)) + jnp.exp(self.base.log_cdf(w))
        from_right = jnp.exp(self.base.log_survival_function(u))
        from_right = from_right + jnp.exp(self.base.log_survival_function(w))
        middle = jnp.where(left, from_left, -from_right)
        half = jnp.clip(jnp.exp(log_mass), 0.0, 1.0)
        mean = masses.average(self.turned._moments(), middle, half, self.turned.prob)
        return jnp.where(w >= u, log_mass + jnp.log(mean), jnp.nan)

    def interval_prob(self, lower: Any, upper: Any) -> Array:
        """P(lower <= Y <= upper)."""
        return jnp.exp(self.log_interval_prob(lower, upper))

    def quantile(self, probability: Any) -> Array:
        """The point y with cdf(y) = probability; infinite at 0 and 1, NaN outside [0, 1].

        Its resolution is that of v: levels within a rounding error of 1 are not told apart.
        """
        x = self.circle.quantile(probability)
        return self.loc + self._positive_scale() * self.base.quantile(0.5 * (x + 1.0))

    def sample(self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Array:
        """Samples of shape sample_shape + batch_shape, with reparameterised gradients."""
        shape = (*sample_shape, *self.batch_shape)
        tiny = jnp.finfo(self.loc.dtype).eps
        return self.quantile(jax.random.uniform(seed, shape, self.loc.dtype, tiny, 1.0 - tiny))

    def sample_and_log_prob(
        self, *, seed: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Array, Array]:
        """Samples and their log-density."""
        y = self.sample(seed=seed, sample_shape=sample_shape)
        return y, self.log_prob(y)


def _log_prob(density: PeriodicDensity, x: Array) -> Array:
    """Log p(x), also where |A(x)|^2 underflows near a root at 0 (the ends of the line)."""
    u, v = series.evaluate(*density._unit_coefficients(), x)
    power = u**2 + v**2
    p = (1.0 - density.floor) * 0.5 * power + 0.5 * density.floor
    small = (p < 1e3 * jnp.finfo(x.dtype).tiny) & ((u != 0) | (v != 0))
    # The value does not depend on `size`, nor may the gradient: its cube underflows.
    size = jax.lax.stop_gradient(jnp.where(small, jnp.maximum(jnp.abs(u), jnp.abs(v)), 1.0))
    scaled = (u / size) ** 2 + (v / size) ** 2
    by_parts = jnp.log(0.5 * (1.0 - density.floor)) + 2.0 * jnp.log(size) + jnp.log(scaled)
    return jnp.where(small, by_parts, jnp.log(jnp.where(small, 1.0, p)))
