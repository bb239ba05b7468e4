"""Upsample guidance of a trained network: images twice the size that it was trained on.

Reproduces: the comparison of upsample guidance in pixels (arXiv 2404.01709; the post
https://kexue.fm/archives/10055) with what else could be done without training: the network on
larger noise as it is, and its own small samples enlarged; and what strength, both corrections and a
cut-off do. The network is convolutional and knows no size. Distances are from real images of the
large size, in features of a small classifier (not an FID) and in pixels; seeds are paired.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import pooling
from experiments.diffusion import classifier, denoising, enlarging, judging
from experiments.diffusion.arms import Arm, Trainer
from experiments.diffusion.networks import NetworkConfig
from experiments.diffusion.noise import NoiseConfig
from experiments.harness import by_arm, figures, image_sets
from experiments.harness.estimate import Program
from experiments.harness.image_sets import ImageConfig
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig

SMALL = NetworkConfig("conv", 16, 2)


@dataclass(frozen=True)
class Config:
    """What to train, and how to enlarge.

    Attributes:
        small: side in pixels of the training images.
        factor: side of the large images over `small`.
        strengths: guidance strengths, 1 among them, at which corrections and cut-off are ablated.
        cut: eta of the cut-off: fraction of the sampling path, from the noise on, with guidance.
        seeds: number of seeds of network and samples.
        samples, steps: how many samples, and how many DDIM steps at evenly spaced times.
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
    noise: NoiseConfig = enlarging.COSINE
    training: TrainingConfig = denoising.QUICK

    def __post_init__(self):
        enlarging.check(self.small, self.factor, self.seeds, self.samples, self.steps, self.network)
        if 1.0 not in self.strengths:
            raise ValueError(f"strengths: expected 1 among them, got {self.strengths}")
        if not 0 < self.cut < 1:
            raise ValueError(f"cut: expected in (0, 1), got {self.cut}")


MNIST = Config(
    small=8,
    strengths=(0.5, 1.0, 1.2, 1.5),
    seeds=5,
    samples=600,
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
        small=16,  # CIFAR-10 has no more than 32
        samples=10_000,
        steps=250,
        data=ImageConfig("cifar10"),
        network=NetworkConfig("conv", 128, 12),
        training=denoising.PAPER,
    ),
    "cpu_32": replace(
        MNIST,
        small=16,
        strengths=(1.0, 1.2),
        seeds=3,
        samples=300,
        steps=24,
        network=NetworkConfig("conv", 48, 4),
        training=replace(MNIST.training, steps=1500, batch_size=32),
    ),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train each seed's network on small images, then enlarge in every way."""
    small, large = (replace(config.data, size=config.small * m) for m in (1, config.factor))
    images, judge = image_sets.load(large), classifier.train(large)
    arm = Arm("small", small, config.network, config.noise)
    trainer = Trainer(arm, config.training, layout=run.layout)
    done = {row["step"] for row in run.tracker.rows()}
    ways = _ways(config, trainer)
    for seed in range(config.seeds):
        steps = [seed * len(ways) + place for place in range(len(ways))]
        if done.issuperset(steps):
            continue
        params, _ = trainer(config.training.seed + seed)
        for step, (name, way) in zip(steps, ways.items(), strict=True):
            if step in done:
                continue
            x = way(params, jax.random.key(seed))
            found = enlarging.measure(x, images.train, judge, config.small)
            row = {"arm": name, "seed": seed, **found}
            if seed == 0:
                row["grid"] = denoising.grey(x[:16], 256)
            run.tracker.log(step, **row)
        run.check_stop()
    held_out = judging.held_out(images, config.samples)
    return {
        "runs": len(run.tracker.rows()),
        "grids": {"real": denoising.grey(held_out[:16], 256)},
        "floor": enlarging.measure(held_out, images.train, judge, config.small),
    }


def _ways(config: Config, trainer: Trainer) -> dict[str, enlarging.Way]:
    """Name -> (params, key) -> large images."""
    network, factor = denoising.denoiser(config.network), config.factor
    logsnrs = trainer.schedule(jnp.linspace(1.0, 0.0, config.steps + 1))
    ends = float(trainer.schedule.ends[0]), float(trainer.schedule.ends[1])

    def draw(denoiser: Any, pixels: int) -> enlarging.Way:
        shape = (config.samples, pixels, pixels, trainer.images.train.shape[-1])
        return enlarging.draw(denoiser, shape, logsnrs)

    def enlarged(params: Any, key: jax.Array) -> np.ndarray:
        x = jnp.asarray(draw(network, config.small)(params, key))
        return np.asarray(pooling.nearest(x, factor))

    def real(params: Any, key: jax.Array) -> np.ndarray:
        x = jnp.asarray(judging.held_out(trainer.images, config.samples))
        return np.asarray(pooling.nearest(x, factor))

    settings = {f"w = {w:g}": {"strength": w} for w in config.strengths}
    settings |= {
        "w = 1, no time": {"match_time": False},
        "w = 1, no power": {"match_power": False},
        f"w = 1, eta = {config.cut:g}": {
            "interval": enlarging.interval(trainer.schedule, config.cut)
        },
    }
    large = config.small * factor
    ways = {
        "nearest of real": real,
        "nearest of small": enlarged,
        "naive": draw(network, large),
    }
    for name, options in settings.items():
        ways[name] = draw(enlarging.guided(network, factor, ends, options), large)
    return ways


def draw(record: Record):
    """Distances of every way, and images of the most telling ones."""
    figure, axes = figures.new(rows=1, columns=3, width=4.2, height=3.6)
    names = [name for name in by_arm.names(record) if "no power" not in name]
    by_arm.draw(axes[0, 0], record, names, "frechet", "Frechet distance of features")
    by_arm.draw(axes[0, 1], record, names, "sliced_w2", "sliced W2 of pixels")
    axes[0, 1].set_yticklabels([])
    for axis, metric in ((axes[0, 0], "frechet"), (axes[0, 1], "sliced_w2")):
        look = {"color": "#555555", "linestyle": "--", "linewidth": 1.0}
        axis.axvline(record.result["floor"][metric], label="real images", **look)
    grids = {row["arm"]: row["grid"] for row in record.rows if "grid" in row}
    shown = ["nearest of small", "naive", "w = 1", *(n for n in grids if n == "w = 1.2")]
    rows = {name: grids[name] for name in shown} | {"real": record.result["grids"]["real"]}
    enlarging.draw_grids(axes[0, 2], rows)
    axes[0, 2].set(title="samples of one seed")
    figures.legend_below(figure)
    return figure


def table(record: Record) -> str:
    """Means over seeds of every way."""
    return enlarging.table(record, {"real, held out": record.result["floor"]})


def programs(config: Config) -> dict[str, Program]:
    """The training step on small images."""
    small = replace(config.data, size=config.small)
    schedule = config.noise.schedule(config.small)
    return denoising.programs(config.network, small, schedule, config.training)


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return enlarging.describe(config.data, config.small, config.factor)


def _claim(name: str, what: str, above: str, metric: str) -> Claim:
    return Claim(
        id=f"upsample.{name}",
        statement=f"{what} over that of guidance with w = 1, above 1: {metric}",
        source="arXiv 2404.01709, figures; https://kexue.fm/archives/10055",
        measure=lambda record: by_arm.ratio(record, above, "w = 1", metric),
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
