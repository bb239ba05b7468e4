"""The multi-scale loss: errors of the noise averaged down, beside errors of single pixels.

Reproduces: the question of table 6 of simple diffusion (arXiv 2301.11093, section 3.2; the post
https://kexue.fm/archives/10047): in a large image single pixels say little about the layout, yet
most of the loss is theirs. The multi-scale loss adds errors averaged to smaller sizes, 1/r for
r x r pixels. Notes on the paper disagree on whether it helped; here its error at every size, its
samples, and the share of each size in the gradient are measured, with paired seeds.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import losses, pooling, process
from experiments.diffusion import arms, denoising
from experiments.diffusion.arms import Arm, Measuring, Trainer
from experiments.diffusion.denoising import LossConfig
from experiments.diffusion.networks import NetworkConfig
from experiments.diffusion.noise import NoiseConfig
from experiments.harness import by_arm, figures, training
from experiments.harness.estimate import Program
from experiments.harness.image_sets import ImageConfig
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig

UNET = NetworkConfig("unet", 16, 1)
SHIFTED = NoiseConfig("shifted", base=8)
DATA = ImageConfig(size=16)
NOISY = 0.0  # log-SNR below which the layout is in doubt


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
        scales: sides r in pixels to which errors are averaged, that of the images among them.
        seeds: number of seeds of both arms.
        data, network, noise, training, measuring: of both arms.
    """

    scales: tuple[int, ...] = (4, 8, 16)
    seeds: int = 6
    data: ImageConfig = DATA
    network: NetworkConfig = UNET
    noise: NoiseConfig = SHIFTED
    training: TrainingConfig = denoising.SHORT
    measuring: Measuring = arms.MEASURING

    def __post_init__(self):
        size = self.data.size
        if size is None:
            raise ValueError("data.size: expected the pixels a side of the images")
        if size not in self.scales or any(r < 1 or size % r for r in self.scales):
            raise ValueError(
                f"scales: expected divisors of {size}, itself among them, got {self.scales}"
            )
        if self.seeds < 2:
            raise ValueError(f"seeds: expected at least 2, got {self.seeds}")


PRESETS = {
    "quick": Config(
        seeds=2,
        network=NetworkConfig(width=64, depth=1),
        training=replace(denoising.SHORT, steps=100, ema=0.9),
    ),
    "cpu": Config(measuring=Measuring(500, 32)),
    "paper": Config(
        scales=(32, 64, 128, 256),
        data=ImageConfig("imagenet2012", size=256, lazy=True),
        network=replace(
            UNET,
            width=128,
            depth=4,
            multipliers=(1, 1, 2, 4, 8, 8),
            blocks=(1, 2, 2, 4, 12),
            attention=2,
            head_width=128,
            dropout=0.1,
            dtype="bfloat16",
            remat=True,
        ),
        noise=NoiseConfig("shifted", base=32),
        training=denoising.PAPER,
        measuring=Measuring(10_000, 256, 32),
    ),
}


def all_arms(config: Config) -> list[Arm]:
    """Without and with the multi-scale loss; both measure errors of the noise."""
    kinds = {"plain": LossConfig(space="eps"), "multi-scale": LossConfig(scales=config.scales)}
    return [
        Arm(name, config.data, config.network, config.noise, loss) for name, loss in kinds.items()
    ]


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train and measure both arms."""
    more = functools.partial(_by_scale, config)
    rows = arms.run_all(
        all_arms(config), config.seeds, config.training, config.measuring, run, more
    )
    return {"runs": len(rows)}


def _by_scale(config: Config, trainer: Trainer, params: Any, seed: int) -> dict[str, float]:
    """Held-out errors of the noise averaged to each size, and each size's part of the gradient."""
    x = jnp.asarray(trainer.images.test[: denoising.EVALUATED])
    eps = jax.random.normal(jax.random.key(seed), x.shape)
    logsnr = trainer.schedule((np.arange(len(x)) + 0.5) / len(x))
    size, network = x.shape[1], denoising.denoiser(config.network)
    known = None
    if config.network.classes is not None:
        known = jnp.asarray(trainer.images.test_labels[: denoising.EVALUATED])

    @jax.jit
    def errors(params: Any) -> list[tuple[jax.Array, jax.Array]]:
        z = process.diffuse(x, eps, logsnr)
        eps_hat = process.convert(network(params, z, logsnr, known), z, logsnr, "v", "eps")
        each = [
            losses.squared_error(*(pooling.average(a, size // r) for a in (eps_hat, eps)))
            for r in config.scales
        ]
        return [(jnp.mean(e), jnp.mean(e, where=logsnr < NOISY)) for e in each]

    found = {}
    for r, (mean, noisy) in zip(config.scales, errors(params), strict=True):
        found[f"error_{r}"] = float(mean)
        found[f"noisy_{r}"] = float(noisy)
    return found | _gradients(config, trainer, params, seed)


def _gradients(config: Config, trainer: Trainer, params: Any, seed: int) -> dict[str, float]:
    """Norm of the gradient of the part of each size of the multi-scale loss, on one batch."""
    if config.network.classes is not None:
        label = jnp.asarray(trainer.images.train_labels[: config.training.batch_size])
    else:
        label = None
    batch = {"x": jnp.asarray(trainer.images.train[: config.training.batch_size]), "label": label}
    norms = {}
    for r in config.scales:
        loss = denoising.make_loss(config.network, trainer.schedule, LossConfig(scales=(r,)))
        gradient = _gradient(loss)(params, batch, jax.random.key(seed))
        squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)]
        norms[f"gradient_{r}"] = float(jnp.sqrt(sum(squares, jnp.zeros(()))))
    return norms


def _gradient(loss: training.Loss) -> Any:
    return jax.jit(jax.grad(lambda params, batch, key: loss(params, batch, key)[0]))


def draw(record: Record):
    """Errors by size, distances of samples, and the gradient of every size."""
    figure, axes = figures.new(rows=2, columns=2, width=4.4, height=2.9)
    scales, names = record.config["scales"], by_arm.names(record)
    _draw_errors(axes[0, 0], record, names[0], names[1:])
    by_arm.draw(axes[0, 1], record, names, "frechet", "Frechet distance of features")
    for name, style in zip(names, figures.styles(), strict=False):
        means = [np.mean(by_arm.values(record, name, f"gradient_{r}")) for r in scales]
        axes[1, 0].plot(scales, means, label=name, **style)
    axes[1, 0].set(ylabel="norm of the gradient", title="part of each size in the loss")
    axes[1, 0].set_ylim(bottom=0)
    for axis in axes[:, 0]:
        axis.set_xscale("log", base=2)
        axis.set_xticks(scales, [f"{r} x {r}" for r in scales])
        axis.minorticks_off()
        axis.set(xlabel="size to which errors are averaged")
    arms.draw_samples(axes[1, 1], record, names)
    figures.legend_below(figure)
    return figure


def _draw_errors(axis: Any, record: Record, baseline: str, names: Sequence[str]) -> None:
    """Errors over the baseline's by size, in per cent: seeds, means and their 95 % intervals."""
    for shift, (name, style) in enumerate(zip(names, figures.styles(), strict=False)):
        for r in record.config["scales"]:
            metric, x = f"noisy_{r}", r * 1.06**shift
            ours, theirs = (by_arm.values(record, arm, metric) for arm in (name, baseline))
            each = 100.0 * (np.divide(ours, theirs) - 1.0)
            axis.plot([x] * len(each), each, ".", color="#aaaaaa")
            found = by_arm.ratio(record, name, baseline, metric)
            if found is not None:
                value, low, high = (
                    100.0 * (ratio - 1.0) for ratio in (found.value, found.low, found.high)
                )
                look = {**style, "linestyle": "none", "capsize": 3}
                axis.errorbar([x], [value], [[value - low], [high - value]], **look)
    axis.axhline(0.0, color="#777777", linewidth=1)
    axis.set(ylabel=f"{', '.join(names)} over {baseline}, %")
    axis.set(title=f"held-out error, log-SNR < {NOISY:g}")


def table(record: Record) -> str:
    """Both arms, by size and in their samples."""
    scales = record.config["scales"]
    names = [f"noisy_{r}" for r in scales] + ["frechet", "coarse", "error"]
    return arms.table(record, lambda arm: "plain", names)


def programs(config: Config) -> dict[str, Program]:
    """The training step with the multi-scale loss."""
    arm = all_arms(config)[1]
    schedule = arm.noise.schedule(config.data.size or 1)
    return denoising.programs(arm.network, arm.data, schedule, config.training, arm.loss)


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": config.data.label}


SOURCE = "arXiv 2301.11093, section 3.2 and table 6; notes on the paper disagree on the effect"


def _smallest(record: Record):
    metric = f"noisy_{min(record.config['scales'])}"
    return by_arm.ratio(record, "plain", "multi-scale", metric)


CLAIMS = (
    Claim(
        id="multi_scale.layout",
        statement="held-out error of the noise averaged to the smallest size, log-SNR below "
        f"{NOISY:g}, of the plain loss over that of the multi-scale loss, above 1",
        source=SOURCE,
        measure=_smallest,
        paper=1.0,
        kind="ordering",
    ),
    arms.ordering("multi_scale.frechet", "samples", SOURCE, "plain", "multi-scale", "frechet"),
    arms.ordering(
        "multi_scale.coarse", "layout of samples", SOURCE, "plain", "multi-scale", "coarse"
    ),
)
