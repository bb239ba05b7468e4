"""Diffusion models in log-SNR: schedules, conversions, losses, samplers, bounds, metrics, laws.

Source: Su Jianlin's posts https://kexue.fm/archives/10047 and those after it.
"""

from diffusion import (
    distillation,
    edm,
    edm_samplers,
    exact,
    guidance,
    latent,
    likelihood,
    losses,
    metrics,
    partition,
    pooling,
    process,
    samplers,
    schedules,
    times,
    wavelet,
)
from diffusion.schedules import Schedule

__all__ = [
    "Schedule",
    "distillation",
    "edm",
    "edm_samplers",
    "exact",
    "guidance",
    "latent",
    "likelihood",
    "losses",
    "metrics",
    "partition",
    "pooling",
    "process",
    "samplers",
    "schedules",
    "times",
    "wavelet",
]
