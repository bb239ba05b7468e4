"""Attention of new tokens to a cache, in blocks of slots: it costs what is live.

Notation
    B, H, K  batch, query heads, key/value heads
    T        queries: one in decoding, a chunk of a prompt
    S, n     slots of the cache, tokens that an example has seen
    m, l, o  running maximum of the scores, sum of their exponentials, weighted sum of values

A masked softmax over all slots costs what the cache could hold, not what it holds; and in a program
that also writes the cache XLA lays it out anew for that product, copying all of it. Two ways round
both: a loop over blocks of slots, as many as are live, which copies one block at a time; and, when
more than half of the slots are live, all of them at once inside a branch, whose borders the new
layout does not cross. The branch reads memory once, the loop twice: they meet near one half.

Source: Milakov & Gimelshein, online softmax (arXiv 1805.02867); FlashAttention (2205.14135).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attention import cache, checks, scores

BLOCK = 1024
LOW = -1e30  # below every score
Sums = tuple[Array, Array, Array]  # m, l, o


def attend(
    q: Float[Array, "B H T d_k"],
    keys: Float[Array, "B K S d_k"],
    values: Array | None,
    length: Int[Array, "B"],
    positions: Int[Array, "B T"] | None = None,
    *,
    window: int | None = None,
    scale: float | None = None,
    value_dim: int | None = None,
    block: int = BLOCK,
) -> Float[Array, "B H T d_v"]:
    """softmax(scale q k^T) v over the live slots.

    Args:
        keys: of the cache, which already holds the newest token.
        values: [B, K, S, d_v], or None: the first `value_dim` entries of the keys.
        length: tokens seen, the newest included.
        positions: of the queries; that of the newest token by default.
        window: positions a query sees, itself included.
        scale: d_k^(-1/2) by default.
        block: number of slots processed at once.

    Derivatives are those of `scores.attend`: reverse mode cannot pass a loop of unknown length.

    Raises:
        ValueError: shapes that do not fit, block < 1.

    Source: https://kexue.fm/archives/10091, equations 1 to 3; equation 12 without `values`.
    """
    batch, heads, _, width = q.shape
    if keys.shape[0] != batch or keys.shape[3] != width or heads % keys.shape[1]:
        raise ValueError(
            f"keys: expected [{batch}, K, S, {width}] with K dividing {heads} heads, "
            f"got {keys.shape}"
        )
    if values is not None and values.shape[:3] != keys.shape[:3]:
        raise ValueError(f"values: expected {(*keys.shape[:3], 'd_v')}, got {values.shape}")
    if length.shape != (batch,):
        raise ValueError(f"length: expected {batch} numbers, got shape {length.shape}")
    checks.whole("block", block)
    # For many queries a copy of the block costs nothing beside its products. On CPUs half precision
    # is widened first, all that is read at once; and one copy serves both products where the keys
    # are the values.
    fits = jax.default_backend() != "cpu" or (values is not None and keys.dtype.itemsize >= 4)
    place = (keys.shape[1], keys.shape[2], window)
    whole = q.shape[2] == 1 and fits
    out = over_blocks(q, _slots, (keys, values), place, length, positions, scale, block, whole)
    return out[..., :value_dim]


def _slots(buffers: tuple[Array, Array | None], start: Array, size: int) -> tuple[Array, Array]:
    keys, values = buffers
    k = jax.lax.dynamic_slice_in_dim(keys, start, size, axis=2)
    if values is None:
        return k, k  # some columns too many cost less than a copy of the others
    return k, jax.lax.dynamic_slice_in_dim(values, start, size, axis=2)


@functools.lru_cache(maxsize=256)
def partial(function: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """The same partial function for the same arguments: compiled programs are found by it."""
    return functools.partial(function, **fixed)


class Static(NamedTuple):
    """What the loop and its derivatives are compiled for."""

    read: Callable[[Any, Array, int], tuple[Array, Array]]
    place: tuple[int, int, int | None]
    scale: float
    block: int
    whole: bool


def over_blocks(
    q: Array,
    read: Callable[[Any, Array, int], tuple[Array, Array]],
    buffers: Any,
    place: tuple[int, int, int | None],
    length: Array,
    positions: Array | None,
    scale: float | None,
    block: int,
    whole: bool,
) -> Array:
    """The branch and the loop, over whatever `read` makes of the buffers.

    Args:
        q: [B, H, T, d_k].
        read: buffers, first slot, number of slots -> keys [B, K, slots, d_k] and values
            [B, K, slots, d_v]; a function of the module or a `partial` of one, and nothing
            traced in it.
        place: K, S and the window.
        positions: of the queries, [B, T]; that of the newest token by default.
        whole: whether all slots may be read at once.

    Source: Milakov & Gimelshein (arXiv 1805.02867), algorithm 3, block by block and with sums of
    values, as FlashAttention (arXiv 2205.14135).
    """
    positions = length[:, None] - 1 if positions is None else positions
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    static = Static(read, place, factor, min(block, place[1]), whole)
    return _compiled(q, buffers, length, positions, static)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _attend(q: Array, buffers: Any, length: Array, positions: Array, static: Static) -> Array:
    (groups, slots, window), block = static.place, static.block
    batch, heads, _, width = q.shape
    wide = jnp.promote_types(q.dtype, jnp.float32)
    folded = (q * static.scale).reshape(batch, groups, -1, width)
    held = cache.keep(length, slots, window, positions)
    live = jnp.minimum(jnp.max(length), slots).astype(jnp.int32)
    zero = jnp.zeros((), jnp.int32)

    def piece(i: Array, sums: Sums) -> Sums:
        start = jnp.minimum(i * block, slots - block)  # the last block may overlap the one before
        keep = jax.lax.dynamic_slice_in_dim(held, start, block, axis=2)
        keep = keep & (start + jnp.arange(block) >= i * block)
        return _add(sums, folded, *static.read(buffers, start, block), keep)

    def pieces(sums: Sums) -> Sums:
        return jax.lax.fori_loop(0, (live + block - 1) // block, piece, sums)

    def at_once(sums: Sums) -> Sums:
        return _add(sums, folded, *static.read(buffers, zero, slots), held)

    out_width = jax.eval_shape(lambda start: static.read(buffers, start, block), zero)[1].shape[-1]
    shape = folded.shape[:3]
    sums = jnp.full(shape, LOW, wide), jnp.zeros(shape, wide), jnp.zeros((*shape, out_width), wide)
    sums = jax.lax.cond(2 * live > slots, at_once, pieces, sums) if static.whole else pieces(sums)
    _, total, out = sums
    out = out / jnp.where(total > 0, total, 1.0)[..., None]
    return out.reshape(batch, heads, -1, out_width).astype(q.dtype)


@_attend.defjvp
def _attend_jvp(static: Static, primals: Any, tangents: Any) -> tuple[Array, Array]:
    *_, length, positions = primals
    slots, window = static.place[1:]
    keep = cache.keep(length, slots, window, positions)

    def dense(q: Array, buffers: Any) -> Array:
        k, v = static.read(buffers, jnp.zeros((), jnp.int32), slots)
        return scores.attend(q, k.astype(q.dtype), v.astype(q.dtype), keep, static.scale)

    return jax.jvp(dense, primals[:2], tangents[:2])


# Once, where it is called outside of `jit`, and not at every call.
_compiled = jax.jit(_attend, static_argnums=4, inline=True)


def _add(sums: Sums, q: Array, k: Array, v: Array, keep: Array) -> Sums:
    """The sums m, l, o with further slots; q [B, K, G T, d_k], keep [B, T, slots]."""
    largest, total, out = sums
    # Slots first: on CPUs many rows times few columns are faster than few rows times many.
    s = jnp.einsum("bksd,bkgd->bksg", k.astype(q.dtype), q, preferred_element_type=out.dtype)
    s = jnp.swapaxes(s, 2, 3)
    grouped = s.reshape(*s.shape[:2], -1, *keep.shape[1:])
    s = jnp.where(keep[:, None, None], grouped, -jnp.inf).reshape(s.shape)
    new = jnp.maximum(largest, jnp.max(s, axis=-1))  # finite, as m is from the start
    weights = jnp.exp(s - new[..., None])
    fade = jnp.exp(largest - new)
    total = total * fade + jnp.sum(weights, axis=-1)
    weights = weights.astype(v.dtype)
    update = jnp.einsum("bkgs,bksd->bkgd", weights, v, preferred_element_type=out.dtype)
    return new, total, out * fade[..., None] + update
