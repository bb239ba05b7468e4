"""ListOps: the value of nested operations on digits, read token by token.

Reproduces: the first task of the Long Range Arena (arXiv 2011.04006), with the settings of RTF
(2405.06147, tables 8 and 9). Expressions are generated, all different, or read from LRA's files if
a folder is given. Of the ten values 0 and 9 are the most frequent, about a sixth of all each.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import comparison as comparisons
from experiments.harness import datasets
from experiments.harness.comparison import Comparison
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig
from experiments.ssm import (
    classifying,
    learning,
    listops_generator,
    listops_grammar,
    long_range,
    models,
)
from experiments.ssm.learning import Task, UpdateConfig
from experiments.ssm.models import Arm, Kind, ModelConfig, Network

CLASSES = 10


@dataclass(frozen=True)
class ListOpsConfig:
    """Which expressions; `shortest` and `longest` bound the number of their tokens.

    Attributes:
        path: folder with LRA's files, basic_train.tsv and basic_test.tsv; None generates.
        train, tests: how many expressions to generate to train on, and to test.
        shortest, longest: least and most tokens of an expression; those of files may be shorter.
        depth: largest number of nested levels.
        arguments: largest number of arguments of an operation.
        seed: random seed of the generated expressions.
    """

    path: str | None = None
    train: int = 20_000
    tests: int = 2000
    shortest: int = 20
    longest: int = 256
    depth: int = 5
    arguments: int = 10
    seed: int = 0

    def __post_init__(self):
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(
                "data.shortest, longest: expected 1 <= shortest <= longest, got "
                f"{self.shortest}, {self.longest}"
            )
        if min(self.train, self.tests, self.depth) < 1 or self.arguments < 2:
            raise ValueError(
                "data.train, tests, depth, arguments: expected at least 1, 1, 1, 2, got "
                f"{self.train}, {self.tests}, {self.depth}, {self.arguments}"
            )


@dataclass(frozen=True)
class Config:
    """The expressions and the models.

    Attributes:
        model: the first model.
        against: mixers of further models, which are like the first one otherwise.
        data, training, comparison, update: of all models.
    """

    data: ListOpsConfig = field(
        default_factory=lambda: ListOpsConfig(train=2000, tests=200, longest=64, depth=3)
    )
    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(channels=32, size=4, bidirectional=True)
    )
    against: tuple[Kind, ...] = ()
    training: TrainingConfig = classifying.QUICK
    comparison: Comparison = field(default_factory=lambda: Comparison(1, (5e-3,)))
    update: UpdateConfig = field(default_factory=UpdateConfig)

    def __post_init__(self):
        comparisons.check(self.training, self.comparison)
        models.check(self.model, self.against, self.data.longest)


PRESETS = {
    "quick": Config(),
    "cpu": Config(
        ListOpsConfig(),
        model=ModelConfig(channels=64, layers=4, size=4, bidirectional=True, norm="batch"),
        against=("s4d",),
        training=TrainingConfig(
            steps=2000,
            batch_size=32,
            warmup=200,
            weight_decay=0.05,
            eval_every=250,
            checkpoint_every=500,
            log_every=50,
        ),
        comparison=Comparison(2, (4e-3,)),
    ),
    # Tables 8 and 9; 40 epochs of 96 000 expressions.
    "paper": Config(
        ListOpsConfig(train=96_000, tests=2000, shortest=501, longest=1999, depth=10),
        model=ModelConfig(
            channels=256,
            layers=6,
            size=4,
            bidirectional=True,
            norm="batch",
            prenorm=False,
            denominators=1,
            remat=True,
        ),
        training=TrainingConfig(
            steps=120_000,
            batch_size=32,
            warmup=12_000,
            weight_decay=0.07,
            eval_every=3000,
            checkpoint_every=3000,
        ),
        comparison=Comparison(1, (0.002,), vectorised=False),
        update=UpdateConfig(dynamics_decay=0.07),
    ),
}


def load(data: ListOpsConfig) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Training and held-out expressions x, their lengths and values.

    Raises:
        DataError: files that are missing or wrong; lengths that expressions do not have.
    """
    names = ("x", "lengths", "label")
    if data.path is not None:
        train, test = (
            long_range.listops(data.path, split, data.longest) for split in ("train", "test")
        )
        return dict(zip(names, train, strict=True)), dict(zip(names, test, strict=True))
    tokens, lengths = listops_generator.generate(
        np.random.default_rng(data.seed),
        data.train + data.tests,
        data.shortest,
        data.longest,
        depth=data.depth,
        arguments=data.arguments,
    )
    every = (tokens, lengths, listops_grammar.values(tokens, lengths))
    train, test = ([part[some] for part in every] for some in _cut(data.train))
    return dict(zip(names, train, strict=True)), dict(zip(names, test, strict=True))


def _cut(place: int) -> tuple[slice, slice]:
    return slice(place), slice(place, None)


def make_task(config: Config, train: dict[str, np.ndarray], test: dict[str, np.ndarray]) -> Task:
    """Expressions in shuffled epochs."""

    def batch(seed: int, size: int, step: int) -> dict[str, np.ndarray]:
        chosen = datasets.shuffled(len(train["x"]), size, seed, step)
        found = {name: part[chosen] for name, part in train.items()}
        return {**found, "x": found["x"].astype(np.int32)}

    held_out = {**test, "x": test["x"].astype(np.int32)}
    return Task(batch, held_out, learning.classified, evaluated=config.training.batch_size)


def make_network(config: Config, arm: Arm) -> Network:
    """A deep model whose outputs are averaged over the expression."""
    sizes = {"vocabulary": listops_grammar.VOCABULARY, "pooling": "mean"}
    return models.network(arm.model, config.data.longest, CLASSES, **sizes)


def all_arms(config: Config) -> list[Arm]:
    """The models."""
    return models.arms(config.model, config.against)


def trained_networks(config: Config) -> dict[str, Network]:
    """What is trained, by name."""
    return models.networks(all_arms(config), functools.partial(make_network, config))


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train and measure all models."""
    train, test = load(config.data)
    counts = np.bincount(train["label"], minlength=CLASSES)
    majority = float(np.mean(test["label"] == counts.argmax()))
    make = functools.partial(make_network, config)
    task = make_task(config, train, test)
    found = learning.run_all(all_arms(config), make, task, config, run)
    return {**found, "majority": 100 * majority, "train": len(train["x"]), "tests": len(test["x"])}


def draw(record: Record):
    """Accuracies; a line at that of the most frequent value."""
    return classifying.draw(record, _title(record), record.result["majority"])


def table(record: Record) -> str:
    """Accuracies and sizes."""
    majority = record.result["majority"]
    text = classifying.table(record, _title(record))
    return f"{text}\nAlways the most frequent value: {majority:.2f} %.\n"


def _title(record: Record) -> str:
    data = record.config["data"]
    kind = "generated" if data["path"] is None else "LRA's files"
    return f"ListOps, {kind}, up to {data['longest']} tokens"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says."""
    data, make = config.data, functools.partial(make_network, config)
    kind = f"{data.train:,} generated expressions" if data.path is None else f"files of {data.path}"
    return {"data": kind, **learning.describe(all_arms(config), make, config)}


def look(config: Config) -> str:
    """What there is to read."""
    return learning.counted(make_task(config, *load(config.data)))


def programs(config: Config) -> dict[str, Program]:
    """The training step of every model."""
    number = jax.ShapeDtypeStruct((), jnp.int32)
    tokens = jax.ShapeDtypeStruct((config.data.longest,), jnp.int32)
    example = {"x": tokens, "lengths": number, "label": number}
    make = functools.partial(make_network, config)
    return learning.programs(all_arms(config), make, learning.classified, example, config)


def _over_majority(record: Record) -> float | None:
    mixer = record.config["model"]["mixer"]
    found = classifying.worst(record, mixer)
    return None if found is None else found - record.result["majority"]


def _lra(record: Record) -> float | None:
    """RTF's accuracy on LRA's files; other mixers have settings of their own in their papers."""
    data = record.config["data"]
    real = data["path"] is not None and data["longest"] >= 1999
    return classifying.mean(record, "rtf") if real else None


TABLE_1 = "RTF (arXiv 2405.06147), table 1"
CLAIMS = (
    Claim(
        "listops.majority",
        "accuracy of the first mixer, the worst seed, minus that of the most frequent value, in "
        "points, above 15",
        "this project's own goal",
        _over_majority,
        15.0,
        kind="ordering",
    ),
    *(
        Claim(
            f"listops.{mixer}",
            f"accuracy of {mixer.upper()} on LRA's ListOps, in percent",
            TABLE_1,
            _lra if mixer == "rtf" else lambda record: None,
            value,
            tolerance=1.0,
            kind="value",
        )
        for mixer, value in (("rtf", 61.59), ("s4", 61.29), ("s4d", 60.74), ("s5", 62.15))
    ),
)
