"""Local maxima of a smooth function between given edges.

The number of maxima depends on values, which compiled programs cannot return; so there is room
for as many as possible, and NaN stands for those that do not exist.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def maxima(slope: Callable[[Array], Array], edges: Array, count: int) -> Array:
    """Points where the slope changes from positive to negative, in ascending order.

    Args:
        slope: derivative of the function; elementwise, broadcast over a batch.
        edges: [M+1, *batch] ascending; of several changes within a cell one or none is found.
        count: most maxima returned; of more, the first.

    Returns:
        [*batch, count], padded with NaN; implicit derivatives are correct up to third order.
    """
    fixed = jax.lax.stop_gradient(edges)
    values = jax.lax.stop_gradient(slope(fixed))
    falls = (values[:-1] > 0) & (values[1:] <= 0)
    fixed = jnp.broadcast_to(fixed, values.shape)
    low, high = (
        jnp.sort(jnp.where(falls, ends, jnp.nan), axis=0)[:count]
        for ends in (fixed[:-1], fixed[1:])
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
    for _ in range(2):  # the position is settled; Newton steps of length zero carry derivatives
        value, bend = jax.jvp(slope, (x,), (jnp.ones_like(x),))
        value = value - jax.lax.stop_gradient(value)
        x = x - jnp.where(bend < 0, value / jnp.where(bend < 0, bend, 1.0), 0.0)
    x = jnp.where(absent, jnp.nan, x)
    missing = max(count - x.shape[0], 0)
    x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1), constant_values=jnp.nan)
    return jnp.moveaxis(x, 0, -1)
