"""Sampling by a tabulated inverse: error and speed against the size of the table.

Reproduces: no figure of the paper, which names sampling as what remains to be solved
(https://kexue.fm/archives/10007 lists it among the drawbacks). A table of the distribution
function, a cubic in each cell and Newton's method invert it; the error is |P(x) - u| against
double precision, the speed is that of one compiled call.
"""

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.fourier_density.measures import shapes
from experiments.harness import figures
from experiments.harness.estimate import Program
from experiments.harness.ledger import below
from experiments.harness.run import Record, Run
from fourier_density import PeriodicDensity, sampling
from fourier_density.host import in_float64


@dataclass(frozen=True)
class Config:
    """What to sample.

    Attributes:
        order: order N of the density, with random coefficients.
        cells: numbers M of cells of the table.
        samples: number of samples drawn at every M.
        seed: random seed of coefficients and samples.
    """

    order: int = 13
    cells: tuple[int, ...] = (256, 4096)
    samples: int = 200_000
    seed: int = 0

    def __post_init__(self):
        if self.order < 1 or self.samples < 1:
            raise ValueError("order, samples: expected at least 1")
        if not self.cells or min(self.cells) < 2:
            raise ValueError(f"cells: expected sizes of at least 2, got {self.cells}")


TIMED = True  # nothing may run beside it
PRESETS = {
    "quick": Config(),
    "cpu": Config(order=31, cells=(64, 128, 256, 512, 1024, 2048, 4096, 8192), samples=2_000_000),
    "paper": Config(
        order=31, cells=(64, 128, 256, 512, 1024, 2048, 4096, 8192), samples=10_000_000
    ),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Errors and speeds at every size of the table, and Kolmogorov's distance."""
    generator = np.random.default_rng(config.seed)
    a = (generator.normal(size=(2, config.order + 1)).T @ [1.0, 1j]).astype(np.complex64)
    density = PeriodicDensity(a)
    u = jax.random.uniform(jax.random.key(config.seed), (config.samples,))
    done = {row["step"] for row in run.tracker.rows()}
    for cells in config.cells:
        if cells not in done:
            run.tracker.log(cells, **_measure(density, u, cells))
            run.check_stop()
    x = jax.jit(lambda d, u: d.quantile(u))(density, jnp.sort(u))
    levels = in_float64("cdf", density, x)
    ranks = (np.arange(config.samples) + 0.5) / config.samples
    distance = float(np.max(np.abs(np.sort(levels) - ranks)))
    return {
        "default_cells": sampling.cells(config.order),
        "kolmogorov": distance * float(np.sqrt(config.samples)),
    }


def _measure(density: PeriodicDensity, u: jax.Array, cells: int) -> dict[str, float]:
    invert = jax.jit(lambda d, u: sampling.invert(u, d.cdf, d.prob, cells))
    x = jax.block_until_ready(invert(density, u))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(invert(density, u))
        times.append(time.perf_counter() - start)
    error = np.abs(in_float64("cdf", density, x) - np.asarray(u, np.float64))
    return {"error": float(error.max()), "samples_per_second": u.size / min(times)}


def draw(record: Record):
    """Error and speed against the size of the table."""
    figure, axes = figures.new(rows=1, columns=2)
    left, right = np.ravel(axes)
    rows = sorted(record.rows, key=lambda row: row["step"])
    cells, style = [row["step"] for row in rows], next(iter(figures.styles()))
    left.plot(cells, [row["error"] for row in rows], **style)
    left.set(xlabel="cells M", ylabel="largest |P(x) - u|", yscale="log")
    left.set_xscale("log", base=2)
    left.set_title(f"error, N = {record.config['order']}, single precision")
    right.plot(cells, [row["samples_per_second"] / 1e6 for row in rows], **style)
    right.set(xlabel="cells M", ylabel="million samples a second")
    right.set_xscale("log", base=2)
    right.set_ylim(bottom=0)
    right.set_title("speed on this machine")
    return figure


def table(record: Record) -> str:
    """Every size."""
    lines = ["| cells | largest error | million samples a second |", "| --- | --- | --- |"]
    lines += [
        f"| {r['step']} | {r['error']:.1e} | {r['samples_per_second'] / 1e6:.1f} |"
        for r in sorted(record.rows, key=lambda row: row["step"])
    ]
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": f"none; {config.samples} samples at each of {len(config.cells)} table sizes"}


def programs(config: Config) -> dict[str, Program]:
    """One inversion."""
    arguments, calls = shapes(config.order, config.samples), 6 * len(config.cells)
    return {"quantile": Program(PeriodicDensity.quantile, arguments, calls=calls)}


def _error(record: Record) -> float | None:
    default = record.result["default_cells"]
    return next((r["error"] for r in record.rows if r["step"] == default), None)


CLAIMS = (
    below(
        "sampling.error",
        "largest |P(x) - u| in single precision with the table of default size",
        5e-7,
        _error,
    ),
    below(
        "sampling.kolmogorov",
        "Kolmogorov's statistic of the samples times the root of their number (1 % point 1.63)",
        1.63,
        lambda record: record.result["kolmogorov"],
    ),
)
