"""Scaled dot-product attention with grouped key/value heads.

Notation
    B, T, S  batch, query length, key length
    H, K, G  query heads, key/value heads, H = K G
    d_k, d_v head dimension of queries and keys, of values
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attention import checks, masks

BLOCK = 512  # queries at once of a long sequence
Static = tuple[int | None, float | None, int]  # window, scale, block


def attend(
    q: Float[Array, "B H T d_k"],
    k: Float[Array, "B K S d_k"],
    v: Float[Array, "B K S d_v"],
    mask: Bool[Array, "..."] | None = None,
    scale: float | None = None,
) -> Float[Array, "B H T d_v"]:
    """softmax(scale q k^T) v; query head h reads key/value head h // (H // K).

    K = H is multi-head, K = 1 multi-query attention. Heads stand before time: on a CPU that
    layout of the cache is an order of magnitude faster than time first.

    Args:
        mask: True where a query may attend to a key, broadcast to [B, T, S]. A query with no
            key at all gets zeros.
        scale: multiplies the scores; d_k^(-1/2) by default.

    Raises:
        ValueError: H is not a multiple of K, shapes do not fit, a mask that is not bool.

    Source: Vaswani et al. (arXiv 1706.03762), eq. 1; GQA (arXiv 2305.13245), section 2.2;
    https://kexue.fm/archives/10091, equations 1 to 3, which leave out the scale.
    """
    batch, heads, queries, width = q.shape
    groups = k.shape[1]
    if heads % groups:
        raise ValueError(f"q: expected a multiple of {groups} key/value heads, got {heads} heads")
    if k.shape[:3] != v.shape[:3] or k.shape[3] != width or k.shape[0] != batch:
        raise ValueError(
            f"k, v: expected matching shapes, got q {q.shape}, k {k.shape}, v {v.shape}"
        )
    if mask is not None and mask.dtype != bool:
        raise ValueError(f"mask: expected bool, True where a query may attend, got {mask.dtype}")
    # The heads of one group share their keys: fold them into the query axis.
    wide = jnp.promote_types(q.dtype, jnp.float32)
    factor = width**-0.5 if scale is None else scale
    folded = (q * factor).reshape(batch, groups, -1, width)
    scores = jnp.einsum("bgqd,bgsd->bgqs", folded, k, preferred_element_type=wide)
    scores = scores.reshape(batch, groups, heads // groups, queries, -1)
    if mask is not None:
        mask = mask if mask.ndim < 3 else mask[..., None, None, :, :]
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    weights = weights.reshape(batch, groups, -1, k.shape[2])
    out = jnp.einsum("bgqs,bgsd->bgqd", weights, v)
    out = out.reshape(batch, groups, heads // groups, queries, -1)
    if mask is not None:  # a query without keys: its softmax is uniform, its answer zero
        out = jnp.where(mask.any(axis=-1)[..., None], out, 0.0)
    return out.reshape(batch, heads, queries, -1)


def causal(
    q: Float[Array, "B H T d_k"],
    k: Float[Array, "B K T d_k"],
    v: Float[Array, "B K T d_v"],
    window: int | None = None,
    scale: float | None = None,
    block: int = BLOCK,
) -> Float[Array, "B H T d_v"]:
    """Causal attention of a sequence to itself, positions 0..T-1.

    Beyond two blocks queries are taken block by block, each with the keys that it may see: half
    of the products are never computed, and the scores of one block are all that is in memory.

    Args:
        window: number of keys a query sees, itself included.
        scale, block: factor on the scores, as in `attend`, and queries processed at once.

    Raises:
        ValueError: keys of another length than queries.

    Source: https://kexue.fm/archives/10091, equations 1 to 3, whose sums are over i <= t.
    """
    time = q.shape[2]
    if k.shape[2] != time:
        raise ValueError(f"k: expected the {time} tokens of q, got {k.shape[2]}")
    checks.whole("block", block)
    if time <= 2 * block:
        steps = jnp.arange(time)
        return attend(q, k, v, masks.causal(steps, steps, window), scale)
    static = (window, scale, block)
    # On CPUs XLA computes independent blocks together, and keeps the scores of all of them.
    return (_in_turn if jax.default_backend() == "cpu" else _blocks)(q, k, v, static)


def _blocks(q: Array, k: Array, v: Array, static: Static) -> Array:
    """Block by block, in whatever order."""
    window, scale, block = static
    time, parts = q.shape[2], []
    for start in range(0, time, block):
        stop = min(start + block, time)
        parts.append(_block(q[:, :, start:stop], k, v, (start, stop), window, scale))
    return jnp.concatenate(parts, axis=2)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _in_turn(q: Array, k: Array, v: Array, static: Static) -> Array:
    """One block after the other, and four parts of it. Derivatives are those of `_blocks`."""
    window, scale, block = static
    time, size = q.shape[2], max(block // 4, 1)
    parts = []
    for start in range(0, time, block):
        stop = min(start + block, time)
        rows = q[:, :, start:stop]
        rows = jnp.pad(rows, ((0, 0), (0, 0), (0, (start - stop) % size), (0, 0)))
        count = rows.shape[2] // size
        rows = jnp.moveaxis(rows.reshape(*q.shape[:2], count, size, -1), 2, 0)

        def part(row: tuple[Array, Array], start: int = start, stop: int = stop) -> Array:
            queries, first = row
            return _block(queries, k, v, (start, stop), window, scale, first)

        y = jax.lax.map(part, (rows, size * jnp.arange(count)))
        y = jnp.moveaxis(y, 0, 2).reshape(*q.shape[:2], count * size, -1)
        parts.append(y[:, :, : stop - start])
    return jnp.concatenate(parts, axis=2)


@_in_turn.defjvp
def _in_turn_jvp(static: Static, primals: Any, tangents: Any) -> tuple[Array, Array]:
    return jax.jvp(functools.partial(_blocks, static=static), primals, tangents)


def _block(
    q: Array,
    k: Array,
    v: Array,
    place: tuple[int, int],
    window: int | None,
    scale: float | None,
    shift: Array | int = 0,
) -> Array:
    """Queries from `shift` behind the start of a block on, with the keys that it may see."""
    start, stop = place
    first = 0 if window is None else max(0, start - window + 1)
    queries = start + shift + jnp.arange(q.shape[2])
    keep = masks.causal(queries, jnp.arange(first, stop), window)
    return attend(q, k[:, :, first:stop], v[:, :, first:stop], keep, scale)
