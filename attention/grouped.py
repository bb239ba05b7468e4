"""Grouped-query attention: MHA, GQA and MQA are one function with K key/value heads.

Notation
    d        model dimension
    H, K     query heads, key/value heads; K = H is MHA, K = 1 is MQA
    d_h      head dimension
    params   query [d, H d_h], key and value [d, K d_h], output [H d_h, d]; with biases also
             query_bias [H d_h] and so on; with latent queries query_down [d, d_q] and
             query_up [d_q, H d_h] instead of query

Source: Vaswani et al. (arXiv 1706.03762); Shazeer, MQA (1911.02150); Ainslie et al., GQA
(2305.13245); https://kexue.fm/archives/10091; Hu et al., multi-matrix factorisation attention
(2412.19255), which is one wide head of keys and values with latent queries.
"""

import functools
from dataclasses import KW_ONLY, dataclass
from typing import Any, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attention import cache, checks, kernels, live, long_context, masks, rope, scores
from attention.linear import fan_in_normal, linear, zero_biases
from attention.mixer import Mixer


@dataclass(frozen=True)
class GroupedConfig:
    """Sizes of one grouped-query attention layer.

    Attributes:
        d_model: d, width of the residual stream.
        n_heads: H, query heads.
        n_kv_heads: K, key/value heads, a divisor of H; None means H (multi-head attention).
        head_dim: d_h; None means d / H.
        rope_base: base of the rotary frequencies; None turns rotary embedding off.
        rope_layout: "half" or "interleaved" pairs.
        rope_dims: dimensions of a head that rotate, the first ones; None means all.
        rope_scaling: of the frequencies, for longer contexts (`rope.Linear`, `Llama3`, `Yarn`).
        query_dim: d_q, width of a latent that queries are projected from; None for none. With one
            wide key/value head this is MFA (multi-matrix factorisation attention).
        window: number of keys a query sees, itself included; None means all before it.
        bias: of all four projections.
        kernel: "xla", "cudnn" or "splash" for whole sequences; None takes the best there is (see
            `kernels`).
    """

    d_model: int = 128
    n_heads: int = 4
    n_kv_heads: int | None = None
    _: KW_ONLY
    head_dim: int | None = None
    rope_base: float | None = 10_000.0
    rope_layout: rope.Layout = "half"
    rope_dims: int | None = None
    rope_scaling: rope.Scaling | None = None
    query_dim: int | None = None
    window: int | None = None
    bias: bool = False
    kernel: str | None = None

    def __post_init__(self):
        names = ("d_model", "n_heads", "n_kv_heads", "head_dim", "query_dim", "rope_dims", "window")
        checks.sizes(self, *names)
        if self.n_heads % self.kv_heads:
            raise ValueError(
                f"n_kv_heads: expected a divisor of n_heads = {self.n_heads}, got {self.kv_heads}"
            )
        if self.head_dim is None and self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads: expected a divisor of d_model = {self.d_model}, got {self.n_heads}; "
                "or give head_dim"
            )
        if self.rope_base is not None and self.rope_dims is None and self.width % 2:
            raise ValueError(f"head_dim: expected an even number with RoPE, got {self.width}")
        if self.rope_layout not in get_args(rope.Layout):
            raise ValueError(
                f"rope_layout: expected one of {get_args(rope.Layout)}, got {self.rope_layout!r}"
            )
        if self.rotated > self.width:
            raise ValueError(f"rope_dims: expected at most {self.width}, got {self.rotated}")
        if self.rope_base is not None:
            rope.check(self.rotated, self.rope_layout, self.rope_scaling, self.rope_base)
        kernels.check(self.kernel)

    @property
    def kv_heads(self) -> int:
        """K, with the default resolved."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def width(self) -> int:
        """d_h, with the default resolved."""
        return self.d_model // self.n_heads if self.head_dim is None else self.head_dim

    @property
    def rotated(self) -> int:
        """Dimensions of a head that rotate, with the default resolved."""
        return self.width if self.rope_dims is None else self.rope_dims

    @property
    def scale(self) -> float:
        """Factor on the scores: d_h^(-1/2), times `long_context.score_factor` with RoPE scaling."""
        scaling = None if self.rope_base is None else self.rope_scaling
        return self.width**-0.5 * long_context.score_factor(scaling)

    @property
    def cache_elements(self) -> int:
        """Elements cached per token and layer, 2 K d_h.

        Source: DeepSeek-V2 (arXiv 2405.04434), table 1; https://kexue.fm/archives/10091,
        equation 4.
        """
        return 2 * self.kv_heads * self.width


def init(key: Array, config: GroupedConfig) -> dict[str, Array]:
    """Normal projections with standard deviation fan-in^(-1/2); biases are zero."""
    wide, narrow = config.n_heads * config.width, config.kv_heads * config.width
    shapes = {
        "query": (config.d_model, wide),
        "key": (config.d_model, narrow),
        "value": (config.d_model, narrow),
        "output": (wide, config.d_model),
    }
    if config.query_dim is not None:
        del shapes["query"]
        shapes["query_down"] = (config.d_model, config.query_dim)
        shapes["query_up"] = (config.query_dim, wide)
    return fan_in_normal(key, shapes) | (zero_biases(shapes) if config.bias else {})


def project(
    params: dict[str, Array],
    x: Float[Array, "B T d"],
    positions: Int[Array, "B T"],
    config: GroupedConfig,
) -> tuple[Array, Array, Array]:
    """Queries [B,H,T,d_h], keys and values [B,K,T,d_h]; queries and keys rotated.

    q_t = x_t W_q R_t, k_i = x_i W_k R_i, v_i = x_i W_v.

    Source: https://kexue.fm/archives/10091, equations 3 and 11; Hu et al. (arXiv 2412.19255) for
    latent queries.
    """

    def heads(name: str, x: Array = x) -> Array:
        y = linear(x, params[name], params.get(f"{name}_bias"))
        return y.reshape(*y.shape[:2], -1, config.width).swapaxes(1, 2)

    if config.query_dim is None:
        q = heads("query")
    else:
        latent = linear(x, params["query_down"], params.get("query_down_bias"))
        q = heads("query_up", latent)
    k, v = heads("key"), heads("value")
    if config.rope_base is not None:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        cos, sin = rope.tables(
            positions[:, None], config.rotated, config.rope_base, wide, config.rope_scaling
        )
        q = rope.rotate_part(q, cos, sin, config.rope_layout)
        k = rope.rotate_part(k, cos, sin, config.rope_layout)
    return q, k, v


def merge(params: dict[str, Array], heads: Float[Array, "B H T d_h"]) -> Float[Array, "B T d"]:
    """Concatenate the heads and project back to the model dimension.

    [o^1, ..., o^H] W_o.

    Source: https://kexue.fm/archives/10091, equation 1; DeepSeek-V2 (arXiv 2405.04434), equation 8,
    for the matrix behind it.
    """
    batch, _, time, _ = heads.shape
    joined = heads.swapaxes(1, 2).reshape(batch, time, -1)
    return linear(joined, params["output"], params.get("output_bias"))


def apply(
    params: dict[str, Array],
    x: Float[Array, "B T d"],
    config: GroupedConfig,
    positions: Int[Array, "B T"] | None = None,
    mask: Array | None = None,
) -> Float[Array, "B T d"]:
    """Causal self-attention over a whole sequence.

    Args:
        positions: position of every token, for RoPE and the causal mask; 0..T-1 by default.
        mask: True where a key may be attended to, [B, S] over keys (padding) or [B, T, S], S = T;
            combined with the causal mask.

    Source: https://kexue.fm/archives/10091, equations 1 (K = H), 2 (K = 1), 3 and 11 (rotated);
    Shazeer (arXiv 1911.02150), section 3; Ainslie et al. (arXiv 2305.13245), section 2.2.
    """
    plain = positions is None and mask is None
    positions = masks.positions_of(x, positions)
    q, k, v = project(params, x, positions, config)
    if plain:
        y = kernels.causal(q, k, v, config.window, config.scale, config.kernel)
        return merge(params, y)
    kernels.refuse_masks(config.kernel)
    keep = masks.combined(positions, mask, config.window)
    return merge(params, scores.attend(q, k, v, keep, config.scale))


def init_state(
    batch: int, capacity: int, dtype: Any = jnp.float32, *, config: GroupedConfig
) -> cache.KVCache:
    """An empty cache with slots for `capacity` tokens, or for the window if that is smaller."""
    if config.window is not None:
        capacity = min(capacity, config.window)
    return cache.empty(batch, config.kv_heads, capacity, config.width, dtype)


def prefill(
    params: dict[str, Array],
    x: Float[Array, "B T d"],
    state: cache.KVCache,
    lengths: Int[Array, "B"] | None = None,
    *,
    config: GroupedConfig,
) -> tuple[cache.KVCache, Float[Array, "B T d"]]:
    """Attend over a right-padded prompt and store its keys and values, from position 0.

    Source: https://kexue.fm/archives/10091, equations 1 to 3, and its key/value cache.
    """
    batch, time, _ = x.shape
    positions = jnp.broadcast_to(jnp.arange(time), (batch, time))
    checks.batches(x, state.length)
    lengths, bad = checks.live(lengths, batch, time)
    q, k, v = project(params, x, positions, config)
    y = merge(params, kernels.causal(q, k, v, config.window, config.scale, config.kernel))
    ring = cache.is_ring(state.capacity, config.window)
    keys, values = (
        cache.fill(old, new, lengths, ring) for old, new in ((state.keys, k), (state.values, v))
    )
    return cache.KVCache(keys, values, lengths), checks.spoil(y, bad)


def step(
    params: dict[str, Array],
    state: cache.KVCache,
    x: Float[Array, "B d"],
    *,
    config: GroupedConfig,
) -> tuple[cache.KVCache, Float[Array, "B d"]]:
    """One token per example: append it to the cache, attend to all live tokens.

    A full cache raises a ValueError, or gives NaN where its length is traced.

    Source: Shazeer (arXiv 1911.02150), sections 2.4 and 3, the incremental programs, with a cache
    that does not grow; https://kexue.fm/archives/10091, equations 1 to 3.
    """
    checks.batches(x, state.length)
    cache.check_room(state.length, 1, state.capacity, config.window)
    q, k, v = project(params, x[:, None], state.length[:, None], config)
    keys = cache.append(state.keys, k, state.length)
    values = cache.append(state.values, v, state.length)
    length = state.length + 1
    y = live.attend(q, keys, values, length, window=config.window, scale=config.scale)
    y = cache.poison(y, length, keys.shape[-2], config.window)
    return cache.KVCache(keys, values, length), merge(params, y)[:, 0]


def extend(
    params: dict[str, Array],
    x: Float[Array, "B T d"],
    state: cache.KVCache,
    lengths: Int[Array, "B"] | None = None,
    *,
    config: GroupedConfig,
) -> tuple[cache.KVCache, Float[Array, "B T d"]]:
    """Process a further chunk of every example after what the cache holds: chunked prefill.

    Args:
        lengths: live tokens of each chunk, all T by default; the cache needs room for all T.

    A chunk that does not fit raises a ValueError, or gives NaN where lengths are traced.
    """
    time, old = x.shape[1], state.length
    checks.batches(x, old)
    cache.check_room(old, time, state.capacity, config.window)
    added, bad = checks.live(lengths, len(x), time)
    positions = old[:, None] + jnp.arange(time)
    q, k, v = project(params, x, positions, config)
    if config.window is None:
        keys, values = (cache.append(*pair, old) for pair in ((state.keys, k), (state.values, v)))
        length = cache.extended(old, time, added, state.capacity)
        y = live.attend(q, keys, values, length, positions, scale=config.scale)
        y = checks.spoil(cache.poison(y, old + time, state.capacity), bad)
        return cache.KVCache(keys, values, length), merge(params, y)
    keep = cache.keep_chunk(old, state.capacity, positions, config.window)
    pairs = ((state.keys, k), (state.values, v))
    known_k, known_v = (jnp.concatenate([one.astype(new.dtype), new], axis=2) for one, new in pairs)
    y = merge(params, scores.attend(q, known_k, known_v, keep, config.scale))
    keys, values = (cache.turn(*pair, old, added) for pair in pairs)
    y = checks.spoil(cache.poison(y, old + added, state.capacity, config.window), bad)
    return cache.KVCache(keys, values, old + added), y


@functools.lru_cache
def mixer(config: GroupedConfig) -> Mixer:
    """The `Mixer` (all functions) of grouped-query attention for one configuration."""
    return Mixer(
        init=functools.partial(init, config=config),
        apply=functools.partial(apply, config=config),
        prepare=lambda params: params,
        prefill=functools.partial(prefill, config=config),
        init_state=functools.partial(init_state, config=config),
        step=functools.partial(step, config=config),
        extend=functools.partial(extend, config=config),
    )
