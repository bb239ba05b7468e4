"""A causal convolution of a few taps, channel by channel: what stands in front of gated mixers.

Notation
    B, L, H  batch, time, channels
    W        taps; the last one acts on the present sample
    params   weight [W, H], bias [H]

    y_l = sum_w weight_w u_{l - W + 1 + w} + bias

Source: Fu et al., H3 (arXiv 2212.14052); Gu and Dao, Mamba (2312.00752), section 3.4.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def init(key: Array, channels: int, width: int) -> dict[str, Array]:
    """Weights drawn uniformly from +-1/sqrt(W), biases of zero."""
    bound = width**-0.5
    weight = jax.random.uniform(key, (width, channels), minval=-bound, maxval=bound)
    return {"weight": weight, "bias": jnp.zeros(channels)}


def init_state(batch: int, channels: int, width: int, dtype: Any = None) -> Array:
    """The W - 1 inputs before the first step, zeros [B, W - 1, H]."""
    return jnp.zeros((batch, width - 1, channels), dtype)


def apply(params: dict[str, Array], u: Array, before: Array | None = None) -> Array:
    """The output [..., L, H] for a signal [..., L, H].

    Args:
        before: the W - 1 inputs before it [..., W - 1, H]; None for zeros.

    Source: Fu et al., H3 (arXiv 2212.14052); Mamba (arXiv 2312.00752).
    """
    width, length = params["weight"].shape[0], u.shape[-2]
    every = _joined(u, before, width)
    taps = params["weight"].astype(u.dtype)
    parts = (every[..., w : w + length, :] * taps[w] for w in range(width))
    return sum(parts, params["bias"].astype(u.dtype))


def prefill(
    params: dict[str, Array], u: Array, state: Array, lengths: Array
) -> tuple[Array, Array]:
    """The last inputs after `lengths[B]` steps of a padded signal [B, L, H], and the outputs."""
    every = _joined(u, state.astype(u.dtype), params["weight"].shape[0])
    places = lengths[:, None] + jnp.arange(state.shape[1])
    last = jnp.take_along_axis(every, places[..., None], axis=1)
    return last.astype(state.dtype), apply(params, u, state.astype(u.dtype))


def step(params: dict[str, Array], state: Array, u: Array) -> tuple[Array, Array]:
    """One step [B, H]: the last inputs, and the output.

    Source: Fu et al., H3 (arXiv 2212.14052); Mamba (arXiv 2312.00752).
    """
    every = jnp.concatenate([state, u[:, None].astype(state.dtype)], axis=1)
    y = jnp.sum(every.astype(u.dtype) * params["weight"].astype(u.dtype), axis=1)
    return every[:, 1:], y + params["bias"].astype(u.dtype)


def _joined(u: Array, before: Array | None, width: int) -> Array:
    if before is None:
        before = jnp.zeros((*u.shape[:-2], width - 1, u.shape[-1]), u.dtype)
    return jnp.concatenate([before, u], axis=-2)
