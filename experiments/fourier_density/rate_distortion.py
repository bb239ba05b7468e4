"""Fourier densities as priors of one variable, against the least rate there is.

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

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import fourier_density
from experiments.fourier_density.targets import TARGETS
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
        orders: N of the priors.
        slopes: -dR/dD, in nats a unit of squared error; the density lives on [-1, 1].
        quantisers: cells of [-1, 1].
        nodes: of the grid, at least 8 (N + 1).
        iterations: at most, of Blahut and Arimoto's iteration.
        descent: at most, steps of L-BFGS.
    """

    targets: tuple[str, ...] = ("tut10",)
    orders: tuple[int, ...] = (16,)
    slopes: tuple[float, ...] = (20.0, 320.0)
    quantisers: tuple[int, ...] = (16, 64)
    nodes: int = 256
    iterations: int = 5000
    descent: int = 500

    def __post_init__(self):
        for name in self.targets:
            if name not in TARGETS:
                raise ValueError(f"targets: expected some of {', '.join(TARGETS)}, got {name!r}")
        if not self.targets or not self.orders or min(self.orders) < 1:
            raise ValueError(f"targets, orders: expected some, orders >= 1, got {self.orders}")
        if self.nodes < 8 * (max(self.orders) + 1):
            raise ValueError(
                f"nodes: expected at least {8 * (max(self.orders) + 1)} for order "
                f"{max(self.orders)}, got {self.nodes}"
            )
        if not self.slopes or min(self.slopes) <= 0 or max(self.slopes) > self.nodes**2 / 50:
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
        orders=(16, 32, 64, 128),
        slopes=(2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0, 2560.0),
        quantisers=(4, 8, 16, 32, 64, 128, 256),
        nodes=2048,
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
    """Of a named density."""
    half = 1.0 / nodes
    x = -1.0 + 2.0 * half * np.arange(nodes)
    p = TARGETS[target].cdf(x + half) - TARGETS[target].cdf(x - half)
    return Source(x, p / p.sum())


def rate_and_error(these: Source, slope: float, prior: np.ndarray) -> tuple[float, float]:
    """Bits and squared error of the channel prior(y) exp(-slope (x - y)^2) / z(x)."""
    channel = these.channel(slope)
    z = channel @ prior
    error = np.sum((these.p / z)[:, None] * channel * these.squares() * prior)
    return float((-these.p @ np.log(z) - slope * error) / BIT), float(error)


def blahut_arimoto(these: Source, slope: float, iterations: int) -> tuple[np.ndarray, float]:
    """The best prior [M], and a bound from below on R + slope D, in bits."""
    channel = these.channel(slope)
    prior = np.full(these.x.size, 1.0 / these.x.size)
    factor = prior
    for _ in range(iterations):
        factor = (these.p / (channel @ prior)) @ channel
        if np.log(factor.max()) < 1e-4:
            break
        prior = prior * factor
    lagrangian = -these.p @ np.log(channel @ prior)
    # For squared errors Shannon's bound holds too, which tails of p do not loosen.
    shannon = these.entropy() - 0.5 * np.log(np.pi / slope)
    return prior, float(max(lagrangian - np.log(factor.max()), shannon) / BIT)


def fourier_prior(these: Source, slope: float, first: np.ndarray, steps: int) -> np.ndarray:
    """Coefficients [N + 1] of the prior at which R + slope D is least, from first ones."""
    channel = jnp.asarray(these.channel(slope))
    p, x = jnp.asarray(these.p), jnp.asarray(these.x)

    found = scipy.optimize.minimize(
        lambda v: tuple(np.asarray(part, np.float64) for part in _descent(v, x, p, channel)),
        np.concatenate([np.real(first), np.imag(first)]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps, "maxfun": 2 * steps, "maxcor": 30, "ftol": 1e-13, "gtol": 1e-9},
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
    """Every target and order; those already recorded are not repeated."""
    done = {(row["target"], row["order"]) for row in run.tracker.rows()}
    for target in config.targets:
        these = source(target, config.nodes)
        if (target, None) not in done:
            run.tracker.log(_next(run), target=target, order=None, **_best(config, these))
            run.check_stop()
        best = next(r for r in run.tracker.rows() if (r["target"], r["order"]) == (target, None))
        for order in config.orders:
            if (target, order) not in done:
                fitted = fourier_density.fit_weights(these.p, order).density
                priors = _priors(config, these, fitted, best["bounds"])
                coded = [quantised(target, cells, fitted) for cells in config.quantisers]
                run.tracker.log(
                    _next(run), target=target, order=order, **priors, quantisers=_columns(coded)
                )
                run.check_stop()
    rows = [row for row in run.tracker.rows() if row["order"] is not None]
    return {"excess": max(max(row["excess"]) for row in rows)}


def _next(run: Run) -> int:
    return len(run.tracker.rows())


def _columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _best(config: Config, these: Source) -> dict[str, list[float]]:
    """Rates, errors and bounds by slope."""
    rows = []
    for slope in config.slopes:
        prior, bound = blahut_arimoto(these, slope, config.iterations)
        rate, error = rate_and_error(these, slope, prior)
        rows.append({"rates": rate, "errors": error, "bounds": bound})
    return _columns(rows)


def _priors(config: Config, these: Source, fitted: Any, bounds: list[float]) -> Any:
    """Rates, errors, excess and marginal divergence by slope; from the steepest slope down."""
    coefficients, rows = np.asarray(fitted.coefficients, complex), {}
    for slope, bound in sorted(zip(config.slopes, bounds, strict=True), reverse=True):
        with jax.enable_x64(True):
            coefficients = fourier_prior(these, slope, coefficients, config.descent)
            v = np.concatenate([np.real(coefficients), np.imag(coefficients)])
            prior = np.asarray(_masses(jnp.asarray(v), jnp.asarray(these.x)))
        rate, error = rate_and_error(these, slope, prior)
        rows[slope] = {
            "rates": rate,
            "errors": error,
            "excess": rate + slope * error / BIT - bound,
            "divergence": _divergence(these, slope, prior),
        }
    return _columns([rows[slope] for slope in config.slopes])


def _divergence(these: Source, slope: float, prior: np.ndarray) -> float:
    """Bits that the prior costs above the entropy of the reproductions themselves."""
    channel = these.channel(slope)
    factor = (these.p / (channel @ prior)) @ channel
    some = prior * factor > 0
    return float(np.sum((prior * factor * np.log(factor, where=some, out=0 * factor))[some]) / BIT)


def draw(record: Record):
    """Rates against errors, and differences (at least 1e-6) against rates, a row a target."""
    targets = record.config["targets"]
    figure, axes = figures.new(rows=len(targets), columns=2)
    for (left, right), target in zip(axes, targets, strict=True):
        best, *priors = _rows(record, target)
        left.plot(best["errors"], best["rates"], color="#999999", linewidth=3, label="least rate")
        for row, style in zip(priors, figures.styles(), strict=False):
            left.plot(row["errors"], row["rates"], label=f"prior, N = {row['order']}", **style)
            _pairs(right, row["rates"], row["excess"], f"prior, N = {row['order']}", style)
        last = priors[-1]
        style = {"color": "#000000", "linestyle": ":", "marker": "x"}
        coded = last["quantisers"]
        if coded:
            left.plot(coded["error"], coded["bits"], label="quantiser", **style)
            more = np.subtract(coded["bits"], coded["entropy"])
            _pairs(right, coded["bits"], more, f"quantiser, N = {last['order']}", style)
        left.set(xlabel="squared error", ylabel="bits", title=target)
        right.axhline(0.01, color="#999999", linewidth=0.8)
        right.set(xlabel="bits", ylabel="bits above the least", title=f"{target}: differences")
        left.set_xscale("log")
        right.set_yscale("log")
        left.legend()
        right.legend()
    return figure


def _pairs(axis: Any, x: Any, y: Any, label: str, style: dict[str, Any]) -> None:
    axis.plot(x, np.maximum(y, 1e-6), label=label, **style)


def _rows(record: Record, target: str) -> list[dict[str, Any]]:
    """The best priors first, then those of rising order."""
    rows = [row for row in record.rows if row["target"] == target]
    return sorted(rows, key=lambda row: row["order"] or 0)


def table(record: Record) -> str:
    """Differences in bits, by target and order."""
    slopes, cells = record.config["slopes"], record.config["quantisers"]
    head = ["target", "N", *(f"slope {slope:g}" for slope in slopes)]
    head += [f"{count} cells" for count in cells]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for target in record.config["targets"]:
        for row in _rows(record, target)[1:]:
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


def _largest(record: Record, difference: Any) -> float:
    """Over targets and slopes or quantisers, at the largest order."""
    order = max(record.config["orders"])
    rows = [row for row in record.rows if row["order"] == order]
    return max(float(np.max(difference(row))) for row in rows)


def _table_excess(record: Record) -> float | None:
    if not record.config["quantisers"]:
        return None
    return _largest(
        record, lambda row: np.subtract(row["quantisers"]["bits"], row["quantisers"]["entropy"])
    )


CLAIMS = (
    below(
        "rate_distortion.excess",
        "bits of the best Fourier prior above the least rate at equal error (a bound), the "
        "largest of all targets and slopes, at the largest order",
        0.01,
        lambda record: _largest(record, lambda row: row["excess"]),
    ),
    below(
        "rate_distortion.marginal",
        "bits that the Fourier prior costs above the entropy of the reproductions, the largest",
        0.01,
        lambda record: _largest(record, lambda row: row["divergence"]),
    ),
    below(
        "rate_distortion.tables",
        "bits of a quantiser coded by tables of a fitted Fourier density above the entropy of its "
        "symbols, the largest of all targets and cells, at the largest order",
        0.01,
        _table_excess,
    ),
)
