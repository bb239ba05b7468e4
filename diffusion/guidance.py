"""Guidance: functions from denoiser to denoiser, so that they nest; `upsample` is one more.

A denoiser is (z [B, ...], logsnr [B], condition) -> prediction.

Source: Ho & Salimans (arXiv 2207.12598); Kynkaanniemi et al. (2404.07724) for the interval.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion import levels
from diffusion.upsampling import upsample

__all__ = ["classifier_free", "upsample"]

Denoiser = Callable[..., Array]


def classifier_free(
    denoiser: Denoiser,
    scale: Any,
    unconditional: Any,
    interval: tuple[float, float] | None = None,
) -> Denoiser:
    """Unconditional + scale * (conditional - unconditional).

    Args:
        denoiser: with a condition [B, ...], or a pytree of them; called once, on twice the batch.
        scale: a number, or one per example [B]; 1 is conditional, 0 unconditional.
        unconditional: the null condition of training, without the batch axis.
        interval: lowest and highest log-SNR between which to guide; outside, the scale is 1. For
            `samplers.sample_edm`, guide the log-SNR denoiser, then use `process.edm_denoiser`.

    Raises:
        ValueError: no unconditional branch, an interval that is empty; later, conditions of another
            number of examples.

    Source: Ho & Salimans (arXiv 2207.12598), equation 6, with scale = 1 + w; Kynkaanniemi et al.
    (2404.07724), the interval.
    """
    if unconditional is None:
        raise ValueError(
            "unconditional: expected the condition that was trained as none, got None; a denoiser "
            "without an unconditional branch cannot be guided by its condition"
        )
    if interval is not None and not interval[0] < interval[1]:
        raise ValueError(f"interval: expected a lower and a higher log-SNR, got {interval}")

    def guided(z: Array, logsnr: Array, condition: Any) -> Array:
        if condition is None:
            raise ValueError("condition: expected one to guide by, got None")

        def twice(given: Any, none: Any) -> Array:
            given, none = jnp.asarray(given), jnp.asarray(none)
            if given.shape[:1] != z.shape[:1]:
                raise ValueError(
                    f"condition: expected one for each of {len(z)} examples, got {given.shape}"
                )
            if jnp.issubdtype(given.dtype, jnp.integer) and not _held(none, given.dtype):
                raise ValueError(
                    f"unconditional: expected what {given.dtype} conditions can hold, got {none}"
                )
            none = jnp.broadcast_to(none.astype(given.dtype), given.shape)
            return jnp.concatenate([given, none])

        both = jax.tree.map(twice, condition, unconditional)
        logsnr = jnp.broadcast_to(jnp.asarray(logsnr), z.shape[:1])
        output = denoiser(jnp.concatenate([z, z]), jnp.concatenate([logsnr, logsnr]), both)
        with_, without = jnp.split(output, 2)
        strength = jnp.asarray(scale, output.dtype)
        if strength.shape not in ((), z.shape[:1]):
            raise ValueError(f"scale: expected a number or {z.shape[:1]}, got {strength.shape}")
        if interval is not None:
            inside = (logsnr >= interval[0]) & (logsnr <= interval[1])
            strength = jnp.where(inside, strength, 1.0).astype(output.dtype)
        if strength.ndim:
            strength = strength.reshape(-1, *(1,) * (z.ndim - 1))
        return without + strength * (with_ - without)

    return guided


def _held(value: Array, dtype: Any) -> bool:
    """Whether a type of whole numbers holds a value, as far as it is known."""
    known, limits = levels.concrete(value), jnp.iinfo(dtype)
    inside = known is None or bool(((known >= limits.min) & (known <= limits.max)).all())
    return inside and jnp.issubdtype(value.dtype, jnp.integer)
