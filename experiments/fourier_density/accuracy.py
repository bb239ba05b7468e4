"""Rounding errors of log-densities against order, and out in the tails.

Reproduces: no figure of the paper; it checks what its formulas lose in floating point. On the
circle, |A(x)|^2 is held against the usual sum 1/2 + sum_n Re(gamma_n exp(i pi n x)), in single
precision and both against double precision of the former. On the line, the log-density is
held against its formula evaluated directly, where tanh saturates.
"""

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
from fourier_density import PeriodicDensity, RealLineDensity
from fourier_density.host import in_float64


@dataclass(frozen=True)
class Config:
    """What to evaluate.

    Attributes:
        orders: orders N of densities on the circle, with random coefficients.
        points: number of random points at which each of them is evaluated.
        scales: how many scales out the density on the line is evaluated.
        seed: random seed of the coefficients and points.
    """

    orders: tuple[int, ...] = (2, 4, 16)
    points: int = 20_000
    scales: int = 40
    seed: int = 0

    def __post_init__(self):
        if not self.orders or min(self.orders) < 1:
            raise ValueError(f"orders: expected integers >= 1, got {self.orders}")
        if self.points < 1 or self.scales < 1:
            raise ValueError("points, scales: expected at least 1")


PRESETS = {
    "quick": Config(),
    "cpu": Config(orders=(1, 2, 4, 8, 16, 32, 63, 128, 256, 512), points=200_000),
    "paper": Config(orders=(1, 2, 4, 8, 16, 32, 63, 128, 256, 512), points=2_000_000),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Largest errors at every order, and the tails."""
    done = {row["step"] for row in run.tracker.rows()}
    for order in config.orders:
        if order not in done:
            run.tracker.log(order, **_circle(order, config))
            run.check_stop()
    last = max(run.tracker.rows(), key=lambda row: row["step"])
    return {**_line(config), "largest_order_error": last["ours"]}


@jax.jit
def _log_prob(density: Any, x: jax.Array) -> jax.Array:
    return density.log_prob(x)


@jax.jit
def _by_moments(density: PeriodicDensity, x: jax.Array) -> jax.Array:
    """The density as the papers print it: can be negative."""
    gamma = density.moments()

    def add(total: jax.Array, term: Any) -> tuple[jax.Array, None]:
        n, re, im = term
        angle = jnp.pi * n * x
        return total + re * jnp.cos(angle) - im * jnp.sin(angle), None

    n = jnp.arange(1, density.order + 1, dtype=x.dtype)
    return jax.lax.scan(add, jnp.full_like(x, 0.5), (n, gamma.real, gamma.imag))[0]


def _circle(order: int, config: Config) -> dict[str, float]:
    generator = np.random.default_rng(config.seed + order)
    a = (generator.normal(size=(2, order + 1)).T @ [1.0, 1j]).astype(np.complex64)
    x = generator.uniform(-1, 1, config.points).astype(np.float32)
    density = PeriodicDensity(a)
    exact = in_float64("log_prob", density, x)
    # Near a root every method loses digits: not where p is a millionth of its maximum.
    seen = exact > exact.max() + np.log(1e-6)
    p = np.asarray(_by_moments(density, x), np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        usual = np.abs(np.log(np.maximum(p, 1e-20)) - exact)[seen]
    ours = np.abs(np.asarray(_log_prob(density, x), np.float64) - exact)[seen]
    return {
        "ours": float(ours.max()),
        "usual": float(usual.max()),
        "negative": float(np.mean(p < 0)),
    }


def _line(config: Config) -> dict[str, Any]:
    """Log-densities of a standard real-line density out to many scales."""
    a = np.array([1.0, 0.5 - 0.2j, 0.3j], np.complex64)
    y = np.linspace(0.5, config.scales, 80).astype(np.float32)
    density = RealLineDensity(a, 0.0, 1.0)
    exact = in_float64("log_prob", density, y)
    ours = np.asarray(_log_prob(density, y), np.float64)
    slope = np.asarray(jax.jit(jax.vmap(jax.grad(density.log_prob)))(jnp.asarray(y)))
    circle = PeriodicDensity(a)
    v = jnp.tanh(jnp.asarray(y))
    direct = np.asarray(jnp.log(jnp.maximum(circle.prob(v) * (1.0 - v**2), 1e-20)), np.float64)
    relative = np.abs((ours - exact) / exact)
    return {
        "tail_error": float(relative.max()),
        "tail_smallest_slope": float(np.abs(slope).min()),
        "tail_y": y.tolist(),
        "tail_exact": exact.round(4).tolist(),
        "tail_ours": ours.round(4).tolist(),
        "tail_direct": direct.round(4).tolist(),
    }


def draw(record: Record):
    """Errors against order, and the tails."""
    figure, axes = figures.new(rows=1, columns=2)
    left, right = np.ravel(axes)
    rows = sorted(record.rows, key=lambda row: row["step"])
    labels = (("ours", r"$|A(x)|^2$"), ("usual", "sum of moments"))
    for (name, label), style in zip(labels, figures.styles(), strict=False):
        values = [max(row[name], 1e-8) for row in rows]
        left.plot([row["step"] for row in rows], values, label=label, **style)
    left.set(
        xlabel="order N",
        ylabel="largest error of log p (nats)",
        yscale="log",
        title="circle, single precision",
    )
    left.set_xscale("log", base=2)
    left.legend()
    result = record.result
    right.plot(result["tail_y"], result["tail_exact"], color="#999999", linewidth=4, label="exact")
    curves = (("tail_ours", "RealLineDensity"), ("tail_direct", "formula, floor 1e-20"))
    for (name, label), style in zip(curves, figures.styles(), strict=False):
        right.plot(result["tail_y"], result[name], label=label, **{**style, "marker": None})
    right.set(xlabel="(y - loc) / scale", ylabel="log-density (nats)", title="tail on the line")
    right.legend()
    return figure


def table(record: Record) -> str:
    """Errors at every order."""
    lines = [
        "| N | error of log p, ours | sum of moments | of its values negative |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['step']} | {r['ours']:.1e} | {r['usual']:.1e} | {100 * r['negative']:.2f} % |"
        for r in sorted(record.rows, key=lambda row: row["step"])
    ]
    tail = record.result["tail_error"]
    return "\n".join(lines) + f"\n\nTail on the line, relative error: {tail:.1e}\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": f"synthetic, {config.points} points at each of {len(config.orders)} orders"}


def programs(config: Config) -> dict[str, Program]:
    """Evaluating the largest order."""
    function, arguments = PeriodicDensity.log_prob, shapes(max(config.orders), config.points)
    return {"log_prob": Program(function, arguments, calls=len(config.orders))}


def _circle_error(record: Record) -> float | None:
    return max((row["ours"] for row in record.rows if row["step"] <= 64), default=None)


def _tail_error(record: Record) -> float | None:
    return record.result["tail_error"] if record.config["scales"] >= 40 else None


CLAIMS = (
    below(
        "accuracy.circle",
        "largest error of log p in single precision at the orders run up to 64, where p exceeds a "
        "millionth of its maximum",
        1e-3,
        _circle_error,
    ),
    below("accuracy.tail", "relative error of log q out to 40 scales", 1e-5, _tail_error),
)
