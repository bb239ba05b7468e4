"""The cache of multi-head latent attention: latents as floats, or in int8.

Notation as in `latent`: w = d_c + d_r entries of a token.
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
        dtype: of the latents, or of the scales of quantised ones.

    Raises:
        ValueError: batch or capacity < 1.
    """
    cache.check_size(batch, capacity)
    shape, length = (batch, 1, capacity, sum(parts)), jnp.zeros((batch,), jnp.int32)
    if not quantised:
        return LatentCache(jnp.zeros(shape, dtype), length)
    return LatentCache(jnp.zeros(shape, jnp.int8), length, jnp.zeros((*shape[:3], 2), dtype))


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

    def both(entries: Array) -> tuple[Array, Array]:
        return entries, entries

    return over_blocks(q, state, both, 1, parts, window, scale, positions)[..., : parts[0]]


def over_blocks(
    q: Array,
    state: LatentCache,
    expand: Callable[[Array], tuple[Array, Array]],
    heads: int,
    parts: Parts,
    window: int | None,
    scale: float,
    positions: Array | None = None,
) -> Array:
    """Attention to what `expand` makes of the latents, block by block.

    Args:
        expand: [B, 1, slots, w] -> keys and values of `heads` heads.
    """
    buffers = [state.latents] if state.scale is None else [state.latents, state.scale]
    block = min(live.BLOCK, state.capacity)
    positions = state.length[:, None] - 1 if positions is None else positions

    def piece(start: Array, size: int) -> tuple[Array, Array]:
        found = [jax.lax.dynamic_slice_in_dim(one, start, size, axis=2) for one in buffers]
        return expand(cache.restore(found[0], found[1], parts) if len(found) > 1 else found[0])

    place = (heads, state.capacity, window)
    return live.over_blocks(q, piece, place, state.length, positions, scale, block, whole=False)
