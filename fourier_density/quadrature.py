"""Gauss-Legendre quadrature: over [-1, 1], and over the probability of a base distribution.

Notation
    delta  probability beyond a point, counted from the nearer tail: in (0, 1/2]
    tau    -log(2 delta) >= 0

An expectation over the base is the integral of f(u) d delta over both halves. In tau it is
smooth up to the ends, where f is only logarithmic or a power; panels of Gauss-Legendre
quadrature then converge quickly for every base.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

NODES = 16  # in a panel
NEAR = 8.0  # up to here panels follow the waves of the density; beyond there are none left

PHASE = 88.0  # radians of the fastest wave in a panel of 64 nodes: errors below 1e-13


def interval(order: int, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Nodes and weights [K] on [-1, 1] for a trigonometric polynomial times a smooth function.

    Args:
        order: of the polynomial; K is at most 2.3 order + 90.

    Source: Gauss and Legendre's rule, a standard method, panel by panel.
    """
    waves = np.pi * order + 32.0
    count = int(np.ceil(waves / PHASE))
    points, weights = np.polynomial.legendre.leggauss(64 if count > 1 else int(0.5 * waves) + 8)
    middles = (2.0 * np.arange(count) + 1.0) / count - 1.0
    x = (middles[:, None] + points / count).ravel()
    return jnp.asarray(x, dtype), jnp.asarray(np.tile(weights / count, count), dtype)


def halves(order: int, dtype: jnp.dtype) -> tuple[Array, Array, int]:
    """Nodes delta_j and weights of one half of the line.

    Args:
        order: of the density that multiplies the base.

    Returns:
        delta [K], weights [K] that sum to 1/2, and the number of nodes of the last panel.
    """
    last = 96.0 if dtype == jnp.float64 else 36.0  # as far as `transforms.solve` goes
    near = np.linspace(0.0, NEAR, max(48, 4 * (order + 1)) + 1)
    far = np.linspace(NEAR, last, 41)
    edges = np.concatenate([near, far[1:]])
    points, weights = np.polynomial.legendre.leggauss(NODES)
    half = 0.5 * np.diff(edges)[:, None]
    tau = (edges[:-1, None] + half * (1.0 + points)).ravel()
    delta = 0.5 * np.exp(-tau)
    return jnp.asarray(delta, dtype), jnp.asarray((half * weights).ravel() * delta, dtype), NODES
