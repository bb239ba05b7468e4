"""Classifier-free guidance: quality against diversity by scale, on an exact mixture and on digits.

Reproduces: the trade of arXiv 2207.12598 (table 1, figure 4: quality against diversity as guidance
grows) and the limited interval of arXiv 2404.07724, with an exactly known conditional law, for
which nothing but guidance changes the samples, and with a small model of digits: confidence of a
classifier against recall. Scale s means unconditional + s (conditional - unconditional).
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import exact, guidance, metrics, samplers, schedules
from experiments.diffusion import classifier, denoising
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import figures, image_sets, training
from experiments.harness.estimate import Program
from experiments.harness.image_sets import ImageConfig
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig

SMALL = NetworkConfig(width=64, depth=2, classes=10)


@dataclass(frozen=True)
class Config:
    """Scales and sampler.

    Attributes:
        scales: of guidance; 1 is the conditional model, 0 the unconditional one.
        interval: lowest and highest log-SNR at which the limited variant guides.
        steps: number of DDIM steps.
        samples: number of samples for each scale.
        modes: components of the mixture whose denoiser is exact.
        network, training, data: of the model of images.
    """

    scales: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0)
    interval: tuple[float, float] = (-3.0, 3.0)
    steps: int = 24
    samples: int = 300
    modes: int = 8
    network: NetworkConfig = SMALL
    training: TrainingConfig = denoising.QUICK
    data: ImageConfig = image_sets.DIGITS

    def __post_init__(self):
        if self.network.classes is None:
            raise ValueError("network.classes: expected a number of classes, got None")
        if 1.0 not in self.scales or len(self.scales) < 2:
            raise ValueError(f"scales: expected at least two, 1 among them, got {self.scales}")
        if not self.interval[0] < self.interval[1]:
            raise ValueError(f"interval: expected a lower and a higher end, got {self.interval}")
        if self.steps < 2 or self.samples < 20 or self.modes < 2:
            raise ValueError("steps, samples, modes: expected at least 2, 20 and 2")


PRESETS = {
    "quick": Config(),
    "cpu": Config(
        scales=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0),
        steps=64,
        samples=1500,
        network=NetworkConfig(width=256, depth=3, classes=10),
        training=denoising.CPU,
    ),
    "paper": Config(
        scales=(0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0),
        steps=256,
        samples=10_000,
        network=NetworkConfig("conv", 128, 8, classes=10),
        training=denoising.PAPER,
        data=ImageConfig("cifar10"),
    ),
}
SCHEDULE = schedules.cosine(-10.0, 10.0)


def main(config: Config, run: Run) -> dict[str, Any]:
    """The exact law, then the model of images."""
    images = image_sets.load(config.data)
    problem = denoising.make_problem(config.network, images, SCHEDULE, config.training)
    params = training.averaged(training.train(problem, config.training, run))
    law, points = _law(config)
    rows, grids = _images(config, params, images)
    return {
        "law": law,
        "points": points,
        "images": rows,
        "grids": grids,
        "levels": images.levels,
        **problem.evaluate(params),
    }


def _guided(
    config: Config, denoiser: Any, none: Any, z: jax.Array, condition: jax.Array, limited: bool
) -> Any:
    """Samples for any scale, in one compiled program."""
    logsnrs = SCHEDULE(jnp.linspace(1.0, 0.0, config.steps + 1))
    interval = config.interval if limited else None

    @jax.jit
    def run(scale: jax.Array) -> jax.Array:
        guided = guidance.classifier_free(denoiser, scale, none, interval)
        return samplers.sample(guided, z, logsnrs, "ddim", "v", condition=condition)

    return run


def _law(config: Config) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A ring of components: how near the wanted one, and how wide, samples are."""
    law = exact.ring(config.modes, deviation=0.25)
    k = jnp.arange(config.samples) % config.modes
    z = jax.random.normal(jax.random.key(0), (config.samples, 2))
    rows, points = [], {}
    for limited in (False, True):
        run = _guided(config, exact.denoiser(law, "v"), -1, z, k, limited)
        for scale in config.scales:
            x = np.asarray(run(jnp.asarray(scale)), np.float64)
            means = np.asarray(law.means, np.float64)
            nearest = np.argmin(np.linalg.norm(x[:, None] - means, axis=-1), axis=1)
            own = x - means[np.asarray(k)]
            rows.append(
                {
                    "scale": scale,
                    "limited": limited,
                    "right": float(np.mean(nearest == np.asarray(k))),
                    "deviation": float(np.sqrt(np.mean(own**2))),
                }
            )
            if not limited:
                points[str(scale)] = np.round(x[:300], 3).tolist()
    return rows, points


def _images(
    config: Config, params: Any, images: image_sets.Images
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Confidence in the wanted class against recall, in features of the classifier."""
    judge = classifier.train(config.data)
    classes = config.network.classes or 0
    label = jnp.arange(config.samples) % classes
    z = jax.random.normal(jax.random.key(1), (config.samples, *images.train.shape[1:]))
    predict = functools.partial(denoising.denoiser(config.network), params)
    real = judge.features(images.train)
    rows, grids = [], {}
    for limited in (False, True):
        run = _guided(config, predict, classes, z, label, limited)
        for scale in config.scales:
            x = np.asarray(run(jnp.asarray(scale)))
            features = judge.features(x)
            n = min(len(features), len(real))
            shares = metrics.prdc(features[:n], real[:n])
            report = metrics.report(
                metrics.frechet_distance, features, real, judge.features(images.test)
            )
            rows.append(
                {
                    "scale": scale,
                    "limited": limited,
                    "confidence": float(judge.confidence(x, label).mean()),
                    **shares._asdict(),
                    "frechet": report.value,
                    "floor": report.floor,
                    "n": report.n,
                }
            )
            if not limited:
                grids[str(scale)] = denoising.grey(x[:classes], images.levels)
    return rows, grids


def draw(record: Record):
    """The law's samples and numbers, the model's frontier and digits."""
    figure, axes = figures.new(rows=2, columns=2, width=4.4, height=3.4)
    shown = [s for s in record.config["scales"] if s in (0.0, 1.0, record.config["scales"][-1])]
    for scale, style in zip(shown, figures.styles(), strict=False):
        points = np.array(record.result["points"][str(scale)])
        dots = {**style, "linestyle": "none", "markersize": 2.0}
        axes[0, 0].plot(*points.T, label=f"s = {scale:g}", **dots)
    axes[0, 0].set(aspect="equal", title=f"{record.config['modes']} components, exact denoiser")
    axes[0, 0].legend(fontsize=7, markerscale=2, loc="center", handletextpad=0.1)
    _draw_trade(axes[0, 1], record.result["law"], "deviation", "right")
    axes[0, 1].set(xlabel="RMS deviation from the wanted component", ylabel="share nearest to it")
    axes[0, 1].set(title="the exact law, by scale s")
    _draw_trade(axes[1, 0], record.result["images"], "recall", "confidence")
    axes[1, 0].set(xlabel="recall", ylabel="confidence")
    axes[1, 0].set(title=f"{image_sets.label(record.config)}, a trained model, by scale s")
    for axis in (axes[0, 1], axes[1, 0]):
        axis.legend(fontsize=8, title="guidance", loc="center left", bbox_to_anchor=(0.3, 0.55))
    grids = record.result["grids"]
    classes = len(next(iter(grids.values())))
    shown = denoising.tile(np.concatenate([*grids.values()]), record.result["levels"], classes)
    axes[1, 1].imshow(shown)
    size = (len(shown) + 1) / len(grids)
    places = [size * (i + 0.5) - 1 for i in range(len(grids))]
    axes[1, 1].set_yticks(places, [f"s = {float(s):g}" for s in grids], fontsize=7)
    axes[1, 1].set_xticks([])
    axes[1, 1].grid(False)
    axes[1, 1].set(title="guided everywhere, a class a column")
    return figure


def _draw_trade(axis: Any, rows: list[dict[str, Any]], x: str, y: str) -> None:
    """One measure against another, by scale, with guidance everywhere and within an interval."""
    for limited, style in zip((False, True), figures.styles(), strict=False):
        mine = [row for row in rows if row["limited"] == limited]
        look = {**style, "fillstyle": "none" if limited else "full", "linewidth": 1.2}
        look["label"] = "within an interval" if limited else "everywhere"
        axis.plot([row[x] for row in mine], [row[y] for row in mine], **look)
        for row in [] if limited else mine:
            place = {"xytext": (0, 6), "ha": "center"} if row[y] > 0.9 else {"xytext": (7, 4)}
            shift = {**place, "textcoords": "offset points"}
            axis.annotate(f"{row['scale']:g}", (row[x], row[y]), fontsize=7, **shift)
    axis.set_ylim(0.0, 1.1)


def table(record: Record) -> str:
    """Every scale of both."""
    lines = [
        "| scale | where | right, law | apart, law | confidence | precision | recall | Frechet |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for a, b in zip(record.result["law"], record.result["images"], strict=True):
        where = "interval" if a["limited"] else "everywhere"
        lines.append(
            f"| {a['scale']:g} | {where} | {a['right']:.3f} | {a['deviation']:.3f} "
            f"| {b['confidence']:.3f} | {b['precision']:.3f} | {b['recall']:.3f} "
            f"| {b['frechet']:.2f} |"
        )
    row = record.result["images"][0]
    lines.append(f"\nFrechet distance of features, floor {row['floor']:.2f} at n = {row['n']}.")
    return "\n".join(lines) + "\n"


def programs(config: Config) -> dict[str, Program]:
    """The training step of the model of images."""
    return denoising.programs(config.network, config.data, SCHEDULE, config.training)


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": f"a ring of {config.modes} components; images of {config.data.label}"}


def _change(record: Record, part: str, key: str, sign: float) -> Measurement | None:
    """How much a number grows (sign 1) or falls (-1) from scale 1 to the largest scale."""
    rows = {r["scale"]: r for r in record.result[part] if not r["limited"]}
    top = max(rows)
    if top <= 1.0:
        return None
    n = record.result["images"][0]["n"] if key == "recall" else record.config["samples"]
    value = sign * (rows[top][key] - rows[1.0][key])
    error = 2.0 * np.sqrt(0.5 / n)  # of a difference of shares, at most
    return Measurement(value, value - error, value + error)


CLAIMS = tuple(
    Claim(
        id=f"guidance.{name}",
        statement=statement,
        source=source,
        measure=functools.partial(_change, part=part, key=key, sign=sign),
        paper=0.0,
        kind="ordering",
    )
    for name, part, key, sign, statement, source in (
        (
            "law",
            "law",
            "right",
            1.0,
            "share of samples nearest to the wanted component: largest scale less scale 1",
            "arXiv 2207.12598, section 3: guidance sharpens the conditional law",
        ),
        (
            "confidence",
            "images",
            "confidence",
            1.0,
            "confidence of a classifier in the wanted class: largest scale less scale 1",
            "arXiv 2207.12598, figure 4: quality grows with guidance",
        ),
        (
            "recall",
            "images",
            "recall",
            -1.0,
            "recall: scale 1 less the largest scale",
            "arXiv 2207.12598, figure 4: diversity falls with guidance",
        ),
    )
)
