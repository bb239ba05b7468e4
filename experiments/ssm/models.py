"""Sequence models of the experiments: any mixer by name, in a deep model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import jax

import ssm
from attention import GroupedConfig, grouped
from experiments.harness import sharding
from experiments.harness.weights import Network
from ssm import dss, gated, mixer, rtf, s4, s4d, s5, selective, ssd, stack
from ssm.mixer import Mixer

Kind = Literal["rtf", "s4", "s4d", "dss", "s5", "gated_rtf", "mamba", "mamba2", "attention"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TWO_WAYS = ("rtf", "s4", "s4d", "dss", "s5")


@dataclass(frozen=True)
class ModelConfig:
    """A deep model of `layers` layers of width `channels` (see `ssm.stack.Config`) around a mixer.

    Attributes:
        mixer: the sequence mixer of every layer, one of `KINDS`.
        channels, layers: model width d, and number of layers.
        size: state size N of each channel; "attention" has none.
        s5_size: state size of "s5", whose channels share one state; None: `size`.
        mamba_size: state size N of "mamba"; None: `size`.
        bidirectional: read from both ends (rtf, s4, s4d, dss, s5); such a model cannot stream.
        norm, prenorm, activation, dropout, remat: see `ssm.stack.Config`.
        rtf_init, rtf_constraint: of "rtf" and "gated_rtf" (see `ssm.rtf.Config`).
        denominators: of "rtf" and "gated_rtf", a divisor of `channels`; None: one per channel.
        measure: HiPPO measure of "s4".
        dt_min, dt_max: range of the initial step sizes, of mixers that have step sizes.
        heads: number of heads of "attention" and "mamba2".
    """

    mixer: Kind = "rtf"
    channels: int = 64
    layers: int = 2
    size: int = 64
    s5_size: int | None = None
    mamba_size: int | None = None
    bidirectional: bool = False
    norm: Literal["layer", "rms", "batch"] = "layer"
    prenorm: bool = True
    activation: Literal["glu", "gelu"] = "glu"
    dropout: float = 0.0
    remat: bool = False
    rtf_init: Literal["zeros", "xavier", "montel", "uniform"] = "zeros"
    rtf_constraint: Literal["none", "l1"] = "none"
    denominators: int | None = None
    measure: Literal["legs", "legt", "fout"] = "legs"
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    heads: int = 4

    def __post_init__(self):
        for name in ("channels", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("size", "s5_size", "mamba_size"):
            value = getattr(self, name)
            if value is not None and (value < 2 or value % 2):
                raise ValueError(
                    f"model.{name}: expected an even number of at least 2, got {value}"
                )
        if self.bidirectional and self.mixer not in TWO_WAYS:
            raise ValueError(
                f"model.bidirectional: expected one of the mixers {', '.join(TWO_WAYS)}, got "
                f"{self.mixer!r}; others read forward, with --model.no-bidirectional"
            )


def check(
    model: ModelConfig, against: tuple[Kind, ...], length: int, sizes: tuple[int, ...] = ()
) -> None:
    """Refuse models whose mixers cannot be made.

    Raises:
        ValueError: as `make_mixer`.
    """
    for arm in arms(model, against, sizes):
        make_mixer(arm.model, length)


def refuse(model: ModelConfig, *names: str) -> None:
    """Refuse fields that the model of an experiment has no use for.

    Raises:
        ValueError: one of them is not the default.
    """
    for name in names:
        value, default = getattr(model, name), getattr(ModelConfig, name)
        if value != default:
            raise ValueError(
                f"model.{name}: has no meaning here, expected it to be left alone, got {value!r}"
            )


def make_mixer(model: ModelConfig, length: int) -> Mixer:
    """The mixer of a model, for signals of up to `length` steps.

    Raises:
        ValueError: sizes that do not fit it; the message names the mixer's own field.
    """
    d, n, both = model.channels, model.size, model.bidirectional
    steps: dict[str, Any] = {"dt_min": model.dt_min, "dt_max": model.dt_max}
    rational: dict[str, Any] = {
        "denominators": model.denominators,
        "init": model.rtf_init,
        "constraint": model.rtf_constraint,
    }
    one = {
        "rtf": lambda: rtf.mixer(rtf.Config(d, length, n, bidirectional=both, **rational)),
        "s4": lambda: s4.mixer(s4.Config(d, length, n, measure=model.measure, **steps)),
        "s4d": lambda: s4d.mixer(s4d.Config(d, n // 2, **steps)),
        "dss": lambda: dss.mixer(dss.Config(d, length, n // 2, **steps)),
        "s5": lambda: s5.mixer(
            s5.Config(d, (model.s5_size or n) // 2, bidirectional=both, **steps)
        ),
        "gated_rtf": lambda: gated.mixer(gated.Config(d, length, n, **rational)),
        "mamba": lambda: selective.mixer(
            selective.Config(d, states=model.mamba_size or n, **steps)
        ),
        "mamba2": lambda: ssd.mixer(
            ssd.Config(d, head_dim=2 * d // model.heads, states=n, **steps)
        ),
        "attention": lambda: Mixer(*grouped.mixer(GroupedConfig(d, model.heads))[:6]),
    }[model.mixer]()
    return mixer.both_ways(one, one) if both and model.mixer in ("s4", "s4d", "dss") else one


def network(
    model: ModelConfig,
    length: int,
    outputs: int,
    *,
    inputs: int | None = None,
    vocabulary: int | None = None,
    pooling: str = "none",
) -> Network:
    """A deep model (see `ssm.stack`) of the x in a batch, and of its lengths if it has any.

    Returns:
        `apply` takes (params, batch[, key]): a key, of dropout, in training only. `settings` is
        the model itself, with `prefill` and `step`.
    """
    config = stack.Config(
        model.channels,
        outputs,
        inputs=inputs,
        vocabulary=vocabulary,
        layers=model.layers,
        norm=model.norm,
        prenorm=model.prenorm,
        activation=model.activation,
        dropout=model.dropout,
        pooling=pooling,
        remat=model.remat,
    )
    functions = stack.model(config, make_mixer(model, length))

    def apply(params: Any, batch: dict[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
        return functions.apply(params, batch["x"], key=key, lengths=batch.get("lengths"))

    return Network(functions.init, apply, functions)


def partition(model: ModelConfig, size: int) -> sharding.Rules:
    """How the weights of a model are divided among devices, whatever their number `size`."""
    del size  # no axis is one of heads
    return ssm.partition.rules(model.mixer)


def networks(arms: Sequence["Arm"], make: Callable[["Arm"], Network]) -> dict[str, Network]:
    """The networks of arms by name."""
    return {arm.name: make(arm) for arm in arms}


@dataclass(frozen=True)
class Arm:
    """One of the models that are compared."""

    name: str
    model: ModelConfig


def arms(model: ModelConfig, against: tuple[Kind, ...], sizes: tuple[int, ...] = ()) -> list[Arm]:
    """The model, and the same with other mixers; each with every size if there are some.

    Attention, whose state has no size, is there once, under the first.
    """
    kinds = dict.fromkeys((model.mixer, *against))
    if not sizes:
        return [Arm(kind, replace(model, mixer=kind)) for kind in kinds]
    return [
        Arm(f"{kind}, {size}", replace(model, mixer=kind, size=size))
        for kind in kinds
        for size in (sizes[:1] if kind == "attention" else sizes)
    ]
