"""What the density experiments share: divergences, evaluation in float64."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fourier_density import PeriodicDensity


def divergence(p: np.ndarray, log_q: np.ndarray, weights: np.ndarray) -> float:
    """Kullback-Leibler divergence in nats by quadrature."""
    used = p > 1e-300
    return float(np.sum((weights * p)[used] * (np.log(p[used]) - log_q[used])))


def in_float64(method: str, density: Any, x: Any) -> np.ndarray:
    """density.method(x) in double precision, whatever that of the parameters."""
    with jax.enable_x64(True):
        density = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), float), density)
        return np.asarray(_evaluate(density, jnp.asarray(np.asarray(x), float), method))


@functools.partial(jax.jit, static_argnums=2)
def _evaluate(density: Any, x: jax.Array, method: str) -> jax.Array:
    return getattr(density, method)(x)


def shapes(order: int, points: int) -> tuple[Any, jax.ShapeDtypeStruct]:
    """Abstract arguments of a program: a density on the circle, and points."""
    density = jax.eval_shape(lambda: PeriodicDensity(jnp.ones(order + 1)))
    return density, jax.ShapeDtypeStruct((points,), jnp.float32)
