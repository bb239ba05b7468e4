"""The layer shared by all kinds of attention that cache one row of numbers per token.

Notation
    B, T, S, d   batch, time, slots, model dimension
    H, K         query heads, heads of keys and values
    w            entries of a row, all that is cached of a token

A variant says what it projects (`queries`, `entries`), what keys and values a row stands for
(`expand`) and what becomes of the sums (`finish`); masks, caches, chunks and steps are here.

Source: what MLA, tied and grouped latents of https://kexue.fm/archives/10091 have in common.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attention import cache, checks, kernels, latent_cache, live, masks, rope, scores
from attention.grouped import merge
from attention.linear import linear
from attention.mixer import Mixer

Params = dict[str, Array]


class Variant(NamedTuple):
    """What makes a variant; functions of a module or partials of them.

    Attributes:
        init: key -> params, among them output [H d_v, d].
        queries: (params, x [B, T, d], positions [B, T]) -> [B, H, T, d_k], rotated.
        entries: (params, x, positions) -> rows [B, T, w].
        expand: (params, rows [B, S, w]) -> keys [B, K, S, d_k] and values [B, K, S, d_v].
        finish: (params, sums [B, H, T, .], positions [B, T]) -> [B, H, T, d_v].
        heads: K.
        width: w.
        scale: what scores are multiplied by.
        window, kernel: as in `grouped.GroupedConfig`.
        single: the variant for single tokens, if it differs; with the same rows and params.
    """

    init: Callable[[Array], Params]
    queries: Callable[[Params, Array, Array], Array]
    entries: Callable[[Params, Array, Array], Array]
    expand: Callable[[Params, Array], tuple[Array, Array]]
    finish: Callable[[Params, Array, Array], Array]
    heads: int
    width: int
    scale: float
    window: int | None = None
    kernel: str | None = None
    single: "Variant | None" = None


def queries(
    params: Params, x: Float[Array, "B T d"], positions: Int[Array, "B T"], config: Any
) -> Float[Array, "B H T d_k"]:
    """Plain and rotated dimensions of every head, of a configuration that has both."""
    q = linear(x, params["query"]).reshape(*x.shape[:2], config.n_heads, -1).swapaxes(1, 2)
    plain, turned = jnp.split(q, [config.nope_dim], axis=-1)
    turned = rope.rotated(turned, positions[:, None], config)
    return jnp.concatenate([plain, turned], axis=-1)


def apply(
    params: Params,
    x: Float[Array, "B T d"],
    variant: Variant,
    positions: Int[Array, "B T"] | None = None,
    mask: Array | None = None,
) -> Float[Array, "B T d"]:
    """Causal self-attention over a whole sequence, as `grouped.apply`."""
    plain = positions is None and mask is None
    positions = masks.positions_of(x, positions)
    q = variant.queries(params, x, positions)
    keys, values = variant.expand(params, variant.entries(params, x, positions))
    if plain:
        y = kernels.causal(q, keys, values, variant.window, variant.scale, variant.kernel)
    else:
        kernels.refuse_masks(variant.kernel)
        keep = masks.combined(positions, mask, variant.window)
        y = scores.attend(q, keys, values, keep, variant.scale)
    return merge(params, variant.finish(params, y, positions))


def init_state(
    batch: int, capacity: int, dtype: Any = jnp.float32, *, variant: Variant
) -> cache.LatentCache:
    """An empty cache with slots for `capacity` tokens, or for the window if that is smaller."""
    if variant.window is not None:
        capacity = min(capacity, variant.window)
    return latent_cache.empty(batch, capacity, (variant.width, 0), dtype, False)


def prefill(
    params: Params,
    x: Float[Array, "B T d"],
    state: cache.LatentCache,
    lengths: Int[Array, "B"] | None = None,
    *,
    variant: Variant,
) -> tuple[cache.LatentCache, Float[Array, "B T d"]]:
    """Attend over a right-padded prompt and store its rows, from position 0."""
    batch, time, _ = x.shape
    positions = jnp.broadcast_to(jnp.arange(time), (batch, time))
    checks.batches(x, state.length)
    lengths, bad = checks.live(lengths, batch, time)
    q, rows = variant.queries(params, x, positions), variant.entries(params, x, positions)
    y = kernels.causal(
        q, *variant.expand(params, rows), variant.window, variant.scale, variant.kernel
    )
    ring = cache.is_ring(state.capacity, variant.window)
    stored = cache.fill(state.latents, rows[:, None], lengths, ring)
    y = merge(params, checks.spoil(variant.finish(params, y, positions), bad))
    return cache.LatentCache(stored, lengths), y


def step(
    params: Params, state: cache.LatentCache, x: Float[Array, "B d"], *, variant: Variant
) -> tuple[cache.LatentCache, Float[Array, "B d"]]:
    """One token per example; a full cache raises a ValueError, or gives NaN if traced."""
    checks.batches(x, state.length)
    cache.check_room(state.length, 1, state.capacity, variant.window)
    positions, old = state.length[:, None], state.length
    variant = variant if variant.single is None else variant.single
    q = variant.queries(params, x[:, None], positions)
    rows = variant.entries(params, x[:, None], positions)[:, None]
    state = cache.LatentCache(cache.append(state.latents, rows, old), old + 1)
    y = variant.finish(params, _to_cache(params, q, state, positions, variant), positions)
    y = cache.poison(y, state.length, state.capacity, variant.window)
    return state, merge(params, y)[:, 0]


def extend(
    params: Params,
    x: Float[Array, "B T d"],
    state: cache.LatentCache,
    lengths: Int[Array, "B"] | None = None,
    *,
    variant: Variant,
) -> tuple[cache.LatentCache, Float[Array, "B T d"]]:
    """Process a further chunk of every example after what the cache holds, as `grouped.extend`."""
    time, old = x.shape[1], state.length
    checks.batches(x, old)
    cache.check_room(old, time, state.capacity, variant.window)
    added, bad = checks.live(lengths, len(x), time)
    positions = old[:, None] + jnp.arange(time)
    q, rows = variant.queries(params, x, positions), variant.entries(params, x, positions)
    if variant.window is None:
        length = cache.extended(old, time, added, state.capacity)
        state = cache.LatentCache(cache.append(state.latents, rows[:, None], old), length)
        y = variant.finish(params, _to_cache(params, q, state, positions, variant), positions)
        y = cache.poison(y, old + time, state.capacity)
        return state, merge(params, checks.spoil(y, bad))
    keep = cache.keep_chunk(old, state.capacity, positions, variant.window)
    known = jnp.concatenate([state.latents[:, 0].astype(rows.dtype), rows], axis=1)
    y = scores.attend(q, *variant.expand(params, known), keep, variant.scale)
    stored = cache.turn(state.latents, rows[:, None], old, added)
    y = variant.finish(params, y, positions)
    y = cache.poison(y, old + added, state.capacity, variant.window)
    return cache.LatentCache(stored, old + added), merge(params, checks.spoil(y, bad))


def _to_cache(
    params: Params, q: Array, state: cache.LatentCache, positions: Array, variant: Variant
) -> Array:
    """Attention to the live rows, [B, H, T, d_v], no more than a block of them expanded."""
    both = live.partial(_expand_block, expand=variant.expand)
    rule = ((variant.width, 0), variant.window, variant.scale, positions)
    return latent_cache.over_blocks(q, state, both, params, variant.heads, *rule)


def _expand_block(params: Params, found: Array, *, expand: Any) -> tuple[Array, Array]:
    return expand(params, found[:, 0].astype(params["output"].dtype))


def mixer(variant: Variant) -> Mixer:
    """The functions of a variant's layers."""
    return Mixer(
        init=variant.init,
        apply=functools.partial(apply, variant=variant),
        prepare=lambda params: params,
        prefill=functools.partial(prefill, variant=variant),
        init_state=functools.partial(init_state, variant=variant),
        step=functools.partial(step, variant=variant),
        extend=functools.partial(extend, variant=variant),
    )
