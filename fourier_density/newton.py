"""Newton's method for an increasing function, kept inside a bracket."""

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
