"""Caches of the tokens seen so far: preallocated, with a length for every example.

Notation
    B, K, S  batch, key/value heads, slots
    n        tokens that an example has seen
    p_j      position that slot j holds: the largest p < n with p = j modulo S

Position p is stored in slot p modulo S. A cache with a slot for every token never wraps; that of a
sliding window has as many slots as the window and keeps the newest tokens, a ring.

Source: https://kexue.fm/archives/10091; the ring is the rolling buffer of Mistral (arXiv
2310.06825).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from attention import checks, masks

UNROLLED = 8  # examples up to which single tokens are written one by one


class KVCache(NamedTuple):
    """Keys and values.

    Attributes:
        keys: [B, K, S, d_k], rotated before they are stored.
        values: [B, K, S, d_v].
        length: [B], tokens seen.
    """

    keys: Array
    values: Array
    length: Array

    @property
    def capacity(self) -> int:
        """S: tokens that fit."""
        return self.keys.shape[-2]


class LatentCache(NamedTuple):
    """The latents of MLA: all that is kept of a token, for all heads.

    Attributes:
        latents: [B, 1, S, d_c + d_r], normalised and rotated; in int8 when `scale` is there.
        length: [B], tokens seen.
        scale: [B, 1, S, 2], int8 scales of each token's d_c and d_r entries; None for floats.
    """

    latents: Array
    length: Array
    scale: Array | None = None

    @property
    def capacity(self) -> int:
        """S: tokens that fit."""
        return self.latents.shape[-2]


def check_size(batch: int, capacity: int) -> None:
    """Refuse an empty cache."""
    checks.whole("batch", batch)
    checks.whole("capacity", capacity)


def empty(batch: int, heads: int, capacity: int, width: int, dtype: Any) -> KVCache:
    """A cache that has seen nothing.

    Raises:
        ValueError: batch or capacity < 1.
    """
    check_size(batch, capacity)
    shape = (batch, heads, capacity, width)
    return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros((batch,), jnp.int32))


def positions(length: Int[Array, "B"], capacity: int) -> Int[Array, "B S"]:
    """The position that each slot holds; negative for slots never written.

    The largest p < n with p = j modulo S, for slot j.

    Source: Jiang et al., Mistral 7B (arXiv 2310.06825), the rolling buffer.
    """
    newest = length[:, None] - 1
    return newest - (newest - jnp.arange(capacity)) % capacity


def keep(
    length: Int[Array, "B"],
    capacity: int,
    window: int | None = None,
    queries: Int[Array, "B T"] | None = None,
) -> Bool[Array, "B T S"]:
    """Mask of the slots that queries at these positions (by default the newest) may attend to."""
    held = positions(length, capacity)
    queries = length[:, None] - 1 if queries is None else queries
    return masks.causal(queries, held, window) & (held >= 0)[:, None]


def keep_chunk(
    length: Int[Array, "B"], capacity: int, chunk: Int[Array, "B T"], window: int | None
) -> Bool[Array, "B T slots_and_chunk"]:
    """What the tokens of a chunk may attend to: the slots as they were before it, then itself."""
    before = keep(length, capacity, window, chunk)
    return jnp.concatenate([before, masks.causal(chunk, chunk, window)], axis=-1)


def check_room(length: Any, tokens: int, capacity: int, window: int | None = None) -> None:
    """Refuse tokens that do not fit, unless the lengths are traced or a window forgets.

    Raises:
        ValueError: naming the fullest example.
    """
    if is_ring(capacity, window):
        return
    if tokens > capacity:
        raise ValueError(f"capacity: expected at least {tokens} slots for a chunk, got {capacity}")
    try:
        known = np.asarray(length)
    except checks.Untraceable:
        return
    if known.size and known.max() + tokens > capacity:
        most = known.max()
        raise ValueError(
            f"capacity: expected at least {most + tokens} slots for {most} tokens and {tokens} "
            f"more, got {capacity}"
        )


def poison(y: Array, length: Int[Array, "B"], capacity: int, window: int | None = None) -> Array:
    """NaN for examples with more tokens than slots, whose overwritten tokens are missing.

    Args:
        y: [B, ...].
    """
    if is_ring(capacity, window):
        return y
    return checks.spoil(y, length > capacity)


def extended(
    length: Int[Array, "B"], time: int, added: Int[Array, "B"], capacity: int
) -> Int[Array, "B"]:
    """Lengths after a chunk; without room for all of it, one above capacity that stays too long."""
    return jnp.where(length + time > capacity, capacity + time, length + added)


def is_ring(capacity: int, window: int | None) -> bool:
    """Whether a cache may overwrite old tokens: there are slots for all that the window sees."""
    return window is not None and capacity >= window


def fill(buffer: Array, entries: Array, lengths: Int[Array, "B"], ring: bool = False) -> Array:
    """Store right-padded prompts from position 0.

    Args:
        buffer: [B, K, S, d].
        entries: [B, K, T, d].
        lengths: [B], tokens of each prompt that count.
        ring: whether to keep only the newest S tokens of longer prompts.

    Raises:
        ValueError: more tokens than slots, without a ring.
    """
    entries, capacity, time = entries.astype(buffer.dtype), buffer.shape[-2], entries.shape[-2]
    if time <= capacity:
        return jax.lax.dynamic_update_slice(buffer, entries, (0,) * buffer.ndim)
    if not ring:
        raise ValueError(f"capacity: expected at least {time} slots for the prompt, got {capacity}")
    index = jnp.maximum(positions(lengths, capacity), 0)[:, None, :, None]
    return jnp.take_along_axis(entries, index, axis=-2)


def append(buffer: Array, entry: Array, length: Int[Array, "B"]) -> Array:
    """Store new tokens [B, K, T, d] of each example in place, from slot length mod S on.

    All T must fit from there on; a single token may go round a ring. Written example by example,
    because on CPUs one scatter for all would copy the buffer.
    """
    entry, slots = entry.astype(buffer.dtype), length % buffer.shape[-2]

    def write(i: Any, buffer: Array) -> Array:
        one = jax.lax.dynamic_slice_in_dim(entry, i, 1)
        index = [jnp.asarray(x, slots.dtype) for x in (i, 0, 0)]
        start = (index[0], index[1], jax.lax.dynamic_index_in_dim(slots, i, 0, False), index[2])
        return jax.lax.dynamic_update_slice(buffer, one, start)

    if len(entry) > UNROLLED:
        return jax.lax.fori_loop(0, len(entry), write, buffer)
    for i in range(len(entry)):
        buffer = write(i, buffer)
    return buffer


def turn(buffer: Array, entries: Array, length: Int[Array, "B"], added: Int[Array, "B"]) -> Array:
    """Store the newest of `added` further tokens of each example in a ring.

    Args:
        entries: [B, K, T, d].
        length: tokens seen before.
    """
    index = positions(length + added, buffer.shape[-2]) - length[:, None]
    index = index[:, None, :, None]
    new = jnp.take_along_axis(entries.astype(buffer.dtype), jnp.maximum(index, 0), axis=-2)
    return jnp.where(index >= 0, new, buffer)


def quantise(x: Array, parts: tuple[int, int]) -> tuple[Array, Array]:
    """Int8 entries and their scales, [..., 2], for two groups of entries of the last axis.

    round(127 x / max |x|), each group by its own maximum; `parts` are the sizes of the groups.

    The error of an entry is at most half a scale: 1/254 of the largest entry of its group. Scales
    are float32 at least. Gradients flow through the scales only.

    Source: symmetric rounding by the largest entry (absmax), a standard scheme.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    groups = jnp.split(x, [parts[0]], axis=-1)
    scales = [jnp.max(jnp.abs(g), axis=-1, keepdims=True, initial=0.0) / 127.0 for g in groups]
    whole = [
        jnp.clip(jnp.round(g / jnp.where(s > 0, s, 1.0)), -127, 127).astype(jnp.int8)
        for g, s in zip(groups, scales, strict=True)
    ]
    return jnp.concatenate(whole, axis=-1), jnp.concatenate(scales, axis=-1)


def restore(x: Array, scale: Array, parts: tuple[int, int]) -> Array:
    """Floats [..., d] from what `quantise` returned, x [..., d] and scale [..., 2]."""
    wide = jnp.repeat(scale, np.array(parts), axis=-1, total_repeat_length=sum(parts))
    return x.astype(scale.dtype) * wide
