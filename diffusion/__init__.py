"""Diffusion models in log-SNR: schedules, conversions, losses, samplers, bounds, metrics, laws.

Source: Su Jianlin's posts https://kexue.fm/archives/10047 and those after it.
"""

from diffusion import (
    autoencoder,
    diffusers_unet,
    distillation,
    edm,
    edm_samplers,
    exact,
    guidance,
    latent,
    layers,
    likelihood,
    losses,
    metrics,
    partition,
    pooling,
    process,
    samplers,
    schedules,
    times,
    unet,
    uvit,
    wavelet,
)
from diffusion.schedules import Schedule

__all__ = [
    "Schedule",
    "autoencoder",
    "diffusers_unet",
    "distillation",
    "edm",
    "edm_samplers",
    "exact",
    "guidance",
    "latent",
    "layers",
    "likelihood",
    "losses",
    "metrics",
    "partition",
    "pooling",
    "process",
    "samplers",
    "schedules",
    "times",
    "unet",
    "uvit",
    "wavelet",
]
