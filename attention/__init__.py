"""Attention for language models: MHA, MQA, GQA, MLA, their caches, a decoder and generation.

Source: Su Jianlin's post https://kexue.fm/archives/10091.
"""

from attention import (
    accounting,
    cache,
    generation,
    grouped,
    kernels,
    latent,
    latent_cache,
    live,
    masks,
    norm,
    rope,
    scores,
    transformer,
)
from attention.accounting import cache_bytes
from attention.generation import generate
from attention.grouped import GroupedConfig
from attention.latent import LatentConfig
from attention.mixer import Mixer
from attention.transformer import TransformerConfig

__all__ = [
    "GroupedConfig",
    "LatentConfig",
    "Mixer",
    "TransformerConfig",
    "accounting",
    "cache",
    "cache_bytes",
    "generate",
    "generation",
    "grouped",
    "kernels",
    "latent",
    "latent_cache",
    "live",
    "masks",
    "norm",
    "rope",
    "scores",
    "transformer",
]
