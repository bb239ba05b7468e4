"""Mixture of experts: feed-forward networks of which each token passes through a few.

Notation
    d, f      model dimension, hidden width of an expert
    E, k      experts, those that a token passes through
    G, g      groups of E / G experts, those from which a token may choose
    N         tokens
    params    router [d, E]; gate and up [E, d, f], down [E, f, d]; correction [E] for sigmoid
              scores; shared {gate, up, down} for experts that every token passes through

    y = shared(x) + sum over the chosen e of p_e expert_e(x)

Scores are a softmax over all experts (DeepSeek-V2) or a sigmoid of each (V3), in float32 at least.
The g best groups are kept, ranked in V2 by their best expert, in V3 by the sum of their two best.
In V3 `correction`, adjusted in training to balance the load, affects the choice, not the weight.

For few tokens the weights of their experts are gathered; many tokens are sorted by expert and
multiplied in groups (`jax.lax.ragged_dot`), which on CPUs costs as much as all experts for all.

Source: DeepSeek-V2 (arXiv 2405.04434), section 2.2; DeepSeek-V3 (2412.19437), section 2.1.2.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attention import checks
from attention.linear import linear

SCORING = ("softmax", "sigmoid")


@dataclass(frozen=True)
class ExpertsConfig:
    """Experts of one layer.

    Attributes:
        n_experts: E, routed experts.
        chosen: k, experts of each token.
        d_ff: f, hidden width of an expert.
        shared_d_ff: hidden width of the shared expert that all tokens pass through; None for none.
        groups, chosen_groups: G groups of experts, g of them kept for a token; None for no groups.
        scoring: "softmax" over experts or "sigmoid" of each.
        normalise: whether the k weights are divided by their sum.
        scale: a factor on the weights, applied last.
    """

    n_experts: int = 8
    chosen: int = 2
    d_ff: int = 64
    _: KW_ONLY
    shared_d_ff: int | None = None
    groups: int | None = None
    chosen_groups: int | None = None
    scoring: str = "softmax"
    normalise: bool = False
    scale: int | float = 1.0

    def __post_init__(self):
        checks.sizes(self, "n_experts", "chosen", "d_ff", "shared_d_ff", "groups", "chosen_groups")
        if self.scoring not in SCORING:
            raise ValueError(f"scoring: expected one of {SCORING}, got {self.scoring!r}")
        if not self.scale > 0:
            raise ValueError(f"scale: expected more than 0, got {self.scale}")
        if (self.groups is None) != (self.chosen_groups is None):
            raise ValueError("groups, chosen_groups: expected both or neither")
        groups, kept = self.groups or 1, self.chosen_groups or 1
        if self.n_experts % groups or kept > groups:
            raise ValueError(
                f"groups, chosen_groups: expected a divisor of {self.n_experts} experts and at "
                f"most as many, got {groups}, {kept}"
            )
        size = self.n_experts // groups
        if self.chosen > kept * size:
            raise ValueError(
                f"chosen: expected at most {kept * size} experts of {kept} groups, got "
                f"{self.chosen}"
            )
        if self.scoring == "sigmoid" and self.groups is not None and size < 2:
            raise ValueError("groups: expected two experts or more in each with sigmoid scores")


def init(key: Array, d_model: int, config: ExpertsConfig) -> dict[str, Any]:
    """Normal matrices of standard deviation fan-in^(-1/2), no correction."""
    c, keys = config, jax.random.split(key, 7)

    def normal(key: Array, *shape: int) -> Array:
        return jax.random.normal(key, shape) * shape[-2] ** -0.5

    params: dict[str, Any] = {
        "router": normal(keys[0], d_model, c.n_experts),
        "gate": normal(keys[1], c.n_experts, d_model, c.d_ff),
        "up": normal(keys[2], c.n_experts, d_model, c.d_ff),
        "down": normal(keys[3], c.n_experts, c.d_ff, d_model),
    }
    if c.scoring == "sigmoid":
        params["correction"] = jnp.zeros(c.n_experts)
    if c.shared_d_ff is not None:
        params["shared"] = {
            "gate": normal(keys[4], d_model, c.shared_d_ff),
            "up": normal(keys[5], d_model, c.shared_d_ff),
            "down": normal(keys[6], c.shared_d_ff, d_model),
        }
    return params


def route(
    params: dict[str, Any], x: Float[Array, "N d"], config: ExpertsConfig
) -> tuple[Float[Array, "N k"], Int[Array, "N k"]]:
    """The router: weights of the k chosen experts of each token, and their indices.

    Softmax or sigmoid of x W; the k best of the g best groups, weighted by their scores.

    Source: DeepSeek-V2 (arXiv 2405.04434), equations 21 and 22 and section 2.2.2; DeepSeek-V3
    (arXiv 2412.19437), equations 13 to 16 and section 2.1.2.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    logits = linear(wide, params["router"])
    if config.scoring == "softmax":
        score = merit = jax.nn.softmax(logits)
    else:
        score = jax.nn.sigmoid(logits)
        merit = score + params["correction"].astype(score.dtype)
    if config.groups is not None and config.chosen_groups is not None:
        grouped = merit.reshape(len(merit), config.groups, -1)
        best = 1 if config.scoring == "softmax" else 2
        places = jax.lax.top_k(jax.lax.top_k(grouped, best)[0].sum(-1), config.chosen_groups)[1]
        kept = jnp.any(places[:, None] == jnp.arange(config.groups)[:, None], axis=-1)
        merit = jnp.where(kept[..., None], grouped, -jnp.inf).reshape(merit.shape)
    chosen = jax.lax.top_k(merit, config.chosen)[1]
    weights = jnp.take_along_axis(score, chosen, axis=-1)
    if config.normalise:
        weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
    return weights * config.scale, chosen


def mix(
    params: dict[str, Any],
    x: Float[Array, "N d"],
    weights: Float[Array, "N k"],
    chosen: Int[Array, "N k"],
) -> Float[Array, "N d"]:
    """Weighted sum over the chosen experts.

    sum_e p_e (silu(x gate_e) * x up_e) down_e.

    Source: DeepSeek-V2 (arXiv 2405.04434), equation 20, its second sum.
    """
    gate, up, down = (params[name].astype(x.dtype) for name in ("gate", "up", "down"))
    weights = weights.astype(x.dtype)
    if chosen.size <= len(gate):
        hidden = jax.nn.silu(jnp.einsum("nd,nkdf->nkf", x, gate[chosen]))
        hidden = hidden * jnp.einsum("nd,nkdf->nkf", x, up[chosen])
        return jnp.einsum("nkf,nkfd,nk->nd", hidden, down[chosen], weights)
    order = jnp.argsort(chosen.ravel())
    token, sizes = order // chosen.shape[1], jnp.bincount(chosen.ravel(), length=len(gate))
    rows, sizes = x[token], sizes.astype(jnp.int32)
    hidden = jax.nn.silu(jax.lax.ragged_dot(rows, gate, sizes))
    hidden = hidden * jax.lax.ragged_dot(rows, up, sizes)
    y = jax.lax.ragged_dot(hidden, down, sizes) * weights.ravel()[order][:, None]
    return jnp.zeros_like(x).at[token].add(y)


def apply(
    params: dict[str, Any], x: Float[Array, "*batch d"], config: ExpertsConfig
) -> Float[Array, "*batch d"]:
    """The routed experts' sum of every token; without the shared ones.

    Source: DeepSeek-V2 (arXiv 2405.04434), equation 20, its second sum.
    """
    flat = x.reshape(-1, x.shape[-1])
    return mix(params, flat, *route(params, flat, config)).reshape(x.shape)
