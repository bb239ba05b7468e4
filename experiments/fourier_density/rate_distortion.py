"""Fourier densities as priors of one variable, against the rate-distortion function.

Makes a figure of this project's own: rate against squared error of four densities. A reproduction
y of x costs log2 q(y|x) / r(y) bits, r being the prior. The best prior and channel of all are found
by Blahut and Arimoto's iteration on a grid; then the prior is a Fourier density of some order,
whose coefficients descend the same Lagrangian. What it lacks is a bound on its excess rate at equal
error. A scalar quantiser with tables of a fitted density is what a coder of single values can do:
its bits are compared with the entropy of its own symbols.

Hypothesis: at order 64 both differences are below a hundredth of a bit.

Source: Blahut, "Computation of channel capacity and rate-distortion functions" (1972), for the
iteration and its bound from below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import fourier_density
from experiments.fourier_density.targets import TARGETS
from experiments.harness import config as configs
from experiments.harness import figures
from experiments.harness.estimate import Program
from experiments.harness.ledger import below
from experiments.harness.run import Record, Run
from fourier_density import tables

BIT = np.log(2.0)


@dataclass(frozen=True)
class Config:
    """What is computed.

    Attributes:
        targets: names of `experiments.fourier_density.targets.TARGETS`.
        orders: orders N of the Fourier priors.
        slopes: -dR/dD, in nats per unit of squared error; the density lives on [-1, 1].
        quantisers: numbers of equal cells of [-1, 1] of the scalar quantisers.
        nodes: number of grid points, at least 8 (N + 1).
        iterations: largest number of Blahut-Arimoto iterations.
        descent: largest number of L-BFGS steps.
    """

    targets: tuple[str, ...] = ("tut10",)
    orders: tuple[int, ...] = (16,)
    slopes: tuple[float, ...] = (20.0, 320.0)
    quantisers: tuple[int, ...] = (16, 64)
    nodes: int = 256
    iterations: int = 5000
    descent: int = 500

    def __post_init__(self):
        configs.check_some("targets", self.targets, tuple(TARGETS))
        configs.check_some("orders", self.orders)
        configs.check_some("slopes", self.slopes)
        if min(self.orders) < 1:
            raise ValueError(f"orders: expected integers >= 1, got {self.orders}")
        if self.nodes < 8 * (max(self.orders) + 1):
            raise ValueError(
                f"nodes: expected at least {8 * (max(self.orders) + 1)} for order "
                f"{max(self.orders)}, got {self.nodes}"
            )
        if min(self.slopes) <= 0 or max(self.slopes) > self.nodes**2 / 50:
            raise ValueError(
                f"slopes: expected some in (0, {self.nodes**2 / 50:g}], whose errors the grid "
                f"resolves, got {self.slopes}"
            )
        if min(self.quantisers, default=2) < 2 or min(self.iterations, self.descent) < 1:
            raise ValueError(
                f"quantisers, iterations, descent: expected >= 2, >= 1, >= 1, got "
                f"{self.quantisers}, {self.iterations}, {self.descent}"
            )


PRESETS = {
    "quick": Config(),
    "cpu": Config(
        targets=("tut10", "square", "laplace3", "vonmises2"),
        orders=(16, 64),
        slopes=(5.0, 20.0, 80.0, 320.0, 1280.0),
        quantisers=(8, 16, 32, 64, 128),
        nodes=640,
        iterations=20_000,
        descent=3000,
    ),
    "paper": Config(
        targets=("tut10", "square", "laplace3", "vonmises2"),
        orders=(16, 32, 64),
        slopes=(2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0),
        quantisers=(4, 8, 16, 32, 64, 128, 256),
        nodes=1024,
        iterations=100_000,
        descent=10_000,
    ),
}


@dataclass(frozen=True)
class Source:
    """Masses p [M] of a density at the nodes x [M], spaced evenly from -1."""

    x: np.ndarray
    p: np.ndarray

    def channel(self, slope: float) -> np.ndarray:
        """exp(-slope (x - y)^2), [M, M]."""
        return np.exp(-slope * self.squares())

    def squares(self) -> np.ndarray:
        """[M, M]."""
        return (self.x[:, None] - self.x) ** 2

    def entropy(self) -> float:
        """Of the density, in nats."""
        some = self.p[self.p > 0]
        return float(-np.sum(some * np.log(some)) + np.log(self.x[1] - self.x[0]))


def source(target: str, nodes: int) -> Source:
    """Of a named density; what is less than 1e-20 in all counts as nothing."""
    half = 1.0 / nodes
    x, cdf = -1.0 + 2.0 * half * np.arange(nodes), TARGETS[target].cdf
    p = cdf(x + half) - cdf(x - half)
    p[0] += cdf(np.array(1.0)) - cdf(np.array(1.0 - half))  # the half cell before 1, as on a circle
    p = np.where(p > 1e-20, p, 0.0)
    return Source(x, p / p.sum())


def rate_and_error(these: Source, slope: float, prior: np.ndarray) -> tuple[float, float]:
    """Bits and squared error of the channel prior(y) exp(-slope (x - y)^2) / z(x)."""
    channel = these.channel(slope)
    z = channel @ prior
    error = np.sum(_share(these.p, z)[:, None] * channel * these.squares() * prior)
    return float((_lagrangian_of(these.p, z) - slope * error) / BIT), float(error)


def _share(p: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The quotient, and 0 where p is."""
    return np.divide(p, z, where=p > 0, out=np.zeros_like(p))


def _lagrangian_of(p: np.ndarray, z: np.ndarray) -> float:
    return float(-p @ np.log(z, where=p > 0, out=np.zeros_like(p)))


def blahut_arimoto(these: Source, slope: float, iterations: int) -> tuple[np.ndarray, float]:
    """The best prior [M], and a bound from below on R + slope D, in bits."""
    channel = these.channel(slope)
    prior = np.full(these.x.size, 1.0 / these.x.size)
    for _ in range(iterations):
        z = channel @ prior
        factor = _share(these.p, z) @ channel
        largest = np.log(factor.max())
        if largest < 1e-4:
            break
        prior = prior * factor
        prior[prior < 1e-200] = 0.0
    else:
        z = channel @ prior
        largest = np.log((_share(these.p, z) @ channel).max())
    # For squared errors Shannon's bound holds too, which tails of p do not loosen.
    shannon = these.entropy() - 0.5 * np.log(np.pi / slope)
    return prior, float(max(_lagrangian_of(these.p, z) - largest, shannon) / BIT)


def fourier_prior(these: Source, slope: float, first: np.ndarray, steps: int) -> np.ndarray:
    """Coefficients [N + 1] of the prior at which R + slope D is least, from first ones."""
    with jax.enable_x64(True):
        channel = jnp.asarray(these.channel(slope))
        p, x = jnp.asarray(these.p), jnp.asarray(these.x)
        found = scipy.optimize.minimize(
            lambda v: tuple(np.asarray(part, np.float64) for part in _descent(v, x, p, channel)),
            np.concatenate([np.real(first), np.imag(first)]),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": steps,
                "maxfun": 2 * steps,
                "maxcor": 30,
                "ftol": 1e-13,
                "gtol": 1e-9,
            },
        )
    return found.x[: first.size] + 1j * found.x[first.size :]


def _lagrangian(v: jax.Array, x: jax.Array, p: jax.Array, channel: jax.Array) -> jax.Array:
    """R + slope D in nats, at the channel that is best for the prior."""
    return -p @ jnp.log(channel @ _masses(v, x))


_descent = jax.jit(jax.value_and_grad(_lagrangian))


def _masses(v: jax.Array, x: jax.Array) -> jax.Array:
    re, im = jnp.split(v, 2)
    prob = fourier_density.PeriodicDensity(jax.lax.complex(re, im)).prob(x)
    return prob / prob.sum()


def quantised(target: str, cells: int, density: Any) -> dict[str, float]:
    """Bits and error of the quantiser with that many equal cells, coded by tables of a density."""
    edges = np.linspace(-1.0, 1.0, cells + 1)
    middles = 0.5 * (edges[1:] + edges[:-1])
    mass = np.diff(TARGETS[target].cdf(edges))
    mass = mass / mass.sum()
    nodes, weights = TARGETS[target].quadrature(256)
    errors = (nodes - middles[np.clip(np.digitize(nodes, edges) - 1, 0, cells - 1)]) ** 2
    table = tables.from_density(density, step=2.0 / cells, offset=float(middles[0]))
    some = mass > 0
    bits = table.bits(np.flatnonzero(some))
    return {
        "error": float(np.sum(weights * TARGETS[target].prob(nodes) * errors)),
        "entropy": float(-np.sum(mass[some] * np.log2(mass[some]))),
        "bits": float(np.sum(mass[some] * bits)),
    }


def main(config: Config, run: Run) -> dict[str, Any]:
    """Every target, slope and order; what is already recorded is not repeated."""
    for target in config.targets:
        these = source(target, config.nodes)
        for slope in config.slopes:
            if not any(row.get("slope") == slope for row in _rows(run.tracker.rows(), target)):
                prior, bound = blahut_arimoto(these, slope, config.iterations)
                rate, error = rate_and_error(these, slope, prior)
                run.tracker.log(
                    _next(run), target=target, slope=slope, rate=rate, error=error, bound=bound
                )
                run.check_stop()
        rows = _rows(run.tracker.rows(), target)
        bounds = {row["slope"]: row["bound"] for row in rows if "slope" in row}
        for order in config.orders:
            if not any(row.get("order") == order for row in rows):
                fitted = fourier_density.fit_weights(these.p, order).density
                priors = _priors(config, these, fitted, bounds)
                coded = [quantised(target, cells, fitted) for cells in config.quantisers]
                run.tracker.log(
                    _next(run), target=target, order=order, **priors, quantisers=_columns(coded)
                )
                run.check_stop()
    rows = [row for row in run.tracker.rows() if "order" in row]
    return {"excess": float(np.max([row["excess"] for row in rows]))}


def _next(run: Run) -> int:
    return len(run.tracker.rows())


def _rows(rows: list[dict[str, Any]], target: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["target"] == target]


def _columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _priors(config: Config, these: Source, fitted: Any, bounds: dict[float, float]) -> Any:
    """Rates, errors and excess by slope; each descent starts where a steeper slope ended."""
    coefficients, rows = np.asarray(fitted.coefficients, complex), {}
    for slope in sorted(config.slopes, reverse=True):
        coefficients = fourier_prior(these, slope, coefficients, config.descent)
        v = np.concatenate([np.real(coefficients), np.imag(coefficients)])
        with jax.enable_x64(True):
            prior = np.asarray(_masses(jnp.asarray(v), jnp.asarray(these.x)))
        rate, error = rate_and_error(these, slope, prior)
        excess = rate + slope * error / BIT - bounds[slope]
        rows[slope] = {"rate": rate, "error": error, "excess": excess}
    return _columns([rows[slope] for slope in config.slopes])


def draw(record: Record):
    """Rates against errors, and differences (at least 1e-6) against rates, a row a target."""
    targets = record.config["targets"]
    figure, axes = figures.new(rows=len(targets), columns=2)
    for (left, right), target in zip(axes, targets, strict=True):
        rows = _rows(record.rows, target)
        best = _columns(sorted((r for r in rows if "slope" in r), key=lambda row: row["slope"]))
        priors = sorted((r for r in rows if "order" in r), key=lambda row: row["order"])
        left.plot(best["error"], best["rate"], color="#999999", linewidth=3, label="least rate")
        for row, style in zip(priors, figures.styles(), strict=False):
            left.plot(row["error"], row["rate"], label=f"prior, N = {row['order']}", **style)
            _pairs(right, row["rate"], row["excess"], f"prior, N = {row['order']}", style)
        last = priors[-1]
        style = {"color": "#000000", "linestyle": ":", "marker": "x"}
        coded = last["quantisers"]
        if coded:
            label = f"quantiser, tables of N = {last['order']} (right: above its entropy)"
            left.plot(coded["error"], coded["bits"], label=label, **style)
            more = np.subtract(coded["bits"], coded["entropy"])
            _pairs(right, coded["bits"], more, label, style)
        left.set(xlabel="squared error", ylabel="bits", title=f"{target}: rates")
        line = {"color": "#777777", "linestyle": "--", "label": "a hundredth of a bit"}
        right.axhline(0.01, linewidth=1.0, **line)
        right.set(xlabel="bits", ylabel="bits above the least, 1e-6 or more")
        right.set(title=f"{target}: differences")
        left.set_xscale("log")
        right.set_yscale("log")
    figures.legend_below(figure, columns=4)
    return figure


def _pairs(axis: Any, x: Any, y: Any, label: str, style: dict[str, Any]) -> None:
    axis.plot(x, np.maximum(y, 1e-6), label=label, **style)


def table(record: Record) -> str:
    """Differences in bits, by target and order."""
    slopes, cells = record.config["slopes"], record.config["quantisers"]
    head = ["target", "N", *(f"slope {slope:g}" for slope in slopes)]
    head += [f"{count} cells" for count in cells]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for target in record.config["targets"]:
        for row in [row for row in _rows(record.rows, target) if "order" in row]:
            coded = row["quantisers"] or {"bits": [], "entropy": []}
            more = [*row["excess"], *np.subtract(coded["bits"], coded["entropy"])]
            cells_of_row = [target, str(row["order"]), *(f"{value:.5f}" for value in more)]
            lines.append("| " + " | ".join(cells_of_row) + " |")
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says."""
    size = len(config.targets) * len(config.orders) * len(config.slopes)
    return {"data": f"none but known densities on {config.nodes} nodes; {size} priors"}


def programs(config: Config) -> dict[str, Program]:
    """The Lagrangian of the largest order, with its gradient."""
    size, m = 2 * (max(config.orders) + 1), config.nodes
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((size,), (m,), (m,), (m, m))]
    calls = len(config.targets) * len(config.orders) * len(config.slopes) * config.descent
    return {"lagrangian": Program(jax.value_and_grad(_lagrangian), tuple(shapes), calls=calls)}


def _largest(record: Record, difference: Callable[[dict[str, Any]], Any]) -> float | None:
    """Over the targets and slopes or quantisers that were run, at order 64."""
    rows = [row for row in record.rows if row.get("order") == 64]
    values = [difference(row) for row in rows]
    return float(np.max(values)) if np.size(values) else None


CLAIMS = (
    below(
        "rate_distortion.excess",
        "bits of the best Fourier prior of order 64 above the least rate at equal error (a bound "
        "that also bounds its cost above the entropy of the reproductions), the largest",
        0.01,
        lambda record: _largest(record, lambda row: row["excess"]),
    ),
    below(
        "rate_distortion.tables",
        "bits of a quantiser coded by tables of a fitted Fourier density of order 64 above the "
        "entropy of its symbols, the largest",
        0.01,
        lambda record: _largest(
            record,
            lambda row: np.subtract(*(row["quantisers"].get(k, []) for k in ("bits", "entropy"))),
        ),
    ),
)
