"""Scaled dot-product attention with grouped key/value heads.

Notation
    B, T, S  batch, query length, key length
    H, K, G  query heads, key/value heads, H = K G
    d_k, d_v head dimension of queries and keys, of values
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attention import masks

BLOCK = 512  # queries at once of a long sequence


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
        ValueError: H is not a multiple of K, or the shapes do not fit.

    Source: Vaswani et al. (arXiv 1706.03762), eq. 1; GQA (arXiv 2305.13245).
    """
    batch, heads, queries, width = q.shape
    groups = k.shape[1]
    if heads % groups:
        raise ValueError(f"q: expected a multiple of {groups} key/value heads, got {heads} heads")
    if k.shape[:3] != v.shape[:3] or k.shape[3] != width:
        raise ValueError(
            f"k, v: expected matching shapes, got q {q.shape}, k {k.shape}, v {v.shape}"
        )
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
        scale, block: as in `attend`; queries at once.
    """
    time = q.shape[2]
    steps = jnp.arange(time)
    if time <= 2 * block:
        return attend(q, k, v, masks.causal(steps, steps, window), scale)
    parts = []
    for start in range(0, time, block):
        stop = min(start + block, time)
        first = 0 if window is None else max(0, start - window + 1)
        keep = masks.causal(steps[start:stop], steps[first:stop], window)
        keys, values = (part[:, :, first:stop] for part in (k, v))
        parts.append(attend(q[:, :, start:stop], keys, values, keep, scale))
    return jnp.concatenate(parts, axis=2)
