"""Grouped latent attention (GLA): a latent for each group of heads, instead of one for all.

Notation
    G              latents of a token, for H / G heads each
    d_c            width of one of them
    d_n, d_r, d_v  per head: plain and rotated dimensions of queries and keys, values
    params         query [d, H (d_n + d_r)]; down [d, G d_c + d_r], norm [G, d_c];
                   up [G, d_c, (H / G) (d_n + d_v)]; output [H d_v, d]

With G = 1 this is MLA. The cache holds G d_c + d_r numbers per token, and G devices may hold one
latent each; single tokens are absorbed as in MLA: grouped-query attention with G wide heads.

Source: Zadouri et al. (arXiv 2505.21487), section 3.3.
"""

import functools
from dataclasses import KW_ONLY, dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attention import checks, entries, kernels, long_context, rope
from attention.linear import fan_in_normal, linear
from attention.mixer import Mixer
from attention.norm import rms_norm

Params = dict[str, Array]


@dataclass(frozen=True)
class GroupedLatentConfig:
    """Sizes of one layer of grouped latent attention.

    Attributes:
        d_model, n_heads: d, width of the residual stream, and H, query heads.
        n_latents, latent_dim: G, latents per token, a divisor of H, and d_c, width of each.
        nope_dim, rope_dim, value_dim: d_n, d_r, d_v: plain, rotated, value dimensions of a head.
        rope_base, rope_layout, rope_scaling: of the rotated dimensions.
        norm_eps: of the norms of the latents.
        window: number of keys a query sees, itself included; None means all before it.
        kernel: as in `grouped.GroupedConfig`.
    """

    d_model: int = 128
    n_heads: int = 4
    n_latents: int = 2
    latent_dim: int = 32
    _: KW_ONLY
    nope_dim: int = 32
    rope_dim: int = 16
    value_dim: int = 32
    rope_base: float = 10_000.0
    rope_layout: rope.Layout = "interleaved"
    rope_scaling: rope.Scaling | None = None
    norm_eps: float = 1e-6
    window: int | None = None
    kernel: str | None = None

    def __post_init__(self):
        names = ("d_model", "n_heads", "n_latents", "latent_dim", "nope_dim", "rope_dim")
        checks.sizes(self, *names, "value_dim", "window")
        rope.check(self.rope_dim, self.rope_layout, self.rope_scaling, self.rope_base)
        kernels.check(self.kernel)
        if self.n_heads % self.n_latents:
            raise ValueError(
                f"n_latents: expected a divisor of n_heads = {self.n_heads}, got {self.n_latents}"
            )
        if not self.norm_eps >= 0:
            raise ValueError(f"norm_eps: expected at least 0, got {self.norm_eps}")

    @property
    def cache_elements(self) -> int:
        """Elements cached per token and layer, G d_c + d_r.

        Source: Zadouri et al. (arXiv 2505.21487), section 3.3.2, with one rotated key.
        """
        return self.n_latents * self.latent_dim + self.rope_dim

    @property
    def scale(self) -> float:
        """What scores are multiplied by, also absorbed."""
        return (self.nope_dim + self.rope_dim) ** -0.5 * long_context.score_factor(
            self.rope_scaling
        )


def init(key: Array, config: GroupedLatentConfig) -> Params:
    """Normal projections of standard deviation fan-in^(-1/2); gains of one."""
    c, both = config, config.nope_dim + config.value_dim
    shapes = {
        "query": (c.d_model, c.n_heads * (c.nope_dim + c.rope_dim)),
        "down": (c.d_model, c.cache_elements),
        "up": (c.latent_dim, c.n_heads * both),
        "output": (c.n_heads * c.value_dim, c.d_model),
    }
    params = fan_in_normal(key, shapes)
    up = params["up"].reshape(c.latent_dim, c.n_latents, -1).swapaxes(0, 1)
    return params | {"up": up, "norm": jnp.ones((c.n_latents, c.latent_dim))}


def rows(
    params: Params,
    x: Float[Array, "B T d"],
    positions: Int[Array, "B T"],
    config: GroupedLatentConfig,
) -> Float[Array, "B T w"]:
    """What is cached: the normalised latents, then the rotated key of all heads.

    Source: Zadouri et al. (arXiv 2505.21487), section 3.3.2; https://kexue.fm/archives/10091,
    equation 9, for each group.
    """
    c = config
    latents, key = jnp.split(linear(x, params["down"]), [c.n_latents * c.latent_dim], axis=-1)
    parts = latents.reshape(*x.shape[:2], c.n_latents, c.latent_dim)
    normed = rms_norm(parts, jnp.ones(c.latent_dim), c.norm_eps) * params["norm"].astype(x.dtype)
    key = rope.rotated(key, positions, c)
    return jnp.concatenate([normed.reshape(latents.shape), key], axis=-1)


def _split(found: Array, config: GroupedLatentConfig) -> tuple[Array, Array]:
    """Latents [B, G, S, d_c] and the key [B, 1, S, d_r]."""
    c = config
    latents, key = jnp.split(found, [c.n_latents * c.latent_dim], axis=-1)
    parts = latents.reshape(*found.shape[:2], c.n_latents, c.latent_dim).swapaxes(1, 2)
    return parts, key[:, None]


def _with(key: Array, plain: Array) -> Array:
    """Heads of keys with the rotated part that all share."""
    shape = (*plain.shape[:3], key.shape[-1])
    return jnp.concatenate([plain, jnp.broadcast_to(key, shape)], axis=-1)


def expand(
    params: Params, found: Float[Array, "B S w"], config: GroupedLatentConfig
) -> tuple[Array, Array]:
    """Keys [B, H, S, d_n + d_r] and values [B, H, S, d_v] of all heads.

    Source: Zadouri et al. (arXiv 2505.21487), section 3.3.2; https://kexue.fm/archives/10091,
    equation 9, for each group.
    """
    latents, key = _split(found, config)
    both = jnp.einsum("bgsc,gce->bsge", latents, params["up"].astype(found.dtype))
    both = both.reshape(*found.shape[:2], config.n_heads, -1).swapaxes(1, 2)
    plain, values = jnp.split(both, [config.nope_dim], axis=-1)
    return _with(key, plain), values


def _halves(params: Params, config: GroupedLatentConfig) -> tuple[Array, Array]:
    """W_UK and W_UV, [G, d_c, H / G, d_n] and [G, d_c, H / G, d_v]."""
    up = params["up"].reshape(*params["up"].shape[:2], config.n_heads // config.n_latents, -1)
    keys, values = jnp.split(up, [config.nope_dim], axis=-1)
    return keys, values


def absorbed_queries(
    params: Params,
    x: Float[Array, "B T d"],
    positions: Int[Array, "B T"],
    config: GroupedLatentConfig,
) -> Float[Array, "B H T d_c_and_d_r"]:
    """Queries for the latents themselves.

    Source: Zadouri et al. (arXiv 2505.21487), section 3.3.2; https://kexue.fm/archives/10091,
    equation 12, for each group.
    """
    q = entries.queries(params, x, positions, config)
    plain, rotated = jnp.split(q, [config.nope_dim], axis=-1)
    grouped = plain.reshape(len(x), config.n_latents, -1, *plain.shape[2:])
    keys = _halves(params, config)[0].astype(q.dtype)
    wide = jnp.einsum("bghtn,gchn->bghtc", grouped, keys)
    wide = wide.reshape(*plain.shape[:3], config.latent_dim)
    return jnp.concatenate([wide, rotated], axis=-1)


def as_they_are(
    params: Params, found: Float[Array, "B S w"], config: GroupedLatentConfig
) -> tuple[Array, Array]:
    """G heads of keys, the latents with the rotated part, and of values, the latents."""
    latents, key = _split(found, config)
    return _with(key, latents), latents


def release(
    params: Params,
    sums: Float[Array, "B H T d_c"],
    positions: Int[Array, "B T"],
    config: GroupedLatentConfig,
) -> Float[Array, "B H T d_v"]:
    """Sums of latents as sums of values.

    Source: Zadouri et al. (arXiv 2505.21487), section 3.3.2; https://kexue.fm/archives/10091,
    equation 12, for each group.
    """
    values = _halves(params, config)[1].astype(sums.dtype)
    grouped = sums.reshape(len(sums), config.n_latents, -1, *sums.shape[2:])
    found = jnp.einsum("bghtc,gchv->bghtv", grouped, values)
    return found.reshape(*sums.shape[:3], config.value_dim)


def _unchanged(params: Params, sums: Array, positions: Array) -> Array:
    return sums


@functools.lru_cache
def mixer(config: GroupedLatentConfig) -> Mixer:
    """The functions of one configuration: materialised sequences, absorbed single tokens."""
    whole = entries.Variant(
        init=functools.partial(init, config=config),
        queries=functools.partial(entries.queries, config=config),
        entries=functools.partial(rows, config=config),
        expand=functools.partial(expand, config=config),
        finish=_unchanged,
        heads=config.n_heads,
        width=config.cache_elements,
        scale=config.scale,
        window=config.window,
        kernel=config.kernel,
    )
    single = whole._replace(
        queries=functools.partial(absorbed_queries, config=config),
        expand=functools.partial(as_they_are, config=config),
        finish=functools.partial(release, config=config),
        heads=config.n_latents,
    )
    return entries.mixer(whole._replace(single=single))
