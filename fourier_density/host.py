"""Evaluation in float64 on the CPU, whatever device and precision are in use."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def in_float64(method: str, density: Any, *arguments: Any) -> np.ndarray:
    """density.method(*arguments) in double precision, whatever its parameters have.

    Raises:
        RuntimeError: JAX was told to do without the CPU.
    """
    try:
        (host, *_) = jax.devices("cpu")
    except RuntimeError as error:
        raise RuntimeError(
            "tables are made on the CPU: expected it among the platforms, such as "
            "JAX_PLATFORMS=cuda,cpu"
        ) from error
    with jax.enable_x64(True), jax.default_device(host):
        density = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), float), density)
        points = [jnp.asarray(np.asarray(argument), float) for argument in arguments]
        return np.asarray(_evaluate(method, density, *points))


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(method: str, density: Any, *arguments: jax.Array) -> jax.Array:
    return getattr(density, method)(*arguments)
