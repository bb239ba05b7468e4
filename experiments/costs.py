"""What a decoder costs before it exists: cache, parameters, operations, kernel."""

from dataclasses import dataclass, field
from typing import Literal

import jax.numpy as jnp
import tyro

from attention import (
    ExpertsConfig,
    GroupedConfig,
    LatentConfig,
    TransformerConfig,
    accounting,
    kernels,
)
from experiments.harness.errors import UsageError


@dataclass(frozen=True)
class Costs:
    """A decoder and its use.

    Attributes:
        decoder: the model; `costs NAME` chooses its kind of attention.
        context: tokens in the cache of a sequence.
        batch: number of sequences.
        dtype: of cache and activations.
    """

    decoder: tyro.conf.AvoidSubcommands[TransformerConfig] = field(
        default_factory=TransformerConfig
    )
    context: int = 8192
    batch: int = 1
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"

    def __post_init__(self):
        for name in ("context", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


def _decoder(mixer: GroupedConfig | LatentConfig) -> Costs:
    return Costs(TransformerConfig(32_000, 32, mixer, tie_embeddings=False))


PRESETS = {
    "mha": _decoder(GroupedConfig(4096, 32)),
    "gqa": _decoder(GroupedConfig(4096, 32, 8)),
    "mqa": _decoder(GroupedConfig(4096, 32, 1)),
    "mla": _decoder(LatentConfig(4096, 32, 512, nope_dim=128, rope_dim=64, value_dim=128)),
    "deepseek_v2_lite": Costs(
        TransformerConfig(
            102_400,
            27,
            LatentConfig(2048, 16, 512, nope_dim=128, rope_dim=64, value_dim=128),
            d_ff=10_944,
            experts=ExpertsConfig(64, 6, 1408, shared_d_ff=2816),
            dense_layers=1,
            tie_embeddings=False,
        )
    ),
}


def preset(name: str) -> Costs:
    """A preset by its name.

    Raises:
        UsageError: there is none.
    """
    if name not in PRESETS:
        raise UsageError(f"costs: expected one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def table(costs: Costs) -> str:
    """Markdown: a quantity a line."""
    config, dtype = costs.decoder, jnp.dtype(costs.dtype)
    token = accounting.cache_bytes(config, 1, 1, dtype)
    whole = accounting.cache_bytes(config, costs.batch, costs.context, dtype)
    rows = [
        ("cache of a token, elements a layer", f"{config.mixer.cache_elements}"),
        ("cache of a token, bytes", f"{token}"),
        (f"cache of {costs.batch} x {costs.context} tokens, GiB", f"{whole / 2**30:.3f}"),
    ]
    counts = accounting.parameters(config)
    rows += [(f"parameters, {name.replace('_', ' ')}", f"{n}") for name, n in counts.items()]
    rows.append(("parameters", f"{sum(counts.values())}"))
    for title, tokens, context in (
        (f"a token behind {costs.context - 1}", 1, costs.context - 1),
        (f"a prompt of {costs.context}", costs.context, 0),
    ):
        parts = accounting.operations(config, tokens, context)
        for name, n in parts.items():
            rows.append((f"GFLOP, {title}, {name.replace('_', ' ')}", f"{n / 1e9:.6g}"))
        rows.append((f"GFLOP, {title}", f"{sum(parts.values()) / 1e9:.6g}"))
    rows += _kernel(config, costs.context, dtype)
    return "\n".join(
        ["| quantity | value |", "| --- | --- |"] + [f"| {a} | {b} |" for a, b in rows]
    )


def _kernel(config: TransformerConfig, time: int, dtype: jnp.dtype) -> list[tuple[str, str]]:
    mixer = config.mixer
    if not isinstance(mixer, GroupedConfig):
        key_dim, value_dim = mixer.nope_dim + mixer.rope_dim, mixer.value_dim
    else:
        key_dim = value_dim = mixer.width
    chosen, reasons = kernels.explain(kernels.Problem(time, key_dim, value_dim, dtype))
    rows = [("kernel of a prompt here", chosen)]
    return rows + [(f"kernel {name}, why not", reason) for name, reason in reasons.items()]
