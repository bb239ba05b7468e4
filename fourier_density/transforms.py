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

import math
import numbers
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, logsumexp, ndtri
from jaxtyping import Array

from fourier_density import checks, pytrees, student
from fourier_density.quantiles import solve


@runtime_checkable
class Base(Protocol):
    """A distribution on the real line, its median near 0, with relative accuracy in both tails."""

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
        """The u with B(u) = probability."""
        ...


@pytrees.dataclass
class Tanh:
    """v = tanh(u): the logistic distribution of scale 1/2.

    Source: https://kexue.fm/archives/10007, equation 15; arXiv 2402.15345, equation 6, its inverse.
    """

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


@pytrees.dataclass
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


@pytrees.dataclass
class Laplace:
    """The double exponential distribution exp(-|u|) / 2."""

    def log_prob(self, u: Array) -> Array:
        """-|u| - log 2."""
        return -jnp.abs(u) - jnp.log(2.0)

    def log_cdf(self, u: Array) -> Array:
        """Log B(u): u - log 2 below zero, log(1 - exp(-u) / 2) above."""
        low = u < 0
        above = jnp.log1p(-0.5 * jnp.exp(-jnp.where(low, 0.0, u)))
        return jnp.where(low, u - jnp.log(2.0), above)

    def log_survival_function(self, u: Array) -> Array:
        """By symmetry."""
        return self.log_cdf(-u)

    def quantile(self, probability: Array) -> Array:
        """log(2 p) below the median, by symmetry above."""
        low = probability < 0.5
        value = jnp.log(2.0 * jnp.where(low, probability, 1.0 - probability))
        return jnp.where(low, value, -value)


@pytrees.dataclass
class StudentT:
    """Student's t distribution.

    Attributes:
        df: degrees of freedom, positive; a fixed number, not a parameter to train.

    Raises:
        ValueError: df is not a finite positive number.
    """

    df: float = pytrees.static(default=3.0)

    def __post_init__(self):
        if not (isinstance(self.df, numbers.Real) and 0 < self.df < math.inf):
            raise ValueError(f"df: expected a positive number, got {self.df!r}")

    def log_prob(self, u: Array) -> Array:
        """The density's logarithm, by log1p in the tails."""
        return student.log_prob(self.df, u)

    def log_cdf(self, u: Array) -> Array:
        """Half an incomplete beta function of df / (df + u^2), which is small in the tails."""
        return student.log_cdf(self.df, u)

    def log_survival_function(self, u: Array) -> Array:
        """By symmetry."""
        return self.log_cdf(-u)

    def quantile(self, probability: Array) -> Array:
        """By Newton's method in asinh(u)."""
        return solve(self, probability)


@pytrees.dataclass
class GaussianMixture:
    """A mixture of normal distributions.

    Attributes:
        weights: [..., K], positive; they need not sum to one.
        means, scales: [..., K], scales positive.

    Raises:
        ValueError: other shapes, values that are not finite or not positive, unless traced.

    Source: https://kexue.fm/archives/10007, equation 3, with weights in place of 1 / K.
    """

    weights: Any
    means: Any
    scales: Any

    def __post_init__(self):
        sizes = [np.shape(part)[-1:] for part in (self.weights, self.means, self.scales)]
        if sizes[0] == () or sizes != sizes[:1] * 3:
            raise ValueError(f"weights, means, scales: expected [..., K] each, got {sizes} as K")
        for name in ("weights", "means", "scales"):
            known = checks.stored(getattr(self, name))
            good = known is None or np.isfinite(known).all()
            if not good or (known is not None and name != "means" and not (known > 0).all()):
                which = "finite" if name == "means" else "positive"
                raise ValueError(f"{name}: expected {which} numbers, got {known}")

    def _log_sum(self, terms: Array) -> Array:
        weights = jnp.asarray(self.weights, terms.dtype)
        return logsumexp(terms + jnp.log(weights / weights.sum(-1, keepdims=True)), axis=-1)

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

    def log_interval(self, lower: Array, upper: Array, width: Array) -> Array:
        """Log-sum over the components, which may be narrower than the interval."""
        widths = width[..., None] / jnp.asarray(self.scales, width.dtype)
        ends = self._ends(lower), self._ends(upper)
        return self._log_sum(log_interval(Normal(), *ends, widths))

    def _ends(self, u: Array) -> Array:
        """Standardised, without an infinity in the gradient of the scales."""
        infinite = jnp.isinf(u)
        inside = self._standard(jnp.where(infinite, 0.0, u))
        return jnp.where(infinite[..., None], u[..., None], inside)

    def quantile(self, probability: Array) -> Array:
        """By Newton's method in asinh(u)."""
        return solve(self, probability)


NAMED = {"tanh": Tanh(), "normal": Normal(), "laplace": Laplace(), "student_t": StudentT()}


def named(base: Any) -> Any:
    """A base by its name in `NAMED`; objects pass.

    Raises:
        ValueError: an unknown name, an object without the functions of `Base`.
    """
    if isinstance(base, str) and base in NAMED:
        return NAMED[base]
    if isinstance(base, type) or not isinstance(base, Base):
        raise ValueError(
            f"base: expected one of {', '.join(NAMED)} or an object with the functions of "
            f"fourier_density.transforms.Base, got {base!r}"
        )
    return base


@pytrees.dataclass
class Mirrored:
    """The distribution of -U.

    Attributes:
        base: that of U.
    """

    base: Any

    def log_prob(self, u: Array) -> Array:
        """Log b(-u)."""
        return self.base.log_prob(-u)

    def log_cdf(self, u: Array) -> Array:
        """The other tail of the base."""
        return self.base.log_survival_function(-u)

    def log_survival_function(self, u: Array) -> Array:
        """The other tail of the base."""
        return self.base.log_cdf(-u)

    def log_interval(self, lower: Array, upper: Array, width: Array) -> Array:
        """The same between the other ends of the base."""
        return log_interval(self.base, -upper, -lower, width)

    def quantile(self, probability: Array) -> Array:
        """By Newton's method, to keep the digits of small probabilities."""
        return solve(self, probability)


def log_tails(base: Base, u: Array) -> tuple[Array, Array]:
    """(log B(u), log(1 - B(u))), with slopes of zero at infinity."""
    infinite = jnp.isinf(u)
    inside = jnp.where(infinite, 0.0, u)
    below = jnp.where(u > 0, 0.0, -jnp.inf)
    above = jnp.where(u > 0, -jnp.inf, 0.0)
    return (
        jnp.where(infinite, below, base.log_cdf(inside)),
        jnp.where(infinite, above, base.log_survival_function(inside)),
    )


def log_interval(base: Base, lower: Array, upper: Array, width: Array) -> Array:
    """log(B(upper) - B(lower)), with relative accuracy in both tails and for narrow intervals.

    From the tail nearer to the interval: log B(upper) + log(1 - B(lower) / B(upper)). Where the
    ratio is close to one, quadrature of b over the narrow interval. A base that varies within
    such intervals must have a method `log_interval(lower, upper, width)` of its own.

    Args:
        width: upper - lower, computed without cancellation; any number where an end is infinite.
    """
    own = getattr(base, "log_interval", None)
    if own is not None:
        return own(lower, upper, width)
    empty = jnp.isinf(lower) & (lower == upper)
    lower, upper = jnp.where(empty, 0.0, lower), jnp.where(empty, 1.0, upper)
    (below_lower, above_lower), (below_upper, above_upper) = (
        log_tails(base, end) for end in (lower, upper)
    )
    left = below_upper < above_lower  # the tail from which less is missing
    far = jnp.where(left, below_upper, above_lower)
    near = jnp.where(left, below_lower, above_upper)
    drop = near - far  # <= 0
    narrow = drop > -0.5
    safe = jnp.where(narrow, -1.0, drop)
    wide = far + jnp.log(-jnp.expm1(safe))
    # Elsewhere an interval of length one, so that no infinity enters the gradient.
    start = jnp.where(narrow, lower, 0.0)
    within = log_quadrature(base, start, jnp.where(narrow, width, 1.0))
    return jnp.where(empty, -jnp.inf, jnp.where(narrow, within, wide))


def log_quadrature(base: Base, lower: Array, width: Array) -> Array:
    """Log mass of a narrow interval by eight nodes of Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    shape = (8, *(1,) * jnp.ndim(lower + width))
    nodes, weights = (jnp.asarray(a.reshape(shape), lower.dtype) for a in (nodes, weights))
    terms = base.log_prob(lower + 0.5 * width * (1.0 + nodes)) + jnp.log(weights)
    return jnp.log(0.5 * width) + logsumexp(terms, axis=0)
