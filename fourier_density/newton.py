"""Newton's method for an increasing function, kept inside a bracket.

Everything is elementwise, over arrays of one shape.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

Bracket = tuple[Array, Array, Array]  # low, high and the point x between them


def step(bracket: Bracket, error: Array, slope: Array) -> Bracket:
    """One step towards the root: Newton's where that stays in the bracket, bisection elsewhere.

    Args:
        error, slope: of the function at x; the slope may be zero or infinite.
    """
    low, high, x = bracket
    low, high = jnp.where(error > 0, low, x), jnp.where(error > 0, x, high)
    tiny = jnp.finfo(x.dtype).tiny
    usable = (slope > tiny) & jnp.isfinite(slope)
    newton = jnp.where(usable, x - error / jnp.where(usable, slope, 1.0), jnp.nan)
    # An end of the bracket counts as inside: it is the point itself once that has converged.
    inside = (newton >= low) & (newton <= high)
    return low, high, jnp.where(inside, newton, 0.5 * (low + high))


def solve(function: Callable[[Array], tuple[Array, Array]], low: Array, high: Array) -> Array:
    """The root of an increasing function between low and high, elementwise.

    A Newton step more than half as long as the step before is replaced by bisection: slopes may
    be wrong far from the root, and curvature may be large.

    Args:
        function: x -> (error, slope).
    """
    # Bisection alone takes the digits and the range; with a step of Newton's each, twice that.
    most = 2 * (jnp.finfo(low.dtype).nmant + 8)
    small = 2.0 * jnp.finfo(low.dtype).eps

    def unfinished(state: tuple[Any, ...]) -> Array:
        count, (_, _, x), last, error = state
        settled = (last <= small * jnp.maximum(jnp.abs(x), 1.0)) & (jnp.abs(error) < 1e-3)
        return (count < most) & ~jnp.all(settled)

    def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
        count, bracket, last, _ = state
        error, slope = function(bracket[2])
        slow = 2.0 * jnp.abs(error) > last * slope
        moved = step(bracket, error, jnp.where(slow & (error != 0), jnp.inf, slope))
        return count + 1, moved, jnp.abs(moved[2] - bracket[2]), error

    start = (low, high, 0.5 * (low + high))
    infinite = jnp.full_like(low, jnp.inf)
    return jax.lax.while_loop(unfinished, advance, (0, start, infinite, infinite))[1][2]
