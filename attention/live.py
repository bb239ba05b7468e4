"""Attention of one new token to a cache, in blocks of slots: it costs what is live.

Notation
    B, H, K  batch, query heads, key/value heads
    S, n     slots of the cache, tokens that an example has seen
    m, l, o  running maximum of the scores, sum of their exponentials, weighted sum of values

A masked softmax over all slots costs what the cache could hold, not what it holds; and in a program
that also writes the cache XLA may lay it out anew for that product, copying all of it. A loop over
blocks of slots, as many as are live, reads each block once where it stands.

Source: Milakov & Gimelshein, online softmax (arXiv 1805.02867); FlashAttention (2205.14135).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attention import cache, scores

BLOCK = 1024
LOW = -1e30  # below every score


def attend(
    q: Float[Array, "B H 1 d_k"],
    keys: Float[Array, "B K S d_k"],
    values: Array | None,
    length: Int[Array, "B"],
    *,
    window: int | None = None,
    scale: float | None = None,
    value_dim: int | None = None,
    block: int = BLOCK,
) -> Float[Array, "B H 1 d_v"]:
    """softmax(scale q k^T) v over the live slots.

    Args:
        keys: of a cache in which the newest token stands already.
        values: [B, K, S, d_v], or None: the first `value_dim` entries of the keys.
        length: tokens seen, the newest included.
        window: positions a query sees, itself included.
        scale: d_k^(-1/2) by default.
        block: slots at once.

    Derivatives are those of `scores.attend`: a loop of unknown length has none in reverse.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    static = (window, scale, value_dim, min(block, keys.shape[-2]))
    return _attend(q, keys, values, length, static)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _attend(q: Array, keys: Array, values: Array | None, length: Array, static: Any) -> Array:
    window, scale, value_dim, block = static

    def read(start: Array) -> tuple[Array, Array]:
        k = jax.lax.dynamic_slice_in_dim(keys, start, block, axis=2)
        if values is None:
            return k, k  # some columns too many cost less than a copy of the others
        return k, jax.lax.dynamic_slice_in_dim(values, start, block, axis=2)

    sizes = (keys.shape[1], keys.shape[2])
    return over_blocks(q, read, sizes, length, window, scale, block)[..., :value_dim]


@_attend.defjvp
def _attend_jvp(static: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    window, scale, value_dim, _ = static
    *_, length = primals
    keep = cache.keep(length, primals[1].shape[2], window)[:, None]

    def dense(q: Array, keys: Array, values: Array | None) -> Array:
        v = keys[..., :value_dim] if values is None else values
        return scores.attend(q, keys, v, keep, scale)

    return jax.jvp(dense, primals[:3], tangents[:3])


def over_blocks(
    q: Array,
    read: Callable[[Array], tuple[Array, Array]],
    sizes: tuple[int, int],
    length: Array,
    window: int | None,
    scale: float,
    block: int,
) -> Array:
    """The loop itself.

    Args:
        q: [B, H, 1, d_k].
        read: first slot -> keys [B, K, block, d_k] and values [B, K, block, d_v].
        sizes: K and S.
    """
    groups, slots = sizes
    batch, heads, _, width = q.shape
    wide = jnp.promote_types(q.dtype, jnp.float32)
    folded = (q * scale).reshape(batch, groups, heads // groups, width)
    held = cache.keep(length, slots, window)

    def body(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        largest, total, out = carry
        start = jnp.minimum(i * block, slots - block)  # the last block may overlap the one before
        k, v = read(start)
        s = jnp.einsum("bkgd,bksd->bkgs", folded, k.astype(q.dtype), preferred_element_type=wide)
        live = jax.lax.dynamic_slice_in_dim(held, start, block, axis=1)
        live = live & (start + jnp.arange(block) >= i * block)
        s = jnp.where(live[:, None, None], s, LOW)
        new = jnp.maximum(largest, jnp.max(s, axis=-1))
        weights = jnp.where(live[:, None, None], jnp.exp(s - new[..., None]), 0.0)
        fade = jnp.exp(largest - new)
        total = total * fade + jnp.sum(weights, axis=-1)
        update = jnp.einsum(
            "bkgs,bksd->bkgd", weights.astype(v.dtype), v, preferred_element_type=wide
        )
        return new, total, out * fade[..., None] + update

    value_shape = jax.eval_shape(read, jnp.zeros((), jnp.int32))[1].shape
    shape = folded.shape[:3]
    start = (
        jnp.full(shape, LOW, wide),
        jnp.zeros(shape, wide),
        jnp.zeros((*shape, value_shape[-1]), wide),
    )
    if slots <= block:
        _, total, out = body(jnp.zeros((), jnp.int32), start)
    else:
        live = jnp.minimum(jnp.max(length), slots).astype(jnp.int32)
        _, total, out = jax.lax.fori_loop(0, (live + block - 1) // block, body, start)
    out = out / jnp.where(total > 0, total, 1.0)[..., None]
    return out.reshape(batch, heads, 1, -1).astype(q.dtype)
