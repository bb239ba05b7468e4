"""Associative recall against cache size: which attention recalls most with few numbers per token.

Reproduces: multi-query associative recall (Arora et al., Zoology, arXiv 2312.04927), with the cache
of attention layers as the scarce resource: DeepSeek-V2 (arXiv 2405.04434), Table 1, ranks MLA, MHA,
GQA and MQA by capability and cache. A sequence shows pairs of a key and a value, then asks for the
values of all keys, in any order and at any place behind them. In front of every layer's attention
each token is added to the next (`mixers.shifted`), as the short convolutions of such models do;
without it two layers first have to find out that keys and values belong together.

Hypothesis, written before the first run. With the same numbers cached a token and layer (c):
(1) accuracy rises with c for every arm; (2) MLA recalls more than MQA, since its heads compare keys
and read values in all of 3 c / 4 numbers at once, where MQA has c / 2 for each, c / 4 of them
rotated; (3) MQA recalls more than GQA with two groups, whose heads see half of the cache only.
"""

import functools
import itertools
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attention import GroupedConfig, LatentConfig, Mixer, TransformerConfig, checks, transformer
from experiments.attention import arms
from experiments.attention.arms import Arm
from experiments.attention.mixers import shifted
from experiments.harness import by_arm, figures, paired, training
from experiments.harness import comparison as comparisons
from experiments.harness.comparison import Comparison
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig
from experiments.harness.weights import Network

KINDS = ("MLA", "MQA", "GQA-2")
EVALUATION = 10**6  # the step whose batch is never trained on


@dataclass(frozen=True)
class TaskConfig:
    """The sequences: key-value pairs, then every key again, to be answered by its value.

    Attributes:
        pairs: number of key-value pairs at the beginning of a sequence.
        length: tokens of a sequence; after the pairs every key occurs once more.
        keys, values: how many different keys, or values, there are.
    """

    pairs: int = 16
    length: int = 64
    keys: int = 64
    values: int = 64

    def __post_init__(self):
        if not 1 <= self.pairs <= self.keys or self.length < 3 * self.pairs:
            raise ValueError(
                "task.pairs, length: expected no more pairs than keys and at least three tokens a "
                f"pair, got {self.pairs}, {self.length} with {self.keys} keys"
            )
        if self.values < 2:
            raise ValueError(f"task.values: expected at least 2, got {self.values}")

    @property
    def vocabulary(self) -> int:
        """Tokens: one that means nothing, the keys, the values."""
        return 1 + self.keys + self.values


@dataclass(frozen=True)
class Config:
    """The task, the decoder, and how arms are compared.

    Attributes:
        caches: cache sizes, in numbers per token and layer: multiples of 16, ascending.
        d_model, n_layers, n_heads, d_ff, rope_base: of the decoder.
        examples: number of held-out sequences on which accuracy is measured.
        task, training, comparison: of all arms; peak learning rates are those of
            `comparison.rates`.
    """

    task: TaskConfig = field(default_factory=TaskConfig)
    caches: tuple[int, ...] = (16, 32)
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    d_ff: int = 64
    rope_base: float = 100.0
    training: TrainingConfig = field(default_factory=TrainingConfig)
    comparison: Comparison = field(default_factory=Comparison)
    examples: int = 512

    def __post_init__(self):
        comparisons.check(self.training, self.comparison, least=2)
        checks.sizes(self, "d_model", "n_layers", "n_heads", "d_ff")
        if self.training.steps >= EVALUATION:
            raise ValueError(f"training.steps: expected below {EVALUATION}")
        rising = all(a < b for a, b in itertools.pairwise(self.caches))
        if len(self.caches) < 2 or not rising or any(c < 16 or c % 16 for c in self.caches):
            raise ValueError(f"caches: expected rising multiples of 16, got {self.caches}")
        if self.examples < 1 or self.n_heads % 2 or self.d_model % self.n_heads:
            raise ValueError(
                f"examples, n_heads: expected at least 1 and an even divisor of d_model, got "
                f"{self.examples}, "
                f"{self.n_heads}"
            )


PRESETS = {
    "quick": Config(
        TaskConfig(4, 16, 8, 8),
        caches=(16, 32),
        d_model=32,
        training=TrainingConfig(steps=60, batch_size=32, warmup=5, eval_every=60),
        comparison=Comparison(seeds=2, rates=(1e-2,)),
        examples=128,
    ),
    "cpu": Config(
        caches=(16, 32, 48, 64),
        training=TrainingConfig(
            steps=800,
            batch_size=32,
            warmup=50,
            weight_decay=0.01,
            eval_every=400,
            checkpoint_every=400,
        ),
        comparison=Comparison(rates=(2.5e-3, 5e-3, 1e-2)),
    ),
    "paper": Config(
        TaskConfig(64, 256, 4096, 4096),
        caches=(16, 32, 64, 128, 256),
        d_model=128,
        d_ff=512,
        rope_base=10_000.0,
        training=TrainingConfig(
            steps=25_000,
            batch_size=256,
            warmup=1000,
            weight_decay=0.1,
            eval_every=2500,
            checkpoint_every=2500,
        ),
        comparison=Comparison(rates=(1e-3, 3e-3, 1e-2)),
        examples=3000,
    ),
}


def sequences(task: TaskConfig, count: int, seed: int, step: int) -> dict[str, np.ndarray]:
    """Tokens [count, length] and, where a key is asked for, the token of its value; elsewhere -1.

    A function of (seed, step) alone.
    """
    rng, pairs = np.random.default_rng([seed, step]), task.pairs
    keys = 1 + _chosen(rng, count, task.keys, pairs)
    values = 1 + task.keys + rng.integers(0, task.values, (count, pairs))
    tokens = np.zeros((count, task.length), np.int32)
    tokens[:, 0 : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
    places = 2 * pairs + _chosen(rng, count, task.length - 2 * pairs, pairs)
    targets = np.full_like(tokens, -1)
    np.put_along_axis(tokens, places, keys.astype(np.int32), 1)
    np.put_along_axis(targets, places, values.astype(np.int32), 1)
    return {"tokens": tokens, "targets": targets}


def _chosen(rng: np.random.Generator, count: int, many: int, few: int) -> np.ndarray:
    """A few different ones of many, in any order, [count, few]."""
    draws = rng.random((count, many))
    some = np.argpartition(draws, few - 1, axis=1)[:, :few]
    order = np.argsort(np.take_along_axis(draws, some, 1), axis=1)
    return np.take_along_axis(some, order, 1)


def loss(
    params: Any,
    batch: dict[str, jax.Array],
    _: jax.Array,
    config: TransformerConfig,
    mixer: Mixer | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Nats of an answer, and the fraction of answers that are wrong."""
    logits = transformer.apply(params, batch["tokens"], config, mixer=mixer)
    asked = batch["targets"] >= 0
    targets = jnp.maximum(batch["targets"], 0)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    wrong = jnp.argmax(logits, -1) != targets
    mean = functools.partial(jnp.sum, where=asked)
    count = asked.sum()
    return mean(nats) / count, {"error": mean(wrong) / count}


def all_arms(config: Config) -> list[Arm]:
    """Every kind of attention with every cache; half of a key rotates."""
    found = []
    for cache in config.caches:
        for kind in KINDS:
            mixer = _mixer(config, kind, cache)
            size = config.task.vocabulary, config.n_layers
            decoder = TransformerConfig(*size, mixer, d_ff=config.d_ff)
            changed = shifted(transformer.make_mixer(mixer), config.d_model)
            found.append(Arm(f"{kind}, {cache}", decoder, changed))
    return found


def _mixer(config: Config, kind: str, cache: int) -> GroupedConfig | LatentConfig:
    d, heads = config.d_model, config.n_heads
    if kind == "MLA":
        width, rotated = d // heads, cache // 4
        return LatentConfig(
            d,
            heads,
            cache - rotated,
            nope_dim=width,
            rope_dim=rotated,
            value_dim=width,
            rope_base=config.rope_base,
        )
    groups = 2 if kind == "GQA-2" else 1
    width = cache // (2 * groups)
    rotated = {"rope_dims": width // 2, "rope_base": config.rope_base}
    return GroupedConfig(d, heads, groups, head_dim=width, **rotated)


def trained_networks(config: Config) -> dict[str, Network]:
    """What is trained, by name."""
    return arms.networks(all_arms(config))


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train and measure all arms."""
    chosen, comparison = all_arms(config), config.comparison
    problem = functools.partial(make_problem, config)
    rows = arms.run_all(chosen, problem, config.training, comparison, "error", run)
    return {
        "seeds": comparison.seeds,
        "chance": 1 / config.task.values,
        "rates_at_an_end": comparisons.at_an_end(rows, comparison.rates),
    }


def make_problem(config: Config, arm: Arm, settings: TrainingConfig) -> training.Problem:
    """Fresh sequences in every step, measured on ones that no step sees."""
    held_out = sequences(config.task, config.examples, settings.seed, EVALUATION)
    score = _score(arm)
    both = {"config": arm.decoder, "mixer": arm.mixer}

    def evaluate(params: Any) -> dict[str, float]:
        nats, error = score(params, held_out)
        return {"nats": float(nats), "error": float(error), "accuracy": 1.0 - float(error)}

    return training.Problem(
        init=functools.partial(transformer.init, **both),
        loss=functools.partial(loss, **both),
        batch=lambda step: sequences(config.task, settings.batch_size, settings.seed, step),
        evaluate=evaluate,
        partition=arm.divided,
    )


@functools.lru_cache(maxsize=4)
def _score(arm: Arm) -> Any:
    def score(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        nats, found = loss(params, batch, jax.random.key(0), arm.decoder, arm.mixer)
        return nats, found["error"]

    return jax.jit(score)


def _caches(record: Record) -> list[int]:
    return record.config["caches"]


def draw(record: Record):
    """Accuracy by cache, means with intervals, and seeds."""
    figure, axes = figures.new(width=5.0, height=3.6)
    axis = axes[0, 0]
    for shift, (kind, style) in enumerate(zip(KINDS, figures.styles(), strict=False)):
        every = [by_arm.values(record, f"{kind}, {cache}", "accuracy") for cache in _caches(record)]
        found = [paired.difference(values, [0.0] * len(values)) for values in every]
        means = np.array([each.value for each in found])
        error = np.array([[m.value - m.low, m.high - m.value] for m in found]).T
        place = np.array(_caches(record)) * 1.03 ** (shift - 1)
        axis.errorbar(place, means, yerr=error, capsize=3, label=kind, **style)
        for x, values in zip(place, every, strict=True):
            axis.plot([x] * len(values), values, ".", color=style["color"], markersize=3, alpha=0.5)
    axis.axhline(record.result["chance"], color="#777777", linewidth=1, label="chance")
    figures.logarithmic(axis, "x")
    axis.set_xticks(_caches(record), list(map(str, _caches(record))))
    axis.minorticks_off()
    task = record.config["task"]
    axis.set(xlabel="numbers cached a token and layer", ylim=(0, 1.05))
    axis.set(ylabel="accuracy, 95 % interval of the mean")
    axis.set(title=f"recall of {task['pairs']} pairs in {task['length']} tokens")
    axis.plot([], [], ".", color="#777777", markersize=3, label="seeds")
    axis.legend()
    return figure


def table(record: Record) -> str:
    """Accuracies, and the differences that the hypothesis is about."""
    lines = [
        "| cache | " + " | ".join(KINDS) + " | MLA minus MQA | MQA minus GQA-2 |",
        "| --- |" + " --- |" * (len(KINDS) + 2),
    ]
    for cache in _caches(record):
        names = [f"{kind}, {cache}" for kind in KINDS]
        cells = [f"{np.mean(by_arm.values(record, name, 'accuracy')):.3f}" for name in names]
        for above, below in itertools.pairwise(names):
            found = by_arm.difference(record, above, below, "accuracy")
            if found is not None:
                said = "" if found.low > 0 or found.high < 0 else " inconclusive"
                cells.append(f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]{said}")
        lines.append("| " + " | ".join([str(cache), *cells]) + " |")
    parameters = {row["arm"]: row["parameters"] for row in record.rows if "arm" in row}
    ends = "; ".join(record.result["rates_at_an_end"]) or "none"
    said = (
        f"{record.result['seeds']} paired seeds, intervals of 95 %; "
        f"{min(parameters.values()):,} to {max(parameters.values()):,} parameters; chance "
        f"{record.result['chance']:.3f}. Learning rates at an end of their grid: {ends}."
    )
    return "\n".join([*lines, "", said, ""])


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about arms and trainings."""
    return arms.describe(all_arms(config), config.training, config.comparison, config.task.length)


def programs(config: Config) -> dict[str, Program]:
    """The training step of every arm."""
    settings, found = config.training, {}
    shape = jax.ShapeDtypeStruct((settings.batch_size, config.task.length), jnp.int32)
    for arm in all_arms(config):
        problem = make_problem(config, arm, settings)
        found[arm.name] = comparisons.program(
            problem, settings, config.comparison, {"tokens": shape, "targets": shape}
        )
    return found


def _mean(record: Record, kind: str) -> np.ndarray:
    """Accuracy of a kind, over caches, by seed."""
    every = [by_arm.values(record, f"{kind}, {cache}", "accuracy") for cache in _caches(record)]
    return np.mean(every, axis=0)


def _above(above: str, below: str) -> Any:
    def measure(record: Record) -> Measurement:
        return paired.difference(_mean(record, above).tolist(), _mean(record, below).tolist())

    return measure


def _rise(record: Record) -> Measurement | None:
    """Gain from the smallest to the largest cache: the least certain one, or one that is none."""
    first, last = _caches(record)[0], _caches(record)[-1]
    found = [
        by_arm.difference(record, f"{kind}, {last}", f"{kind}, {first}", "accuracy")
        for kind in KINDS
    ]
    known = [each for each in found if each is not None]
    losses = [each for each in known if each.high <= 0]
    return min(losses or known, key=lambda each: each.low, default=None)


OWN = "this experiment's hypothesis, written before its first run"
CLAIMS = (
    Claim(
        "recall.cache",
        "accuracy with the largest cache minus that with the smallest, of the kind whose gain is "
        "least certain, above 0",
        OWN,
        _rise,
        0.0,
        kind="ordering",
    ),
    Claim(
        "recall.mla",
        "accuracy of MLA minus that of MQA with as large a cache, mean over caches, above 0",
        f"{OWN}; DeepSeek-V2 (arXiv 2405.04434), Table 1, ranks MLA above",
        _above("MLA", "MQA"),
        0.0,
        kind="ordering",
    ),
    Claim(
        "recall.mqa",
        "accuracy of MQA minus that of GQA-2 with as large a cache, mean over caches, above 0",
        OWN,
        _above("MQA", "GQA-2"),
        0.0,
        kind="ordering",
    ),
)
