"""Evaluation in float64 on the CPU, whatever device and precision are in use."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def in_float64(method: str, density: Any, *arguments: Any) -> np.ndarray:
    """density.method(*arguments) in double precision, whatever its parameters have."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        density = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), float), density)
        points = [jnp.asarray(np.asarray(argument), float) for argument in arguments]
        return np.asarray(_evaluate(method, density, *points))


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(method: str, density: Any, *arguments: jax.Array) -> jax.Array:
    return getattr(density, method)(*arguments)
