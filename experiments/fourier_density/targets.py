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
_SHARP5 = (
    [
        0.15189535805249604,
        0.3524263232168098,
        0.18577457458002783,
        0.12003144129674995,
        0.18987230285391657,
    ],
    [
        -0.6672475736259016,
        -0.6274256551179861,
        -0.2671018371312949,
        -0.0036659406073480394,
        0.7257961940531141,
    ],
    [
        0.016539859920199566,
        0.021853728468946215,
        0.03039634566661637,
        0.035735459857936594,
        0.020727088730115424,
    ],
)


def _laplace3() -> Target:
    """Three double exponentials, whose cusps a Fourier series resolves slowly."""
    w, m, s = np.array([0.5, 0.3, 0.2]), np.array([-0.4, 0.1, 0.5]), np.array([0.06, 0.03, 0.08])

    def sample(generator: np.random.Generator, size: int) -> np.ndarray:
        component = generator.choice(3, size, p=w)
        x = generator.laplace(m[component], s[component])
        return x[np.abs(x) <= 1]  # all but a thousandth

    below = stats.laplace.cdf(-1, m, s)
    inside = w @ (stats.laplace.cdf(1, m, s) - below)
    return Target(
        lambda x: stats.laplace.pdf(x[..., None], m, s) @ w / inside,
        lambda x: (stats.laplace.cdf(x[..., None], m, s) - below) @ w / inside,
        sample,
        breaks=(-0.4, 0.1, 0.5),
    )


def _von_mises() -> Target:
    """0.6 vonMises(kappa 8, loc 1) + 0.4 vonMises(kappa 40, loc -2) of the angle pi x."""
    w, m, kappa = np.array([0.6, 0.4]), np.array([1.0, -2.0]), np.array([8.0, 40.0])

    def sample(generator: np.random.Generator, size: int) -> np.ndarray:
        component = generator.choice(2, size, p=w)
        return generator.vonmises(m[component], kappa[component]) / np.pi

    def cdf(x: np.ndarray) -> np.ndarray:
        angle = np.pi * np.asarray(x)[..., None]
        return (stats.vonmises.cdf(angle, kappa, m) - stats.vonmises.cdf(-np.pi, kappa, m)) @ w

    return Target(
        lambda x: np.pi * stats.vonmises.pdf(np.pi * x[..., None], kappa, m) @ w, cdf, sample
    )


def _mix25() -> Target:
    """Twenty-five narrow Gaussians; drawn from a generator whose numbers are frozen for good."""
    generator = np.random.RandomState(25)
    weights = generator.dirichlet(np.full(25, 5.0))
    means = np.sort(generator.uniform(-0.8, 0.8, 25))
    return _gaussians(list(weights), list(means), list(generator.uniform(0.012, 0.03, 25)))


TARGETS = {
    "tut10": _gaussians([0.1] * 10, _TUT10_MEANS, _TUT10_SCALES),
    "square": _square(),
    "sharp5": _gaussians(*_SHARP5),
    "laplace3": _laplace3(),
    "mix25": _mix25(),
    "vonmises2": _von_mises(),
}


def _students() -> Target:
    """Two heavy tails: 0.6 t3(loc -2, scale 0.7) + 0.4 t3(loc 3, scale 1.2)."""
    w, m, s = np.array([0.6, 0.4]), np.array([-2.0, 3.0]), np.array([0.7, 1.2])

    def sample(generator: np.random.Generator, size: int) -> np.ndarray:
        component = generator.choice(2, size, p=w)
        return m[component] + s[component] * generator.standard_t(3, size)

    return Target(
        lambda y: stats.t.pdf(y[..., None], 3, m, s) @ w,
        lambda y: stats.t.cdf(y[..., None], 3, m, s) @ w,
        sample,
    )


def _cauchy() -> Target:
    return Target(
        lambda y: stats.cauchy.pdf(y, 0.5, 1.0),
        lambda y: stats.cauchy.cdf(y, 0.5, 1.0),
        lambda generator, size: 0.5 + generator.standard_cauchy(size),
    )


# On the real line; their `quadrature` is that of `line_quadrature`.
LINE_TARGETS = {
    "faithful2": _gaussians([0.36, 0.64], [2.02, 4.27], [0.24, 0.43]),
    "claw": _gaussians(
        [0.5, 0.1, 0.1, 0.1, 0.1, 0.1], [0.0, -1.0, -0.5, 0.0, 0.5, 1.0], [1.0] + [0.1] * 5
    ),
    "student3mix": _students(),
    "cauchy": _cauchy(),
}


def line_quadrature(panels: int = 800, centre: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights on the real line: panels even in asinh of the distance, out to 1e9."""
    edges = np.linspace(-21.0, 21.0, panels + 1)
    points, weights = np.polynomial.legendre.leggauss(16)
    half = 0.5 * np.diff(edges)[:, None]
    s = (edges[:-1, None] + half * (1.0 + points)).ravel()
    return centre + np.sinh(s), (half * weights).ravel() * np.cosh(s)
