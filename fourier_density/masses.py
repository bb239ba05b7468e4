"""Probability of an interval, with relative accuracy however narrow or empty it is.

Notation
    m, h   middle and half-width of the interval [m - h, m + h]
    gamma  circular moments of p(x) = 1/2 + sum_n Re(gamma_n z^n)

The difference of two values of the distribution function loses all digits on a narrow or
nearly empty interval. Two formulas that do not:

    integral of p = h (1 + 2 sum_n sinc(n h) Re(gamma_n exp(i pi n m)))
                  = h sum_j w_j p(m + h t_j)        (Gauss-Legendre; all terms positive)

The first costs one pass and is used where its terms do not cancel, the second elsewhere, in
logarithms, because next to a root of p the mean may underflow. Where p is below its maximum times
the square of the rounding error, and the root is not at 0, no digits are left.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fourier_density import quadrature
from fourier_density.angles import sinpi, unit
from fourier_density.series import Pair


def log_average(
    moments: Pair, middle: Array, half: Array, log_prob: Callable[[Array], Array]
) -> Array:
    """Log of the mean of 2 p over [m - h, m + h]: the interval's probability is h times the mean.

    Args:
        moments: gamma_1..gamma_N, parts [..., N].
        middle, half: m and h in [0, 1], broadcast against the leading axes of the moments.
        log_prob: log p, also where p itself underflows, as it does next to a root.

    Source: derived from https://kexue.fm/archives/10007, equation 14, integrated over an interval.
    """
    re, im = moments
    order = re.shape[-1]
    by_series = 1.0 + 2.0 * _windowed_sum(re, im, middle, half)
    size = 1.0 + 2.0 * jnp.sum(jnp.hypot(re, im), axis=-1)
    # Below this the rounding errors of the series exceed 1e-5 of its value (single precision).
    cancels = by_series < 1e5 * jnp.finfo(re.dtype).eps * size
    log_series = jnp.log(jnp.where(cancels, 1.0, by_series))

    def by_quadrature() -> Array:
        def body(sums: Pair, node: Pair) -> tuple[Pair, None]:
            largest, total = sums
            value = log_prob(middle + half * node[0])
            top = jax.lax.stop_gradient(jnp.maximum(largest, value))
            total = total * jnp.exp(largest - top) + node[1] * jnp.exp(value - top)
            return (top, total), None

        nodes = quadrature.interval(order, re.dtype)
        start = (jnp.full_like(by_series, -1e30), jnp.zeros_like(by_series))
        (largest, total), _ = jax.lax.scan(jax.checkpoint(body), start, nodes)
        return largest + jnp.log(total)

    return jax.lax.cond(
        jnp.any(cancels),
        lambda: jnp.where(cancels, by_quadrature(), log_series),
        lambda: log_series,
    )


def _windowed_sum(re: Array, im: Array, middle: Array, half: Array) -> Array:
    """sum_n sinc(n h) Re(gamma_n exp(i pi n m)), with sinc(t) = sin(pi t) / (pi t)."""
    order = re.shape[-1]
    shape = jnp.broadcast_shapes(re.shape[:-1], middle.shape, half.shape)

    def body(total: Array, term: tuple[Array, Array, Array]) -> tuple[Array, None]:
        n, r, s = term
        cos, sin = unit(middle, n)
        wave = r * cos - s * sin
        return total + _sinc(half, n) * wave, None

    n = jnp.arange(1, order + 1, dtype=re.dtype)
    terms = (n, jnp.moveaxis(re, -1, 0), jnp.moveaxis(im, -1, 0))
    total, _ = jax.lax.scan(jax.checkpoint(body), jnp.zeros(shape, re.dtype), terms)
    return total


def _sinc(x: Array, n: Array) -> Array:
    """sin(pi n x) / (pi n x), with a derivative that survives tiny x."""
    t = jnp.pi * n * x
    near = jnp.abs(t) < 0.03
    square = jnp.where(near, t, 0.0) ** 2
    series = 1.0 - square / 6.0 * (1.0 - square / 20.0 * (1.0 - square / 42.0))
    return jnp.where(near, series, sinpi(x, n) / jnp.where(near, 1.0, t))


def smaller_log(log_mass: Array, log_rest: Array) -> Array:
    """Log mass, from the rest of the probability where that is the smaller part."""
    small = log_mass < -0.7
    rest = jnp.where(small, -1.0, jnp.minimum(log_rest, -0.5))
    return jnp.where(small, log_mass, jnp.log1p(-jnp.exp(rest)))
