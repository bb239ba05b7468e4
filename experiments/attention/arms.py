"""Arms of an ablation on text: decoders that differ in their mixer, trained with shared seeds."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import optax

import attention
from attention import transformer
from experiments.attention import next_token
from experiments.harness import comparison as comparisons
from experiments.harness import corpora, sharding
from experiments.harness.comparison import Comparison
from experiments.harness.corpora import CorpusConfig
from experiments.harness.estimate import Program, count
from experiments.harness.run import Run
from experiments.harness.training import Problem, TrainingConfig
from experiments.harness.weights import Network


@dataclass(frozen=True)
class Arm:
    """One of the decoders that are compared.

    Attributes:
        name: in tables and figures.
        decoder: all of it.
        mixer: its attention, where it is not that of `decoder.mixer` itself.
        dtype: of its activations, float32 if None.
        dropout: in training.
        optimizer: of its weights, that of the training loop if None.
        partition: among devices, that of `next_token.partition` if None.
    """

    name: str
    decoder: attention.TransformerConfig
    mixer: attention.Mixer | None = None
    dtype: str | None = None
    dropout: float = 0.0
    optimizer: Callable[[TrainingConfig], optax.GradientTransformation] | None = None
    partition: sharding.Partition | None = None

    @property
    def divided(self) -> sharding.Partition:
        """How its weights are divided among devices."""
        default = functools.partial(next_token.partition, self.decoder, self.mixer)
        return self.partition or default


def parameters(arm: Arm) -> int:
    """How many an arm has."""
    return count(shapes(arm))


def shapes(arm: Arm) -> Any:
    """Shapes of its parameters."""
    init = functools.partial(transformer.init, config=arm.decoder, mixer=arm.mixer)
    return jax.eval_shape(init, jax.random.key(0))


def networks(arms: Sequence[Arm]) -> dict[str, Network]:
    """The decoders of arms by name."""
    return {arm.name: next_token.network(arm.decoder, arm.mixer) for arm in arms}


def matched(arm: Arm, target: int) -> Arm:
    """The arm with the hidden width of SwiGLU that brings it closest to a number of parameters.

    Raises:
        ValueError: its attention alone has more.
    """
    decoder = arm.decoder
    each = 3 * decoder.d_model * decoder.n_layers
    hidden = decoder.hidden + round((target - parameters(arm)) / each)
    if hidden < 1:
        raise ValueError(
            f"{arm.name}: expected fewer than {target} parameters without SwiGLU, got "
            f"{parameters(arm) - each * decoder.hidden}"
        )
    return replace(arm, decoder=replace(decoder, d_ff=hidden))


def run_all(
    arms: Sequence[Arm],
    problem: Callable[[Arm, TrainingConfig], Problem],
    settings: TrainingConfig,
    comparison: Comparison,
    metric: str,
    run: Run,
) -> list[dict[str, Any]]:
    """As `comparison.run_all`, with parameters, widths and caches of arms in their rows."""

    def about(arm: Arm) -> dict[str, Any]:
        sizes = {"parameters": parameters(arm), "d_ff": arm.decoder.hidden}
        return sizes | {"cache": cache_elements(arm)}

    return comparisons.run_all(arms, problem, settings, comparison, metric, run, about)


def cache_elements(arm: Arm) -> int:
    """Numbers that a further token adds to the state of a layer."""
    mixer = arm.mixer or transformer.make_mixer(arm.decoder.mixer)
    small, large = (
        jax.eval_shape(functools.partial(mixer.init_state, 1, slots, np.float32))
        for slots in (8, 16)
    )
    return (count(large) - count(small)) // 8


def on_text(
    data: CorpusConfig, context: int, windows: int, run: Run
) -> tuple[Callable[[Arm, TrainingConfig], Problem], dict[str, str]]:
    """What arms train on a text, and what it is; a run goes on with the same text only.

    Args:
        context, windows: tokens of a window, and validation windows, evenly spaced.
    """
    text = corpora.load(data, run.check_stop)
    run.pin("text", text.sha256)

    def problem(arm: Arm, settings: TrainingConfig) -> Problem:
        return replace(
            next_token.make_problem(
                arm.decoder, context, settings, windows, text, arm.mixer, arm.dtype, arm.dropout
            ),
            optimizer=arm.optimizer,
            partition=arm.divided,
        )

    return problem, {"source": text.source, "sha256": text.sha256}


def describe(
    arms: Sequence[Arm], settings: TrainingConfig, comparison: Comparison, context: int
) -> dict[str, str]:
    """What a dry run says about arms and trainings."""
    sizes = [parameters(arm) for arm in arms]
    each, tokens = comparisons.trainings(comparison), settings.steps * settings.batch_size * context
    return {
        "arms": ", ".join(arm.name for arm in arms),
        "parameters": f"{min(sizes):,} to {max(sizes):,}",
        "trainings": f"{each} of each arm, {each * len(arms)} in all",
        "training": f"{tokens / 1e6:.2f}M tokens seen in each",
    }


def programs(
    arms: Sequence[Arm], settings: TrainingConfig, comparison: Comparison, context: int
) -> dict[str, Program]:
    """The training step of every arm on text."""
    batch, found = jax.ShapeDtypeStruct((settings.batch_size, context + 1), np.int32), {}
    for arm in arms:
        both = {"config": arm.decoder, "mixer": arm.mixer}
        problem = Problem(
            init=functools.partial(transformer.init, **both),
            loss=functools.partial(next_token.loss, **both, dtype=arm.dtype, dropout=arm.dropout),
            batch=lambda step: None,
            evaluate=lambda params: {},
            optimizer=arm.optimizer,
            partition=arm.divided,
        )
        found[arm.name] = comparisons.program(problem, settings, comparison, batch)
    return found
