"""Newton's method for an increasing function, kept inside a bracket."""

import jax.numpy as jnp
from jaxtyping import Array

Bracket = tuple[Array, Array, Array]  # low, high and the point x between them


def step(bracket: Bracket, error: Array, slope: Array) -> Bracket:
    """One step towards the root: Newton's where that stays in the bracket, bisection elsewhere.

    Args:
        error, slope: of the function at x; the slope may be zero.
    """
    low, high, x = bracket
    low, high = jnp.where(error > 0, low, x), jnp.where(error > 0, x, high)
    tiny = jnp.finfo(x.dtype).tiny
    newton = x - error / jnp.where(slope > tiny, slope, tiny)
    # An end of the bracket counts as inside: it is the point itself once that has converged.
    inside = (newton >= low) & (newton <= high)
    return low, high, jnp.where(inside, newton, 0.5 * (low + high))
