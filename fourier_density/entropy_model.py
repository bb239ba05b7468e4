"""Densities as entropy models: bits of quantised values, and of noisy ones in training.

Notation
    y        latent values of any shape, with density p
    step     width of a bin, 1 by default
    u        uniform noise in [-step/2, step/2)
    s_alpha  soft rounding; the identity for alpha = 0, rounding for alpha to infinity

Rounding has no useful gradient. Learned compression therefore trains on y + u, whose density at v
times `step` is the mass of the bin around v, so that one function serves noisy and rounded values:

    bits(v) = -log2 P(v - step/2 <= Y <= v + step/2)

Coding rounds instead of adding noise. Soft rounding before the noise, v = s_alpha(y) + u, closes
the gap; the bin is then (for step 1) from s_alpha^{-1}(v - 1/2) to s_alpha^{-1}(v + 1/2).

Densities are anything with `log_interval_prob(lower, upper)`: those of this package, and
`deep_factorized.DeepFactorized`.

Source: Balle, Laparra, Simoncelli (arXiv 1611.01704) for the noise; Agustsson, Theis, "Universally
Quantized Neural Compression" (arXiv 2006.09952) for soft rounding.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from fourier_density import checks

LEAST_ALPHA = 0.01  # below it s_alpha differs from the identity by less than 2e-6


def log_bin_prob(
    density: Any,
    v: Any,
    *,
    step: float = 1.0,
    alpha: Any = None,
    low: float | None = None,
    high: float | None = None,
) -> Array:
    """Log probability in nats of the bin around v: log(step times the density of y + u at v).

    Args:
        density: of y; its batch shape broadcasts against v.
        v: noisy, softly rounded and noisy, or rounded values.
        step: width of the bins.
        alpha: sharpness of the soft rounding that preceded the noise; None for none.
        low, high: smallest and largest level of data with few levels on the line: the bins of
            these two extend to infinity. None for no such level.

    Raises:
        ValueError: a step that is not positive, a negative alpha.

    Source: Balle, Laparra, Simoncelli (arXiv 1611.01704); with alpha Agustsson, Theis
    (arXiv 2006.09952).
    """
    _check(step, alpha)
    v, half = jnp.asarray(v, jnp.result_type(float)), 0.5 * step
    lower, upper = v - half, v + half
    if alpha is not None:
        lower, upper = (step * soft_round_inverse(end / step, alpha) for end in (lower, upper))
    if low is not None:
        lower = jnp.where(v <= low, -jnp.inf, lower)
    if high is not None:
        upper = jnp.where(v >= high, jnp.inf, upper)
    return density.log_interval_prob(lower, upper)


def bits(density: Any, v: Any, *, step: float = 1.0, alpha: Any = None) -> Array:
    """-log2 of the probability of the bin around v. Arguments and errors as `log_bin_prob`.

    Source: Balle, Laparra, Simoncelli (arXiv 1611.01704).
    """
    return -log_bin_prob(density, v, step=step, alpha=alpha) / np.log(2.0)


def add_noise(key: Key[Array, ""], y: Array, *, step: float = 1.0, alpha: Any = None) -> Array:
    """s_alpha(y) + u: what stands for the rounded value in training.

    Raises:
        ValueError: a step that is not positive, a negative alpha.

    Source: Balle, Laparra, Simoncelli (arXiv 1611.01704); with alpha Agustsson, Theis
    (arXiv 2006.09952).
    """
    _check(step, alpha)
    if alpha is not None:
        y = step * soft_round(y / step, alpha)
    return y + step * jax.random.uniform(key, y.shape, y.dtype, -0.5, 0.5)


def quantise(y: Array, *, step: float = 1.0, offset: Any = 0.0) -> Array:
    """The middle offset + k step, k an integer, of the bin that y is in.

    Raises:
        ValueError: a step that is not positive.
    """
    _check(step)
    return offset + step * jnp.round((y - offset) / step)


def soft_round(y: Array, alpha: Any) -> Array:
    """s_alpha(y) = floor(y) + 1/2 + tanh(alpha r) / (2 tanh(alpha / 2)), r = y - floor(y) - 1/2.

    Args:
        y: any shape.
        alpha: sharpness >= 0, broadcast against y.

    Raises:
        ValueError: a negative alpha.

    Source: Agustsson, Theis (arXiv 2006.09952), section 4.1.
    """
    sharp, alpha = _sharp(alpha)
    middle = jnp.floor(y) + 0.5
    rounded = middle + 0.5 * jnp.tanh(alpha * (y - middle)) / jnp.tanh(0.5 * alpha)
    return jnp.where(sharp, rounded, y)


def soft_round_inverse(v: Array, alpha: Any) -> Array:
    """The y with s_alpha(y) = v.

    Raises:
        ValueError: a negative alpha.

    Source: Agustsson, Theis (arXiv 2006.09952), section 4.1.
    """
    sharp, alpha = _sharp(alpha)
    middle = jnp.floor(v) + 0.5
    # At whole numbers the argument is -tanh(alpha / 2), which rounds to -1 for large alpha.
    most = 1.0 - jnp.finfo(v.dtype).eps
    slope = jnp.clip(2.0 * jnp.tanh(0.5 * alpha) * (v - middle), -most, most)
    r = jnp.clip(jnp.arctanh(slope) / alpha, -0.5, 0.5)
    return jnp.where(sharp, middle + r, v)


def soft_round_mean(v: Array, alpha: Any) -> Array:
    """E[y | v = s_alpha(y) + u] for a flat prior on y: s_alpha^{-1}(v - 1/2) + 1/2.

    The decoder's reconstruction, in place of v, in Agustsson and Theis (step 1).

    Raises:
        ValueError: a negative alpha.

    Source: Agustsson, Theis (arXiv 2006.09952), section 4.1.
    """
    return soft_round_inverse(v - 0.5, alpha) + 0.5


def _sharp(alpha: Any) -> tuple[Array, Array]:
    """Where rounding is to be told from the identity, and a safe value of alpha elsewhere."""
    _check(alpha=alpha)
    alpha = jnp.asarray(alpha, jnp.result_type(float))
    sharp = alpha > LEAST_ALPHA
    return sharp, jnp.where(sharp, alpha, 1.0)


def _check(step: Any = 1.0, alpha: Any = None) -> None:
    """Refuse what is known not to be a width or a sharpness; traced values are not looked at."""
    width, sharpness = checks.concrete(step), None if alpha is None else checks.concrete(alpha)
    if width is not None and not np.all((width > 0) & np.isfinite(width)):
        raise ValueError(f"step: expected a positive width of bins, got {step}")
    if sharpness is not None and not np.all(sharpness >= 0):
        raise ValueError(f"alpha: expected a sharpness of at least 0, got {alpha}")
