"""Attention for language models: MHA, MQA, GQA, their cache, a decoder and generation.

Source: Su Jianlin's post https://kexue.fm/archives/10091.
"""

from attention import cache, generation, grouped, masks, rope, scores, transformer
from attention.generation import generate
from attention.grouped import GroupedConfig
from attention.mixer import Mixer
from attention.transformer import TransformerConfig

__all__ = [
    "GroupedConfig",
    "Mixer",
    "TransformerConfig",
    "cache",
    "generate",
    "generation",
    "grouped",
    "masks",
    "rope",
    "scores",
    "transformer",
]
