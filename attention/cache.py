"""The key/value cache: preallocated, head-major, with a length for every example."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


class KVCache(NamedTuple):
    """Keys and values of the tokens seen so far.

    Attributes:
        keys: [B, K, S, d_k], rotated before they are stored.
        values: [B, K, S, d_v].
        length: [B], number of live slots; slot j holds position j.
    """

    keys: Array
    values: Array
    length: Array

    @property
    def capacity(self) -> int:
        """S: tokens that fit."""
        return self.keys.shape[-2]


def empty(batch: int, heads: int, capacity: int, width: int, dtype: Any) -> KVCache:
    """A cache with no live slot.

    Raises:
        ValueError: batch or capacity < 1.
    """
    for name, value in (("batch", batch), ("capacity", capacity)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    shape = (batch, heads, capacity, width)
    return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros((batch,), jnp.int32))


def fill(cache: KVCache, keys: Array, values: Array, lengths: Int[Array, "B"]) -> KVCache:
    """Store a whole prompt, right-padded to T, from slot 0.

    Raises:
        ValueError: the prompt is longer than the cache.
    """
    if keys.shape[-2] > cache.capacity:
        raise ValueError(
            f"capacity: expected at least {keys.shape[-2]} slots for the prompt, "
            f"got {cache.capacity}"
        )
    start = (0, 0, 0, 0)
    return KVCache(
        jax.lax.dynamic_update_slice(cache.keys, keys.astype(cache.keys.dtype), start),
        jax.lax.dynamic_update_slice(cache.values, values.astype(cache.values.dtype), start),
        lengths.astype(jnp.int32),
    )


def append(cache: KVCache, keys: Array, values: Array) -> KVCache:
    """Store one token per example, keys and values [B, K, 1, d], behind its last live slot.

    The caller makes sure that a slot is free (`generation` checks on the host):
    `dynamic_update_slice` clamps, so a full cache would lose its last token silently.
    """

    def write(buffer: Array, update: Array, slot: Array) -> Array:
        zero = jnp.zeros_like(slot)  # one index dtype, also in x64 mode
        return jax.lax.dynamic_update_slice(buffer, update.astype(buffer.dtype), (zero, slot, zero))

    return KVCache(
        jax.vmap(write)(cache.keys, keys, cache.length),
        jax.vmap(write)(cache.values, values, cache.length),
        cache.length + 1,
    )
