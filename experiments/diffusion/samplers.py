"""Samplers against the number of network evaluations, on a known mixture and on digits.

Reproduces: the ablation of samplers of EDM (arXiv 2206.00364, figures 2 and 4) in its order of
accuracy: Euler of first order, Heun of second; with DDIM, ancestral sampling and DPM-Solver++(2M)
(arXiv 2211.01095) beside them. Errors are distances from the exact flow of a mixture of normal
laws; on digits, a Frechet distance of a small classifier's features, which is not an FID.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import exact, metrics, process, samplers, schedules
from experiments.diffusion import classifier, denoising
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import figures, image_sets, ledger, training
from experiments.harness.estimate import Program
from experiments.harness.image_sets import ImageConfig
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig

METHODS = ("ancestral", "ddim", "dpmpp_2m", "heun", "edm euler", "edm heun", "edm churn")
ORDERS = ("edm euler", "edm heun")

SMALL = NetworkConfig(width=64, depth=2)


@dataclass(frozen=True)
class Config:
    """What to sample, and how often the denoiser is called.

    Attributes:
        methods: samplers to compare, some of `METHODS`.
        calls: network evaluations per sample (NFE); Heun makes two per step, but one in the last.
        samples: number of samples of the mixture, and of images, per method and number of calls.
        exact_steps: steps of Heun's method in the reference flow that errors are measured from.
        network, training, data: of the model of images.
    """

    methods: tuple[str, ...] = METHODS
    calls: tuple[int, ...] = (9, 33)
    samples: int = 300
    exact_steps: int = 128
    network: NetworkConfig = SMALL
    training: TrainingConfig = denoising.QUICK
    data: ImageConfig = image_sets.DIGITS

    def __post_init__(self):
        for name in self.methods:
            if name not in METHODS:
                raise ValueError(f"methods: expected some of {', '.join(METHODS)}, got {name!r}")
        if not self.calls or min(self.calls) < 3:
            raise ValueError(f"calls: expected at least 3, got {self.calls}")
        if self.samples < 70 or self.exact_steps < 2:
            raise ValueError("samples, exact_steps: expected at least 70 and 2")


PRESETS = {
    "quick": Config(),
    "cpu": Config(
        calls=(5, 9, 17, 33, 65, 129),
        samples=1000,
        exact_steps=1024,
        network=NetworkConfig(width=256, depth=3),
        training=denoising.CPU,
    ),
    "paper": Config(
        calls=(5, 9, 17, 35, 79, 511),
        samples=10_000,
        exact_steps=4096,
        network=NetworkConfig("conv", 128, 8),
        training=denoising.PAPER,
        data=ImageConfig("cifar10"),
    ),
}
SCHEDULE = schedules.cosine(-10.0, 10.0)


def law() -> exact.Mixture:
    """Three components in the plane."""
    means = [[1.0, 0.5], [-0.7, 0.2], [0.1, -1.2]]
    return exact.mixture([0.2, 0.5, 0.3], means, [0.3, 0.2, 0.25])


def run_method(denoiser: Any, z: jax.Array, name: str, calls: int, key: Any, **options: Any) -> Any:
    """A sample of v-predictions with so many calls, or one fewer for Heun in even numbers."""
    steps = (calls + 1) // 2 if "heun" in name or "churn" in name else calls
    if not name.startswith("edm"):
        logsnrs = SCHEDULE(jnp.linspace(1.0, 0.0, steps + 1))
        return samplers.sample(denoiser, z, logsnrs, name, "v", key, **options)
    low, high = SCHEDULE.ends
    sigmas = schedules.edm_sigmas(steps, float(np.exp(-high / 2)), float(np.exp(-low / 2)))
    churn = samplers.Churn(20.0, 0.05, 20.0, 1.003) if name == "edm churn" else None
    y = z / process.alpha_sigma(low)[0]
    method = "euler" if name == "edm euler" else "heun"
    return samplers.sample_edm(_in_edm(denoiser), y, sigmas, method, key, churn=churn, **options)


_in_edm = functools.lru_cache(maxsize=8)(process.edm_denoiser)  # the same one, to compile once


def main(config: Config, run: Run) -> dict[str, Any]:
    """Sample the mixture, train on images, sample them."""
    problem = denoising.make_problem(
        config.network, image_sets.load(config.data), SCHEDULE, config.training
    )
    params = training.averaged(training.train(problem, config.training, run))
    predict = functools.partial(denoising.denoiser(config.network), params)
    return {
        "mixture": _mixture(config),
        "trajectories": _trajectories(config),
        **_images(config, predict),
        **problem.evaluate(params),
    }


def _mixture(config: Config) -> list[dict[str, Any]]:
    """Distances from the exact flow, and from the law, of every method and number of calls."""
    one, keys = law(), jax.random.split(jax.random.key(0), 3)
    denoiser = exact.denoiser(one, "v")
    z = jax.random.normal(keys[0], (config.samples, 2))
    truth = one.sample(keys[1], config.samples)
    steps = 2 * config.exact_steps - 1
    ends = run_method(denoiser, z, "edm heun", steps, keys[2])
    rows = []
    for name in config.methods:
        for calls in config.calls:
            x = run_method(denoiser, z, name, calls, keys[2])
            random = name in ("ancestral", "edm churn")
            error = None if random else float(jnp.sqrt(jnp.mean(jnp.square(x - ends))))
            distance = metrics.sliced_wasserstein(x, truth)
            rows.append({"method": name, "calls": calls, "error": error, "sw2": distance})
    return rows


def _trajectories(config: Config) -> list[Any]:
    """Paths of 30 samples of the mixture, [points, 30, 2]."""
    z = jax.random.normal(jax.random.key(3), (30, 2))
    _, path = run_method(exact.denoiser(law(), "v"), z, "ddim", 64, None, trajectory=True)
    return np.round(np.asarray(path, np.float64), 3).tolist()


def _images(config: Config, predict: Any) -> dict[str, Any]:
    """Frechet distances of features, and samples of Heun with the most calls."""
    images = image_sets.load(config.data)
    judge = classifier.train(config.data)
    z = jax.random.normal(jax.random.key(1), (config.samples, *images.train.shape[1:]))
    rows, shown = [], None
    rng = np.random.default_rng(0)
    noise = np.clip(rng.normal(size=images.train.shape), -1, 1)
    for name in config.methods:
        for calls in config.calls:
            x = run_method(predict, z, name, calls, jax.random.key(2))
            report = metrics.report(
                metrics.frechet_distance,
                judge.features(x),
                judge.features(images.train),
                judge.features(images.test),
                {"noise": judge.features(noise)},
            )
            rows.append({"method": name, "calls": calls, **report._asdict()})
            shown = x if name in ("heun", "edm heun") or shown is None else shown
    return {
        "images": rows,
        "accuracy": judge.accuracy,
        "grid": denoising.grey(np.asarray(shown)[:40], images.levels),
        "levels": images.levels,
    }


def _order(record: Record, method: str) -> Measurement | None:
    """Order of convergence: a fit to the three largest numbers of steps, with its error."""
    rows = [r for r in record.result["mixture"] if r["method"] == method and r["error"]]
    if len(rows) < 4:
        return None
    rows = rows[-3:]
    steps = [(r["calls"] + 1) // 2 if "heun" in method else r["calls"] for r in rows]
    return ledger.falling(steps, [r["error"] for r in rows])


def draw(record: Record):
    """Errors and distances against calls, paths, and samples."""
    figure, axes = figures.new(rows=2, columns=2, width=4.4, height=3.3)
    names = record.config["methods"]
    panels = (
        (axes[0, 0], "mixture", "error", "distance from the exact flow"),
        (axes[0, 1], "images", "value", "Frechet distance of features"),
    )
    for axis, part, key, label in panels:
        for name, style in zip(names, figures.styles(), strict=False):
            rows = [r for r in record.result[part] if r["method"] == name and r[key] is not None]
            if rows:
                calls = [r["calls"] for r in rows]
                look = {**style, "label": figures.spelled(name)}
                axis.plot(calls, [max(r[key], 1e-9) for r in rows], **look)
        axis.set(xlabel="calls of the denoiser", ylabel=label, yscale="log")
        axis.set_xscale("log", base=2)
    axes[0, 0].set(title="a mixture, exact denoiser")
    sets = image_sets.label(record.config)
    axes[0, 1].set(title=f"{sets}, a trained model")
    floor, n = (record.result["images"][0][key] for key in ("floor", "n"))
    label = f"{n} real images (samples: {record.config['samples']})"
    axes[0, 1].axhline(floor, color="#777777", linewidth=1.2, label=label)
    path = np.array(record.result["trajectories"])
    look = {"color": figures.COLORS[0], "linewidth": 0.6}
    for sample in range(path.shape[1]):
        axes[1, 0].plot(path[:, sample, 0], path[:, sample, 1], **look)
    axes[1, 0].plot(*path[-1].T, ".", color=figures.COLORS[5])
    axes[1, 0].set(title="paths of DDIM to the mixture (dots: ends)", aspect="equal")
    axes[1, 1].imshow(denoising.tile(record.result["grid"], record.result["levels"]))
    axes[1, 1].set_axis_off()
    axes[1, 1].set(title=f"samples: {sets}")
    figures.legend_below(figure, columns=4)
    return figure


def table(record: Record) -> str:
    """Every measurement of both."""
    lines = [
        "| method | calls | error, mixture | sliced W2 | Frechet distance | floor | noise | n |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for a, b in zip(record.result["mixture"], record.result["images"], strict=True):
        error = "random" if a["error"] is None else f"{a['error']:.3g}"
        lines.append(
            f"| {a['method']} | {a['calls']} | {error} | {a['sw2']:.3g} | {b['value']:.3g} "
            f"| {b['floor']:.3g} | {b['ceilings']['noise']:.3g} | {b['n']} |"
        )
    return "\n".join(lines) + "\n"


def programs(config: Config) -> dict[str, Program]:
    """The training step of the model of images."""
    return denoising.programs(config.network, config.data, SCHEDULE, config.training)


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": f"a mixture in the plane; images of {config.data.label}"}


def _better(record: Record) -> Measurement | None:
    """Error of Euler over that of Heun with the most calls."""
    rows = {
        r["method"]: r
        for r in record.result["mixture"]
        if r["calls"] == max(row["calls"] for row in record.result["mixture"])
    }
    if not set(ORDERS) <= set(rows):
        return None
    value = rows["edm euler"]["error"] / rows["edm heun"]["error"]
    return Measurement(value, value, value)


CLAIMS = (
    Claim(
        id="samplers.euler",
        statement="order of Euler along the flow, from the error on a mixture",
        source="arXiv 2206.00364, section 3: truncation error",
        measure=functools.partial(_order, method="edm euler"),
        paper=1.0,
        tolerance=0.15,
    ),
    Claim(
        id="samplers.heun",
        statement="order of Heun along the flow, from the error on a mixture",
        source="arXiv 2206.00364, section 3: truncation error",
        measure=functools.partial(_order, method="edm heun"),
        paper=2.0,
        tolerance=0.2,
    ),
    Claim(
        id="samplers.better",
        statement="error of Euler over that of Heun with as many calls, the most there are",
        source="arXiv 2206.00364, figure 2: Heun needs fewer calls for the same quality",
        measure=_better,
        paper=1.0,
        kind="ordering",
    ),
)
