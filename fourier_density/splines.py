"""Baseline: a normal distribution transformed by a monotone rational-quadratic spline.

Notation
    K        bins of [-bound, bound]; outside it the spline is the identity
    x_k, z_k knots, K + 1 each, and d_k the slopes there; both end slopes are 1
    theta    (u - x_k) / (x_{k+1} - x_k), where in its bin a point is
    s_k      (z_{k+1} - z_k) / (x_{k+1} - x_k)

Source: Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows" (arXiv 1906.04032); the
formulas are those of Gregory and Delbourgo.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, ndtri
from jaxtyping import Array

from fourier_density import pytrees
from fourier_density.transforms import Normal, log_interval, log_quadrature

LEAST = 1e-3  # of the width and height of a bin, as parts of the whole, and of a slope
MOST_BINS = 500


@pytrees.dataclass
class Spline:
    """The distribution of u for which g(u) is standard normal, g a spline; a `transforms.Base`.

    Attributes:
        widths, heights: logits of the bins' sizes, [..., K].
        slopes: unconstrained, [..., K - 1], of the inner knots; 0 stands for slope 1 (softplus).
        bound: g is the identity outside [-bound, bound].

    Source: Durkan et al. (arXiv 1906.04032), after Gregory and Delbourgo.
    """

    widths: Any
    heights: Any
    slopes: Any
    bound: float = pytrees.static(default=4.0)

    def _knots(self) -> tuple[Array, Array, Array]:
        """x, z and d, [..., K + 1] each."""
        x, z = (_knots(logits, self.bound) for logits in (self.widths, self.heights))
        shift = jnp.log(jnp.expm1(1.0 - LEAST))
        inner = LEAST + jax.nn.softplus(self.slopes + shift)
        one = jnp.ones((*inner.shape[:-1], 1), inner.dtype)
        return x, z, jnp.concatenate([one, inner, one], axis=-1)

    def _bin(self, knots: Array, at: Array) -> tuple[Array, ...]:
        """Start and size in x and in z, and both slopes, of the bin that `at` is in."""
        x, z, d = self._knots()
        shape = jnp.broadcast_shapes(at.shape, x.shape[:-1])
        inside = (at[..., None] >= knots[..., 1:-1]).astype(jnp.int32)
        k = jnp.broadcast_to(jnp.sum(inside, axis=-1), shape)[..., None]

        def take(values: Array) -> Array:
            values = jnp.broadcast_to(values, (*shape, values.shape[-1]))
            return jnp.take_along_axis(values, k, axis=-1)[..., 0]

        sizes = (x[..., :-1], jnp.diff(x), z[..., :-1], jnp.diff(z), d[..., :-1], d[..., 1:])
        return tuple(take(values) for values in sizes)

    def forward(self, u: Array) -> tuple[Array, Array]:
        """g(u), and log g'(u).

        With d and d' the slopes at the ends of the bin,
        g = z + height (s theta^2 + d theta (1 - theta)) / (s + (d + d' - 2 s) theta (1 - theta)).

        Source: Durkan et al. (arXiv 1906.04032), after Gregory and Delbourgo.
        """
        outside = jnp.abs(u) >= self.bound
        inside = jnp.where(outside, 0.0, u)
        x, width, z, height, d0, d1 = self._bin(self._knots()[0], inside)
        theta = (inside - x) / width
        mixed, s = theta * (1.0 - theta), height / width
        below = s + (d1 + d0 - 2.0 * s) * mixed
        value = z + height * (s * theta**2 + d0 * mixed) / below
        above = d1 * theta**2 + 2.0 * s * mixed + d0 * (1.0 - theta) ** 2
        log_slope = 2.0 * jnp.log(s) + jnp.log(above) - 2.0 * jnp.log(below)
        return jnp.where(outside, u, value), jnp.where(outside, 0.0, log_slope)

    def inverse(self, v: Array) -> Array:
        """The u with g(u) = v: theta = 2 c / (-b - sqrt(b^2 - 4 a c)) in the bin of v.

        Source: Durkan et al. (arXiv 1906.04032), the root of a quadratic equation.
        """
        outside = jnp.abs(v) >= self.bound
        inside = jnp.where(outside, 0.0, v)
        x, width, z, height, d0, d1 = self._bin(self._knots()[1], inside)
        y, s = inside - z, height / width
        change = y * (d1 + d0 - 2.0 * s)
        a, b, c = height * (s - d0) + change, height * d0 - change, -s * y
        theta = 2.0 * c / (-b - jnp.sqrt(jnp.maximum(b**2 - 4.0 * a * c, 0.0)))
        return jnp.where(outside, v, x + theta * width)

    def log_prob(self, u: Array) -> Array:
        """Log density of a standard normal at g(u), and log g'(u)."""
        v, log_slope = self.forward(jnp.asarray(u))
        return -0.5 * (v**2 + jnp.log(2.0 * jnp.pi)) + log_slope

    def log_cdf(self, u: Array) -> Array:
        """That of a normal distribution at g(u)."""
        return log_ndtr(self.forward(jnp.asarray(u))[0])

    def log_survival_function(self, u: Array) -> Array:
        """That of a normal distribution at g(u)."""
        return log_ndtr(-self.forward(jnp.asarray(u))[0])

    def log_interval(self, lower: Array, upper: Array, width: Array) -> Array:
        """That of a normal distribution from g(lower) to g(upper), or by quadrature.

        In a small part of a bin g(upper) - g(lower) would lose its digits.
        """
        smallest = jnp.min(jnp.diff(self._knots()[0]), axis=-1)
        narrow = jnp.isfinite(lower) & jnp.isfinite(upper) & (width < 0.1 * smallest)
        ends = self.forward(lower)[0], self.forward(upper)[0]
        wide = log_interval(Normal(), *ends, ends[1] - ends[0])
        start = jnp.where(narrow, lower, 0.0)
        within = log_quadrature(self, start, jnp.where(narrow, width, 1.0))
        return jnp.where(narrow, within, wide)

    def quantile(self, probability: Array) -> Array:
        """The inverse spline of normal quantiles."""
        return self.inverse(ndtri(probability))


def _knots(logits: Any, bound: float) -> Array:
    """Knots [..., K + 1] from -bound to bound."""
    logits = jnp.asarray(logits)
    size = LEAST + (1.0 - LEAST * logits.shape[-1]) * jax.nn.softmax(logits)
    inner = jnp.cumsum(size, axis=-1)[..., :-1]
    zero = jnp.zeros((*inner.shape[:-1], 1), inner.dtype)
    return bound * (2.0 * jnp.concatenate([zero, inner, zero + 1.0], axis=-1) - 1.0)
