"""Pooling raises the signal-to-noise ratio: log-SNR grows by k log m, and schedules shift by that.

Reproduces: Figure 3 of simple diffusion (arXiv 2301.11093) as the post
https://kexue.fm/archives/10047 shows it (noisy large images, pooled, are clearer than small images
with the same noise), and the law behind it, measured on arrays of one, two and three dimensions.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import pooling, process, schedules
from experiments.diffusion import denoising
from experiments.harness import figures, image_sets
from experiments.harness.image_sets import ImageConfig
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run


@dataclass(frozen=True)
class Config:
    """What to pool.

    Attributes:
        dimensions: numbers k of spatial dimensions, some of 1, 2, 3.
        factors: m, elements averaged along each dimension; powers of two are fastest.
        elements: approximate number of elements of each array of noise.
        logsnr: log-SNR of the noisy images in the figure.
        enlarged: side of the large images over that of the small ones.
        images: number of images in the figure.
        data: the images in the figure.
        seed: of the noise.
    """

    dimensions: tuple[int, ...] = (1, 2, 3)
    factors: tuple[int, ...] = (1, 2, 4, 8)
    elements: int = 2**18
    logsnr: float = -0.5
    enlarged: int = 4
    images: int = 6
    data: ImageConfig = image_sets.DIGITS
    seed: int = 0

    def __post_init__(self):
        if not self.dimensions or min(self.dimensions) < 1 or max(self.dimensions) > 3:
            raise ValueError(f"dimensions: expected some of 1, 2, 3, got {self.dimensions}")
        if len(self.factors) < 2 or min(self.factors) < 1:
            raise ValueError(f"factors: expected at least two, of at least 1, got {self.factors}")
        if min(self.elements, self.enlarged, self.images) < 1:
            raise ValueError("elements, enlarged, images: expected at least 1")


ROWS = {"pooled": "large,\naveraged", "small": "small", "shifted": "small,\nshifted"}
PRESETS = {
    "quick": Config(),
    "cpu": Config(elements=2**24, factors=(1, 2, 4, 8, 16), images=8),
    "paper": Config(
        elements=2**26, factors=(1, 2, 4, 8, 16), data=ImageConfig("cifar10"), enlarged=2
    ),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Measure the noise that pooling leaves, then draw pooled and small images."""
    done = {row["step"] for row in run.tracker.rows()}
    jobs = [(k, m) for k in config.dimensions for m in config.factors]
    for step, (k, m) in enumerate(jobs):
        if step not in done:
            run.tracker.log(step, dimensions=k, factor=m, **_gain(config, k, m))
    rows = run.tracker.rows()
    slopes = {f"slope_{k}d": _slope(rows, k) for k in config.dimensions}
    return {**slopes, "images": _images(config)}


def _gain(config: Config, k: int, m: int) -> dict[str, float]:
    """By how much pooling raises log-SNR: the loss of log-variance of the noise, and its error."""
    side = max(m, round(config.elements ** (1 / k)) // m * m)
    key = jax.random.fold_in(jax.random.key(config.seed), 100 * k + m)
    noise = jax.random.normal(key, (1, *(side,) * k, 1))
    pooled = pooling.average(noise, m)
    count = pooled.size
    variance = float(jnp.mean(jnp.square(pooled)))
    return {
        "gain": -float(np.log(variance)),
        "error": float(np.sqrt(2 / count)),  # of the log of a mean of `count` squares
        "law": schedules.shift_of(m, 1, k),
    }


def _slope(rows: list[dict[str, Any]], k: int) -> list[float]:
    """Slope of the gain against log m, weighted, and its standard error."""
    mine = [row for row in rows if row["dimensions"] == k]
    x = np.log([row["factor"] for row in mine])
    y, error = (np.array([row[name] for row in mine]) for name in ("gain", "error"))
    weight = 1 / error**2
    centre = np.sum(weight * x) / np.sum(weight)
    total = np.sum(weight * (x - centre) ** 2)
    return [float(np.sum(weight * (x - centre) * y) / total), float(1 / np.sqrt(total))]


def _images(config: Config) -> dict[str, list[Any]]:
    """Three rows: large noisy images pooled, small ones as noisy, and with a shifted log-SNR."""
    data = image_sets.load(config.data)
    small = jnp.asarray(data.test[: config.images])
    large = pooling.nearest(small, config.enlarged)
    first, second = jax.random.split(jax.random.key(config.seed))
    eps = jax.random.normal(second, small.shape)
    noisy = process.diffuse(large, jax.random.normal(first, large.shape), config.logsnr)
    higher = config.logsnr - schedules.shift_of(1, config.enlarged)
    rows = {
        "pooled": pooling.average(noisy, config.enlarged)
        / process.alpha_sigma(config.logsnr)[0]
        * process.alpha_sigma(higher)[0],
        "small": process.diffuse(small, eps, config.logsnr),
        "shifted": process.diffuse(small, eps, higher),
    }
    return {name: denoising.grey(value / 2, 256) for name, value in rows.items()}


def draw(record: Record):
    """Gains against the law, and the three rows of images."""
    figure, axes = figures.new(rows=1, columns=2, width=4.6, height=3.2)
    for k, style in zip(record.config["dimensions"], figures.styles(), strict=False):
        rows = [row for row in record.rows if row["dimensions"] == k]
        slope, error = record.result[f"slope_{k}d"]
        label = f"k = {k}: slope {slope:.4f} ± {error:.4f}"
        factors = [row["factor"] for row in rows]
        axes[0, 0].plot(factors, [row["gain"] for row in rows], label=label, **style)
        law = {"color": "#bbbbbb", "linewidth": 5, "zorder": 1}
        law["label"] = "law: k log m" * (k == record.config["dimensions"][-1])
        axes[0, 0].plot(factors, [row["law"] for row in rows], **law)
    axes[0, 0].set(xlabel="m, numbers averaged along each axis", ylabel="gain of log-SNR (nats)")
    axes[0, 0].set(title="noise averaged in k dimensions")
    axes[0, 0].set_xscale("log", base=2)
    axes[0, 0].legend(fontsize=8)
    images = record.result["images"]
    shown = denoising.tile(np.concatenate([*images.values()]), 256, record.config["images"])
    axes[0, 1].imshow(shown)
    size = (len(shown) + 1) / len(images)
    names = [ROWS.get(name, name) for name in images]
    axes[0, 1].set_yticks([size * (i + 0.5) - 1 for i in range(len(images))], names)
    axes[0, 1].set_xticks([])
    axes[0, 1].grid(False)
    level = record.config["logsnr"]
    axes[0, 1].set(title=f"{image_sets.label(record.config)}, log-SNR {level:g}")
    return figure


def table(record: Record) -> str:
    """Every gain."""
    lines = ["| k | m | gain of log-SNR | error | k log m |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {r['dimensions']} | {r['factor']} | {r['gain']:.4f} | {r['error']:.4f} "
        f"| {r['law']:.4f} |"
        for r in sorted(record.rows, key=lambda row: row["step"])
    ]
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {
        "data": f"white noise, about {config.elements:,} numbers; images of {config.data.label}"
    }


def _measure(record: Record, k: int) -> Measurement | None:
    found = record.result.get(f"slope_{k}d")
    if found is None:
        return None
    slope, error = found
    return Measurement(slope, slope - 3 * error, slope + 3 * error)


def _claim(k: int) -> Claim:
    return Claim(
        id=f"snr.slope_{k}d",
        statement=f"log-SNR after averaging m along {k} axes, against log m: slope {k}",
        source="https://kexue.fm/archives/10047: SNR grows by s^2 for images; arXiv 2301.11093, "
        "section 3.1"
        if k == 2
        else "the same argument in other dimensions; derived here",
        measure=lambda record: _measure(record, k),
        paper=float(k),
        tolerance=0.01,
    )


CLAIMS = tuple(_claim(k) for k in (1, 2, 3))
