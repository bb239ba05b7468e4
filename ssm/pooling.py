"""One vector for a signal so far: the last step, or the mean of all, also as steps arrive.

A mean is carried on as a state: {"sum" [B, d], "count" [B]} of the steps so far.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array


def whole(kind: str, x: Array, lengths: Array | None = None) -> Array:
    """[B, T, d] to [B, d], over the first `lengths` steps of each signal, or all of them.

    Args:
        kind: "last" or "mean".
    """
    if lengths is None:
        return x[..., -1, :] if kind == "last" else jnp.mean(x, axis=-2)
    if kind == "last":
        return jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)[:, 0]
    counts = (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]
    return jnp.sum(jnp.where(counts, x, 0.0), axis=1) / lengths[:, None]


def init_state(batch: int, channels: int, dtype: Any = None) -> dict[str, Array]:
    """The mean's state before the first step."""
    wide = jnp.result_type(float) if dtype is None else dtype
    total = jnp.zeros((batch, channels), jnp.promote_types(wide, jnp.float32))
    return {"sum": total, "count": jnp.zeros(batch, jnp.int32)}


def prefixes(
    state: dict[str, Array], x: Array, lengths: Array | None = None
) -> tuple[dict[str, Array], Array]:
    """The state after `lengths` of the steps x [B, T, d], and the means up to each, [B, T, d]."""
    total = state["sum"][:, None] + jnp.cumsum(x, axis=1)
    count = state["count"][:, None] + jnp.arange(1, x.shape[1] + 1)
    read = jnp.full(x.shape[:1], x.shape[1]) if lengths is None else lengths
    every = jnp.concatenate([state["sum"][:, None], total], axis=1)
    last = jnp.take_along_axis(every, read[:, None, None], axis=1)[:, 0]
    after = {"sum": last, "count": state["count"] + read.astype(jnp.int32)}
    return after, total / count[..., None]


def step(state: dict[str, Array], x: Array) -> tuple[dict[str, Array], Array]:
    """The state and the mean [B, d] after one step x [B, d]."""
    state = {"sum": state["sum"] + x, "count": state["count"] + 1}
    return state, state["sum"] / state["count"][:, None]
