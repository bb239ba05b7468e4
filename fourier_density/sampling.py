"""Inverse distribution functions from a table: search, Hermite's cubic, Newton's method.

Notation
    M        cells of the table on [-1, 1], each of width 2 / M
    P_j, p_j distribution function and density at the nodes
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fourier_density import newton

CELLS = 4096


def cells(order: int) -> int:
    """M: at least 32 cells per period of the fastest wave: cubics between nodes err below 1e-7."""
    return max(CELLS, 2 ** (32 * (order + 1) - 1).bit_length())


def invert(
    u: Array, cdf: Callable[[Array], Array], prob: Callable[[Array], Array], m: int
) -> Array:
    """Points x in [-1, 1] with cdf(x) = u, for one density and any number of u in [0, 1].

    The cell is found by bisection of the table; inside, the cubic that interpolates P and p at
    both ends is inverted by bracketed Newton steps. In double precision two steps on the true
    distribution function follow.
    """
    nodes = -1.0 + 2.0 * jnp.arange(m + 1, dtype=u.dtype) / m
    table = jax.lax.cummax(cdf(nodes))  # rounding can make it decrease where p vanishes
    slopes = prob(nodes) * (2.0 / m)
    index = _search(table, u)
    low, high = table[index], table[index + 1]
    t = _invert_cubic(u - low, high - low, slopes[index], slopes[index + 1])
    x = jnp.minimum(nodes[index] + (2.0 / m) * t, 1.0)
    if u.dtype == jnp.float64:
        left, right = nodes[index], nodes[index + 1]
        for _ in range(2):
            density = jnp.maximum(prob(x), jnp.finfo(u.dtype).tiny)
            x = jnp.clip(x - (cdf(x) - u) / density, left, right)
    return x


def solve(u: Array, cdf: Callable[[Array], Array], prob: Callable[[Array], Array]) -> Array:
    """Points x in [-1, 1] with cdf(x) = u, each by a bracketed Newton iteration of its own."""
    ones = jnp.ones_like(u)
    return newton.solve(lambda x: (cdf(x) - u, prob(x)), -ones, ones)


def _search(table: Array, u: Array) -> Array:
    """Index j with table[j] <= u <= table[j+1], by bisection between guides on a grid of u."""
    m = table.shape[0] - 1
    guides = jnp.searchsorted(table, jnp.arange(m + 1, dtype=u.dtype) / m, side="right") - 1
    guides = jnp.clip(guides, 0, m - 1)
    cell = jnp.clip(jnp.floor(u * m).astype(jnp.int32), 0, m - 1)
    bounds = (guides[cell], guides[cell + 1] + 1)

    def unfinished(bounds: tuple[Array, Array]) -> Array:
        return jnp.any(bounds[1] - bounds[0] > 1)

    def halve(bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        above = table[middle] <= u
        return jnp.where(above, middle, low), jnp.where(above, high, jnp.maximum(middle, low + 1))

    return jax.lax.while_loop(unfinished, halve, bounds)[0]


def _invert_cubic(y: Array, rise: Array, start: Array, end: Array) -> Array:
    """The t in [0, 1] where the cubic with value 0, rise and slopes start, end reaches y."""
    quadratic = 3.0 * rise - 2.0 * start - end
    cubic = start + end - 2.0 * rise
    guess = y / jnp.maximum(rise, jnp.finfo(y.dtype).tiny)
    bracket = (jnp.zeros_like(y), jnp.ones_like(y), jnp.clip(guess, 0.0, 1.0))
    for _ in range(4):
        t = bracket[2]
        error = ((cubic * t + quadratic) * t + start) * t - y
        slope = (3.0 * cubic * t + 2.0 * quadratic) * t + start
        bracket = newton.step(bracket, error, slope)
    return bracket[2]
