"""The cache of multi-head latent attention: latents as floats, or in int8.

Notation as in `latent`: w = d_c + d_r entries of a token.

Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1; int8 rows are the project's own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from attention import cache, live
from attention.cache import LatentCache

Parts = tuple[int, int]


def empty(batch: int, capacity: int, parts: Parts, dtype: Any, quantised: bool) -> LatentCache:
    """A cache that has seen nothing.

    Args:
        parts: d_c and d_r.
        dtype: of the latents; scales of quantised ones are float32 at least.

    Raises:
        ValueError: batch or capacity < 1.
    """
    cache.check_size(batch, capacity)
    shape, length = (batch, 1, capacity, sum(parts)), jnp.zeros((batch,), jnp.int32)
    if not quantised:
        return LatentCache(jnp.zeros(shape, dtype), length)
    scales = jnp.zeros((*shape[:3], 2), jnp.promote_types(dtype, jnp.float32))
    return LatentCache(jnp.zeros(shape, jnp.int8), length, scales)


def write(
    state: LatentCache,
    entries: Array,
    length: Array,
    parts: Parts,
    store: Callable[[Array, Array], Array],
) -> LatentCache:
    """A cache with new entries [B, 1, T, w], put there by `store(buffer, entries)`."""
    if state.scale is None:
        return LatentCache(store(state.latents, entries), length)
    whole, scale = cache.quantise(entries, parts)
    return LatentCache(store(state.latents, whole), length, store(state.scale, scale))


def stored(state: LatentCache, parts: Parts) -> Array:
    """The cached latents as floats, [B, S, w]."""
    if state.scale is None:
        return state.latents[:, 0]
    return cache.restore(state.latents, state.scale, parts)[:, 0]


def read(
    q: Array,
    state: LatentCache,
    parts: Parts,
    window: int | None,
    scale: float,
    positions: Array | None = None,
) -> Array:
    """Weighted sums of the live latents for queries [B, H, T, w]: [B, H, T, d_c].

    Args:
        positions: of the queries; that of the newest token by default.
    """
    if state.scale is None:
        rule = {"window": window, "scale": scale, "value_dim": parts[0]}
        return live.attend(q, state.latents, None, state.length, positions, **rule)

    return over_blocks(q, state, _as_they_are, None, 1, parts, window, scale, positions)[
        ..., : parts[0]
    ]


def _as_they_are(weights: None, entries: Array) -> tuple[Array, Array]:
    return entries, entries


def over_blocks(
    q: Array,
    state: LatentCache,
    expand: Callable[[Any, Array], tuple[Array, Array]],
    weights: Any,
    heads: int,
    parts: Parts,
    window: int | None,
    scale: float,
    positions: Array | None = None,
) -> Array:
    """Attention to what `expand` makes of the latents, block by block.

    Args:
        expand: weights, [B, 1, slots, w] -> keys and values of `heads` heads; nothing traced in it.
    """
    read = live.partial(_piece, expand=expand, parts=parts)
    buffers = (state.latents, state.scale, weights)
    place = (heads, state.capacity, window)
    return live.over_blocks(
        q, read, buffers, place, state.length, positions, scale, live.BLOCK, whole=False
    )


def _piece(
    buffers: tuple[Array, Array | None, Any],
    start: Array,
    size: int,
    *,
    expand: Callable[[Any, Array], tuple[Array, Array]],
    parts: Parts,
) -> tuple[Array, Array]:
    latents, scale, weights = buffers
    found = jax.lax.dynamic_slice_in_dim(latents, start, size, axis=2)
    if scale is not None:
        steps = jax.lax.dynamic_slice_in_dim(scale, start, size, axis=2)
        found = cache.restore(found, steps, parts)
    return expand(weights, found)
