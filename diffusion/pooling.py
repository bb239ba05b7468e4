"""Average pooling and nearest-neighbour enlargement of arrays with channels last.

D averages cells of m along each spatial axis, U repeats; D U = I. Arrays are [B, *space, C].
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def average(x: Float[Array, "B ..."], factor: int) -> Float[Array, "B ..."]:
    """D: means of cells of `factor` along each spatial axis.

    Raises:
        ValueError: a size that is not a multiple of factor.

    Source: https://kexue.fm/archives/10047, equation 2; the D of https://kexue.fm/archives/10055,
    equation 3.
    """
    if factor < 1 or any(size % factor for size in x.shape[1:-1]):
        raise ValueError(
            f"factor: expected a divisor of the sizes {x.shape[1:-1]} of space, got {factor}"
        )
    cells = [part for size in x.shape[1:-1] for part in (size // factor, factor)]
    split = x.reshape(x.shape[0], *cells, x.shape[-1])
    return jnp.mean(split, axis=tuple(range(2, split.ndim - 1, 2)))


def nearest(x: Float[Array, "B ..."], factor: int) -> Float[Array, "B ..."]:
    """U: every element `factor` times along each spatial axis.

    Raises:
        ValueError: factor < 1.

    Source: the U of https://kexue.fm/archives/10055, equation 6.
    """
    if factor < 1:
        raise ValueError(f"factor: expected at least 1, got {factor}")
    for axis in range(1, x.ndim - 1):
        x = jnp.repeat(x, factor, axis=axis)
    return x
