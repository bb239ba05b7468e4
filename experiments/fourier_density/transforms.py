"""Transforms of learned compression: from points of the plane to latents, and back."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.fourier_density.points import banana

LATENTS = 2


class Transform(nn.Module):
    """A network [B, 2] -> [B, 2]: a linear map, plus two hidden layers that begin with nothing."""

    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        straight = nn.Dense(LATENTS, use_bias=False, name="straight")(x)
        for _ in range(2):
            x = nn.softplus(nn.Dense(self.hidden)(x))
        return straight + nn.Dense(LATENTS, kernel_init=nn.initializers.zeros)(x)


@functools.cache
def principal_axes() -> np.ndarray:
    """Of the banana, as columns, the narrow one first."""
    with jax.ensure_compile_time_eval():
        points = np.asarray(banana(jax.random.key(2**30), 100_000), np.float64)
    return np.linalg.eigh(np.cov(points.T))[1]


def init(keys: jax.Array, hidden: int, weight: float) -> dict[str, Any]:
    """Both transforms, from two keys.

    They begin as the source's principal axes, with the steps that are best for fine quantisation,
    where an error of step^2 / 12 costs lambda (`weight`) times as much, and half a step one bit:
    step^2 = 6 / (lambda log 2). From random weights single runs of every prior end in worse minima.
    """
    step, axes = np.sqrt(6.0 / (weight * np.log(2.0))), principal_axes()

    def begun(key: jax.Array, matrix: np.ndarray) -> Any:
        made = Transform(hidden).init(key, jnp.zeros((1, 2)))["params"]
        return {"params": {**made, "straight": {"kernel": jnp.asarray(matrix, jnp.float32)}}}

    return {"analysis": begun(keys[0], axes / step), "synthesis": begun(keys[1], axes.T * step)}
