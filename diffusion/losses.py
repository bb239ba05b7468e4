"""Losses, one number per example, and weights for any prediction and distribution of log-SNR.

Notation
    lambda   log-SNR of an example, drawn with density p(lambda)
    w        weight of the squared error of eps, so that the loss is E w |eps - eps_hat|^2

Errors are means over the axes of an example. Nothing here averages over the batch.

    uniform   weight 1 of the squared error of the prediction `space`
    elbo      1 / (2 p): the variational bound, (1/2) int |eps - eps_hat|^2 dlambda
    edm       EDM's weight, as if log-SNR were drawn from EDM's distribution N(2.4, 2.4^2)
    min_snr   min(snr, gamma) / snr
    sigmoid   sigmoid(bias - lambda) / p

Source: Kingma & Gao (arXiv 2303.00848) for weights against a law of log-SNR; Karras et al.
(2206.00364); Hang et al. (2303.09556), min-SNR; Hoogeboom et al. (2301.11093), several scales.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion import edm, pooling, process
from diffusion.schedule import Schedule, within

Weighting = Literal["uniform", "elbo", "edm", "min_snr", "sigmoid"]


def weight(
    weighting: str,
    logsnr: Any,
    prediction: str = "eps",
    schedule: Schedule | None = None,
    *,
    space: str = "eps",
    gamma: float = 5.0,
    bias: float = 0.0,
    sigma_data: float = 0.5,
) -> Array:
    """The loss weight of the squared error of `prediction`, of the shape of logsnr.

    Args:
        schedule: the one that logsnr was drawn from, at uniform times; needed by elbo and sigmoid.
            For edm, None means that logsnr was drawn from EDM's own distribution.
        space: for uniform, the kind of prediction whose squared error has weight 1.
        gamma, bias, sigma_data: of min_snr; of sigmoid; of edm and of predictions "F".

    Raises:
        ValueError: unknown names, a schedule that is missing.

    Source: Kingma et al. (arXiv 2107.00630), equation 17, a mean over the axes of an example, for
    elbo; Karras et al. (2206.00364), table 1, for edm; Hang et al. (2303.09556) for min_snr; Kingma
    & Gao (2303.00848) for sigmoid.
    """
    process.check("prediction", prediction)
    logsnr = jnp.asarray(logsnr, jnp.result_type(float, logsnr))
    if weighting not in get_args(Weighting):
        raise ValueError(f"weighting: expected one of {get_args(Weighting)}, got {weighting!r}")
    if not gamma > 0:
        raise ValueError(f"gamma: expected a positive number, got {gamma}")
    if weighting == "uniform":
        process.check("space", space)
        return process.error_factor(logsnr, prediction, space, sigma_data)
    if weighting == "min_snr":
        of_eps = jnp.minimum(1.0, gamma * jnp.exp(-logsnr))
    elif weighting == "edm":
        of_x = edm.scalings(jnp.exp(-0.5 * logsnr), sigma_data).weight
        of_eps = of_x * jnp.exp(-logsnr)
        if schedule is not None:
            deviations = (logsnr - 2.4) / 2.4  # log sigma of EDM is N(-1.2, 1.2^2)
            law = jnp.exp(-0.5 * deviations**2) / (2.4 * math.sqrt(2.0 * math.pi))
            of_eps = of_eps * law / _density(schedule, logsnr, weighting)
    else:
        factor = 0.5 if weighting == "elbo" else jax.nn.sigmoid(bias - logsnr)
        of_eps = factor / _density(schedule, logsnr, weighting)
    return of_eps * process.error_factor(logsnr, prediction, "eps", sigma_data)


def _density(schedule: Schedule | None, logsnr: Array, weighting: str) -> Array:
    if schedule is None:
        raise ValueError(f"schedule: expected the one of logsnr for the weighting {weighting}")
    return schedule.density(within("logsnr", logsnr, *schedule.ends))


def target(
    x: Float[Array, "B ..."],
    eps: Float[Array, "B ..."],
    logsnr: Any,
    prediction: str,
    sigma_data: float = 0.5,
) -> Float[Array, "B ..."]:
    """The regression target of a kind of prediction, from x and eps, of their shape.

    Raises:
        ValueError: an unknown prediction.

    Source: as `process.convert`; Karras et al. (arXiv 2206.00364), equation 8, for F.
    """
    process.check("prediction", prediction)
    place = process.spread(logsnr, x)
    alpha, sigma = process.alpha_sigma(place)
    if prediction == "v":
        return (alpha * eps - sigma * x).astype(x.dtype)
    if prediction == "score":
        return (-eps / sigma).astype(x.dtype)
    if prediction == "F":  # (x - c_skip y) / c_out with y = x + s eps, without the cancellation
        level = jnp.exp(-0.5 * place)
        root = jnp.hypot(level, jnp.asarray(sigma_data, level.dtype))
        return ((level * x / sigma_data - sigma_data * eps) / root).astype(x.dtype)
    return eps if prediction == "eps" else x


def squared_error(
    prediction: Float[Array, "B ..."], truth: Float[Array, "B ..."]
) -> Float[Array, "B"]:
    """Squared error of each example, [B], a mean over its axes, in float32 at least.

    Raises:
        ValueError: shapes that differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction: expected the shape {truth.shape}, got {prediction.shape}")
    wide = jnp.promote_types(prediction.dtype, jnp.float32)
    error = jnp.square(prediction.astype(wide) - truth.astype(wide))
    return jnp.mean(error.reshape(error.shape[0], -1), axis=-1)


def denoising(
    output: Float[Array, "B ..."],
    x: Float[Array, "B ..."],
    eps: Float[Array, "B ..."],
    logsnr: Float[Array, "B"],
    prediction: str = "v",
    weighting: str = "uniform",
    schedule: Schedule | None = None,
    *,
    space: str = "eps",
    gamma: float = 5.0,
    bias: float = 0.0,
    sigma_data: float = 0.5,
) -> Float[Array, "B"]:
    """The weighted squared error of a network's output, one number per example.

    Args:
        output: of the network for z = alpha x + sigma eps, of the kind `prediction`.
        logsnr: of each example, as given to the network.
        weighting, schedule, space, gamma, bias: as in `weight`.

    Raises:
        ValueError: unknown names, a schedule that is missing, shapes that differ.

    Source: https://kexue.fm/archives/10047, equation 6, for eps and a weight of 1, a mean over
    channels too; Karras et al. (arXiv 2206.00364), equation 8, for F.
    """
    if not output.shape == x.shape == eps.shape:
        raise ValueError(
            f"output, x, eps: expected one shape, got {output.shape}, {x.shape}, {eps.shape}"
        )
    truth = target(x, eps, logsnr, prediction, sigma_data)
    options = {"gamma": gamma, "bias": bias, "sigma_data": sigma_data}
    factor = weight(weighting, logsnr, prediction, schedule, space=space, **options)
    return factor * squared_error(output, truth)


def multi_scale(
    eps: Float[Array, "B ..."], eps_hat: Float[Array, "B ..."], resolutions: Sequence[int]
) -> Float[Array, "B"]:
    """The sum over resolutions r of 1/r times the mean square of the residual pooled to r x r.

    Sources differ in what they divide by; this is this library's definition.

    Raises:
        ValueError: no resolution, one that does not divide the size, images that are not square.

    Source: https://kexue.fm/archives/10047, equation 7, a mean over channels too, weighted and
    summed as in Hoogeboom et al. (arXiv 2301.11093), section 3.2.
    """
    if eps.shape != eps_hat.shape:
        raise ValueError(f"eps_hat: expected the shape {eps.shape} of eps, got {eps_hat.shape}")
    if eps.ndim != 4 or eps.shape[2] != eps.shape[1]:
        raise ValueError(f"eps: expected square images [B, H, H, C], got {eps.shape}")
    size = eps.shape[1]
    if not resolutions or any(r < 1 or size % r for r in resolutions):
        raise ValueError(f"resolutions: expected divisors of {size}, got {tuple(resolutions)}")
    residual = (eps - eps_hat).astype(jnp.promote_types(eps.dtype, jnp.float32))
    scales = (jnp.square(pooling.average(residual, size // r)) / r for r in resolutions)
    return sum((jnp.mean(scale, axis=(1, 2, 3)) for scale in scales), jnp.zeros(len(eps)))
