"""What stands beside attention in a layer: SwiGLU, or experts, behind a norm; and dropout.

Source: SwiGLU of Shazeer (arXiv 2002.05202); experts as in `experts`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attention import experts
from attention.linear import linear
from attention.norm import rms_norm


def swiglu(params: dict[str, Array], x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """(silu(x W_gate) * x W_up) W_down.

    Source: Shazeer (arXiv 2002.05202).
    """
    gate = linear(x, params["gate"], params.get("gate_bias"))
    hidden = jax.nn.silu(gate) * linear(x, params["up"], params.get("up_bias"))
    return linear(hidden, params["down"], params.get("down_bias"))


def feed_forward(weights: dict[str, Any], x: Array, config: Any) -> Array:
    """What the feed-forward part of a layer, norm included, adds to the residual stream."""
    ffn, x = weights["ffn"], rms_norm(x, weights["ffn_norm"], config.norm_eps)
    if config.experts is None or "router" not in ffn:
        return swiglu(ffn, x)
    y = experts.apply(ffn, x, config.experts)
    return y + swiglu(ffn["shared"], x) if "shared" in ffn else y


def drop(key: Array | None, x: Array, rate: float) -> Array:
    """Dropout: zero with probability `rate`, else divided by 1 - rate; none without a key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)
