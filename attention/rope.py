"""Rotary position embedding (RoPE).

Notation
    d_r      rotated dimension, even
    theta_k  base^(-2k / d_r), k = 0..d_r/2 - 1

Two layouts are in use for the pairs that rotate together. `half` (Llama, Hugging Face):
(k, k + d_r/2). `interleaved` (RoFormer, Su, DeepSeek): (2k, 2k+1). They differ by a fixed
permutation of the columns of the query and key projections.

Source: Su et al., "RoFormer" (arXiv 2104.09864), section 3.2; https://kexue.fm/archives/8265.
"""

from typing import Any, Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Layout = Literal["half", "interleaved"]


def frequencies(dim: int, base: float = 10_000.0, dtype: Any = jnp.float32) -> Float[Array, "half"]:
    """theta_k = base^(-2k/dim), in `dtype` (float32 by default).

    Raises:
        ValueError: dim is odd or not positive.
    """
    if dim <= 0 or dim % 2:
        raise ValueError(f"dim: expected an even number > 0 of rotated dimensions, got {dim}")
    return base ** (-jnp.arange(0, dim, 2, dtype=dtype) / dim)


def tables(
    positions: Int[Array, "*batch"], dim: int, base: float = 10_000.0, dtype: Any = jnp.float32
) -> tuple[Float[Array, "*batch half"], Float[Array, "*batch half"]]:
    """Cos and sin of position * theta_k, in float32 (bfloat16 breaks beyond position 256)."""
    angles = positions[..., None].astype(dtype) * frequencies(dim, base, dtype)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "... dim"], cos: Array, sin: Array, layout: Layout = "half"
) -> Float[Array, "... dim"]:
    """Rotate the pairs of the last axis by the angles behind `cos` and `sin`.

    Args:
        x: [..., d_r].
        cos, sin: [..., d_r/2], broadcast against the leading axes of x.
        layout: which dimensions form a pair.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout: expected one of {get_args(Layout)}, got {layout!r}")
    dtype = x.dtype
    cos, sin = cos.astype(dtype), sin.astype(dtype)
    if layout == "half":
        first, second = jnp.split(x, 2, axis=-1)
    else:
        first, second = x[..., 0::2], x[..., 1::2]
    rotated = first * cos - second * sin, second * cos + first * sin
    if layout == "half":
        return jnp.concatenate(rotated, axis=-1)
    return jnp.stack(rotated, axis=-1).reshape(x.shape)
