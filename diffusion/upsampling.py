"""Upsample guidance: samples larger than those a denoiser was trained on, without training.

Notation
    z, lambda      diffused variable and log-SNR of the large array; alpha, sigma of it
    D, U, n        averages over cells, repetition, elements of a cell; m = sqrt(n)
    P              alpha^2 + sigma^2 / n, the variance that D z has where D x has 1
    ', w           of the small array D z / sqrt(P), whose log-SNR is lambda + log n; strength

D averages noise down to sigma / m, so that the small array is what the denoiser knows, at a higher
log-SNR. What it predicts there replaces the average of what it predicts of the large array:

    x    x_hat   + w U[x' - D x_hat]
    eps  eps_hat + w U[eps' / m - D eps_hat]
    v    v_hat   + w U[v' / (m sqrt(P)) - D v_hat - alpha sigma (1 - 1/n) / P D z]

With w = 1 and DDIM the average of the large sample is the sample of the small array: D z / sqrt(P)
follows its trajectory exactly. Details come from the denoiser on the large array.

Source: Hwang et al. (arXiv 2404.01709); https://kexue.fm/archives/10055, whose w is this less 1.
The forms in x and v and other dimensions are derived from that in eps.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion import levels, pooling, process
from diffusion.schedule import SLACK, whole

Denoiser = Callable[..., Array]
PREDICTIONS = ("eps", "x", "v")


def upsample(
    denoiser: Denoiser,
    factor: int,
    strength: Any = 1.0,
    prediction: str = "v",
    spatial_axes: tuple[int, ...] = (1, 2),
    *,
    interval: tuple[float, float] | None = None,
    trained: tuple[float, float] | None = None,
    match_time: bool = True,
    match_power: bool = True,
) -> Denoiser:
    """A denoiser of arrays `factor` times larger along each spatial axis.

    It calls `denoiser` on the large array and on the averaged one, 1 + 1/n calls; where guidance is
    off for the whole batch, on the large one alone. Log-SNR must be that of the large array.

    Args:
        denoiser: (z, logsnr [B][, condition]) -> prediction, for arrays of both sizes.
        factor: side of a cell in elements, along each axis; 1 changes nothing.
        strength: w, a number or one per example [B]; 0 is the denoiser itself, 1 replaces averages.
            The paper's w_t, there 1 to 1.2 in pixel space, 1 with a cut-off in a latent space.
        prediction: what the denoiser returns, and the result: "eps", "x" or "v".
        spatial_axes: of z, channels last: (1,), (1, 2) or (1, 2, 3).
        interval: lowest and highest log-SNR at which to guide, not traced. To guide during the
            first fraction eta of sampling only: (-inf, schedule(1 - eta)).
        trained: lowest and highest log-SNR that the denoiser was trained on. No guidance where that
            of the small array is higher; the small array is never shown at a level outside.
        match_time, match_power: False leaves log-SNR, or the variance, of the small array as that
            of the large one; for ablations, the paper's with "eps" alone: what is left out differs
            between predictions.

    Raises:
        ValueError: an unknown prediction, axes that are not all between the first and the last,
            sizes that are not multiples of factor, a strength that is no number, empty ranges,
            a trained range too narrow for the small array.

    Warns:
        UserWarning: the denoiser is a network that says it is bound to one size.

    Source: https://kexue.fm/archives/10055, equations 4, 5 and 10, whose w is this less 1, and 11
    by `interval`; Hwang et al. (arXiv 2404.01709). In x and v: derived from equation 10.
    """
    whole("factor", factor)
    n = factor ** len(spatial_axes)
    shift = math.log(n) if match_time else 0.0
    _check(prediction, interval, trained, shift)
    _check_number(strength)
    _warn(denoiser)
    if factor == 1:
        return denoiser

    def small(z: Array, logsnr: Array, condition: Any) -> tuple[Array, Array, Array, Array]:
        """What the denoiser predicts of the small array, that array, alpha * sigma and P."""
        place = process.spread(logsnr, z)
        alpha, sigma = process.alpha_sigma(place)
        power = alpha**2 + sigma**2 / n
        pooled = pooling.average(z, factor)
        given = (pooled / jnp.sqrt(power)).astype(z.dtype) if match_power else pooled
        level = logsnr + shift
        if trained is not None:
            level = jnp.clip(level, *trained)
        return levels.call(denoiser, given, level, condition), pooled, alpha * sigma, power

    def residual(z: Array, logsnr: Array, condition: Any, output: Array) -> Array:
        value, pooled, product, power = small(z, logsnr, condition)
        if prediction == "eps":
            value = value / math.sqrt(n)
        elif prediction == "v":
            value = value / jnp.sqrt(n * power) - product * (1.0 - 1.0 / n) / power * pooled
        return (value - pooling.average(output, factor)).astype(output.dtype)

    def guided(z: Array, logsnr: Any, condition: Any = None) -> Array:
        _check_axes(z, spatial_axes, factor)
        process.spread(logsnr, z)
        logsnr = jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1])
        output = levels.call(denoiser, z, logsnr, condition)
        weight = jnp.asarray(strength, output.dtype)
        _check_strength(strength, z.shape[:1])
        weight = jnp.broadcast_to(weight, z.shape[:1])
        weight = jnp.where(_inside(logsnr, interval, trained, shift), weight, 0.0)
        cells = (len(z), *(size // factor for size in z.shape[1:-1]), z.shape[-1])
        difference = jax.lax.cond(
            jnp.any(weight != 0.0),
            lambda: residual(z, logsnr, condition, output),
            lambda: jnp.zeros(cells, output.dtype),
        )
        weight = weight.reshape(-1, *(1,) * (z.ndim - 1))
        return output + pooling.nearest(weight * difference, factor)

    return guided


def _inside(logsnr: Array, interval: Any, trained: Any, shift: float) -> Array:
    """Where to guide; the small array lies `shift` above."""
    inside = jnp.ones(logsnr.shape, bool)
    if interval is not None:
        inside &= (logsnr >= interval[0]) & (logsnr <= interval[1])
    if trained is not None:
        slack = SLACK * (trained[1] - trained[0])
        inside &= logsnr + shift <= trained[1] + slack
    return inside


def _check(prediction: str, interval: Any, trained: Any, shift: float) -> None:
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction: expected one of {PREDICTIONS}, got {prediction!r}")
    for name, ends in (("interval", interval), ("trained", trained)):
        pair = isinstance(ends, tuple | list) and len(ends) == 2
        if ends is not None and not (pair and ends[0] < ends[1]):
            raise ValueError(f"{name}: expected a lower and a higher log-SNR, got {ends}")
    if trained is not None and trained[1] - trained[0] <= shift:
        raise ValueError(
            f"trained: expected log-SNR to range over more than {shift:.3g}, by which that of the "
            f"small array is higher, got {trained}"
        )


def _check_number(strength: Any) -> None:
    try:
        jnp.result_type(strength)
    except TypeError:
        raise ValueError(f"strength: expected a number, got {strength!r}") from None


def _check_strength(strength: Any, shape: tuple[int, ...]) -> None:
    if jnp.shape(strength) not in ((), shape):
        raise ValueError(f"strength: expected a number or {shape}, got {jnp.shape(strength)}")
    known = levels.concrete(strength)
    if known is not None and not np.isfinite(known).all():
        raise ValueError(f"strength: expected finite numbers, got {known}")


def _check_axes(z: Array, spatial_axes: tuple[int, ...], factor: int) -> None:
    if tuple(spatial_axes) != tuple(range(1, z.ndim - 1)):
        raise ValueError(
            f"spatial_axes: expected {tuple(range(1, z.ndim - 1))}, all between examples and "
            f"channels of {z.shape}, got {tuple(spatial_axes)}"
        )
    if any(size % factor for size in z.shape[1:-1]):
        raise ValueError(f"z: expected sizes that are multiples of {factor}, got {z.shape[1:-1]}")


def _warn(denoiser: Any) -> None:
    """Ask the network behind a bound method, a partial or a wrapper whether it fits other sizes."""
    reasons: tuple[str, ...] = ()
    while denoiser is not None and not reasons:
        reasons = getattr(getattr(denoiser, "__self__", denoiser), "size_bound", ())
        denoiser = getattr(denoiser, "func", getattr(denoiser, "__wrapped__", None))
    if reasons:
        warnings.warn(
            "upsample: the denoiser works differently on arrays of another size and may fail "
            f"there: {'; '.join(reasons)}",
            stacklevel=3,
        )
