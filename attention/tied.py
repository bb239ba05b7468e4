"""Grouped-query attention whose values are, for the most part, its keys.

Notation
    K              groups, of H / K query heads each
    d_n, d_r       dimensions of a head that are not rotated, that are
    n, r, v        of a token and a group: plain [d_n] and rotated [d_r] numbers, values' own [d_r]
    params         query [d, H (d_n + d_r)], entry [d, w], output [H d_v, d]

    kind      keys     values    cached, w                of a token
    s1        [n, r]   [n, v]    K (d_n + 2 d_r)
    s2        [n, r]   [n, r]    K (d_n + d_r)            sums are rotated back by their position
    s3        [n, r]   n         K (d_n + d_r)            MLA as it decodes, for K = 1
    gta       [n, r]   [n, v]    K (d_n + d_r) + d_r      one r for all groups

Values that were rotated by their own position, and sums that are rotated back by that of the query,
depend on the distance alone (s2): a rotation of values and outputs.

Source: Su's posts https://kexue.fm/archives/10907 (parts III to V) and
https://kexue.fm/archives/10862 (the second kind of rotary embedding); Zadouri et al., grouped-tied
attention (arXiv 2505.21487).
"""

import functools
from dataclasses import KW_ONLY, dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attention import checks, entries, kernels, long_context, rope
from attention.linear import fan_in_normal, linear
from attention.mixer import Mixer

KINDS = ("s1", "s2", "s3", "gta")


@dataclass(frozen=True)
class TiedConfig:
    """Sizes of one layer of attention whose values are tied to its keys.

    Attributes:
        d_model, n_heads, n_kv_heads: d, H query heads, and K groups, a divisor of H.
        nope_dim, rope_dim: d_n and d_r, plain and rotated dimensions of a head.
        kind: "s1", "s2", "s3" or "gta": what keys and values share (table of the module).
        rope_base, rope_layout, rope_scaling: of the rotated dimensions.
        window: number of keys a query sees, itself included; None means all before it.
        kernel: as in `grouped.GroupedConfig`.
    """

    d_model: int = 128
    n_heads: int = 4
    n_kv_heads: int = 1
    _: KW_ONLY
    nope_dim: int = 48
    rope_dim: int = 16
    kind: str = "s2"
    rope_base: float = 10_000.0
    rope_layout: rope.Layout = "half"
    rope_scaling: rope.Scaling | None = None
    window: int | None = None
    kernel: str | None = None

    def __post_init__(self):
        checks.sizes(self, "d_model", "n_heads", "n_kv_heads", "nope_dim", "rope_dim", "window")
        rope.check(self.rope_dim, self.rope_layout, self.rope_scaling, self.rope_base)
        kernels.check(self.kernel)
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_kv_heads: expected a divisor of n_heads = {self.n_heads}, got {self.n_kv_heads}"
            )
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {KINDS}, got {self.kind!r}")

    @property
    def value_dim(self) -> int:
        """d_v."""
        return self.nope_dim if self.kind == "s3" else self.nope_dim + self.rope_dim

    @property
    def group_width(self) -> int:
        """Entries of a row that are of one group."""
        return self.nope_dim + (2 if self.kind == "s1" else 1) * self.rope_dim

    @property
    def cache_elements(self) -> int:
        """Elements cached per token and layer, w.

        Source: https://kexue.fm/archives/10907, parts III to V; Zadouri et al. (arXiv 2505.21487),
        section 3.3.1, for gta.
        """
        shared = self.rope_dim if self.kind == "gta" else 0
        return self.n_kv_heads * self.group_width + shared

    @property
    def scale(self) -> float:
        """What scores are multiplied by."""
        return (self.nope_dim + self.rope_dim) ** -0.5 * long_context.score_factor(
            self.rope_scaling
        )


def init(key: Array, config: TiedConfig) -> dict[str, Array]:
    """Normal projections with standard deviation fan-in^(-1/2)."""
    c = config
    shapes = {
        "query": (c.d_model, c.n_heads * (c.nope_dim + c.rope_dim)),
        "entry": (c.d_model, c.cache_elements),
        "output": (c.n_heads * c.value_dim, c.d_model),
    }
    return fan_in_normal(key, shapes)


def rows(
    params: dict[str, Array],
    x: Float[Array, "B T d"],
    positions: Int[Array, "B T"],
    config: TiedConfig,
) -> Float[Array, "B T w"]:
    """What is cached: of every group n, r and v as the kind has them; r last if it is shared.

    Source: https://kexue.fm/archives/10907, parts III (s1), IV (s2) and V (s3); Zadouri et al.
    (arXiv 2505.21487), section 3.3.1 (gta).
    """
    row, c = linear(x, params["entry"]), config
    grouped, shared = jnp.split(row, [c.n_kv_heads * c.group_width], axis=-1)
    if c.kind == "gta":
        return jnp.concatenate([grouped, rope.rotated(shared, positions, c)], axis=-1)
    parts = grouped.reshape(*row.shape[:2], c.n_kv_heads, -1)
    plain, r, own = jnp.split(parts, [c.nope_dim, c.nope_dim + c.rope_dim], axis=-1)
    r = rope.rotated(r.swapaxes(1, 2), positions[:, None], c).swapaxes(1, 2)
    return jnp.concatenate([plain, r, own], axis=-1).reshape(row.shape)


def expand(
    params: dict[str, Array], found: Float[Array, "B S w"], config: TiedConfig
) -> tuple[Array, Array]:
    """Keys [B, K, S, d_n + d_r] and values [B, K, S, d_v] of all groups.

    Source: https://kexue.fm/archives/10907, parts III (s1), IV (s2) and V (s3); Zadouri et al.
    (arXiv 2505.21487), section 3.3.1 (gta).
    """
    c = config
    grouped, shared = jnp.split(found, [c.n_kv_heads * c.group_width], axis=-1)
    parts = grouped.reshape(*found.shape[:2], c.n_kv_heads, -1).swapaxes(1, 2)
    plain, r, own = jnp.split(parts, [c.nope_dim, c.nope_dim + c.rope_dim], axis=-1)
    if c.kind == "gta":  # what stands behind n is the values' own
        key = jnp.broadcast_to(shared[:, None], (*plain.shape[:3], c.rope_dim))
        return jnp.concatenate([plain, key], axis=-1), parts
    keys = jnp.concatenate([plain, r], axis=-1)
    return keys, {"s1": jnp.concatenate([plain, own], axis=-1), "s2": keys, "s3": plain}[c.kind]


def finish(
    params: dict[str, Array],
    sums: Float[Array, "B H T d_v"],
    positions: Int[Array, "B T"],
    config: TiedConfig,
) -> Float[Array, "B H T d_v"]:
    """Weighted sums of values, in s2 rotated back by the position of their query.

    (sum_i a_ti r_i R_i) R_t^T = sum_i a_ti r_i R_(i-t), without the amplitude that YaRN gives to
    both rotations.

    Source: https://kexue.fm/archives/10907, part IV, and https://kexue.fm/archives/10862 (s2).
    """
    if config.kind != "s2":
        return sums
    plain, rotated = jnp.split(sums, [config.nope_dim], axis=-1)
    back = rope.rotated(rotated, -positions[:, None], config)
    return jnp.concatenate([plain, back / rope.amplitude(config.rope_scaling) ** 2], axis=-1)


@functools.lru_cache
def mixer(config: TiedConfig) -> Mixer:
    """The functions of one configuration."""
    return entries.mixer(
        entries.Variant(
            init=functools.partial(init, config=config),
            queries=functools.partial(entries.queries, config=config),
            entries=functools.partial(rows, config=config),
            expand=functools.partial(expand, config=config),
            finish=functools.partial(finish, config=config),
            heads=config.n_kv_heads,
            width=config.cache_elements,
            scale=config.scale,
            window=config.window,
            kernel=config.kernel,
        )
    )
