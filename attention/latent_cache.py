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


def read(q: Array, state: LatentCache, parts: Parts, window: int | None, scale: float) -> Array:
    """Weighted sums of the live latents for queries [B, H, 1, w]: [B, H, 1, d_c]."""
    if state.scale is None:
        rule = {"window": window, "scale": scale, "value_dim": parts[0]}
        return live.attend(q, state.latents, None, state.length, **rule)
    buffers, block = (state.latents, state.scale), min(live.BLOCK, state.capacity)

    def piece(start: Array, size: int) -> tuple[Array, Array]:
        whole, steps = (
            jax.lax.dynamic_slice_in_dim(buffer, start, size, axis=2) for buffer in buffers
        )
        k = cache.restore(whole, steps, parts)
        return k, k

    rule = {"window": window, "scale": scale, "block": block, "whole": False}
    sums = live.over_blocks(q, piece, (1, state.capacity), state.length, **rule)
    return sums[..., : parts[0]]
