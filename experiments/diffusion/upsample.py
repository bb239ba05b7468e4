"""Upsample guidance of a trained network: images twice the size that it was trained on.

Reproduces: the comparison of upsample guidance in pixels (arXiv 2404.01709; the post
https://kexue.fm/archives/10055) with what else could be done without training: the network on
larger noise as it is, and its own small samples enlarged; and what strength, both corrections and a
cut-off do. The network is convolutional and knows no size. Distances are from real images of the
large size, in features of a small classifier (not an FID) and in pixels; seeds are paired.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import guidance, metrics, pooling, process, samplers
from experiments.diffusion import arms, classifier, denoising
from experiments.diffusion.arms import Arm, Trainer
from experiments.diffusion.networks import NetworkConfig
from experiments.diffusion.noise import NoiseConfig
from experiments.harness import figures, image_sets
from experiments.harness.estimate import Program
from experiments.harness.image_sets import ImageConfig, Images
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig

COSINE = NoiseConfig(logsnr_min=-10.0, logsnr_max=10.0)
SMALL = NetworkConfig("conv", 16, 2)
METRICS = ("frechet", "sliced_w2", "averaged_w2", "precision", "recall")


@dataclass(frozen=True)
class Config:
    """What to train, and how to enlarge.

    Attributes:
        small: pixels a side of the training images.
        factor: of the large images over them.
        strengths: of guidance; corrections and cut-off are left out or in at strength 1.
        cut: eta, the share of the way from the noise with guidance, of the arm that is cut off.
        seeds: of network and samples.
        samples, steps: of DDIM at even times of the schedule.
        data, network, noise, training: of the network; the data's size is set by `small`.
    """

    small: int = 4
    factor: int = 2
    strengths: tuple[float, ...] = (1.0, 1.2)
    cut: float = 0.6
    seeds: int = 2
    samples: int = 200
    steps: int = 16
    data: ImageConfig = image_sets.DIGITS
    network: NetworkConfig = SMALL
    noise: NoiseConfig = COSINE
    training: TrainingConfig = denoising.QUICK

    def __post_init__(self):
        if min(self.small, self.factor) < 2 or self.seeds < 2:
            raise ValueError(
                f"small, factor, seeds: expected at least 2, got {self.small}, {self.factor}, "
                f"{self.seeds}"
            )
        if 1.0 not in self.strengths:
            raise ValueError(f"strengths: expected 1 among them, got {self.strengths}")
        if not 0 < self.cut < 1 or self.samples < 20 or self.steps < 2:
            raise ValueError(
                "cut, samples, steps: expected in (0, 1), at least 20 and 2, got "
                f"{self.cut}, {self.samples}, {self.steps}"
            )
        if self.network.classes is not None or self.network.kind == "mlp":
            raise ValueError(
                "network: expected one without classes that takes images of any size, got "
                f"{self.network.kind} with classes {self.network.classes}"
            )


MNIST = Config(
    small=8,
    strengths=(0.5, 1.0, 1.2, 1.5),
    seeds=3,
    samples=400,
    steps=30,
    data=ImageConfig("mnist"),
    network=NetworkConfig("conv", 48, 3),
    training=replace(denoising.CPU, steps=1600, batch_size=64, ema=0.995),
)
PRESETS = {
    "quick": Config(),
    "cpu": MNIST,
    "paper": replace(
        MNIST,
        small=32,
        samples=10_000,
        steps=250,
        data=ImageConfig("cifar10_jpeg"),
        network=NetworkConfig("conv", 128, 12),
        training=denoising.PAPER,
    ),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train each seed's network on small images, then enlarge in every way."""
    small, large = (replace(config.data, size=config.small * m) for m in (1, config.factor))
    images, judge = image_sets.load(large), classifier.train(large)
    trainer = Trainer(Arm("small", small, config.network, config.noise), config.training)
    done = {row["step"] for row in run.tracker.rows()}
    ways = _ways(config, trainer)
    grids: dict[str, Any] = {}
    for seed in range(config.seeds):
        steps = [seed * len(ways) + place for place in range(len(ways))]
        if done.issuperset(steps):
            continue
        params, _ = trainer(config.training.seed + seed)
        for step, (name, way) in zip(steps, ways.items(), strict=True):
            if step in done:
                continue
            x = way(params, jax.random.key(seed))
            row = {"arm": name, "seed": seed, **_measure(config, x, images, judge)}
            if seed == 0:
                row["grid"] = denoising.grey(x[:16], 256)
            run.tracker.log(step, **row)
        run.check_stop()
    grids["real"] = denoising.grey(images.test[:16], 256)
    return {"runs": len(run.tracker.rows()), "grids": grids, "floor": _floor(config, images, judge)}


def _ways(config: Config, trainer: Trainer) -> dict[str, Any]:
    """Name -> (params, key) -> large images."""
    network = denoising.denoiser(config.network)
    side = config.small * config.factor
    channels = trainer.images.train.shape[-1]
    logsnrs = trainer.schedule(jnp.linspace(1.0, 0.0, config.steps + 1))
    ends = float(trainer.schedule.ends[0]), float(trainer.schedule.ends[1])

    def draw(denoiser: Any, pixels: int, params: Any, key: jax.Array) -> np.ndarray:
        z = jax.random.normal(key, (config.samples, pixels, pixels, channels))
        return np.asarray(samplers.sample(denoiser, z, logsnrs, "ddim", "v", params=params))

    def enlarged(params: Any, key: jax.Array) -> np.ndarray:
        x = jnp.asarray(draw(network, config.small, params, key))
        return np.asarray(pooling.nearest(x, config.factor))

    def real(params: Any, key: jax.Array) -> np.ndarray:
        chosen = jax.random.choice(key, len(trainer.images.test), (config.samples,))
        x = jnp.asarray(trainer.images.test[np.asarray(chosen)])
        return np.asarray(pooling.nearest(x, config.factor))

    guided = {f"w = {w:g}": {"strength": w} for w in config.strengths}
    guided |= {
        "w = 1, no time": {"match_time": False},
        "w = 1, no power": {"match_power": False},
        f"w = 1, eta = {config.cut:g}": {
            "interval": (-np.inf, float(trainer.schedule(1.0 - config.cut)))
        },
    }
    ways: dict[str, Any] = {
        "nearest of real": real,
        "nearest of small": enlarged,
        "naive": functools.partial(draw, network, side),
    }
    for name, options in guided.items():
        denoiser = functools.partial(_guided, network, config.factor, ends, options)
        ways[name] = functools.partial(draw, denoiser, side)
    return ways


def _guided(
    network: Any,
    factor: int,
    trained: tuple[float, float],
    options: dict[str, Any],
    params: Any,
    z: jax.Array,
    logsnr: jax.Array,
) -> jax.Array:
    """The guided v, by way of eps, in which the paper leaves corrections out."""

    def eps(z: jax.Array, logsnr: jax.Array) -> jax.Array:
        return process.convert(network(params, z, logsnr), z, logsnr, "v", "eps")

    guided = guidance.upsample(eps, factor, prediction="eps", trained=trained, **options)
    return process.convert(guided(z, logsnr), z, logsnr, "eps", "v")


def _measure(config: Config, x: np.ndarray, images: Images, judge: Any) -> dict[str, float]:
    """Distances of large samples from real large images, and of their averages."""
    n = min(len(x), len(images.train))
    x, real = x[:n], images.train[:n]
    features = judge.features(x), judge.features(real)
    ours, theirs = (classifier.shrunk(part, config.small).reshape(n, -1) for part in (x, real))
    shares = metrics.prdc(*features)
    found = {
        "frechet": metrics.frechet_distance(*features),
        "sliced_w2": metrics.sliced_wasserstein(x.reshape(n, -1), real.reshape(n, -1)),
        "energy": metrics.energy_distance(x.reshape(n, -1), real.reshape(n, -1)),
        "averaged_w2": metrics.sliced_wasserstein(ours, theirs),
        "precision": shares.precision,
        "recall": shares.recall,
    }
    return {name: float(value) for name, value in found.items()}


def _floor(config: Config, images: Images, judge: Any) -> dict[str, float]:
    """What real images of the held-out split have."""
    return _measure(config, images.test[: config.samples], images, judge)


def draw(record: Record):
    """Distances of every way, and images of the most telling ones."""
    figure, axes = figures.new(rows=1, columns=3, width=4.2, height=3.6)
    names = [name for name in arms.names(record) if "no power" not in name]
    arms.draw_metric(axes[0, 0], record, names, "frechet", "Frechet distance of features")
    arms.draw_metric(axes[0, 1], record, names, "sliced_w2", "sliced W2 of pixels")
    axes[0, 1].set_yticklabels([])
    for axis, metric in ((axes[0, 0], "frechet"), (axes[0, 1], "sliced_w2")):
        axis.axvline(record.result["floor"][metric], color="#999999", linestyle="--", linewidth=0.9)
    grids = {row["arm"]: row["grid"] for row in record.rows if "grid" in row}
    shown = ["nearest of small", "naive", "w = 1", *(n for n in grids if n == "w = 1.2")]
    images = [np.asarray(grids[name])[:8] for name in shown]
    images.append(np.asarray(record.result["grids"]["real"])[:8])
    axes[0, 2].imshow(denoising.tile(np.concatenate(images), 256, len(images[0])))
    size = images[0].shape[1] + 1
    axes[0, 2].set_yticks([size * (i + 0.5) for i in range(len(images))], [*shown, "real"])
    axes[0, 2].set_xticks([])
    axes[0, 2].grid(False)
    return figure


def table(record: Record) -> str:
    """Means over seeds of every way."""
    head = " | ".join(METRICS)
    lines = [f"| way | {head} |", "| --- " * (len(METRICS) + 1) + "|"]
    floor = " | ".join(f"{record.result['floor'][metric]:.3g}" for metric in METRICS)
    lines.append(f"| real, held out | {floor} |")
    for name in arms.names(record):
        means = [np.mean(arms.values(record, name, metric)) for metric in METRICS]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.3g}" for mean in means) + " |")
    count, n = record.config["seeds"], record.config["samples"]
    return "\n".join(lines) + f"\n\nmeans of {count} seeds, {n} samples each.\n"


def programs(config: Config) -> dict[str, Program]:
    """The training step on small images."""
    small = replace(config.data, size=config.small)
    schedule = config.noise.schedule(config.small)
    return denoising.programs(config.network, small, schedule, config.training)


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    side = config.small * config.factor
    return {"data": f"{config.data.label}: trained at {config.small}, sampled at {side} pixels"}


def _claim(name: str, what: str, above: str, metric: str) -> Claim:
    return Claim(
        id=f"upsample.{name}",
        statement=f"{what} over that of guidance with w = 1, above 1: {metric}",
        source="arXiv 2404.01709, figures; https://kexue.fm/archives/10055",
        measure=lambda record: arms.ratio(record, above, "w = 1", metric),
        paper=1.0,
        kind="ordering",
    )


CLAIMS = (
    _claim("naive_frechet", "the network on larger noise", "naive", "frechet"),
    _claim("naive_w2", "the network on larger noise", "naive", "sliced_w2"),
    _claim("nearest_frechet", "its own small samples enlarged", "nearest of small", "frechet"),
    _claim("nearest_w2", "its own small samples enlarged", "nearest of small", "sliced_w2"),
    _claim("time", "guidance without the time correction", "w = 1, no time", "frechet"),
    _claim("power", "guidance without the power correction", "w = 1, no power", "frechet"),
)
