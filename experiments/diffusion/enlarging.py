"""Images larger than a network was trained on: ways to make them, and how they are measured."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffusion import guidance, metrics, process, samplers
from experiments.diffusion import classifier, denoising, judging
from experiments.diffusion.noise import NoiseConfig
from experiments.harness import by_arm, compiling
from experiments.harness.image_sets import ImageConfig
from experiments.harness.run import Record

METRICS = ("frechet", "sliced_w2", "averaged_w2", "precision", "recall")
COSINE = NoiseConfig(logsnr_min=-10.0, logsnr_max=10.0)
Way = Callable[[Any, jax.Array], np.ndarray]


def guided(network: Any, factor: int, trained: Any, options: dict[str, Any]) -> Any:
    """(params, z, logsnr) -> guided v, by way of eps, in which the paper leaves corrections out."""

    def denoiser(params: Any, z: jax.Array, logsnr: jax.Array) -> jax.Array:
        def eps(z: jax.Array, logsnr: jax.Array) -> jax.Array:
            return process.convert(network(params, z, logsnr), z, logsnr, "v", "eps")

        large = guidance.upsample(eps, factor, prediction="eps", trained=trained, **options)
        return process.convert(large(z, logsnr), z, logsnr, "eps", "v")

    return denoiser


def draw(denoiser: Any, shape: tuple[int, ...], logsnrs: jax.Array) -> Way:
    """(params, key) -> samples of DDIM, of a denoiser (params, z, logsnr) -> v."""

    @compiling.compile_call
    def sample(params: Any, key: jax.Array) -> jax.Array:
        z = jax.random.normal(key, shape)
        return samplers.sample(denoiser, z, logsnrs, "ddim", "v", params=params)

    return lambda params, key: np.asarray(sample(params, key))


def interval(schedule: Any, eta: float) -> tuple[float, float]:
    """Log-SNR of the share eta of the way from the noise, a call at its very end left out."""
    return -np.inf, float(schedule(1.0 - eta + 1e-4)) if eta < 1.0 else np.inf


def check(small: int, factor: int, seeds: int, samples: int, steps: int, network: Any) -> None:
    """Refuse settings that cannot be compared or enlarged.

    Raises:
        ValueError: naming them.
    """
    if min(small, factor, seeds) < 2:
        raise ValueError(
            f"small, factor, seeds: expected at least 2, got {small}, {factor}, {seeds}"
        )
    if samples < 20 or steps < 2:
        raise ValueError(f"samples, steps: expected at least 20 and 2, got {samples}, {steps}")
    if network.classes is not None or network.kind == "mlp":
        raise ValueError(
            "network: expected one without classes that takes images of any size, got "
            f"{network.kind} with classes {network.classes}"
        )


def describe(data: ImageConfig, small: int, factor: int) -> dict[str, str]:
    """What a dry run says about the data."""
    return {
        "data": f"{data.label}: trained at {small}, sampled at {small * factor} pixels",
    }


def measure(x: np.ndarray, real: np.ndarray, judge: Any, averaged: int) -> dict[str, float]:
    """Distances of samples from real images, and of averages at `averaged` pixels a side.

    The classifier sees images clipped to [-1, 1]. Distances that look at all pairs take as many
    real images as there are samples.
    """
    real = real[: judging.REFERENCE]
    pixels = x.reshape(len(x), -1), real[: len(x)].reshape(min(len(x), len(real)), -1)
    ours, theirs = (classifier.shrunk(a, averaged).reshape(len(a), -1) for a in (x, real))
    return judging.distances(x, real, judge.features) | {
        "energy": float(metrics.energy_distance(*pixels)),
        "averaged_w2": float(metrics.sliced_wasserstein(ours, theirs)),
    }


def draw_grids(
    axis: Any, rows: dict[str, Any], levels: int = 256, columns: int = 8, lines: int = 1
) -> None:
    """Some images of each way, in as many lines."""
    count = min(columns, *(len(grid) for grid in rows.values()))
    images = [np.asarray(grid)[: count * lines] for grid in rows.values()]
    axis.imshow(denoising.tile(np.concatenate(images), levels, count))
    size = lines * (images[0].shape[1] + 1)
    axis.set_yticks([size * (i + 0.5) for i in range(len(images))], list(rows))
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.grid(False)


def table(record: Record, fixed: dict[str, dict[str, float]]) -> str:
    """Means over seeds of every way, below what needs no seed."""
    found = dict(fixed)
    for name in by_arm.names(record):
        found[name] = {m: float(np.mean(by_arm.values(record, name, m))) for m in METRICS}
    count, n = record.config["seeds"], record.config["samples"]
    return f"{rows(found)}\n\nmeans of {count} seeds, {n} samples each.\n"


def rows(found: dict[str, dict[str, float]]) -> str:
    """A table of measurements by name."""
    lines = [f"| way | {' | '.join(METRICS)} |", "| --- " * (len(METRICS) + 1) + "|"]
    for name, values in found.items():
        lines.append(f"| {name} | " + " | ".join(f"{values[m]:.3g}" for m in METRICS) + " |")
    return "\n".join(lines)
