"""Training a sequence model on a task: loss and measures an example, groups of parameters, arms."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.harness import comparison as comparisons
from experiments.harness import optimizers
from experiments.harness.comparison import Comparison
from experiments.harness.estimate import Program
from experiments.harness.run import Run
from experiments.harness.training import Problem, TrainingConfig
from experiments.ssm import models
from experiments.ssm.models import Arm, Network
from ssm import norms

DYNAMICS = (
    *("log_decay", "decay", "frequency", "log_dt", "P", "B"),
    *("numerator", "denominator", "slack"),
)
VECTORS = ("bias", "gain", "norm", "D", "direct", "step_bias")
MOMENTUM = 0.1  # of running statistics


@dataclass(frozen=True)
class UpdateConfig:
    """What the optimizer does beyond `TrainingConfig`.

    Attributes:
        dynamics_rate: peak learning rate of the parameters of a mixer's dynamics (poles, step
            sizes, inputs); None: that of all others.
        dynamics_decay: weight decay of these parameters.
        final: final learning rates over their peaks, by a cosine; 1 keeps them constant.
    """

    dynamics_rate: float | None = None
    dynamics_decay: float = 0.0
    final: float = 0.0

    def __post_init__(self):
        rate, decay = self.dynamics_rate, self.dynamics_decay
        if not 0 <= self.final <= 1:
            raise ValueError(f"update.final: expected a share in [0, 1], got {self.final}")
        if (rate is not None and not rate > 0) or decay < 0:
            raise ValueError(
                f"update.dynamics_rate, dynamics_decay: expected > 0 and >= 0, got {rate}, {decay}"
            )


@dataclass(frozen=True)
class Task:
    """What is learnt.

    Attributes:
        batch: (seed, examples, step) -> arrays by name, the examples first: the "x" of the
            network, "lengths" if they differ, and what `score` needs.
        held_out: such arrays, of all examples to evaluate on.
        score: (outputs, batch) -> measures of each example, [B] arrays, "loss" among them.
        evaluated: examples at once.
        tuning: other such arrays, on which learning rates are chosen; None takes `held_out`.
        part: (seed, examples, step, rows) -> those rows of a batch, where a host should not read
            them all.
    """

    batch: Callable[[int, int, int], dict[str, np.ndarray]]
    held_out: dict[str, np.ndarray]
    score: Callable[[jax.Array, dict[str, jax.Array]], dict[str, jax.Array]]
    evaluated: int = 100
    tuning: dict[str, np.ndarray] | None = None
    part: Callable[[int, int, int, slice], dict[str, np.ndarray]] | None = None


def classified(logits: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Nats and errors [B] of logits [B, K], where the batch holds the "label" [B]."""
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    return {"loss": nats, "error": (jnp.argmax(logits, -1) != batch["label"]).astype(jnp.float32)}


def optimizer(settings: TrainingConfig, update: UpdateConfig) -> optax.GradientTransformation:
    """AdamW with a rate of its own for dynamics, and steps of SGD for statistics of batch norms.

    Norms of gradients in a run's rows include what those statistics are off by; clipping does not.
    """
    slow = settings.learning_rate if update.dynamics_rate is None else update.dynamics_rate

    def adamw(peak: float, decay: float) -> optax.GradientTransformation:
        schedule = optimizers.make_schedule(settings, peak, update.final)
        return optax.adamw(schedule, b2=settings.beta2, weight_decay=decay)

    groups = {
        "statistics": optax.sgd(MOMENTUM),
        "dynamics": adamw(slow, update.dynamics_decay),
        "matrices": adamw(settings.learning_rate, settings.weight_decay),
        "vectors": adamw(settings.learning_rate, 0.0),
    }
    every = optax.partition(groups, labels)  # pyright: ignore[reportArgumentType]
    if settings.clip is None:
        return every
    clip = optax.masked(optax.clip_by_global_norm(settings.clip), _not_statistics)
    return optax.chain(clip, every)


def labels(params: Any) -> Any:
    """The group of every leaf, by its name: statistics, dynamics, vectors, or matrices."""

    def label(path: Any, moves: bool) -> str:
        names = [str(getattr(part, "key", "")) for part in path]
        if moves:
            return "statistics"
        if names[-1] in DYNAMICS:
            return "dynamics"
        vector = names[-1] in VECTORS or names[-1].endswith(("_norm", "_bias"))
        return "vectors" if vector else "matrices"

    return jax.tree.map_with_path(label, norms.is_statistic(params))


def _not_statistics(params: Any) -> Any:
    return jax.tree.map(lambda moves: not moves, norms.is_statistic(params))


def problems(
    network: Callable[[Arm], Network], task: Task, update: UpdateConfig
) -> Callable[[Arm, TrainingConfig], Problem]:
    """What arms train, and how they are evaluated; compiled once an arm."""

    @functools.cache
    def scored(arm: Arm) -> Callable[[Any, dict[str, np.ndarray]], dict[str, jax.Array]]:
        apply = network(arm).apply
        return jax.jit(lambda params, batch: task.score(apply(params, batch), batch))

    def problem(arm: Arm, settings: TrainingConfig) -> Problem:
        made = network(arm)
        tuning = task.tuning if settings.seed >= comparisons.TUNING else None
        held_out = task.held_out if tuning is None else tuning

        def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            measures = task.score(made.apply(params, batch, key), batch)
            means = {name: value.mean() for name, value in measures.items()}
            return means.pop("loss"), means

        place = (settings.seed, settings.batch_size)
        return Problem(
            init=made.init,
            loss=loss,
            batch=functools.partial(task.batch, *place),
            part=None if task.part is None else functools.partial(task.part, *place),
            evaluate=functools.partial(
                evaluate, score=scored(arm), held_out=held_out, size=task.evaluated
            ),
            optimizer=functools.partial(optimizer, update=update),
            partition=functools.partial(models.partition, arm.model),
        )

    return problem


def counted(task: Task) -> str:
    """How many examples a task holds out, in a line."""
    return (
        f"{len(task.held_out['label'])} held-out examples of shape {task.held_out['x'].shape[1:]}"
    )


def evaluate(
    params: Any, score: Callable[..., Any], held_out: dict[str, np.ndarray], size: int
) -> dict[str, float]:
    """Means over all held-out examples, `size` at a time (the last batch is filled up)."""
    number = len(held_out["x"])
    size = min(size, number)
    totals: dict[str, float] = {}
    for start in range(0, number, size):
        chosen = np.arange(start, start + size)
        found = score(params, {name: part[chosen % number] for name, part in held_out.items()})
        for name, values in found.items():
            some = np.asarray(values, np.float64)[: number - start]
            totals[name] = totals.get(name, 0.0) + float(some.sum())
    return {name: total / number for name, total in totals.items()}


def parameters(network: Network) -> int:
    """How many a network has, without statistics."""
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    counted = _not_statistics(shapes)
    return sum(
        leaf.size
        for leaf, counts in zip(*map(jax.tree.leaves, (shapes, counted)), strict=True)
        if counts
    )


class Learns(Protocol):
    """A configuration of an experiment that trains arms."""

    @property
    def training(self) -> TrainingConfig:
        """Of all arms."""
        ...

    @property
    def comparison(self) -> Comparison:
        """Seeds and learning rates."""
        ...

    @property
    def update(self) -> UpdateConfig:
        """Groups of parameters."""
        ...


def run_all(
    arms: Sequence[Arm],
    network: Callable[[Arm], Network],
    task: Task,
    config: Learns,
    run: Run,
    metric: str = "error",
) -> dict[str, Any]:
    """Train and measure all arms (see `comparison.run_all`).

    Returns:
        For the run's result: means by arm, seeds, and arms whose rate lies at an end of the grid.
    """

    def about(arm: Arm) -> dict[str, Any]:
        model = arm.model
        sizes = {"mixer": model.mixer, "size": model.size}
        return {**sizes, "parameters": parameters(network(arm))}

    problem, comparison = problems(network, task, config.update), config.comparison
    rows = comparisons.run_all(arms, problem, config.training, comparison, metric, run, about)
    means = {
        arm.name: float(np.mean([row[metric] for row in rows if row.get("arm") == arm.name]))
        for arm in arms
    }
    ends = comparisons.at_an_end(rows, comparison.rates)
    return {metric: means, "seeds": comparison.seeds, "rates_at_an_end": ends}


def programs(
    arms: Sequence[Arm],
    network: Callable[[Arm], Network],
    score: Callable[..., dict[str, jax.Array]],
    example: dict[str, jax.ShapeDtypeStruct],
    config: Learns,
) -> dict[str, Program]:
    """The training step of every arm.

    Args:
        score: of the task.
        example: shapes of one example, without a batch.
    """
    make = problems(network, Task(lambda *_: {}, {}, score), config.update)
    batch = {
        name: jax.ShapeDtypeStruct((config.training.batch_size, *leaf.shape), leaf.dtype)
        for name, leaf in example.items()
    }
    return {
        arm.name: comparisons.program(
            make(arm, config.training), config.training, config.comparison, batch
        )
        for arm in arms
    }


def describe(
    arms: Sequence[Arm], network: Callable[[Arm], Network], config: Learns
) -> dict[str, str]:
    """What a dry run says about models and trainings."""
    sizes = [parameters(network(arm)) for arm in arms]
    each, settings = comparisons.trainings(config.comparison), config.training
    return {
        "models": "; ".join(arm.name for arm in arms),
        "parameters": f"{min(sizes):,} to {max(sizes):,}",
        "trainings": f"{each} of each model, {each * len(arms)} in all",
        "training": f"{settings.steps * settings.batch_size:,} examples seen in each",
    }
