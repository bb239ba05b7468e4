"""Where a denoiser's dropout, depth and down-sampling belong: at the lowest resolution.

Reproduces: the questions of tables 3 to 5 of simple diffusion (arXiv 2301.11093; the post
https://kexue.fm/archives/10047), each against the same U-Net, with paired seeds: dropout nowhere,
everywhere or at the lowest resolution; more blocks at the lowest resolution or at the highest; a
strided convolution or a wavelet in front. Time of a step and parameters are measured as well.
"""

from dataclasses import dataclass, replace
from typing import Any

from experiments.diffusion import arms, denoising, networks
from experiments.diffusion.arms import Arm, Measuring
from experiments.diffusion.networks import NetworkConfig
from experiments.diffusion.noise import NoiseConfig
from experiments.harness import by_arm, figures
from experiments.harness.estimate import Program
from experiments.harness.image_sets import ImageConfig
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig

UNET = NetworkConfig("unet", 16, 1)
TINY = NetworkConfig("unet", 4, 1)
SHIFTED = NoiseConfig("shifted", base=8)
DATA = ImageConfig(size=16)
GROUPS = {
    "dropout": ("base", "dropout everywhere", "dropout below"),
    "depth": ("base", "deep bottom", "deep top"),
    "stem": ("base", "convolution stem", "wavelet stem"),
}


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
        groups: which comparisons to make, some of "dropout", "depth", "stem".
        rate: dropout rate of the arms that have dropout.
        blocks: blocks added at the lowest level, or half as many to each side of the highest; even.
        patch: factor by which the stems divide the sides of images.
        seeds: number of seeds of every arm.
        data, network, noise, training, measuring: of all arms; the network is the base.
    """

    groups: tuple[str, ...] = tuple(GROUPS)
    rate: float = 0.1
    blocks: int = 4
    patch: int = 2
    seeds: int = 6
    data: ImageConfig = DATA
    network: NetworkConfig = UNET
    noise: NoiseConfig = SHIFTED
    training: TrainingConfig = denoising.SHORT
    measuring: Measuring = arms.MEASURING

    def __post_init__(self):
        if not self.groups or not set(self.groups) <= set(GROUPS):
            raise ValueError(f"groups: expected some of {tuple(GROUPS)}, got {self.groups}")
        if self.data.size is None:
            raise ValueError("data.size: expected the pixels a side of the images")
        if self.network.kind not in networks.U:
            raise ValueError(f"network.kind: expected unet or uvit, got {self.network.kind}")
        base = self.network
        if base.dropout or base.stem != "none" or len(base.multipliers) < 2:
            raise ValueError(
                "network.dropout, stem, multipliers: expected a base without dropout and stem, of "
                f"two levels at least, got {base.dropout}, {base.stem}, {base.multipliers}"
            )
        if not 0 < self.rate < 1 or self.blocks < 2 or self.blocks % 2:
            raise ValueError(
                f"rate, blocks: expected in (0, 1) and even, at least 2, got {self.rate}, "
                f"{self.blocks}"
            )
        if self.seeds < 2:
            raise ValueError(f"seeds: expected at least 2, got {self.seeds}")
        for arm in all_arms(self):
            arm.network.check((self.data.size, self.data.size, 1))


def all_arms(config: Config) -> list[Arm]:
    """The base, and every change of it."""
    base, size = config.network, config.data.size or 1
    lowest = size // 2 ** (len(base.multipliers) - 1)
    changes = {
        "base": {},
        "dropout everywhere": {"dropout": config.rate, "dropout_size": size},
        "dropout below": {"dropout": config.rate, "dropout_size": lowest},
        "deep bottom": {"depth": base.depth + config.blocks},
        "deep top": {"blocks": (base.blocks[0] + config.blocks // 2, *base.blocks[1:])},
        "convolution stem": {"stem": "conv", "patch": config.patch},
        "wavelet stem": {"stem": "dwt", "patch": config.patch},
    }
    wanted = dict.fromkeys(name for group in config.groups for name in GROUPS[group])
    return [Arm(name, config.data, replace(base, **changes[name]), config.noise) for name in wanted]


PRESETS = {
    "quick": Config(
        groups=("dropout",),
        seeds=2,
        network=TINY,
        training=replace(denoising.SHORT, steps=20, ema=0.9),
        measuring=Measuring(100, 8),
    ),
    "cpu": Config(measuring=Measuring(500, 32)),
    "paper": Config(
        data=ImageConfig("imagenet2012", size=128, lazy=True),
        network=replace(networks.UNET_128, classes=None, dropout=0.0),
        noise=NoiseConfig("shifted", base=32),
        training=denoising.PAPER,
        measuring=Measuring(10_000, 256, 32),
    ),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train and measure all arms."""
    rows = arms.run_all(all_arms(config), config.seeds, config.training, config.measuring, run)
    return {"runs": len(rows)}


def draw(record: Record):
    """Distances and errors of every arm, and what a step costs."""
    figure, axes = figures.new(rows=2, columns=2, width=4.8, height=2.9)
    names = by_arm.names(record)
    by_arm.draw(axes[0, 0], record, names, "frechet", "Frechet distance of features")
    by_arm.draw(axes[0, 1], record, names, "error", "error of v on held-out images")
    by_arm.draw(axes[1, 0], record, names, "ms", "ms of a training step")
    arms.draw_samples(axes[1, 1], record, names)
    figures.legend_below(figure)
    return figure


def table(record: Record) -> str:
    """Every arm over the base."""
    return arms.table(record, lambda arm: "base", ("frechet", "coarse", "error", "ms"))


def programs(config: Config) -> dict[str, Program]:
    """The training step of the base."""
    schedule = config.noise.schedule(config.data.size or 1)
    return denoising.programs(config.network, config.data, schedule, config.training)


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about data and arms."""
    return {"data": config.data.label, "arms": ", ".join(arm.name for arm in all_arms(config))}


def _claim(name: str, statement: str, above: str, below: str, metric: str, table: int) -> Claim:
    source = f"arXiv 2301.11093, table {table} (ImageNet, FID)"
    return arms.ordering(f"architecture.{name}", statement, source, above, below, metric)


CLAIMS = (
    _claim(
        "dropout",
        "dropout at the lowest resolution beats none",
        *("base", "dropout below", "frechet", 3),
    ),
    _claim(
        "dropout_place",
        "dropout at the lowest resolution beats dropout everywhere",
        *("dropout everywhere", "dropout below", "frechet", 3),
    ),
    _claim(
        "depth",
        "blocks at the lowest resolution pay",
        *("base", "deep bottom", "frechet", 4),
    ),
    _claim(
        "depth_cost",
        "as many blocks cost less time at the lowest resolution than at the highest",
        *("deep top", "deep bottom", "ms", 4),
    ),
    _claim(
        "stem_cost",
        "a wavelet in front makes steps cheaper",
        *("base", "wavelet stem", "ms", 5),
    ),
)
