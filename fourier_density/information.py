"""Entropy and Kullback-Leibler divergence in closed form.

Notation
    gamma  circular moments gamma_1..gamma_N of p(x) = 1/2 + sum_n Re(gamma_n z^n)
    b      minimum-phase factor of (1, gamma_1, .., gamma_N): p = |B|^2 / 2
    kappa  cepstrum of b: log p = log(b_0^2 / 2) + 2 Re sum_m kappa_m z^m

The logarithm of p' has infinitely many Fourier coefficients, but p itself only N, so the
integral of p log p' involves only the first N of log p':

    E_p[log p'] = log(b'_0^2 / 2) + 2 Re sum_{m=1}^N kappa'_m conj(gamma_m)

No quadrature is involved, and a simple root of A on the circle, where log p is infinite, is no
special case. Next to a multiple root the factor cannot be found to full precision; there
the integral is a sum over points instead.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fourier_density import factorisation

POINTS = 1 << 13
BLOCK = 1 << 9  # held at a time, for every density of a batch


def expected_log(density: Any, other: Any) -> Array:
    """E_p[log p'] in nats for p = density and p' = other, two `PeriodicDensity`.

    Exact to rounding where the roots of p' are simple. At roots of A' of multiplicity m > 1
    the error is about 2 m p(root) / 8192, and far smaller where p has the same root, as in an
    entropy.

    Source: derived from https://kexue.fm/archives/10007, equation 14, by Parseval's identity.
    """
    moments = density.moment_parts()
    b = factorisation.factor_of_moments(*other.moment_parts(), exact=True)
    found = ~jnp.isnan(b[0][..., 0])
    trivial = jnp.eye(1, b[0].shape[-1], dtype=b[0].dtype)[0], jnp.zeros_like(b[1])
    b = tuple(jnp.where(found[..., None], *parts) for parts in zip(b, trivial, strict=True))
    kappa = factorisation.cepstrum(*b, moments[0].shape[-1])
    series = jnp.sum(kappa[0] * moments[0] + kappa[1] * moments[1], axis=-1)
    closed = jnp.log(0.5 * b[0][..., 0] ** 2) + 2.0 * series
    return jax.lax.cond(
        jnp.all(found), lambda: closed, lambda: jnp.where(found, closed, _sum(density, other))
    )


def _sum(density: Any, other: Any) -> Array:
    """Trapezoidal rule over a period.

    Shifting the points by a sixth of their distance makes it exact for the logarithm of
    |1 - z / r|^2 with a root r at a multiple of that distance: |1 - exp(i pi / 3)| = 1.
    """
    shape = jnp.broadcast_shapes(density.batch_shape, other.batch_shape)
    blocks = -(-max(POINTS, 64 * (max(density.order, other.order) + 1)) // BLOCK)
    count = blocks * BLOCK
    x = -1.0 + 2.0 * (jnp.arange(count, dtype=density.re.dtype) + 1.0 / 6.0) / count
    x = x.reshape(blocks, BLOCK, *(1,) * len(shape))

    def add(total: Array, x: Array) -> tuple[Array, None]:
        weight, value = density.prob(x), other.prob(x)
        positive = value > 0
        log_value = jnp.log(jnp.where(positive, value, jnp.finfo(value.dtype).tiny))
        return total + jnp.sum(weight * log_value, axis=0), None

    total, _ = jax.lax.scan(jax.checkpoint(add), jnp.zeros(shape, x.dtype), x)
    return total * (2.0 / count)
