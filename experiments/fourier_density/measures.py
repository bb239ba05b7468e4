"""What the density experiments share: divergences, abstract arguments."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fourier_density import PeriodicDensity


def divergence(p: np.ndarray, log_q: np.ndarray, weights: np.ndarray) -> float:
    """Kullback-Leibler divergence in nats by quadrature."""
    used = p > 1e-300
    return float(np.sum((weights * p)[used] * (np.log(p[used]) - log_q[used])))


def shapes(order: int, points: int) -> tuple[Any, jax.ShapeDtypeStruct]:
    """Abstract arguments of a program: a density on the circle, and points."""
    density = jax.eval_shape(lambda: PeriodicDensity(jnp.ones(order + 1)))
    return density, jax.ShapeDtypeStruct((points,), jnp.float32)
