"""The two ends of a decoder: tokens in, logits out.

Source: Touvron et al., Llama (arXiv 2302.13971).
"""

import contextlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attention import checks
from attention.linear import linear
from attention.norm import rms_norm


def embed(params: dict[str, Any], tokens: Array, config: Any, axes: str = "BT") -> Array:
    """The embeddings of tokens.

    Raises:
        ValueError: tokens of another rank, or no whole numbers; known ones outside the vocabulary
            (NaN where traced).
    """
    tokens = jnp.asarray(tokens)
    if tokens.ndim != len(axes) or not tokens.size:
        raise ValueError(f"tokens: expected some [{', '.join(axes)}], got shape {tokens.shape}")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens: expected whole numbers, got {tokens.dtype}")
    outside = (tokens < 0) | (tokens >= config.vocab_size)
    with contextlib.suppress(*checks.Untraceable):
        worst = np.asarray(tokens)[np.asarray(outside)]
        if worst.size:
            raise ValueError(f"tokens: expected values in [0, {config.vocab_size}), got {worst[0]}")
    x = params["embedding"][tokens]
    return jnp.where(outside[..., None], jnp.nan, x)


def unembed(
    params: dict[str, Any], x: Float[Array, "... d"], config: Any, dtype: Any = None
) -> Array:
    """Logits [..., V] of the normalised residual stream, in its dtype by default."""
    x = rms_norm(x, params["final_norm"], config.norm_eps)
    head = params["embedding"].T if config.tie_embeddings else params["head"]
    return linear(x, head, dtype=dtype)


def final(x: Array, lengths: Array | None) -> Array:
    """The last live position of each example of x [B, T, d], all T live by default: [B, d]."""
    if lengths is None:
        return x[:, -1]
    return jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]
