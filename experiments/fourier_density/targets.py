"""Target densities on [-1, 1] with known probability, distribution function and samples."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Target:
    """A density to fit: functions over float64 arrays, and where it jumps."""

    prob: Callable[[np.ndarray], np.ndarray]
    cdf: Callable[[np.ndarray], np.ndarray]
    sample: Callable[[np.random.Generator, int], np.ndarray]
    breaks: tuple[float, ...] = ()

    def quadrature(self, panels: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """Points and weights on [-1, 1]: Gauss-Legendre panels that respect the jumps."""
        edges = np.unique([*np.linspace(-1, 1, panels + 1), *self.breaks])
        points, weights = np.polynomial.legendre.leggauss(16)
        middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
        x = middle[:, None] + half[:, None] * points
        return x.ravel(), (half[:, None] * weights).ravel()


def _gaussians(weights: list[float], means: list[float], scales: list[float]) -> Target:
    """A mixture of normals whose mass outside [-1, 1] is negligible."""
    w, m, s = np.array(weights), np.array(means), np.array(scales)

    def sample(generator: np.random.Generator, size: int) -> np.ndarray:
        component = generator.choice(len(w), size, p=w)
        return generator.normal(m[component], s[component])

    return Target(
        lambda x: stats.norm.pdf(x[..., None], m, s) @ w,
        lambda x: stats.norm.cdf(x[..., None], m, s) @ w,
        sample,
    )


def _square() -> Target:
    """0.9 U(-0.5, 0.3) + 0.1 U(-1, 1): jumps, which a Fourier series resolves like 1/N."""

    def sample(generator: np.random.Generator, size: int) -> np.ndarray:
        inner = generator.uniform(-0.5, 0.3, size)
        return np.where(generator.random(size) < 0.9, inner, generator.uniform(-1, 1, size))

    return Target(
        lambda x: 0.9 / 0.8 * ((x >= -0.5) & (x < 0.3)) + 0.05,
        lambda x: 0.9 * np.clip((x + 0.5) / 0.8, 0, 1) + 0.1 * np.clip((x + 1) / 2, 0, 1),
        sample,
        breaks=(-0.5, 0.3),
    )


# The mixture of the paper's public notebook (its key 42 under JAX's old random numbers).
_TUT10_MEANS = [
    0.01515017356723547,
    -0.2419874221086502,
    -0.34520500898361206,
    0.20919467508792877,
    0.17366820573806763,
    -0.34645596146583557,
    -0.22389526665210724,
    -0.2980934977531433,
    0.005521114449948072,
    0.023814208805561066,
]
_TUT10_SCALES = [
    0.052398961037397385,
    0.04704193025827408,
    0.044891562312841415,
    0.05644155666232109,
    0.055701419711112976,
    0.044865500181913376,
    0.047418851405382156,
    0.04587305337190628,
    0.05219835788011551,
    0.05257946252822876,
]
TARGETS = {
    "tut10": _gaussians([0.1] * 10, _TUT10_MEANS, _TUT10_SCALES),
    "square": _square(),
}
