"""Train a denoiser on any set of images, sample it, and measure the samples: simple diffusion.

Reproduces: the training of arXiv 2301.11093 (simple diffusion; the post
https://kexue.fm/archives/10047), end to end in pixels: a schedule shifted by the size of the
images, a U-Net or U-ViT with most of its work at the lowest resolution, dropout there alone, and
for large images a wavelet in front and errors at several resolutions. `--data.path FOLDER` trains
on a folder of images. Distances are of a small classifier's features, or of pixels where there are
no classes; none is an FID.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import guidance, metrics, samplers
from diffusion.schedules import Schedule
from experiments.diffusion import denoising, judging, networks
from experiments.diffusion.denoising import LossConfig
from experiments.diffusion.networks import NetworkConfig
from experiments.diffusion.noise import NoiseConfig
from experiments.harness import figures, image_sets, training, weights
from experiments.harness.errors import UsageError
from experiments.harness.estimate import Program
from experiments.harness.image_sets import ImageConfig, Images
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig

NAME = "diffusion/train"
SHOWN = 40


SMALL = NetworkConfig("unet", 16, 1)
SHIFTED = NoiseConfig("shifted")


@dataclass(frozen=True)
class Config:
    """What to train on what, and how to sample it.

    Attributes:
        data, network, noise, loss, training: of the model.
        method, steps: sampler and its number of steps, at evenly spaced times of the schedule.
        scale: classifier-free guidance scale, for networks with classes; 1: no guidance.
        samples: number of samples that are measured.
    """

    data: ImageConfig = image_sets.DIGITS
    network: NetworkConfig = SMALL
    noise: NoiseConfig = SHIFTED
    loss: LossConfig = denoising.PLAIN
    training: TrainingConfig = denoising.QUICK
    method: samplers.Method = "ddim"
    steps: int = 24
    scale: float = 1.0
    samples: int = 200

    def __post_init__(self):
        if self.scale != 1.0 and self.network.classes is None:
            raise ValueError(
                f"scale: expected 1 for a network without classes, got {self.scale}; "
                "give --network.classes"
            )
        if self.scale != 1.0 and not 0 < self.network.drop < 1:
            raise ValueError(
                "network.drop: expected a share between 0 and 1 for guidance, which needs training "
                f"with and without classes, got {self.network.drop}"
            )
        for name, least in (("steps", 2), ("samples", 20)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")


PAPER = replace(
    denoising.PAPER,
    steps=500_000,
    batch_size=2048,
    learning_rate=1e-4,
    warmup=10_000,
    checkpoint_every=10_000,
)
LARGE = LossConfig(space="eps")
DATA = ImageConfig("imagenet2012", size=128, lazy=True)


def _paper(size: int, network: NetworkConfig, scales: tuple[int, ...] = ()) -> Config:
    """Settings of the paper for images of a size, schedules shifted to 32 pixels."""
    loss = LossConfig(scales=scales) if scales else LARGE
    return Config(replace(DATA, size=size), network, SHIFTED, loss, PAPER, "ancestral", 512)


PRESETS = {
    "quick": Config(noise=NoiseConfig("shifted", base=8)),
    "cpu": Config(
        network=NetworkConfig("uvit", 32, 4, 10, multipliers=(1, 2), blocks=(2,), dropout=0.1),
        noise=NoiseConfig("shifted", base=8),
        training=replace(denoising.CPU, steps=4000, batch_size=64),
        method="dpmpp_2m",
        steps=32,
        scale=1.5,
        samples=1000,
    ),
    "paper": _paper(128, networks.UNET_128),
    "paper_256": _paper(256, networks.UNET_256),
    "paper_512": _paper(512, networks.UNET_512, (32, 64, 128, 256, 512)),
    "paper_uvit_128": _paper(128, networks.UVIT_128),
    "paper_uvit_256": _paper(256, networks.UVIT_256),
    "paper_uvit_512": _paper(512, networks.UVIT_512, (32, 64, 128, 256, 512)),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train, or go on, then sample and measure."""
    images = image_sets.load(config.data)
    denoising.note_shape(run, images)
    schedule = config.noise.schedule(images.train.shape[1])
    problem = denoising.make_problem(config.network, images, schedule, config.training, config.loss)
    params = training.averaged(training.train(problem, config.training, run))
    x, labels = sample(config, params, images, schedule)
    return {
        **problem.evaluate(params),
        **measure(config, images, x, labels),
        "grid": denoising.grey(x[:SHOWN], images.levels),
        "real": denoising.grey(images.some(SHOWN), images.levels),
        "levels": images.levels,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    }


class Trained(NamedTuple):
    """A run's denoiser.

    Attributes:
        config: of the run.
        params: averaged weights.
        schedule: t -> log-SNR.
        denoiser: (z [B, H, W, C], logsnr [B][, label [B]]) -> v.
        shape: (H, W, C) of the images it was trained on.
    """

    config: Config
    params: Any
    schedule: Schedule
    denoiser: Callable[..., jax.Array]
    shape: tuple[int, ...]

    def __repr__(self) -> str:
        return f"Trained({NAME}, {self.config.network})"


def load(directory: str | Path) -> Trained:
    """What a run of this experiment has trained so far; its images need not be there.

    Raises:
        ExperimentError: no run, one of another experiment, or one without a readable checkpoint.
    """
    record, config = weights.configured(directory, NAME, Config)
    shape = denoising.noted_shape(record, config.data)
    schedule = config.noise.schedule(shape[0])
    problem = denoising.shaped_problem(config.network, shape, schedule, config.loss)
    params = training.averaged(training.restore(problem, config.training, record))
    network = functools.partial(denoising.denoiser(config.network), params)
    return Trained(config, params, schedule, network, shape)


def sample(
    config: Config, params: Any, images: Images, schedule: Schedule
) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples of a trained network, and their classes, as often as in training."""
    classes, shape = config.network.classes, images.train.shape[1:]
    labels = None if classes is None else images.labels(config.samples)
    logsnrs = schedule(jnp.linspace(1.0, 0.0, config.steps + 1))
    network = denoising.denoiser(config.network)
    if classes is not None and config.scale != 1.0:
        network = functools.partial(_guided, network, config.scale, classes)
    parts = []
    for start in range(0, config.samples, denoising.CHUNK):
        count = min(denoising.CHUNK, config.samples - start)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(config.training.seed), start))
        part = None if labels is None else jnp.asarray(labels[start : start + count])
        z = jax.random.normal(keys[0], (count, *shape))
        x = samplers.sample(
            network, z, logsnrs, config.method, "v", keys[1], condition=part, params=params
        )
        parts.append(np.asarray(x))
    return np.concatenate(parts), labels


def _guided(
    network: Any, scale: float, none: int, params: Any, z: jax.Array, logsnr: jax.Array, label: Any
) -> jax.Array:
    denoiser = guidance.classifier_free(functools.partial(network, params), scale, none)
    return denoiser(z, logsnr, label)


def measure(
    config: Config, images: Images, x: np.ndarray, labels: np.ndarray | None
) -> dict[str, Any]:
    """Distances of samples from training images, beside those of held-out images and of noise."""
    noise = np.clip(np.random.default_rng(0).normal(size=x.shape), -1.0, 1.0)
    found: dict[str, Any] = {}
    features, judge = judging.features(config.data, images)
    if judge is not None:
        found["classifier"] = judge.record()
        if labels is not None:
            found["confidence"] = float(judge.confidence(x, labels).mean())
    for name, distance in (
        ("frechet", metrics.frechet_distance),
        ("sliced_w2", metrics.sliced_wasserstein),
    ):
        report = metrics.report(
            distance,
            features(x),
            features(images.train),
            features(images.test),
            {"noise": features(noise)},
        )
        found[name] = report._asdict()
    return found


def draw(record: Record):
    """The error in training, samples, and real images."""
    figure, axes = figures.new(rows=1, columns=3, width=3.8, height=3.2)
    rows = [row for row in record.rows if "validation_v_error" in row]
    style, axis = next(figures.styles()), axes[0, 0]
    errors = [row["validation_v_error"] for row in rows]
    axis.plot([row["step"] for row in rows], errors, **style)
    axis.set(xlabel="step", ylabel="error of v on held-out images", title="in training")
    axis.set_ylim(0.0, 1.05 * max(errors))
    axis.locator_params(axis="x", nbins=5)
    figure.set_layout_engine("constrained", wspace=0.06)
    name, levels = image_sets.label(record.config), record.result["levels"]
    for axis, part, title in ((axes[0, 1], "grid", "samples"), (axes[0, 2], "real", "held out")):
        shown = record.result[part]
        axis.imshow(denoising.tile(shown, levels, 8))
        axis.set_axis_off()
        axis.set(title=f"{title}: {name}")
    return figure


def table(record: Record) -> str:
    """Distances with their floor and ceiling."""
    result = record.result
    what = "a classifier's features" if "classifier" in result else "pixels, averaged down"
    lines = [
        f"{result['parameters']:,} parameters; error of v {result['validation_v_error']:.4f} "
        f"± {result['validation_standard_error']:.4f}\n",
        f"| distance of {what} | samples | held out | noise | n |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in ("frechet", "sliced_w2"):
        r = result[name]
        lines.append(
            f"| {name} | {r['value']:.4g} | {r['floor']:.4g} | {r['ceilings']['noise']:.4g} "
            f"| {r['n']} |"
        )
    if result["frechet"]["n"] < record.config["samples"]:
        lines.append("\nn: as many samples as there are held-out images")
    if "confidence" in result:
        lines.append(f"\nconfidence of the wanted class: {result['confidence']:.3f}")
    return "\n".join(lines) + "\n"


def programs(config: Config) -> dict[str, Program]:
    """The training step."""
    schedule = config.noise.schedule(image_sets.shape(config.data)[0])
    return denoising.programs(config.network, config.data, schedule, config.training, config.loss)


def look(config: Config) -> str:
    """What a dry run finds; whatever is read whole is checked against the network."""
    found = config.data.look(config.training.batch_size)
    if config.data.path is not None or config.data.name == "digits":
        denoising.check(config.network, image_sets.load(config.data), config.loss)
    return found


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about data and network."""
    shape = image_sets.shape(config.data)
    try:
        config.network.check(shape)
    except ValueError as error:
        raise UsageError(str(error)) from None
    init = denoising.make_init(config.network, shape)
    weights = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0)))
    count = sum(leaf.size for leaf in weights)
    return {
        "data": f"{config.data.label}, {shape[0]} x {shape[1]} x {shape[2]}",
        "network": f"{config.network.kind}, {count:,} parameters",
    }


def _above_noise(record: Record) -> float | None:
    found = record.result.get("frechet")
    return None if found is None else found["ceilings"]["noise"] / max(found["value"], 1e-12)


CLAIMS = (
    Claim(
        id="train.better_than_noise",
        statement="Frechet distance of noise from training images over that of samples, above 1",
        source="the project's own bound; no published value",
        measure=_above_noise,
        paper=1.0,
        kind="ordering",
    ),
)
