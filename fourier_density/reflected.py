"""The Fourier basis density on an interval whose ends need not meet.

Notation
    t  (x + 1) / 2 in [0, 1], for x in [-1, 1]
    P  an even density on the circle, P(t) = P(-t): its coefficients are real

The ends of a periodic density have the same value and slope; data without that property make
the series converge slowly (Gibbs). Reflecting the interval at its ends removes the jump: p(x) =
P(t) is the density of 2 |T| - 1 for T with density P, a polynomial in cos(pi t) of degree N.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, register_pytree_with_keys_class
from jaxtyping import Array

from fourier_density import angles, checks, plotting
from fourier_density.checks import Seed, Shape
from fourier_density.common import Bounded
from fourier_density.density import PeriodicDensity


@register_pytree_with_keys_class
class ReflectedDensity(Bounded):
    """p(x) = P((x + 1) / 2) on [-1, 1], with P(t) = |A(t)|^2 / (2 sum_k a_k^2) and real a.

    The N degrees of freedom are those of all non-negative polynomials of degree N in
    cos(pi (x + 1) / 2). Outside [-1, 1] the density is zero.

    Args:
        coefficients: real [..., N+1], a_0..a_N; their scale does not matter.
        floor: weight in [0, 1) of a uniform component.

    Raises:
        ValueError: as `PeriodicDensity`; complex coefficients.

    Source: derived from https://kexue.fm/archives/10007, equation 14, for real coefficients
    and twice the period.

    >>> density = ReflectedDensity([1.0, 0.5])
    >>> [round(float(density.prob(x)), 2) for x in (-1.0, 1.0)]
    [0.9, 0.1]
    """

    event_shape: tuple[int, ...] = ()
    even: PeriodicDensity

    def __init__(self, coefficients: Any, floor: Any = 0.0):
        coefficients = checks.array(coefficients)
        if np.iscomplexobj(coefficients):
            raise ValueError("coefficients: expected real values for a reflected density")
        self._set(even=PeriodicDensity(coefficients, floor))

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """Leaves with their names, for JAX."""
        return ((GetAttrKey("even"), self.even),), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: Any) -> "ReflectedDensity":
        """Rebuild without validation: JAX passes placeholders here."""
        density = object.__new__(cls)
        density._set(even=leaves[0])
        return density

    def __repr__(self) -> str:
        return repr(self.even).replace("Periodic", "Reflected")

    @property
    def order(self) -> int:
        """N: the degree of the density as a polynomial in cos(pi (x + 1) / 2)."""
        return self.even.order

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of densities."""
        return self.even.batch_shape

    @property
    def coefficients(self) -> Array:
        """a_0..a_N, real [..., N+1]."""
        return self.even.re

    @property
    def floor(self) -> Array:
        """Weight of the uniform component, of the batch shape."""
        return self.even.floor

    def _t(self, x: Any) -> Array:
        return 0.5 * (checks.real(x, self.even.re.dtype) + 1.0)

    @jax.jit
    def log_prob(self, x: Any) -> Array:
        """Natural logarithm of the density at x; -inf outside [-1, 1]."""
        t = self._t(x)
        return jnp.where((t < 0) | (t > 1), -jnp.inf, self.even.log_prob(t))

    @jax.jit
    def prob(self, x: Any) -> Array:
        """Density at x, per unit of x."""
        t = self._t(x)
        return jnp.where((t < 0) | (t > 1), 0.0, self.even.prob(t))

    @jax.jit
    def log_interval_prob(self, lower: Any, upper: Any) -> Array:
        """Log P(lower <= X <= upper) in nats, with relative accuracy; NaN if upper < lower."""
        lower, upper = (checks.real(end, self.even.re.dtype) for end in (lower, upper))
        ordered = lower <= upper
        lower, upper = (angles.limit(end, -1.0, 1.0) for end in (lower, upper))
        half = 0.25 * (upper - lower)  # of t; a difference of ends in t would lose digits
        first = lower < -upper  # the middle is counted from the nearer end, put to 0
        # The end that is not asked for stays clear of roots, whose slope would be NaN.
        near = half + jnp.where(first, 0.5 * (1.0 + lower), 0.25)
        far = half + jnp.where(first, 0.25, 0.5 * (1.0 - upper))
        inside = jnp.where(ordered, half, 0.0)
        means = self.even.log_average(near, inside), self.even.half_turn().log_average(far, inside)
        return jnp.log(2.0 * jnp.where(ordered, half, jnp.nan)) + jnp.where(first, *means)

    @jax.jit
    def interval_prob(self, lower: Any, upper: Any) -> Array:
        """P(lower <= X <= upper)."""
        return jnp.exp(self.log_interval_prob(lower, upper))

    @jax.jit
    def log_cdf(self, x: Any) -> Array:
        """Log P(X <= x), accurate in the lower tail too."""
        return self.log_interval_prob(-1.0, angles.limit(checks.real(x, None), -1.0, jnp.inf))

    @jax.jit
    def log_survival_function(self, x: Any) -> Array:
        """Log P(X > x), accurate in the upper tail too."""
        return self.log_interval_prob(angles.limit(checks.real(x, None), -jnp.inf, 1.0), 1.0)

    @jax.jit
    def cdf(self, x: Any) -> Array:
        """P(X <= x) = 2 P(0 <= T <= t)."""
        t = angles.limit(self._t(x), 0.0, 1.0)
        return angles.rounded(2.0 * self.even.cdf(t) - 1.0, 0.0, 1.0)

    @jax.jit
    def survival_function(self, x: Any) -> Array:
        """P(X > x)."""
        t = angles.limit(self._t(x), 0.0, 1.0)
        return angles.rounded(2.0 * self.even.survival_function(t), 0.0, 1.0)

    @jax.jit
    def quantile(self, probability: Any) -> Array:
        """The point x with cdf(x) = probability; NaN outside [0, 1]. Implicit gradients."""
        u = checks.real(probability, self.even.re.dtype, "probability")
        x = angles.rounded(2.0 * self.even.quantile(0.5 * (u + 1.0)) - 1.0, -1.0, 1.0)
        ends = jnp.where(u == 0, -1.0, jnp.where(u == 1, 1.0, x))  # also where p has a root at one
        x = x + jax.lax.stop_gradient(ends - x)
        return jnp.where((u >= 0) & (u <= 1), x, jnp.nan)

    def sample(self, *, seed: Seed, sample_shape: Shape = ()) -> Array:
        """Samples of shape sample_shape + batch_shape, with reparameterised gradients."""
        return 2.0 * jnp.abs(self.even.sample(seed=seed, sample_shape=sample_shape)) - 1.0

    @jax.jit
    def moments(self) -> Array:
        """E[cos(pi n (X + 1) / 2)], n = 1..N, real [..., N]."""
        return self.even.moments().real

    @jax.jit
    def mean(self) -> Array:
        """E[X] = 2 E|T| - 1, with E|T| = 1/2 + 2 sum_n ((-1)^n - 1) / (pi n)^2 gamma_n.

        Source: derived from https://kexue.fm/archives/10007, equation 14.
        """
        n = jnp.arange(1, self.order + 1)
        weights = jnp.where(n % 2, -2.0, 0.0) / (jnp.pi * n) ** 2
        return 4.0 * jnp.sum(weights * self.moments(), axis=-1)

    @jax.jit
    def entropy(self) -> Array:
        """Differential entropy in nats: that of T."""
        return self.even.entropy()

    @jax.jit
    def kl_divergence(self, other: "ReflectedDensity") -> Array:
        """KL(self || other) in nats: that of the even densities.

        Raises:
            ValueError: another kind of density.
        """
        checks.kind("other", other, ReflectedDensity)
        return self.even.kl_divergence(other.even)

    @jax.jit
    def characteristic_function(self, s: Any) -> Array:
        """E[exp(i s X)], s in radians per unit of x: a sum of sinc functions at s +- pi n / 2.

        Source: derived from https://kexue.fm/archives/10007, equation 14.
        """
        s = checks.real(s, self.even.re.dtype, "s")[..., None]
        n = jnp.arange(1, self.order + 1)
        turn = jax.lax.complex(*(jnp.asarray(p, s.dtype) for p in _quarter_turns(self.order)))
        ahead, behind = (jnp.sinc(s / jnp.pi + sign * 0.5 * n) for sign in (1, -1))
        waves = turn * ahead + turn.conj() * behind
        return jnp.sinc(s[..., 0] / jnp.pi) + jnp.sum(self.moments() * waves, axis=-1)

    @jax.jit
    def modes(self) -> Array:
        """The modes in ascending order, [..., N], padded with NaN; an end can be one."""
        t = self.even.modes()
        near = 64 * jnp.finfo(t.dtype).eps  # modes at the ends come with rounding errors
        t = jnp.where(1 - jnp.abs(t) < near, 1.0, jnp.where(jnp.abs(t) < near, 0.0, t))
        inside = (t >= 0) & (t <= 1)
        return jnp.sort(jnp.where(inside, 2.0 * t - 1.0, jnp.nan), axis=-1)

    def plot(self, ax: Any = None, **line: Any) -> Any:
        """Draw the density (a single one) with Matplotlib; see `plotting.plot`."""
        points = jnp.linspace(-1.0, 1.0, plotting.points(self.order))
        return plotting.plot(self, points, ax, **line)

    @jax.jit
    def mode(self) -> Array:
        """The point of largest density."""
        return 2.0 * jnp.abs(self.even.mode()) - 1.0

    @jax.jit
    def regulariser(self) -> Array:
        """Roughness of the density: integral of p'(x)^2 = (pi/2)^2 sum_n n^2 gamma_n^2.

        Source: derived from https://kexue.fm/archives/10007, equation 16, without gamma and for p
        in place of f.
        """
        return 0.25 * self.even.regulariser()


def _quarter_turns(order: int) -> tuple[np.ndarray, np.ndarray]:
    """exp(i pi n / 2), n = 1..N, exactly."""
    n = np.arange(1, order + 1)
    return np.array([1.0, 0.0, -1.0, 0.0])[n % 4], np.array([0.0, 1.0, 0.0, -1.0])[n % 4]
