"""Noise levels of score identity distillation, what it does to normal laws there, and a guard.

Two normal laws show what happens: the teacher's of deviation tau, the generator's of theta. With

    kappa = tau^2 / (tau^2 + s^2) - theta^2 / (theta^2 + s^2)

the gradient in theta is 2 theta kappa (a - 1 - alpha kappa), a = tau^2 / (tau^2 + s^2), that of L1
alone 2 theta kappa^2: never negative, so that gradient descent always shrinks theta. For 0 <= alpha
<= 1 theta converges to tau from any start; for alpha > 1, at one noise level, only from below
sqrt((s^2 + alpha tau^2) / (alpha - 1)).

In the mean over levels that width is larger (`threshold`), but two networks in turns need not
follow the mean of a loss: widths that jump about are seen earlier.

Source: derived from Zhou et al. (arXiv 2404.04057), algorithm 1; https://kexue.fm/archives/10085.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion import schedule


def generator_sigma(
    u: Any,
    t_max: float = 0.8,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Array:
    """Noise levels for the generator's loss of uniform numbers u in [0, 1], of the shape of u.

    (sigma_max^(1/rho) + (1 - t) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho with t = t_max u: even
    in EDM's steps, from sigma_min up to 24.4 for the paper's t_max.

    Raises:
        ValueError: levels that do not rise, t_max outside (0, 1], u outside [0, 1].

    Source: Zhou et al. (arXiv 2404.04057), algorithm 1, with t_max / 1000 for theirs; Karras et al.
    (2206.00364), equation 5.
    """
    if not (0 < sigma_min < sigma_max and rho > 0 and 0 < t_max <= 1):
        raise ValueError(
            "t_max, sigma_min, sigma_max, rho: expected 0 < t_max <= 1, 0 < sigma_min < sigma_max, "
            f"rho > 0, got {t_max}, {sigma_min}, {sigma_max}, {rho}"
        )
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return (first + (1.0 - t_max * schedule.within("u", u, 0.0, 1.0)) * (last - first)) ** rho


def threshold(alpha: float, sigma: Any = 0.0, tau: float = 1.0) -> float:
    """Standard deviation above which a normal generator diverges; the normal teacher's is tau.

    At one noise level sqrt((sigma^2 + alpha tau^2) / (alpha - 1)), least for sigma = 0; infinite
    for alpha <= 1. For levels [n], that of the mean loss over them, weighted by w in the limit of
    many dimensions; it is larger, because fine levels, where divergence starts, hardly count.

    Source: derived from https://kexue.fm/archives/10085, equations 4 and 9, for normal laws, with
    the weight of Zhou et al. (arXiv 2404.04057), algorithm 1.
    """
    if alpha <= 1:
        return math.inf
    levels = np.atleast_1d(np.asarray(sigma, np.float64))
    if np.ndim(sigma) == 0:
        return math.sqrt((float(levels[0]) ** 2 + alpha * tau**2) / (alpha - 1))

    def rises(theta: float) -> bool:
        gain = tau**2 / (tau**2 + levels**2)
        kappa = gain - theta**2 / (theta**2 + levels**2)
        slope = 2.0 * theta * kappa * (gain - 1.0 - alpha * kappa)
        return float(np.mean(slope / np.hypot((1.0 - gain) * theta, gain * levels))) < 0.0

    low, high = tau, 2.0 * tau
    while not rises(high):
        low, high = high, 2.0 * high
        if high > 1e9 * tau:
            return math.inf
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if rises(middle) else (middle, high)
    return 0.5 * (low + high)


def diagnose(
    deviation: float,
    reference: float,
    alpha: float = 1.0,
    least: float = 0.25,
    most: float = 2.0,
    *,
    naive: bool = False,
) -> str | None:
    """What is wrong with a generator, or None: a guard for training loops, on the host.

    Args:
        deviation: root of the mean over elements of their variance over generated arrays.
        reference: the same of the teacher's data.
        alpha: of the loss, for advice that refers to its `threshold`.
        least, most: ratios of deviation to reference below and above which training has failed. A
            generator starts narrow, as the teacher's mean given noise; wait some hundred steps.
        naive: whether the loss is L1 alone.

    Raises:
        ValueError: a reference that is not positive.
    """
    if not reference > 0:
        raise ValueError(f"reference: expected a positive deviation, got {reference}")
    share = deviation / reference
    if not math.isfinite(share):
        return "diverged: generated arrays are not finite; lower the learning rates"
    if share > most:
        advice = "lower the learning rates, or let the fake denoiser learn faster"
        if alpha > 1 and not naive:
            levels = np.asarray(generator_sigma(np.linspace(0.0, 1.0, 999)))
            advice = (
                f"with alpha = {alpha:g} normal laws run away from {threshold(alpha):.3g} times "
                f"the teacher's width on at the finest noise, from {threshold(alpha, levels):.3g} "
                "on in the mean over all: lower alpha to 1"
            )
        return (
            f"diverged: generated arrays are {share:.3g} times as wide as the teacher's; {advice}"
        )
    if share < least:
        advice = "lower the learning rates, or let the fake denoiser learn faster"
        if naive:
            advice = (
                "the loss |f - p|^2 alone makes every law narrower, use the identity's with alpha "
                "near 1"
            )
        return (
            f"collapsed: generated arrays are {share:.3g} times as wide as the teacher's; {advice}"
        )
    return None


def gaussian_gradient(theta: Any, tau: Any, sigma: Any, alpha: Any) -> Array:
    """Derivative of E[L2 - alpha L1] by the generator's deviation theta, an element, with p optimal
    and standing still, for normal laws of deviations theta and tau around one mean.

    Source: derived from https://kexue.fm/archives/10085, equations 4 and 9, in x instead of eps,
    for normal laws.
    """
    theta, tau, sigma = (jnp.asarray(value, float) for value in (theta, tau, sigma))
    gain = tau**2 / (tau**2 + sigma**2)
    kappa = gain - theta**2 / (theta**2 + sigma**2)
    return 2.0 * theta * kappa * (gain - 1.0 - alpha * kappa)
