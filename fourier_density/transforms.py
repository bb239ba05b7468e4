"""Base distributions: how the real line is mapped to the circle.

Notation
    u  standardised point (y - loc) / scale
    B  distribution function of the base, b its density
    v  2 B(u) - 1, the point of [-1, 1] that stands for u

A density p on the circle becomes q(u) = 2 p(v) b(u) on the line: the base decides the tails
and p corrects the rest. The base of the paper is v = tanh(u), which is the logistic
distribution with scale 1/2.

Every base is a pytree with the four functions of `Base`. A user's own needs no more.

Source: arXiv 2402.15345, section 2; https://kexue.fm/archives/10007.
"""

import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.scipy.special import betainc, gammaln, log_ndtr, logsumexp, ndtri
from jaxtyping import Array


@runtime_checkable
class Base(Protocol):
    """A distribution on the real line with relative accuracy in both tails."""

    def log_prob(self, u: Array) -> Array:
        """Log b(u)."""
        ...

    def log_cdf(self, u: Array) -> Array:
        """Log B(u)."""
        ...

    def log_survival_function(self, u: Array) -> Array:
        """log(1 - B(u))."""
        ...

    def quantile(self, probability: Array) -> Array:
        """U with B(u) = probability."""
        ...


@struct.dataclass
class Tanh:
    """v = tanh(u): the logistic distribution of scale 1/2."""

    def log_prob(self, u: Array) -> Array:
        """log(sech(u)^2 / 2) without overflow."""
        size = jnp.abs(u)
        return jnp.log(2.0) - 2.0 * size - 2.0 * jnp.log1p(jnp.exp(-2.0 * size))

    def log_cdf(self, u: Array) -> Array:
        """log(1 / (1 + exp(-2 u)))."""
        return jax.nn.log_sigmoid(2.0 * u)

    def log_survival_function(self, u: Array) -> Array:
        """By symmetry."""
        return self.log_cdf(-u)

    def quantile(self, probability: Array) -> Array:
        """Half the logit."""
        return 0.5 * (jnp.log(probability) - jnp.log1p(-probability))


@struct.dataclass
class Normal:
    """The standard normal distribution."""

    def log_prob(self, u: Array) -> Array:
        """-(u^2 + log 2 pi) / 2."""
        return -0.5 * (u**2 + jnp.log(2.0 * jnp.pi))

    def log_cdf(self, u: Array) -> Array:
        """By an asymptotic series in the lower tail."""
        return log_ndtr(u)

    def log_survival_function(self, u: Array) -> Array:
        """By symmetry."""
        return log_ndtr(-u)

    def quantile(self, probability: Array) -> Array:
        """The probit."""
        return ndtri(probability)


@struct.dataclass
class Laplace:
    """The double exponential distribution exp(-|u|) / 2."""

    def log_prob(self, u: Array) -> Array:
        """-|u| - log 2."""
        return -jnp.abs(u) - jnp.log(2.0)

    def log_cdf(self, u: Array) -> Array:
        """U - log 2 below zero, log(1 - exp(-u) / 2) above."""
        above = jnp.log1p(-0.5 * jnp.exp(-jnp.maximum(u, 0.0)))
        return jnp.where(u < 0, u - jnp.log(2.0), above)

    def log_survival_function(self, u: Array) -> Array:
        """By symmetry."""
        return self.log_cdf(-u)

    def quantile(self, probability: Array) -> Array:
        """log(2 p) below the median, by symmetry above."""
        near = jnp.minimum(probability, 1.0 - probability)
        return jnp.sign(probability - 0.5) * -jnp.log(2.0 * near)


@struct.dataclass
class StudentT:
    """Student's t distribution.

    Attributes:
        df: degrees of freedom, positive; a fixed number, not a parameter to train.
    """

    df: float = struct.field(pytree_node=False, default=3.0)

    def log_prob(self, u: Array) -> Array:
        """The density's logarithm, by log1p in the tails."""
        half = 0.5 * self.df
        constant = gammaln(half + 0.5) - gammaln(half) - 0.5 * jnp.log(jnp.pi * self.df)
        return constant - (half + 0.5) * jnp.log1p(u**2 / self.df)

    def log_cdf(self, u: Array) -> Array:
        """Half an incomplete beta function of df / (df + u^2), which is small in the tails."""
        return _student_log_cdf(self.df, u)

    def log_survival_function(self, u: Array) -> Array:
        """By symmetry."""
        return self.log_cdf(-u)

    def quantile(self, probability: Array) -> Array:
        """By Newton's method in asinh(u)."""
        return solve(self, probability)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _student_log_cdf(df: float, u: Array) -> Array:
    shape = (jnp.asarray(0.5 * df, u.dtype), jnp.asarray(0.5, u.dtype))
    tail = 0.5 * betainc(*shape, df / (df + u**2))
    return jnp.where(u < 0, jnp.log(tail), jnp.log1p(-tail))


@_student_log_cdf.defjvp
def _student_log_cdf_jvp(df: float, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """B / B: the derivative of the incomplete beta function is infinite at u = 0."""
    (u,), (change,) = primals, tangents
    value = _student_log_cdf(df, u)
    return value, change * jnp.exp(StudentT(df).log_prob(u) - value)


@struct.dataclass
class GaussianMixture:
    """A mixture of normal distributions.

    Attributes:
        weights: [K], positive; they need not sum to one.
        means, scales: [K], scales positive.
    """

    weights: Any
    means: Any
    scales: Any

    def _log_sum(self, terms: Array) -> Array:
        weights = jnp.asarray(self.weights, terms.dtype)
        return logsumexp(terms + jnp.log(weights / weights.sum()), axis=-1)

    def _standard(self, u: Array) -> Array:
        u = jnp.asarray(u)[..., None]
        return (u - jnp.asarray(self.means, u.dtype)) / jnp.asarray(self.scales, u.dtype)

    def log_prob(self, u: Array) -> Array:
        """Log-sum over the components."""
        t = self._standard(u)
        return self._log_sum(Normal().log_prob(t) - jnp.log(jnp.asarray(self.scales, t.dtype)))

    def log_cdf(self, u: Array) -> Array:
        """Log-sum over the components."""
        return self._log_sum(log_ndtr(self._standard(u)))

    def log_survival_function(self, u: Array) -> Array:
        """Log-sum over the components."""
        return self._log_sum(log_ndtr(-self._standard(u)))

    def quantile(self, probability: Array) -> Array:
        """By Newton's method in asinh(u)."""
        return solve(self, probability)


NAMED = {"tanh": Tanh(), "normal": Normal(), "laplace": Laplace(), "student_t": StudentT()}


def solve(base: Base, probability: Array) -> Array:
    """Quantiles of a base that has no formula for them: bracketed Newton steps in asinh(u).

    The smaller of the two tails is matched, in logarithms. Gradients are implicit.
    """
    target = jax.lax.stop_gradient(jnp.asarray(probability))
    frozen = jax.lax.stop_gradient(base)
    lower = target < 0.5
    goal = jnp.where(lower, jnp.log(target), jnp.log1p(-target))

    def error(b: Base, u: Array) -> Array:
        return jnp.where(lower, b.log_cdf(u), b.log_survival_function(u)) - goal

    def step(_: Any, bracket: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, s = bracket
        u = jnp.sinh(s)
        miss = error(frozen, u)
        above = jnp.where(lower, miss > 0, miss < 0)
        low, high = jnp.where(above, low, s), jnp.where(above, s, high)
        log_slope = frozen.log_prob(u) - (goal + miss)
        slope = jnp.where(lower, 1.0, -1.0) * jnp.exp(log_slope) * jnp.cosh(s)
        newton = s - miss / slope
        inside = (newton > low) & (newton < high)
        return low, high, jnp.where(inside, newton, 0.5 * (low + high))

    ends = jnp.full_like(target, 40.0)  # sinh(40) is 1e17
    _, _, s = jax.lax.fori_loop(0, 64, step, (-ends, ends, jnp.zeros_like(target)))
    u = jnp.sinh(s)
    value = jnp.where(lower, jnp.exp(base.log_cdf(u)), -jnp.exp(base.log_survival_function(u)))
    wanted = jnp.where(lower, probability, probability - 1.0)
    miss = (value - wanted) * jnp.exp(-jax.lax.stop_gradient(frozen.log_prob(u)))
    u = u - (miss - jax.lax.stop_gradient(miss))
    ends = jnp.where(target == 0, -jnp.inf, jnp.where(target == 1, jnp.inf, u))
    return jnp.where((target >= 0) & (target <= 1), ends, jnp.nan)


def log_interval(base: Base, lower: Array, upper: Array) -> Array:
    """log(B(upper) - B(lower)), with relative accuracy in both tails and for narrow intervals.

    From the tail nearer to the interval: log B(upper) + log(1 - B(lower) / B(upper)). Where the
    ratio is close to one, Gauss-Legendre quadrature of b over the narrow interval.
    """
    left = lower + upper < 0
    far = jnp.where(left, base.log_cdf(upper), base.log_survival_function(lower))
    near = jnp.where(left, base.log_cdf(lower), base.log_survival_function(upper))
    drop = near - far  # <= 0
    narrow = drop > -0.5
    safe = jnp.where(narrow, -1.0, drop)
    wide = far + jnp.log(-jnp.expm1(safe))
    nodes, weights = np.polynomial.legendre.leggauss(8)
    half = 0.5 * (upper - lower)
    points = lower[..., None] + half[..., None] * (1.0 + jnp.asarray(nodes, lower.dtype))
    terms = base.log_prob(points) + jnp.log(jnp.asarray(weights, lower.dtype))
    return jnp.where(narrow, jnp.log(half) + logsumexp(terms, axis=-1), wide)
