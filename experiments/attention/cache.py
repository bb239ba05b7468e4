"""Elements and bytes that a cached token costs, from the arrays of the real caches.

Reproduces: Table 1 of DeepSeek-V2 (arXiv 2405.04434) and the cache columns of its Table 9; the
2.25 groups and the 93.3 % of its abstract, taken apart: by elements 82.2 % are saved, the rest is
due to elements of 6 bits. Shapes only, no weights: published models run as they are.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from attention import GroupedConfig, LatentConfig, TransformerConfig, cache_bytes
from experiments.harness import figures
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run

# Sizes of DeepSeek-V2 (2405.04434), V3 (2412.19437) and DeepSeek LLM (2401.02954); those of the
# small and the large MoE are the ones whose products are the numbers of Table 9.
MODELS: dict[str, tuple[Any, int]] = {
    "small MoE, MHA": (GroupedConfig(2048, 16, 16, head_dim=128), 27),
    "small MoE, MLA": (
        LatentConfig(2048, 16, 512, nope_dim=128, rope_dim=64, value_dim=128),
        27,
    ),
    "large MoE, MHA": (GroupedConfig(5120, 56, 56, head_dim=128), 60),
    "DeepSeek-V2": (
        LatentConfig(5120, 128, 512, query_dim=1536, nope_dim=128, rope_dim=64, value_dim=128),
        60,
    ),
    "DeepSeek-V3": (
        LatentConfig(7168, 128, 512, query_dim=1536, nope_dim=128, rope_dim=64, value_dim=128),
        61,
    ),
    "DeepSeek 67B, GQA": (GroupedConfig(8192, 64, 8, head_dim=128), 95),
    "V2 as MHA": (GroupedConfig(5120, 128, 128, head_dim=128), 60),
    "V2 as GQA-8": (GroupedConfig(5120, 128, 8, head_dim=128), 60),
    "V2 as MQA": (GroupedConfig(5120, 128, 1, head_dim=128), 60),
}
KINDS = ("MHA", "GQA", "MQA", "MLA")
BITS = 6  # an element of the deployed V2's cache, on average (2405.04434)


@dataclass(frozen=True)
class Config:
    """What to count.

    Attributes:
        models: some of `MODELS`.
        context: tokens, for the bytes of a sequence.
    """

    models: tuple[str, ...] = tuple(MODELS)
    context: int = 131_072

    def __post_init__(self):
        for name in self.models:
            if name not in MODELS:
                raise ValueError(f"models: expected some of {', '.join(MODELS)}, got {name!r}")
        if self.context < 1:
            raise ValueError(f"context: expected at least 1 token, got {self.context}")


PRESETS = {"quick": Config(), "cpu": Config(), "paper": Config()}


def decoder(name: str) -> TransformerConfig:
    """A decoder with the model's attention; nothing else of it counts here."""
    mixer, layers = MODELS[name]
    return TransformerConfig(n_layers=layers, mixer=mixer)


def main(config: Config, run: Run) -> dict[str, Any]:
    """Count every model."""
    done = {row["step"] for row in run.tracker.rows()}
    for step, name in enumerate(config.models):
        if step not in done:
            one = decoder(name)
            elements = cache_bytes(one, 1, 1, jnp.int8)  # one byte each
            run.tracker.log(
                step,
                model=name,
                layers=one.n_layers,
                per_layer=one.mixer.cache_elements,
                elements=elements,
                gibibytes=cache_bytes(one, 1, config.context, jnp.bfloat16) / 2**30,
            )
    return {r["model"]: r["elements"] for r in run.tracker.rows()}


def draw(record: Record):
    """Elements of a token, with the gibibytes of a long sequence beside them."""
    rows = sorted(record.rows, key=lambda row: row["elements"], reverse=True)
    figure, axes = figures.new(width=7.2, height=3.8)
    axis, context = axes[0, 0], record.config["context"]
    for kind, style in zip(KINDS, figures.styles(), strict=False):
        places = [place for place, row in enumerate(rows) if _kind(row["model"]) == kind]
        values = [rows[place]["elements"] for place in places]
        axis.plot(values, places, label=kind, **{**style, "linestyle": "none", "markersize": 7})
    for place, row in enumerate(rows):
        label = f"{row['elements']:,} ({row['gibibytes']:.3g} GiB)"
        shift = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(label, (row["elements"], place), fontsize=8, **shift)
    axis.set_yticks(range(len(rows)), [row["model"] for row in rows])
    axis.set(xscale="log", ylim=(len(rows) - 0.5, -0.5))
    axis.set_xlim(right=6 * rows[0]["elements"])
    axis.set(xlabel=f"cached elements a token (and GiB for {context:,} tokens in bfloat16)")
    axis.legend(loc="lower right")
    return figure


def _kind(model: str) -> str:
    """Of attention; models whose name has none have MLA."""
    return next((kind for kind in KINDS if kind in model), KINDS[-1])


def table(record: Record) -> str:
    """Every model."""
    lines = [
        "| model | layers | elements a layer | elements a token | GiB for the context |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['model']} | {r['layers']} | {r['per_layer']} | {r['elements']} "
        f"| {r['gibibytes']:.2f} |"
        for r in sorted(record.rows, key=lambda row: row["step"])
    ]
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": "none: sizes of published models"}


def _elements(record: Record, name: str) -> float | None:
    return record.result.get(name)


def _share(record: Record, above: str, below: str, bits: float = 1.0) -> float | None:
    first, second = _elements(record, above), _elements(record, below)
    return None if first is None or second is None else bits * first / second


def _saved(record: Record, bits: float = 1.0) -> float | None:
    share = _share(record, "DeepSeek-V2", "DeepSeek 67B, GQA", bits)
    return None if share is None else 100.0 * (1.0 - share)


CLAIMS = (
    *(
        Claim(
            id=f"cache.{name}",
            statement=f"cached elements of a token, {model}",
            source=f"arXiv 2405.04434, {place}",
            measure=functools.partial(_elements, name=model),
            paper=value,
        )
        for name, model, value, place in (
            ("small_mha", "small MoE, MHA", 110_592, "Table 9: 110.6K"),
            ("small_mla", "small MoE, MLA", 15_552, "Table 9: 15.6K"),
            ("large_mha", "large MoE, MHA", 860_160, "Table 9: 860.2K"),
            ("v2", "DeepSeek-V2", 34_560, "Table 9: 34.6K"),
        )
    ),
    Claim(
        id="cache.groups",
        statement="groups of GQA with the cache of MLA: d_c + d_r over 2 d_h",
        source="arXiv 2405.04434, Table 1: 9/2 d_h l, GQA with 2.25 groups",
        measure=functools.partial(_share, above="DeepSeek-V2", below="V2 as MQA"),
        paper=2.25,
    ),
    Claim(
        id="cache.saved",
        statement="per cent of the cache of DeepSeek 67B that V2 saves, 16 bits an element there "
        "and 6 here",
        source="arXiv 2405.04434, abstract: 93.3 %, with 6 bits an element",
        measure=functools.partial(_saved, bits=BITS / 16),
        paper=93.3,
        tolerance=0.05,
    ),
    Claim(
        id="cache.saved_by_architecture",
        statement="the same by elements alone, without the 6 bits: below 93.3 by more than 10",
        source="arithmetic with the sizes of arXiv 2405.04434 and 2401.02954; 82.2",
        measure=_saved,
        paper=82.2,
        tolerance=0.05,
    ),
)
