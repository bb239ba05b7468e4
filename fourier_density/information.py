"""Entropy and Kullback-Leibler divergence in closed form.

Notation
    gamma  circular moments gamma_1..gamma_N of p(x) = 1/2 + sum_n Re(gamma_n z^n)
    b      minimum-phase factor of (1, gamma_1, .., gamma_N): p = |B|^2 / 2
    kappa  cepstrum of b: log p = log(b_0^2 / 2) + 2 Re sum_m kappa_m z^m

The logarithm of p has infinitely many Fourier coefficients, but p itself only N, so the
integral of p log p' meets the first N alone:

    E_p[log p'] = log(b'_0^2 / 2) + 2 Re sum_{m=1}^N kappa'_m conj(gamma_m)

No quadrature is involved, and a root of p on the circle, where log p is infinite, is no
special case.
"""

import jax.numpy as jnp
from jaxtyping import Array

from fourier_density import factorisation
from fourier_density.series import Pair


def expected_log(moments: Pair, other: Pair) -> Array:
    """E_p[log p'] in nats.

    Args:
        moments: gamma_1..gamma_N of p, parts [..., N].
        other: gamma'_1..gamma'_N' of p', parts [..., N'].
    """
    b = factorisation.factor_of_moments(*other)
    kappa = factorisation.cepstrum(*b, moments[0].shape[-1])
    series = jnp.sum(kappa[0] * moments[0] + kappa[1] * moments[1], axis=-1)
    return jnp.log(0.5 * b[0][..., 0] ** 2) + 2.0 * series
