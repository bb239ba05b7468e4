"""Fourier densities on the real line: which base distribution to choose, and what others reach.

Reproduces: the extension of the Fourier density to the real line by v = tanh((y - t) / s)
(arXiv 2402.15345, section 2; https://kexue.fm/archives/10007), which is one base among
several here, with location and scale searched as well. Two peaks (`faithful2`), a comb on a
normal (`claw`), heavy tails (`student3mix`), no mean at all (`cauchy`); each fitted with every
base alone, with the base chosen by the likelihood of the data fitted, with reflected ends,
and by a Gaussian mixture of as many parameters.
"""

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fourier_density
from experiments.fourier_density.measures import divergence
from experiments.fourier_density.targets import LINE_TARGETS, line_quadrature
from experiments.harness import figures
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run
from fourier_density import baselines
from fourier_density.host import in_float64

GRID = 401  # points of the curves drawn


@dataclass(frozen=True)
class Config:
    """What to fit.

    Attributes:
        targets: names of `experiments.fourier_density.targets.LINE_TARGETS`.
        bases: names of bases fitted alone; "chosen" chooses among the four of `fit`,
            "reflect" does so with reflected ends and 2 N in place of N, "mixture" is a
            Gaussian mixture of (2 N + 3) / 3 components.
        order: N; with location and scale, 2 N + 2 degrees of freedom.
        samples: number of samples of each target.
        seeds: random seeds of the samples; results are means over them.
    """

    targets: tuple[str, ...] = ("faithful2", "claw", "student3mix")
    bases: tuple[str, ...] = ("tanh", "chosen", "mixture")
    order: int = 14
    samples: int = 20_000
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self):
        for name in self.targets:
            if name not in LINE_TARGETS:
                known = ", ".join(LINE_TARGETS)
                raise ValueError(f"targets: expected some of {known}, got {name!r}")
        known = (*fourier_density.transforms.NAMED, "chosen", "reflect", "mixture")
        for name in self.bases:
            if name not in known:
                raise ValueError(f"bases: expected some of {', '.join(known)}, got {name!r}")
        if self.order < 1 or self.samples < 2 or not self.seeds:
            raise ValueError("order, samples, seeds: expected at least 1, 2 and one of them")


_EVERY = ("tanh", "normal", "laplace", "student_t", "chosen", "reflect", "mixture")
PRESETS = {
    "quick": Config(),
    "cpu": Config(targets=tuple(LINE_TARGETS), bases=_EVERY, seeds=(0, 1, 2, 3, 4)),
    "paper": Config(
        targets=tuple(LINE_TARGETS), bases=_EVERY, samples=1_000_000, seeds=tuple(range(10))
    ),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Fit everything; what is recorded already is not repeated."""
    jobs = [(t, b, s) for t in config.targets for b in config.bases for s in config.seeds]
    done = {(r["target"], r["base"], r["seed"]) for r in run.tracker.rows()}
    for step, (target, base, seed) in enumerate(jobs):
        if (target, base, seed) not in done:
            run.tracker.log(
                step, target=target, base=base, seed=seed, **_fit(target, base, seed, config)
            )
            run.check_stop()
    rows = run.tracker.rows()
    result: dict[str, Any] = {
        f"{target}_{base}_kl": float(
            np.mean([r["kl"] for r in rows if (r["target"], r["base"]) == (target, base)])
        )
        for target in config.targets
        for base in config.bases
    }
    for target in config.targets:
        y = _grid(target)
        result[f"{target}_grid"] = y.round(5).tolist()
        result[f"{target}_density"] = LINE_TARGETS[target].prob(y).round(6).tolist()
    return result


def _grid(target: str) -> np.ndarray:
    sample = LINE_TARGETS[target].sample(np.random.default_rng(0), 4000)
    low, high = np.quantile(sample, [0.01, 0.99])
    return np.linspace(low, high, GRID)


def _fit(target: str, base: str, seed: int, config: Config) -> dict[str, Any]:
    exact = LINE_TARGETS[target]
    sample = exact.sample(np.random.default_rng(seed), config.samples)
    start = time.perf_counter()
    chosen, loss, certificate = base, None, None
    if base == "mixture":
        density: Any = baselines.mixture_by_em(sample, (2 * config.order + 3) // 3)
    else:
        reflect = base == "reflect"
        result = fourier_density.fit(
            sample,
            config.order * (2 if reflect else 1),
            "real",
            base=None if base in ("chosen", "reflect") else base,
            boundary="reflect" if reflect else "periodic",
        )
        density, loss, certificate = result.density, result.train_nll, result.certificate
        chosen = type(density.base).__name__
    seconds = time.perf_counter() - start
    nodes, weights = line_quadrature()
    curve = in_float64("log_prob", density, _grid(target))
    return {
        "kl": divergence(exact.prob(nodes), in_float64("log_prob", density, nodes), weights),
        "chosen": chosen,
        "train_nll": loss,
        "certificate": certificate,
        "seconds": seconds,
        "curve": np.exp(curve).round(5).tolist() if seed == config.seeds[0] else None,
    }


def draw(record: Record):
    """Fits and divergences, a row a target."""
    targets, bases = record.config["targets"], record.config["bases"]
    figure, axes = figures.new(rows=len(targets), columns=2, height=2.9)
    for (left, right), target in zip(axes, targets, strict=True):
        grid, density = record.result[f"{target}_grid"], record.result[f"{target}_density"]
        left.plot(grid, density, color="#bbbbbb", linewidth=4, label="density")
        curves = [r for r in record.rows if r["target"] == target and r["curve"]]
        shown = [r for r in curves if r["base"] in ("tanh", "chosen")]
        for row, style in zip(shown, figures.styles(), strict=False):
            label = f"fit, {row['base']} base"
            left.plot(grid, row["curve"], label=label, **{**style, "marker": None})
        left.set(xlabel="y", ylabel="density", title=f"{target}: fits to samples")
        every = [
            [r["kl"] for r in record.rows if (r["target"], r["base"]) == (target, base)]
            for base in bases
        ]
        _draw_divergences(right, every)
        names = [figures.spelled(base) for base in bases]
        right.set_xticks(range(len(bases)), names, rotation=30, ha="right")
        right.set(title=f"{target}: divergence")
    figures.legend_below(figure)
    return figure


def _draw_divergences(axis: Any, every: list[list[float]]) -> None:
    """Seeds and medians; those that quadrature puts below zero stand at the lower end."""
    for place, values in enumerate(every):
        above = [value for value in values if value > 0]
        dots = {"color": figures.COLORS[0], "alpha": 0.6, "label": "seeds" * (place == 0)}
        axis.plot([place] * len(above), above, "o", **dots)
        if len(above) < len(values):
            low = {"color": figures.COLORS[5], "transform": axis.get_xaxis_transform()}
            axis.plot([place], [0.03], "v", label="a seed below 0", **low)
    bars = {"color": "#000000", "markersize": 16, "label": "median"}
    axis.plot(range(len(every)), [np.median(values) for values in every], "_", **bars)
    axis.set(ylabel="KL divergence (nats)", yscale="log")
    found = [value for values in every for value in values if value > 0]
    if found and max(found) < 100 * min(found):
        figures.logarithmic(axis, "y")


def table(record: Record) -> str:
    """Mean divergences, the bases chosen and the time of a fit."""
    lines = [
        "| target | base | KL (nats), mean | largest | chosen | seconds, median |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for target in record.config["targets"]:
        for base in record.config["bases"]:
            rows = [r for r in record.rows if (r["target"], r["base"]) == (target, base)]
            kl = [r["kl"] for r in rows]
            chosen = ", ".join(sorted({r["chosen"] for r in rows}))
            seconds = float(np.median([r["seconds"] for r in rows]))
            lines.append(
                f"| {target} | {base} | {np.mean(kl):.3g} | {max(kl):.3g} | {chosen} "
                f"| {seconds:.2f} |"
            )
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    size = len(config.targets) * len(config.bases) * len(config.seeds)
    return {"data": f"synthetic, {config.samples} samples a target, {size} fits"}


def programs(config: Config) -> dict[str, Program]:
    """Evaluating a density at the samples."""
    density = jax.eval_shape(
        lambda: fourier_density.RealLineDensity(jnp.ones(config.order + 1), 0.0, 1.0)
    )
    arguments = (density, jax.ShapeDtypeStruct((config.samples,), jnp.float32))
    calls = len(config.targets) * len(config.bases) * len(config.seeds)
    return {"log_prob": Program(fourier_density.RealLineDensity.log_prob, arguments, calls=calls)}


def _against_mixture(target: str) -> Claim:
    """How many times farther than ours a Gaussian mixture of as many parameters stays."""

    def measure(record: Record) -> Measurement | None:
        ours, theirs = (record.result.get(f"{target}_{b}_kl") for b in ("chosen", "mixture"))
        if ours is None or theirs is None:
            return None
        return Measurement(theirs / ours, theirs / ours, theirs / ours)

    return Claim(
        id=f"real_line.{target}",
        statement=f"KL divergence from {target} of a Gaussian mixture over that of a Fourier "
        "density with as many parameters and its base chosen on the same data, above 1",
        source="the project's own comparison; no published value",
        measure=measure,
        paper=1.0,
        kind="ordering",
    )


CLAIMS = tuple(_against_mixture(target) for target in ("faithful2", "claw", "student3mix"))
