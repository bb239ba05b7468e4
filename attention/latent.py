"""Multi-head latent attention (MLA): one short latent per token, for all heads.

Notation
    d              model dimension
    H              heads
    d_c, d_q       width of the latent of keys and values, of that of queries
    d_n, d_r, d_v  per head: plain and rotated dimensions of queries and keys, values
    c, k^R         latent [d_c] and rotated key [d_r] of a token: all that is cached
    w              d_c + d_r, width of that
    W_UK, W_UV     of head i, [d_c, d_n] and [d_c, d_v]
    params         query [d, H (d_n + d_r)], or query_down [d, d_q], query_norm [d_q] and query_up;
                   down [d, d_c + d_r], norm [d_c], up [d_c, H (d_n + d_v)], output [H d_v, d];
                   no norms without `latent_norm`;
                   of each head the plain dimensions first, then the rotated ones or the values;
                   with biases also down_bias, query_down_bias, output_bias

    score = (q^C . W_UK^T c + q^R . k^R) scale       o = sum_j p_j W_UV^T c_j

There are three ways to compute it. *Materialised*: keys and values of all heads from the latents,
then multi-head attention. *Absorbed*: W_UK is applied to the query and W_UV after the sum,
q^C . W_UK^T c = (W_UK q^C) . c, so that attention runs on the cached latents themselves, as
multi-query attention with one wide head. *Re-expanded*: as the first, but from a cache. The first
costs 2 H (d_n + d_r + d_v) operations for a pair of tokens, the second 2 H (2 d_c + d_r): sequences
are materialised, single tokens absorbed. Between them lies `LatentConfig.crossover`.

The rotation depends on the position and cannot stand between W_Q and W_UK: hence the dimensions of
their own, with one key for all heads.

Source: DeepSeek-V2 (arXiv 2405.04434), equations 9 to 19;
https://kexue.fm/archives/10091. The two norms are named in its section 3.1.2.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attention import cache, checks, kernels, latent_cache, live, masks, rope, scores
from attention.grouped import merge
from attention.latent_config import FORMS as FORMS
from attention.latent_config import LatentConfig
from attention.linear import fan_in_normal, linear, zero_biases
from attention.mixer import Mixer
from attention.norm import rms_norm


def init(key: Array, config: LatentConfig) -> dict[str, Array]:
    """Normal projections of standard deviation fan-in^(-1/2); gains of one."""
    c, d, heads = config, config.d_model, config.n_heads
    wide = heads * (c.nope_dim + c.rope_dim)
    shapes = {
        "down": (d, c.cache_elements),
        "up": (c.latent_dim, heads * (c.nope_dim + c.value_dim)),
        "output": (heads * c.value_dim, d),
    }
    gains = {"norm": jnp.ones(c.latent_dim)} if c.latent_norm else {}
    if c.query_dim is None:
        shapes["query"] = (d, wide)
    else:
        shapes |= {"query_down": (d, c.query_dim), "query_up": (c.query_dim, wide)}
        gains |= {"query_norm": jnp.ones(c.query_dim)} if c.latent_norm else {}
    biased = {name: shapes[name] for name in ("down", "query_down", "output") if name in shapes}
    return fan_in_normal(key, shapes) | gains | (zero_biases(biased) if c.bias else {})


def queries(
    params: dict[str, Array],
    x: Float[Array, "B T d"],
    positions: Int[Array, "B T"],
    config: LatentConfig,
) -> tuple[Array, Array]:
    """Plain and rotated parts, [B, H, T, d_n] and [B, H, T, d_r].

    norm(x W_DQ) W_UQ, of each head the last d_r dimensions rotated.

    Source: DeepSeek-V2 (arXiv 2405.04434), equations 12 to 14, and section 3.1.2 for the norm;
    https://kexue.fm/archives/10091, equation 10, and 9 without `query_dim`.
    """
    if config.query_dim is not None:
        x = linear(x, params["query_down"], params.get("query_down_bias"))
        x = rms_norm(x, params["query_norm"], config.norm_eps) if config.latent_norm else x
    q = linear(x, params["query_up" if config.query_dim is not None else "query"])
    q = q.reshape(*x.shape[:2], config.n_heads, -1).swapaxes(1, 2)
    plain, rotated = jnp.split(q, [config.nope_dim], axis=-1)
    return plain, rope.rotated(rotated, positions[:, None], config)


def latents(
    params: dict[str, Array],
    x: Float[Array, "B T d"],
    positions: Int[Array, "B T"],
    config: LatentConfig,
) -> Float[Array, "B T w"]:
    """What is cached of each token: the normalised latent, then the rotated key.

    Source: DeepSeek-V2 (arXiv 2405.04434), equations 9 and 15, and section 3.1.2 for the norm;
    https://kexue.fm/archives/10091, equation 9.
    """
    both = linear(x, params["down"], params.get("down_bias"))
    c, k = jnp.split(both, [config.latent_dim], axis=-1)
    c = rms_norm(c, params["norm"], config.norm_eps) if config.latent_norm else c
    return jnp.concatenate([c, rope.rotated(k, positions, config)], axis=-1)


def expand(
    params: dict[str, Array], entries: Float[Array, "B S w"], config: LatentConfig
) -> tuple[Array, Array]:
    """Keys [B, H, S, d_n + d_r] and values [B, H, S, d_v] of all heads.

    k_i = [c_i W_UK, k^R_i], v_i = c_i W_UV.

    Source: DeepSeek-V2 (arXiv 2405.04434), equations 10, 11 and 17;
    https://kexue.fm/archives/10091, equation 9.
    """
    c, k = jnp.split(entries, [config.latent_dim], axis=-1)
    both = linear(c, params["up"]).reshape(*c.shape[:2], config.n_heads, -1).swapaxes(1, 2)
    plain, values = jnp.split(both, [config.nope_dim], axis=-1)
    rotated = jnp.broadcast_to(k[:, None], (*plain.shape[:3], config.rope_dim))
    return jnp.concatenate([plain, rotated], axis=-1), values


def halves(params: dict[str, Array], config: LatentConfig) -> tuple[Array, Array]:
    """W_UK [H, d_n, d_c] and W_UV [H, d_c, d_v]."""
    up = params["up"].reshape(config.latent_dim, config.n_heads, -1)
    keys, values = jnp.split(up, [config.nope_dim], axis=-1)
    return jnp.transpose(keys, (1, 2, 0)), jnp.swapaxes(values, 0, 1)


def absorb(q: tuple[Array, Array], keys: Float[Array, "H d_n d_c"]) -> Array:
    """Queries for the latents themselves, [B, H, T, d_c + d_r].

    [W_UK q^C, q^R].

    Source: https://kexue.fm/archives/10091, equations 6 and 12; DeepSeek-V2 (arXiv 2405.04434),
    appendix C.
    """
    plain = jnp.einsum("bhtn,hnc->bhtc", q[0], keys.astype(q[0].dtype))
    return jnp.concatenate([plain, q[1]], axis=-1)


def release(o: Float[Array, "B H T d_c"], values: Float[Array, "H d_c d_v"]) -> Array:
    """Sums of latents as sums of values, [B, H, T, d_v].

    W_UV^T sum_j p_j c_j.

    Source: https://kexue.fm/archives/10091, equation 12; DeepSeek-V2 (arXiv 2405.04434),
    appendix C.
    """
    return jnp.einsum("bhtc,hcv->bhtv", o, values.astype(o.dtype))


def attend(
    params: dict[str, Array],
    q: tuple[Array, Array],
    entries: Float[Array, "B S w"],
    keep: Array | None,
    config: LatentConfig,
    form: str,
) -> Float[Array, "B H T d_v"]:
    """Attention of queries to latents, of their own sequence or of a cache.

    Args:
        keep: True where a query may attend to a token, broadcast to [B, T, S]; None for a
            sequence itself, causally.
        form: "materialised" (of a cache: re-expanded) or "absorbed".

    Source: https://kexue.fm/archives/10091, equations 10 (materialised) and 12 (absorbed).
    """
    if form == "materialised":
        keys, values = expand(params, entries, config)
        return _scores(jnp.concatenate(q, axis=-1), keys, values, keep, config)
    keys, values = halves(params, config)
    entries = entries[:, None]
    sums = _scores(absorb(q, keys), entries, entries[..., : config.latent_dim], keep, config)
    return release(sums, values)


def _scores(q: Array, k: Array, v: Array, keep: Array | None, config: LatentConfig) -> Array:
    if keep is None:
        return kernels.causal(q, k, v, config.window, config.scale, config.kernel)
    return scores.attend(q, k, v, keep, config.scale)


def apply(
    params: dict[str, Array],
    x: Float[Array, "B T d"],
    config: LatentConfig,
    positions: Int[Array, "B T"] | None = None,
    mask: Array | None = None,
) -> Float[Array, "B T d"]:
    """Causal self-attention over a whole sequence.

    Args:
        positions: position of every token, for RoPE and the causal mask; 0..T-1 by default.
        mask: True where a key may be attended to, [B, S] over keys (padding) or [B, T, S], S = T;
            combined with the causal mask.

    Source: DeepSeek-V2 (arXiv 2405.04434), equations 9 to 19; https://kexue.fm/archives/10091,
    equation 10.
    """
    plain = positions is None and mask is None
    positions = masks.positions_of(x, positions)
    q, entries = queries(params, x, positions, config), latents(params, x, positions, config)
    if not plain:
        kernels.refuse_masks(config.kernel)
    keep = None if plain else masks.combined(positions, mask, config.window)
    # Of its own sequence every token is expanded anyway: materialising costs least.
    form = config.form or "materialised"
    return merge(params, attend(params, q, entries, keep, config, form))


def init_state(
    batch: int, capacity: int, dtype: Any = jnp.float32, *, config: LatentConfig
) -> cache.LatentCache:
    """An empty cache with slots for `capacity` tokens, or for the window if that is smaller."""
    if config.window is not None:
        capacity = min(capacity, config.window)
    return latent_cache.empty(batch, capacity, config.parts, dtype, config.quantised)


def prefill(
    params: dict[str, Array],
    x: Float[Array, "B T d"],
    state: cache.LatentCache,
    lengths: Int[Array, "B"] | None = None,
    *,
    config: LatentConfig,
) -> tuple[cache.LatentCache, Float[Array, "B T d"]]:
    """Attend over a right-padded prompt and store its latents, from position 0.

    Source: https://kexue.fm/archives/10091, equation 10 (part 3: prompts as MHA).
    """
    batch, time, _ = x.shape
    positions = jnp.broadcast_to(jnp.arange(time), (batch, time))
    checks.batches(x, state.length)
    lengths, bad = checks.live(lengths, batch, time)
    q, entries = queries(params, x, positions, config), latents(params, x, positions, config)
    y = attend(params, q, entries, None, config, config.form or "materialised")
    ring = cache.is_ring(state.capacity, config.window)
    store = functools.partial(cache.fill, lengths=lengths, ring=ring)
    state = latent_cache.write(state, entries[:, None], lengths, config.parts, store)
    return state, merge(params, checks.spoil(y, bad))


def prepare(params: dict[str, Array], config: LatentConfig) -> dict[str, Array]:
    """Parameters for `step`: `up` split into W_UK and W_UV, laid out for their products."""
    keys, values = halves(params, config)
    rest = {name: value for name, value in params.items() if name != "up"}
    return rest | {"absorb": keys, "release": values}


def step(
    prepared: dict[str, Array],
    state: cache.LatentCache,
    x: Float[Array, "B d"],
    *,
    config: LatentConfig,
) -> tuple[cache.LatentCache, Float[Array, "B d"]]:
    """One token per example, absorbed: append its latent, attend to those that are live.

    A full cache raises a ValueError, or gives NaN where its length is traced.

    Source: https://kexue.fm/archives/10091, equation 12 (part 3: single tokens as MQA).
    """
    if "up" in prepared:
        prepared = prepare(prepared, config)
    checks.batches(x, state.length)
    cache.check_room(state.length, 1, state.capacity, config.window)
    positions, old = state.length[:, None], state.length
    q = absorb(queries(prepared, x[:, None], positions, config), prepared["absorb"])
    entries = latents(prepared, x[:, None], positions, config)[:, None]
    store = functools.partial(cache.append, length=old)
    state = latent_cache.write(state, entries, old + 1, config.parts, store)
    sums = latent_cache.read(q, state, config.parts, config.window, config.scale)
    sums = cache.poison(sums, state.length, state.capacity, config.window)
    return state, merge(prepared, release(sums, prepared["release"]))[:, 0]


def extend(
    params: dict[str, Array],
    x: Float[Array, "B T d"],
    state: cache.LatentCache,
    lengths: Int[Array, "B"] | None = None,
    *,
    config: LatentConfig,
) -> tuple[cache.LatentCache, Float[Array, "B T d"]]:
    """Process a further chunk of every example after what the cache holds: chunked prefill.

    The chunk attends to the cache as well; `LatentConfig.choose` decides by its length whether the
    cached latents are expanded for it or its queries absorbed.

    Args:
        lengths: live tokens of each chunk, all T by default; the cache needs room for all T.

    A chunk that does not fit raises a ValueError, or gives NaN where lengths are traced.

    Source: derived from https://kexue.fm/archives/10091, equations 10 and 12.
    """
    time, old = x.shape[1], state.length
    checks.batches(x, old)
    cache.check_room(old, time, state.capacity, config.window)
    added, bad = checks.live(lengths, len(x), time)
    positions = old[:, None] + jnp.arange(time)
    q, entries = queries(params, x, positions, config), latents(params, x, positions, config)
    form = config.choose(time)
    if config.window is None:
        store = functools.partial(cache.append, length=old)
        length = cache.extended(old, time, added, state.capacity)
        state = latent_cache.write(state, entries[:, None], length, config.parts, store)
        y = _to_cache(params, q, state, positions, config, form)
        y = cache.poison(y, old + time, state.capacity)
        return state, merge(params, checks.spoil(y, bad))
    keep = cache.keep_chunk(old, state.capacity, positions, config.window)
    known = latent_cache.stored(state, config.parts).astype(x.dtype)
    y = attend(params, q, jnp.concatenate([known, entries], axis=1), keep, config, form)
    store = functools.partial(cache.turn, length=old, added=added)
    state = latent_cache.write(state, entries[:, None], old + added, config.parts, store)
    y = cache.poison(y, state.length, state.capacity, config.window)
    return state, merge(params, checks.spoil(y, bad))


def _to_cache(
    params: dict[str, Array],
    q: tuple[Array, Array],
    state: cache.LatentCache,
    positions: Array,
    config: LatentConfig,
    form: str,
) -> Array:
    """Attention to the live latents, [B, H, T, d_v], no more than a block of them expanded."""
    rule = (config.parts, config.window, config.scale, positions)
    if form == "materialised":
        both, weights = live.partial(_expand_block, config=config), {"up": params["up"]}
        whole = jnp.concatenate(q, axis=-1)
        return latent_cache.over_blocks(whole, state, both, weights, config.n_heads, *rule)
    keys, values = halves(params, config)
    return release(latent_cache.read(absorb(q, keys), state, *rule), values)


def _expand_block(
    weights: dict[str, Array], found: Array, *, config: LatentConfig
) -> tuple[Array, Array]:
    return expand(weights, found[:, 0].astype(weights["up"].dtype), config)


@functools.lru_cache
def mixer(config: LatentConfig) -> Mixer:
    """The `Mixer` (all functions) of multi-head latent attention for one configuration."""
    return Mixer(
        init=functools.partial(init, config=config),
        apply=functools.partial(apply, config=config),
        prepare=functools.partial(prepare, config=config),
        prefill=functools.partial(prefill, config=config),
        init_state=functools.partial(init_state, config=config),
        step=functools.partial(step, config=config),
        extend=functools.partial(extend, config=config),
    )
