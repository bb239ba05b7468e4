"""Upsample guidance on a Gaussian field, exactly: every ablation, as distances between laws.

Reproduces: the parts of upsample guidance (arXiv 2404.01709; the post
https://kexue.fm/archives/10055) one by one: strength, time and power corrections, and the cut-off.
The small law is a stationary Gaussian field averaged over cells; its perfect denoiser is a
convolution, which is used on arrays `factor` times larger as a network would be. All is linear, so
samples are a normal law whose covariance is known, and so is its Wasserstein distance from the
large field's. Nothing is drawn at random.
"""

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import guidance, pooling, process, samplers, schedules
from experiments.harness import figures
from experiments.harness.ledger import Claim, below
from experiments.harness.run import Record, Run

ABLATIONS = {
    "both": {},
    "no time": {"match_time": False},
    "no power": {"match_power": False},
    "neither": {"match_time": False, "match_power": False},
}
WAYS = {"naive": "no guidance", "nearest": "small samples enlarged", "perfect": "perfect denoiser"}


@dataclass(frozen=True)
class Config:
    """The field and what is compared on it.

    Attributes:
        size: elements along each axis of the large array.
        dimensions: of space, 1 or 2.
        factor: side of the large array over that of the small one.
        decay: exponent of the field's spectrum, 1 / (1 + k^2)^decay.
        strengths: guidance strengths, 1 among them.
        cuts: eta, fractions of the sampling path, from the noise on, with guidance.
        steps: number of DDIM steps.
        logsnr_min, logsnr_max: ends of the cosine schedule.
    """

    size: int = 64
    dimensions: int = 1
    factor: int = 2
    decay: float = 1.0
    strengths: tuple[float, ...] = (0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5)
    cuts: tuple[float, ...] = (0.4, 0.6, 0.8, 0.9)
    steps: int = 100
    logsnr_min: float = -15.0
    logsnr_max: float = 15.0

    def __post_init__(self):
        if self.factor < 2 or self.size % self.factor or self.size < 2 * self.factor:
            raise ValueError(
                f"size, factor: expected a multiple of a factor of at least 2, got {self.size}, "
                f"{self.factor}"
            )
        if self.dimensions not in (1, 2) or self.decay <= 0 or self.steps < 2:
            raise ValueError(
                "dimensions, decay, steps: expected 1 or 2, above 0, at least 2, got "
                f"{self.dimensions}, {self.decay}, {self.steps}"
            )
        if 1.0 not in self.strengths or len(self.strengths) < 3:
            raise ValueError(f"strengths: expected at least 3, 1 among them, got {self.strengths}")
        if not self.cuts or not all(0 < eta < 1 for eta in self.cuts):
            raise ValueError(f"cuts: expected shares between 0 and 1, got {self.cuts}")
        schedules.cosine(self.logsnr_min, self.logsnr_max)


PRESETS = {
    "quick": Config(),
    "cpu": Config(
        strengths=tuple(round(0.05 * i, 2) for i in range(31)),
        cuts=tuple(round(0.1 * i, 1) for i in range(1, 10)),
        steps=400,
    ),
    "paper": Config(
        size=32, dimensions=2, strengths=tuple(round(0.1 * i, 1) for i in range(21)), steps=1000
    ),
}


class Fields:
    """The large and the small law, and the small law's denoiser on arrays of any size."""

    def __init__(self, config: Config):
        self.config, k = config, config.dimensions
        shape = (config.size,) * k
        places = np.meshgrid(*[np.fft.fftfreq(config.size) * config.size] * k, indexing="ij")
        spectrum = 1.0 / (1.0 + sum(place**2 for place in places)) ** config.decay
        self.large = spectrum / spectrum.mean()  # variance 1 everywhere
        self.count = config.size**k
        unit = jnp.asarray(np.eye(self.count).reshape(self.count, *shape, 1))
        self.unit = unit
        # The covariance of averages is D C D^T, one of whose columns is enough.
        columns = np.fft.ifftn(self.large).real
        self.covariance = self._circulant(columns)
        averages = np.asarray(pooling.average(unit, config.factor)).reshape(self.count, -1)
        small = averages.T @ self.covariance @ averages
        self.small_covariance = small
        side = config.size // config.factor
        self.small = np.fft.fftn(small[0].reshape((side,) * k)).real

    def _circulant(self, column: np.ndarray) -> np.ndarray:
        axes = tuple(range(column.ndim))
        rows = [np.roll(column, place, axes).ravel() for place in np.ndindex(*column.shape)]
        return np.stack(rows)

    def denoise(self, z: jax.Array, logsnr: jax.Array) -> jax.Array:
        """The noise, by E[x | z] of the small law; on larger arrays the same kernel."""
        axes = tuple(range(1, z.ndim - 1))
        alpha, sigma = process.alpha_sigma(process.spread(logsnr[:1], z)[..., 0])
        gain = alpha * self.small / (alpha**2 * self.small + sigma**2)
        if z.shape[1] != self.small.shape[0]:
            kernel = jnp.fft.fftshift(jnp.fft.ifftn(gain, axes=axes).real, axes=axes)
            before = z.shape[1] // 2 - self.small.shape[0] // 2  # the centre stays the centre
            after = z.shape[1] - self.small.shape[0] - before
            wide = jnp.pad(kernel, [(0, 0)] + [(before, after)] * len(axes))
            gain = jnp.fft.fftn(jnp.fft.ifftshift(wide, axes=axes), axes=axes)
        return self._eps(z, logsnr, gain, axes)

    def perfect(self, z: jax.Array, logsnr: jax.Array) -> jax.Array:
        """The noise, by E[x | z] of the large law."""
        alpha, sigma = process.alpha_sigma(process.spread(logsnr[:1], z)[..., 0])
        gain = alpha * self.large / (alpha**2 * self.large + sigma**2)
        return self._eps(z, logsnr, gain, tuple(range(1, z.ndim - 1)))

    def _eps(self, z: jax.Array, logsnr: jax.Array, gain: Any, axes: tuple[int, ...]) -> jax.Array:
        """The noise in z where a filter gives x, as the paper's ablations have it."""
        x = jnp.fft.ifftn(jnp.fft.fftn(z[..., 0], axes=axes) * gain, axes=axes).real[..., None]
        return process.convert(x, z, logsnr, "x", "eps")

    def sample(self, denoiser: Any, params: Any = None) -> np.ndarray:
        """The matrix that takes noise to samples, from what becomes of each unit vector."""
        config = self.config
        schedule = schedules.cosine(config.logsnr_min, config.logsnr_max)
        logsnrs = schedule(jnp.linspace(1.0, 0.0, config.steps + 1))
        x = samplers.sample(denoiser, self.unit, logsnrs, "ddim", "eps", params=params)
        return np.asarray(x).reshape(self.count, -1)

    def distance(self, matrix: np.ndarray) -> float:
        """Wasserstein distance of the samples of a matrix from the large law, per element."""
        return gaussian_w2(matrix.T @ matrix, self.covariance)

    def averaged_distance(self, matrix: np.ndarray) -> float:
        """The same for averages, from the small law."""
        averages = np.asarray(pooling.average(self.unit, self.config.factor))
        averages = averages.reshape(self.count, -1)
        samples = matrix @ averages
        return gaussian_w2(samples.T @ samples, self.small_covariance)


def gaussian_w2(first: np.ndarray, second: np.ndarray) -> float:
    """Wasserstein-2 distance of two centred normal laws, per element."""
    values, vectors = np.linalg.eigh(second)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ first @ root)
    square = np.trace(first) + np.trace(second) - 2 * np.sqrt(np.maximum(cross, 0.0)).sum()
    return float(np.sqrt(max(square, 0.0) / len(first)))


def main(config: Config, run: Run) -> dict[str, Any]:
    """Distances of every arm."""
    with jax.enable_x64(True):
        return _measure(config)


def _measure(config: Config) -> dict[str, Any]:
    fields = Fields(config)
    axes = tuple(range(1, config.dimensions + 1))
    upsample = functools.partial(
        guidance.upsample,
        fields.denoise,
        config.factor,
        prediction="eps",
        spatial_axes=axes,
    )
    schedule = schedules.cosine(config.logsnr_min, config.logsnr_max)

    def guided(strength: jax.Array, z: jax.Array, logsnr: jax.Array) -> jax.Array:
        """Of every strength by one program."""
        return upsample(strength)(z, logsnr)

    every = [fields.sample(guided, jnp.asarray(w)) for w in config.strengths]
    by_strength = [fields.distance(matrix) for matrix in every]
    full = every[config.strengths.index(1.0)]
    ablations = {
        name: fields.distance(fields.sample(upsample(1.0, **options)))
        for name, options in ABLATIONS.items()
    }
    by_cut = []
    for eta in config.cuts:
        interval = (-np.inf, float(schedule(1.0 - eta)))
        by_cut.append(fields.distance(fields.sample(upsample(1.0, interval=interval))))
    values, vectors = np.linalg.eigh(fields.small_covariance)
    perfect_small = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    side = config.size // config.factor
    rows = jnp.asarray(perfect_small.reshape(-1, *(side,) * config.dimensions, 1))
    enlarged = np.asarray(pooling.nearest(rows, config.factor)).reshape(len(rows), -1)
    return {
        "strengths": by_strength,
        "ablations": ablations,
        "cuts": by_cut,
        "naive": fields.distance(fields.sample(fields.denoise)),
        "perfect": fields.distance(fields.sample(fields.perfect)),
        "nearest": fields.distance(enlarged),
        "averages": fields.averaged_distance(full),
        "example": _example(fields, full, enlarged),
    }


def _example(fields: Fields, full: np.ndarray, enlarged: np.ndarray) -> dict[str, list[float]]:
    """One sample of each way along the first axis, from the same noise."""
    noise = np.random.default_rng(0).normal(size=fields.count)
    naive = fields.sample(fields.denoise)
    lines = {"guided": noise @ full, "naive": noise @ naive}
    lines["nearest"] = noise[: len(enlarged)] @ enlarged
    values, vectors = np.linalg.eigh(fields.covariance)
    lines["truth"] = noise @ (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    size = fields.config.size
    return {name: np.round(line[:size], 3).tolist() for name, line in lines.items()}


def draw(record: Record):
    """Distances against strength and cut-off, the ablations, and one sample of each way."""
    figure, axes = figures.new(rows=1, columns=3, width=3.3, height=2.9)
    (left, middle, right), result, config = axes[0], record.result, record.config
    style, *styles = itertools.islice(figures.styles(), 4)
    guided = {**style, "label": "upsample guidance"}
    left.plot(config["strengths"], result["strengths"], **{**guided, "marker": "."})
    cuts = [*result["cuts"], result["ablations"]["both"]]
    middle.plot([*config["cuts"], 1.0], cuts, **guided)
    for axis in (left, middle):
        for name, look in zip(WAYS, styles, strict=True):
            look = {**look, "marker": None, "linewidth": 1.2, "label": WAYS[name]}
            axis.axhline(result[name], **look)
        axis.set(ylabel="W2 from the field, per element", ylim=(0, None))
    left.set(xlabel="strength w", title="strength")
    middle.set(xlabel="eta, share of the way with guidance", title="cut-off, w = 1")
    values = {"no guidance": result["naive"], "both": result["ablations"]["both"]}
    values |= {name: v for name, v in result["ablations"].items() if name != "both"}
    dots = {"color": figures.COLORS[0], "marker": "D", "linestyle": "none"}
    right.plot(values.values(), range(len(values)), **dots)
    for place, value in enumerate(values.values()):
        shift = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
        right.annotate(f"{value:.2g}", (value, place), fontsize=8, **shift)
    right.set_yticks(range(len(values)), values)
    right.set(xlabel="W2 from the field, per element", title="corrections, w = 1", xscale="log")
    right.set(ylim=(len(values) - 0.5, -0.5), xlim=(min(values.values()) / 3, None))
    figures.legend_below(figure)
    return figure


def table(record: Record) -> str:
    """Every distance."""
    result, config = record.result, record.config
    rows = [("perfect denoiser of the field", result["perfect"]), ("naive", result["naive"])]
    rows += [("nearest enlargement of a perfect small sample", result["nearest"])]
    pairs = zip(config["strengths"], result["strengths"], strict=True)
    rows += [(f"guidance, w = {w:g}", value) for w, value in pairs]
    rows += [(f"w = 1, {n}", v) for n, v in result["ablations"].items() if n != "both"]
    pairs = zip(config["cuts"], result["cuts"], strict=True)
    rows += [(f"w = 1, eta = {eta:g}", value) for eta, value in pairs]
    rows += [("averages of guided samples, from the small law", result["averages"])]
    lines = ["| way | W2 per element |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {value:.4f} |" for name, value in rows]) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": f"a Gaussian field of {config.size}^{config.dimensions} elements, exact"}


def _over(record: Record, *path: str) -> float:
    value: Any = record.result
    for name in path:
        value = value[name]
    return value / record.result["ablations"]["both"]


def _best(record: Record) -> float:
    values = record.result["strengths"]
    return record.config["strengths"][values.index(min(values))]


def _ordering(name: str, statement: str, bound: float, *path: str) -> Claim:
    return Claim(
        id=f"upsample_exact.{name}",
        statement=f"{statement} over that with guidance, w = 1: above {bound:g}",
        source="arXiv 2404.01709, section 3; the factor is the project's own",
        measure=lambda record: _over(record, *path),
        paper=bound,
        kind="ordering",
    )


CLAIMS = (
    _ordering("naive", "distance without guidance", 2.8, "naive"),
    _ordering("nearest", "distance of the enlarged perfect small sample", 1.5, "nearest"),
    _ordering("time", "distance without the time correction", 2.1, "ablations", "no time"),
    _ordering("power", "distance without the power correction", 20.0, "ablations", "no power"),
    Claim(
        id="upsample_exact.strength",
        statement="best strength w on the field",
        source="arXiv 2404.01709 and https://kexue.fm/archives/10055: about 1.2 in pixels",
        measure=_best,
        paper=1.05,
        tolerance=0.15,
    ),
    below(
        "upsample_exact.averages",
        "distance of averages of guided samples from the small law, over that of the sampler with "
        "a perfect denoiser",
        2.0,
        lambda record: record.result["averages"] / record.result["perfect"],
    ),
)
