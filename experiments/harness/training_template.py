"""Train a sequence model to forecast a series: replace both with yours.

Reproduces: nothing yet; say here which post, paper, figure or table.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import figures, training, weights
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim
from experiments.harness.optimizers import TrainingConfig
from experiments.harness.run import Record, Run
from ssm import s4d, stack
from ssm.mixer import Mixer

NAME, HELD_OUT = "forecaster", 2**40  # no training comes to that step
SHORT = TrainingConfig(steps=200, learning_rate=3e-3, eval_every=50)
LONG = TrainingConfig(steps=2000, learning_rate=3e-3)


@dataclass(frozen=True)
class Config:
    """`layers` layers of `channels` channels with `modes` pairs of poles read `length` values."""

    length: int = 64
    channels: int = 8
    modes: int = 8
    layers: int = 2
    training: TrainingConfig = SHORT


PRESETS = {"quick": Config(), "cpu": Config(training=LONG), "paper": Config(256, 64, training=LONG)}


def model(config: Config) -> Mixer:
    """What is trained; any pair of init(key) and apply(params, x) will do."""
    mixer = s4d.mixer(s4d.Config(config.channels, config.modes))
    return stack.model(stack.Config(config.channels, outputs=1, layers=config.layers), mixer)


def batch(config: Config, step: int) -> dict[str, np.ndarray]:
    """Values and those behind them, [B, T, 1]: of two waves, and noise that is not to be foretold.

    A function of the seed and the step alone: so a resumed run sees what it would have seen.
    """
    rng = np.random.default_rng((config.training.seed, step))
    size, times = config.training.batch_size, np.arange(config.length + 1)
    rates, phases = rng.uniform(0.05, 0.5, (2, size, 1)), rng.uniform(0, 2 * np.pi, (2, size, 1))
    clean = np.sin(rates * times + phases).sum(axis=0)
    seen = clean[:, :-1] + 0.2 * rng.normal(size=(size, config.length))
    return {"x": seen[..., None].astype("float32"), "y": clean[:, 1:, None].astype("float32")}


def problem(config: Config) -> training.Problem:
    """What `training.train` needs."""
    network, held_out = model(config), batch(config, HELD_OUT)

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        del key  # for dropout and noise; beside the loss, metrics may be returned to be logged
        return jnp.mean((network.apply(params, batch["x"]) - batch["y"]) ** 2), {}

    error = jax.jit(lambda params: loss(params, held_out, jax.random.key(0))[0])
    return training.Problem(
        init=network.init,
        loss=loss,
        batch=lambda step: batch(config, step),
        evaluate=lambda params: {"error": float(error(params))},
    )


def main(config: Config, run: Run) -> dict[str, float]:
    """Train, or go on where a run was cut off; keep the weights; return the numbers."""
    made = problem(config)
    params = training.averaged(training.train(made, config.training, run))
    weights.save(run.directory, NAME, params)
    held_out = batch(config, HELD_OUT)
    unchanged = float(np.mean((held_out["x"] - held_out["y"]) ** 2))
    return {**made.evaluate(params), "error_of_no_change": unchanged}


def trained_networks(config: Config) -> dict[str, weights.Network]:
    """For `experiments.trained.load`, which opens a finished run."""
    network = model(config)
    return {NAME: weights.Network(network.init, network.apply)}


def programs(config: Config) -> dict[str, Program]:
    """For `estimate` and `--dry-run`."""
    made, settings = problem(config), config.training
    shapes = jax.eval_shape(lambda: (training.init_state(made, settings), batch(config, 0)))
    step = training.make_step(made, settings)
    return {"training step": Program(step, shapes, (0,), settings.steps)}


def draw(record: Record):
    """The figure, from recorded numbers alone."""
    figure, axes = figures.new()
    series = {"training": "loss", "held out": "error"}
    for (label, name), style in zip(series.items(), figures.styles(), strict=False):
        points = [(row["step"], row[name]) for row in record.rows if name in row]
        axes[0, 0].plot(*zip(*points, strict=True), label=label, **style)
    axes[0, 0].set(xlabel="step", ylabel="squared error", yscale="log")
    axes[0, 0].legend()
    return figure


CLAIMS = (
    Claim(
        "template.learns",
        "the error of no change over that of the model",
        "one's own",
        lambda record: record.result["error_of_no_change"] / record.result["error"],
        paper=1.0,
        kind="ordering",  # more than `paper`; a number of a paper's table is a "value"
    ),
)
