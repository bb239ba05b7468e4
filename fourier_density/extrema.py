"""Local maxima of a smooth function between given edges.

The number of maxima depends on values, which compiled programs cannot return; so there is room
for as many as possible, and NaN stands for those that do not exist.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fourier_density import series

Function = Callable[[Array], Array]


def maxima(
    slope: Function,
    edges: Array,
    count: int,
    doubt: Array | float = 0.0,
    period: float | None = None,
) -> Array:
    """Points where the slope changes from positive to negative, in ascending order.

    Args:
        slope: derivative of the function; elementwise, broadcast over a batch.
        edges: [M+1, *batch] ascending; of several changes within a cell one or none is found.
        count: most maxima returned; of more, the first.
        doubt: bound of the rounding error of the slope at the edges: where the slope is smaller,
            its sign is that of the rounding and makes no maximum.
        period: of the function, where the edges span one; maxima are then those of a circle, up
            to a period below the edges.

    Returns:
        [*batch, count], padded with NaN; implicit derivatives are correct up to third order.
    """
    fixed = jax.lax.stop_gradient(edges)
    values = jax.lax.stop_gradient(slope(fixed))
    sure = jnp.abs(values) > jax.lax.stop_gradient(doubt)
    fixed = jnp.broadcast_to(fixed, values.shape)
    cells = len(fixed) - 1
    if period is not None:  # signs may have to be looked for behind the seam
        fixed = jnp.concatenate([fixed[:-1] - period, fixed])
        values, sure = (jnp.concatenate([part[:-1], part]) for part in (values, sure))
    index = jnp.arange(len(fixed)).reshape(-1, *(1,) * (fixed.ndim - 1))
    last = jax.lax.cummax(jnp.where(sure, index, -1), axis=0)[:-1]
    before = jnp.maximum(last, 0)
    rises = (last >= 0) & (jnp.take_along_axis(values, before, axis=0) > 0)
    falls = rises & sure[1:] & (values[1:] < 0) & (index[:-1] >= len(fixed) - 1 - cells)
    low, high = (
        jnp.sort(jnp.where(falls, ends, jnp.nan), axis=0)[:count]
        for ends in (jnp.take_along_axis(fixed, before, axis=0), fixed[1:])
    )

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        value = jax.lax.stop_gradient(slope(middle))
        return jnp.where(value >= 0, middle, low), jnp.where(value <= 0, middle, high)

    low, high = jax.lax.fori_loop(0, jnp.finfo(low.dtype).nmant, halve, (low, high))
    x = 0.5 * (low + high)
    absent = jnp.isnan(x)
    x = jnp.where(absent, 0.0, x)  # a NaN here would spread into all gradients

    def newton(_: Any, x: Array) -> Array:
        value, bend = jax.jvp(slope, (x,), (jnp.ones_like(x),))
        value = value - jax.lax.stop_gradient(value)
        return x - jnp.where(bend < 0, value / jnp.where(bend < 0, bend, 1.0), 0.0)

    # The position is settled; steps of length zero carry derivatives.
    x = jax.lax.fori_loop(0, 2, newton, x)
    x = jnp.where(absent, jnp.nan, x)
    missing = max(count - x.shape[0], 0)
    x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1), constant_values=jnp.nan)
    return jnp.moveaxis(x, 0, -1)


def slope_of_square(re: Array, im: Array, share: Array) -> tuple[Function, Function]:
    """The slope of share |A(x)|^2 / 2, and a bound of its rounding error, for `maxima`.

    The slope is Re(A conj(A')), not the derivative of the series of |A|^2: where A is small, both
    factors keep their digits, and the bound is small too.

    Args:
        re, im: parts of the coefficients of A, [..., N+1], of norm 1.
        share: [...].
    """
    n = jnp.pi * jnp.arange(re.shape[-1], dtype=re.dtype)

    def parts(x: Array) -> tuple[Array, Array]:
        """A and A', in one evaluation."""
        shape = (2, *(1,) * (x.ndim + 1 - re.ndim), *re.shape)
        both = jnp.stack([re, -n * im]), jnp.stack([im, n * re])
        return series.evaluate(*(part.reshape(shape) for part in both), x)

    def slope(x: Array) -> Array:
        (u, du), (v, dv) = parts(x)
        return share * (u * du + v * dv)

    def error(x: Array) -> Array:
        (u, du), (v, dv) = parts(x)
        sizes = jnp.abs(re) + jnp.abs(im)  # a sum is off by some eps times the sum of its terms
        own, other = jnp.sum(sizes, axis=-1), jnp.sum(n * sizes, axis=-1)
        either = (jnp.abs(u) + jnp.abs(v)) * other + (jnp.abs(du) + jnp.abs(dv)) * own
        return 4.0 * jnp.finfo(re.dtype).eps * share * either

    return slope, error


def log_slope_error(re: Array, im: Array, floor: Array, x: Array) -> Array:
    """A bound of the rounding error of the slope of log((1 - floor) |A|^2 + floor) at x."""
    u, v = series.evaluate(re, im, x)
    _, error = slope_of_square(re, im, 1.0 - floor)
    return 2.0 * error(x) / (0.5 * (1.0 - floor) * (u**2 + v**2) + 0.5 * floor)
