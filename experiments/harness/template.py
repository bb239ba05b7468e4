"""Estimate pi by throwing darts: replace this with your question.

Reproduces: nothing yet; say here which post, paper, figure or table.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from experiments.harness import figures
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run


@dataclass(frozen=True)
class Config:
    """`darts` are thrown in each of `rounds` rounds."""

    darts: int = 10_000
    rounds: int = 10
    seed: int = 0

    def __post_init__(self):
        if min(self.darts, self.rounds) < 1:
            raise ValueError(f"darts, rounds: expected >= 1, got {self.darts}, {self.rounds}")


PRESETS = {"quick": Config(), "cpu": Config(rounds=100), "paper": Config(rounds=1000)}


def main(config: Config, run: Run) -> dict[str, float]:
    """The experiment: log rows, return what the figure and the claims need."""
    key, done = jax.random.key(config.seed), run.tracker.rows()  # some if it was cut off before
    hits = done[-1]["hits"] if done else 0
    for step in range(len(done) + 1, config.rounds + 1):
        darts = jax.random.uniform(jax.random.fold_in(key, step), (config.darts, 2))
        hits += int(jnp.sum(jnp.sum(darts**2, axis=1) < 1))
        run.tracker.log(step, hits=hits, estimate=4 * hits / (step * config.darts))
        run.check_stop()  # ends here after Ctrl-C; the same command goes on
    total = config.rounds * config.darts
    return {"pi": 4 * hits / total, "error": 8 * (hits / total * (1 - hits / total) / total) ** 0.5}


def draw(record: Record):
    """The figure, from recorded numbers alone."""
    figure, axes = figures.new()
    steps, estimates = zip(*[(row["step"], row["estimate"]) for row in record.rows], strict=True)
    axes[0, 0].plot(steps, estimates, **next(figures.styles()))
    axes[0, 0].set(xlabel="round", ylabel="estimate of pi")
    return figure


def measure(record: Record) -> Measurement:
    """The estimate within two standard errors."""
    pi, error = record.result["pi"], record.result["error"]
    return Measurement(pi, pi - error, pi + error)


CLAIMS = (
    Claim(
        "template.pi",
        "darts find pi",
        "geometry",
        measure,
        paper=3.14159265,
        tolerance=0.05,
        kind="identity",  # holds at any scale; a number of a paper's table is a "value"
    ),
)
