"""Rotary position embedding (RoPE): frequencies, rotations, layouts.

Notation
    d_r      rotated dimension, even
    theta_k  base^(-2k / d_r), k = 0..d_r/2 - 1

Two layouts are in use for the pairs that rotate together. `half` (Llama, Hugging Face):
(k, k + d_r/2). `interleaved` (RoFormer, Su, DeepSeek): (2k, 2k+1). They differ by a fixed
permutation of the columns of the query and key projections (`convert`).

Source: Su et al., "RoFormer" (arXiv 2104.09864), section 3.2; https://kexue.fm/archives/8265.
"""

import math
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attention.long_context import Linear, Llama3, Scaling, Yarn, amplitude, stretch

Layout = Literal["half", "interleaved"]


def check(dim: int, layout: Any, scaling: Any, base: float | None = None) -> None:
    """Refuse odd dimensions, unknown layouts and unknown scalings, bases that turn nothing.

    Raises:
        ValueError: naming what is wrong.
    """
    if base is not None and not (math.isfinite(base) and base > 1):
        raise ValueError(f"rope_base: expected a finite number above 1, got {base}")
    if dim <= 0 or dim % 2:
        raise ValueError(f"rope_dim: expected an even number > 0 of rotated dimensions, got {dim}")
    if layout not in get_args(Layout):
        raise ValueError(f"rope_layout: expected one of {get_args(Layout)}, got {layout!r}")
    if scaling is not None and not isinstance(scaling, Linear | Llama3 | Yarn):
        raise ValueError(f"rope_scaling: expected Linear, Llama3, Yarn or None, got {scaling!r}")


def frequencies(
    dim: int, base: float = 10_000.0, dtype: Any = jnp.float32, scaling: Scaling | None = None
) -> Float[Array, "half"]:
    """theta_k = base^(-2k/dim), in `dtype` (float32 by default), stretched by `scaling`.

    Raises:
        ValueError: dim is odd or not positive, unknown scaling.

    Source: Su et al. (arXiv 2104.09864), equation 15.
    """
    check(dim, "half", scaling)
    theta = base ** (-jnp.arange(0, dim, 2, dtype=dtype) / dim)
    if scaling is None:
        return theta
    return theta * jnp.asarray(stretch(dim, base, scaling), dtype)


def tables(
    positions: Int[Array, "*batch"],
    dim: int,
    base: float = 10_000.0,
    dtype: Any = jnp.float32,
    scaling: Scaling | None = None,
) -> tuple[Float[Array, "*batch half"], Float[Array, "*batch half"]]:
    """Cos and sin of position * theta_k, times `amplitude`; bfloat16 breaks beyond position 256.

    Source: Su et al. (arXiv 2104.09864), equation 34, its factors.
    """
    angles = positions[..., None].astype(dtype) * frequencies(dim, base, dtype, scaling)
    size = amplitude(scaling)
    return size * jnp.cos(angles), size * jnp.sin(angles)


def rotate(
    x: Float[Array, "... dim"], cos: Array, sin: Array, layout: Layout = "half"
) -> Float[Array, "... dim"]:
    """Rotate the pairs of the last axis by the angles behind `cos` and `sin`.

    (a, b) -> (a cos - b sin, b cos + a sin) for every pair.

    Args:
        x: [..., d_r].
        cos, sin: [..., d_r/2], broadcast against the leading axes of x.
        layout: which dimensions form a pair.

    Raises:
        ValueError: an unknown layout.

    Source: Su et al. (arXiv 2104.09864), equations 15 and 34, in the layout "interleaved";
    https://kexue.fm/archives/10091, the rotation of equation 7.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"rope_layout: expected one of {get_args(Layout)}, got {layout!r}")
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


def rotated(x: Float[Array, "... T dim"], positions: Int[Array, "..."], config: Any) -> Array:
    """Rotate x by its positions [..., T], as the `rope_...` fields of a layer's config say."""
    if config.rope_base is None:
        return x
    wide = jnp.promote_types(x.dtype, jnp.float32)
    rule = (config.rope_dim, config.rope_base, wide, config.rope_scaling)
    return rotate(x, *tables(positions, *rule), config.rope_layout)


def rotate_part(
    x: Float[Array, "... dim"], cos: Array, sin: Array, layout: Layout = "half"
) -> Float[Array, "... dim"]:
    """Rotate the first dimensions, twice as many as the tables have, and leave the others.

    Source: https://kexue.fm/archives/10907, part I (partial RoPE: 64 of 256 dimensions; here the
    first ones).
    """
    count = 2 * cos.shape[-1]
    if count == x.shape[-1]:
        return rotate(x, cos, sin, layout)
    return jnp.concatenate([rotate(x[..., :count], cos, sin, layout), x[..., count:]], axis=-1)


def convert(
    weight: Float[Array, "... wide"],
    width: int,
    source: Layout,
    target: Layout,
    start: int = 0,
    stop: int | None = None,
) -> Float[Array, "... wide"]:
    """Permute the columns of a query or key projection to another layout; scores stay the same.

    Args:
        weight: [..., n width], the heads side by side.
        width: of a head.
        source, target: layouts.
        start, stop: rotated dimensions of each head; all of them by default.

    Raises:
        ValueError: unknown layouts, an odd number of rotated dimensions, a width that does not
            divide the columns.

    Source: derived from Su et al. (arXiv 2104.09864), equation 15: the same pairs at other places.
    """
    stop = width if stop is None else stop
    for layout in (source, target):
        check(stop - start, layout, None)
    if weight.shape[-1] % width or not 0 <= start < stop <= width:
        raise ValueError(
            f"width: expected a divisor of {weight.shape[-1]} and 0 <= start < stop <= width, got "
            f"{width}, {start}, {stop}"
        )
    index = np.arange(width)
    if source != target:
        pairs = np.arange(start, stop).reshape((2, -1) if source == "half" else (-1, 2))
        index[start:stop] = pairs.T.ravel()
    heads = weight.reshape(*weight.shape[:-1], -1, width)
    return heads[..., index].reshape(weight.shape)
