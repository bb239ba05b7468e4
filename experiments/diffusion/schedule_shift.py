"""Whether schedules should follow the size of images: cosine, shifted and interpolated, two sizes.

Reproduces: the question of the table of noise schedules of simple diffusion (arXiv 2301.11093;
https://kexue.fm/archives/10047). The same images are learnt at a base size and at twice that, with
the cosine schedule, with one shifted by 2 log 2 towards noise, and with both interpolations; all
arms share their seeds. The paper finds that shifts help large images; at the base size the same
shift should make little difference, within a margin that was stated before the run.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.diffusion import arms, denoising
from experiments.diffusion.arms import Arm, Measuring
from experiments.diffusion.networks import NetworkConfig
from experiments.diffusion.noise import NoiseConfig
from experiments.harness import by_arm, figures, image_sets, paired
from experiments.harness.estimate import Program
from experiments.harness.image_sets import ImageConfig
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig

MARGIN = 0.15  # by which a ratio at the base size may differ from 1 and still count as none
UNET = NetworkConfig("unet", 16, 1)
KINDS = ("cosine", "shifted", "shifted at data", "shifted at noise")


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
        base: side in pixels of the small images.
        factor: side of the large images over `base`; shifts are by 2 log(factor) at both sizes.
        kinds: schedules to compare, some of `KINDS`, the cosine among them.
        seeds: number of seeds of every arm.
        data, network, training, measuring: of all arms; the data's size is set by the arm.
    """

    base: int = 8
    factor: int = 2
    kinds: tuple[str, ...] = KINDS
    seeds: int = 6
    data: ImageConfig = image_sets.DIGITS
    network: NetworkConfig = UNET
    training: TrainingConfig = denoising.SHORT
    measuring: Measuring = arms.MEASURING

    def __post_init__(self):
        if "cosine" not in self.kinds or not set(self.kinds) <= set(KINDS):
            raise ValueError(
                f"kinds: expected some of {KINDS}, the cosine among them, got {self.kinds}"
            )
        if self.base < 2 or self.factor < 2 or self.seeds < 2:
            raise ValueError(
                f"base, factor, seeds: expected at least 2, got {self.base}, {self.factor}, "
                f"{self.seeds}"
            )


PRESETS = {
    "quick": Config(
        kinds=("cosine", "shifted"),
        seeds=2,
        network=NetworkConfig(width=64, depth=1),
        training=replace(denoising.SHORT, steps=100, ema=0.9),
    ),
    "cpu": Config(measuring=Measuring(500, 32)),
    "paper": Config(
        base=64,
        data=ImageConfig("imagenet2012", size=64, lazy=True),
        network=NetworkConfig(
            "unet",
            128,
            4,
            multipliers=(1, 2, 4, 8),
            blocks=(3, 4, 12),
            attention=2,
            head_width=128,
            dropout=0.1,
            dtype="bfloat16",
        ),
        training=denoising.PAPER,
        measuring=Measuring(10_000, 256, 32),
    ),
}


def all_arms(config: Config) -> list[Arm]:
    """Every schedule at both sizes; the shift is that from `factor` times smaller images."""
    found = []
    for size in (config.base, config.base * config.factor):
        small = size / config.factor
        noises = {
            "cosine": NoiseConfig(),
            "shifted": NoiseConfig("shifted", small),
            "shifted at data": NoiseConfig("interpolated", small, size),
            "shifted at noise": NoiseConfig("interpolated", size, small),
        }
        data = replace(config.data, size=size)
        for kind in config.kinds:
            found.append(Arm(f"{kind}, {size}", data, config.network, noises[kind]))
    return found


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train and measure all arms."""
    rows = arms.run_all(all_arms(config), config.seeds, config.training, config.measuring, run)
    return {"runs": len(rows)}


def _sizes(record: Record) -> tuple[int, int]:
    base = record.config["base"]
    return base, base * record.config["factor"]


def draw(record: Record):
    """Distances of every arm at both sizes, and samples of the large ones."""
    figure, axes = figures.new(rows=2, columns=3, width=3.9, height=2.6)
    for row, size in zip(axes, _sizes(record), strict=True):
        mine = [f"{kind}, {size}" for kind in record.config["kinds"]]
        by_arm.draw(row[0], record, mine, "frechet", "Frechet distance of features")
        by_arm.draw(row[1], record, mine, "coarse", "sliced W2 of averaged images")
        row[1].set_yticklabels([])
        arms.draw_samples(row[2], record, mine)
    figures.legend_below(figure)
    return figure


def table(record: Record) -> str:
    """Every arm over the cosine of its size."""
    return arms.table(
        record, lambda arm: "cosine, " + arm.rpartition(", ")[2], ("frechet", "coarse", "error")
    )


def programs(config: Config) -> dict[str, Program]:
    """The training step at both sizes."""
    found = {}
    for arm in all_arms(config)[:: len(config.kinds)]:
        schedule = arm.noise.schedule(arm.data.size or config.base)
        steps = denoising.programs(arm.network, arm.data, schedule, config.training)
        found[f"training step, {arm.data.size}"] = steps["training step"]
    return found


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about data and arms."""
    return {"data": config.data.label, "arms": ", ".join(arm.name for arm in all_arms(config))}


def _at(record: Record, which: int, above: str, below: str, metric: str):
    size = _sizes(record)[which]
    return by_arm.ratio(record, f"{above}, {size}", f"{below}, {size}", metric)


def _larger(kind: str, metric: str, name: str, what: str) -> Claim:
    return Claim(
        id=f"schedule_shift.{name}",
        statement=f"{what} of the cosine over that of {kind}, images of the larger size, above 1",
        source="arXiv 2301.11093, its table of noise schedules (ImageNet, FID)",
        measure=lambda record: _at(record, 1, "cosine", kind, metric),
        paper=1.0,
        kind="ordering",
    )


def _interaction(record: Record) -> Measurement | None:
    """Of size and schedule: what the shift is worth at the large size over that at the base."""
    base, large = _sizes(record)
    every = [
        by_arm.values(record, f"{kind}, {size}", "frechet")
        for kind, size in (
            ("cosine", large),
            ("shifted", large),
            ("cosine", base),
            ("shifted", base),
        )
    ]
    if len({len(part) for part in every}) != 1 or len(every[0]) < 2:
        return None
    cosine, shifted, base_cosine, base_shifted = (np.asarray(part) for part in every)
    return paired.ratio(list(cosine / shifted), list(base_cosine / base_shifted))


CLAIMS = (
    Claim(
        id="schedule_shift.interaction",
        statement="what the shift is worth at the larger size over what it is worth at the "
        "base (Frechet distance of the cosine over that of the shifted schedule), above 1",
        source="arXiv 2301.11093, its table of noise schedules: the larger the images, the more a "
        "shift helps",
        measure=_interaction,
        paper=1.0,
        kind="ordering",
    ),
    _larger("shifted", "frechet", "frechet", "Frechet distance"),
    _larger("shifted", "coarse", "coarse", "sliced W2 of averaged samples"),
    _larger("shifted at data", "frechet", "at_data", "Frechet distance"),
    _larger("shifted at noise", "frechet", "at_noise", "Frechet distance"),
    Claim(
        id="schedule_shift.base",
        statement="Frechet distance of the cosine over that of the shifted schedule at the base "
        f"size: 1 within {MARGIN:g}, a margin stated before the run",
        source="arXiv 2301.11093, section 3.1: shifts are for larger images",
        measure=lambda record: _at(record, 0, "cosine", "shifted", "frechet"),
        paper=1.0,
        tolerance=MARGIN,
    ),
)
