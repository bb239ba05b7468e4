"""Attention for language models: MHA, MQA, GQA, MLA, their caches, a decoder and generation.

Source: Su Jianlin's post https://kexue.fm/archives/10091.
"""

from attention import (
    accounting,
    cache,
    checkpoints,
    convert,
    entries,
    experts,
    generation,
    grouped,
    grouped_latent,
    kernels,
    latent,
    latent_cache,
    live,
    long_context,
    masks,
    norm,
    partition,
    rope,
    saving,
    scores,
    tied,
    transformer,
)
from attention.accounting import cache_bytes
from attention.checkpoints import load_pretrained
from attention.experts import ExpertsConfig
from attention.generation import generate
from attention.grouped import GroupedConfig
from attention.grouped_latent import GroupedLatentConfig
from attention.latent import LatentConfig
from attention.mixer import Mixer
from attention.saving import save_pretrained
from attention.tied import TiedConfig
from attention.transformer import TransformerConfig

__all__ = [
    "ExpertsConfig",
    "GroupedConfig",
    "GroupedLatentConfig",
    "LatentConfig",
    "Mixer",
    "TiedConfig",
    "TransformerConfig",
    "accounting",
    "cache",
    "cache_bytes",
    "checkpoints",
    "convert",
    "entries",
    "experts",
    "generate",
    "generation",
    "grouped",
    "grouped_latent",
    "kernels",
    "latent",
    "latent_cache",
    "live",
    "load_pretrained",
    "long_context",
    "masks",
    "norm",
    "partition",
    "rope",
    "save_pretrained",
    "saving",
    "scores",
    "tied",
    "transformer",
]
