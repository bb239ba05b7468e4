"""Norms over channels, and over batch and time, as functions of their weights.

Notation
    x        [..., d]
    weights  gain [d]; bias [d] but for "rms"; of "batch" also mean, variance [d], running

A batch norm uses the statistics of the batch in training and the running ones otherwise, which
makes it a fixed affine map that streams. Running statistics are parameters whose gradient is
*defined* as what they are off by, running - batch: gradient descent with rate 0.1 on them (see
`is_statistic`) is the usual running mean, and training stays a function of parameters alone.

Source: Ioffe and Szegedy, Batch Normalization (arXiv 1502.03167), algorithms 1 and 2.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

NORMS = ("layer", "rms", "batch")
EPSILON = 1e-5


def init(kind: str, channels: int) -> dict[str, Array]:
    """Weights that change nothing but the scale."""
    weights = {"gain": jnp.ones(channels)}
    if kind != "rms":
        weights["bias"] = jnp.zeros(channels)
    if kind == "batch":
        weights |= {"mean": jnp.zeros(channels), "variance": jnp.ones(channels)}
    return weights


def apply(
    weights: dict[str, Array], x: Array, counts: Array | None = None, *, train: bool = False
) -> Array:
    """LayerNorm, RMSNorm or batch norm, by the weights there are.

    Args:
        x: [..., d].
        counts: boolean [..., 1], the steps that a batch norm's statistics include; None for all.
        train: whether a batch norm uses the statistics of the batch, or the running ones.

    Source: Ba, Kiros, Hinton, "Layer normalization" (2016); Zhang, Sennrich (arXiv 1910.07467),
    RMSNorm; Ioffe, Szegedy (arXiv 1502.03167), algorithms 1 and 2.
    """
    if "variance" in weights:
        mean, variance = _followed(weights, x, counts) if train else _running(weights)
        x = (x - mean) * jax.lax.rsqrt(variance + EPSILON)
    else:
        if "bias" in weights:
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON)
    return x * weights["gain"] + weights.get("bias", 0.0)


def is_statistic(params: Any) -> Any:
    """A tree of booleans: which leaves are running statistics of batch norms."""

    def statistic(path: Any, _: Any) -> bool:
        names = [str(getattr(part, "key", "")) for part in path]
        return len(names) > 1 and names[-2] == "norm" and names[-1] in ("mean", "variance")

    return jax.tree.map_with_path(statistic, params)


def _running(weights: dict[str, Array]) -> tuple[Array, Array]:
    return weights["mean"], weights["variance"]


def _followed(weights: dict[str, Array], x: Array, counts: Array | None) -> tuple[Array, Array]:
    """The batch's mean and variance, which the running ones follow."""
    axes = tuple(range(x.ndim - 1))
    where = None if counts is None else jnp.broadcast_to(counts, x.shape)
    mean = jnp.mean(x, axis=axes, where=where)
    variance = jnp.mean((x - mean) ** 2, axis=axes, where=where)
    # The running variance estimates that of the law, the batch's divides by all its steps.
    steps = x.size // x.shape[-1] if counts is None else jnp.sum(where[..., 0])  # pyright: ignore[reportOptionalSubscript]
    unbiased = variance * steps / jnp.maximum(steps - 1, 1)
    mean = _follow(mean, weights["mean"], jax.lax.stop_gradient(mean))
    return mean, _follow(variance, weights["variance"], jax.lax.stop_gradient(unbiased))


@jax.custom_vjp
def _follow(used: Array, running: Array, seen: Array) -> Array:
    del running, seen
    return used


def _forward(used: Array, running: Array, seen: Array) -> tuple[Array, tuple[Array, Array]]:
    return used, (running, seen)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array, Array]:
    running, seen = saved
    return gradient, (running - seen).astype(running.dtype), jnp.zeros_like(seen)


_follow.defvjp(_forward, _backward)
