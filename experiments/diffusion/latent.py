"""Latent diffusion, and upsample guidance in its latent space with a cut-off.

Reproduces: what upsample guidance (arXiv 2404.01709; the post https://kexue.fm/archives/10055)
says of latent diffusion (2112.10752): averaging latents is not encoding averaged images, so that
guidance has to end before the way does. An autoencoder and a denoiser of its latents are trained on
small images and sampled twice as large, with guidance for several shares of the way; beside them
stands diffusion of pixels with as many operations of training. Distances are from real images, in
features of a small classifier (not an FID) and in pixels.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import pooling
from experiments.diffusion import classifier, denoising, enlarging, first_stage, judging
from experiments.diffusion.arms import Arm, Trainer
from experiments.diffusion.first_stage import AutoencoderConfig, FirstStage
from experiments.diffusion.networks import NetworkConfig
from experiments.diffusion.noise import NoiseConfig
from experiments.harness import by_arm, figures, image_sets, sharding
from experiments.harness.estimate import Program, matrix_flops
from experiments.harness.image_sets import ImageConfig, Images
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig

SHORT = replace(denoising.QUICK, steps=150)
SMALL = NetworkConfig("conv", 16, 1)
AUTOENCODER = AutoencoderConfig(8, blocks=0)
FIRST = replace(denoising.QUICK, steps=150, learning_rate=3e-3)
FIXED = ("real, held out", "the same, decoded")


@dataclass(frozen=True)
class Config:
    """What to train, and how to enlarge.

    Attributes:
        small: side in pixels of the training images.
        factor: side of the large images over `small`.
        etas: fractions of the sampling path, from the noise on, with guidance of strength 1.
        seeds: number of seeds of denoisers and samples; there is one autoencoder.
        samples, steps: how many samples, and how many DDIM steps at evenly spaced times.
        data: the images; their size is set by `small`.
        autoencoder, first: the first stage and its training.
        network, noise, training: of the denoiser of latents; that of pixels has the same network
            and is trained for as many steps as cost the FLOPs of both stages.
    """

    small: int = 8
    factor: int = 2
    etas: tuple[float, ...] = (0.6, 1.0)
    seeds: int = 2
    samples: int = 100
    steps: int = 16
    data: ImageConfig = image_sets.DIGITS
    autoencoder: AutoencoderConfig = AUTOENCODER
    first: TrainingConfig = FIRST
    network: NetworkConfig = SMALL
    noise: NoiseConfig = enlarging.COSINE
    training: TrainingConfig = SHORT

    def __post_init__(self):
        enlarging.check(self.small, self.factor, self.seeds, self.samples, self.steps, self.network)
        f = 2 ** (len(self.autoencoder.multipliers) - 1)
        if self.small % f:
            raise ValueError(
                f"small: expected a multiple of {f}, pixels a side of a latent, got {self.small}"
            )
        rising = tuple(sorted(set(self.etas))) == tuple(self.etas)
        if not rising or self.etas[-1:] != (1.0,) or self.etas[0] <= 0:
            raise ValueError(f"etas: expected shares that rise from above 0 to 1, got {self.etas}")


MNIST = Config(
    small=16,
    etas=(0.2, 0.4, 0.6, 0.8, 1.0),
    seeds=3,
    samples=400,
    steps=24,
    data=ImageConfig("mnist"),
    autoencoder=AutoencoderConfig(16, latent=1, beta=0.1),
    first=replace(denoising.CPU, steps=1000, batch_size=64, ema=0.99, learning_rate=2e-3),
    network=NetworkConfig("conv", 48, 3),
    training=replace(denoising.CPU, steps=1600, batch_size=64, ema=0.995),
)
PRESETS = {
    "quick": Config(),
    "cpu": MNIST,
    "paper": replace(
        MNIST,
        samples=10_000,
        steps=250,
        data=ImageConfig("cifar10"),
        autoencoder=AutoencoderConfig(128, (1, 2), 2, 4),
        first=replace(denoising.PAPER, batch_size=128),
        network=NetworkConfig("conv", 128, 12),
        training=denoising.PAPER,
    ),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train the first stage, then each seed's denoisers, and sample in every way."""
    sets = [replace(config.data, size=config.small * m) for m in (1, config.factor)]
    images = [image_sets.load(data) for data in sets]
    judges = [classifier.train(data) for data in sets]
    _check(config, images[0])
    stage = first_stage.train(config.autoencoder, images[0], config.first, run.layout)
    trainers = _trainers(config, stage, images[0], run.layout)
    done = {(row["arm"], row["seed"]) for row in run.tracker.rows()}
    for name, trainer in trainers.items():
        decode, ways = stage.decode if name == "latent" else np.asarray, _ways(config, trainer)
        for seed in range(config.seeds):
            missing = [way for way in ways if (f"{name}, {way}", seed) not in done]
            params = trainer(config.training.seed + seed)[0] if missing else None
            for way in missing:
                x = decode(ways[way](params, jax.random.key(seed)))
                row, large = _measure(config, x, images, judges)
                row |= {"grid": denoising.grey(large[:8], 256)} if seed == 0 else {}
                row |= {"arm": f"{name}, {way}", "seed": seed}
                run.tracker.log(len(run.tracker.rows()), **row)
            run.check_stop()
    return _result(config, stage, trainers, images, judges)


def _check(config: Config, images: Images) -> None:
    """Refuse, before any training, a network that does not fit the images or their latents."""
    f = 2 ** (len(config.autoencoder.multipliers) - 1)
    shape = (1, config.small // f, config.small // f, config.autoencoder.latent)
    for part in (images.train[:1], np.zeros(shape)):
        denoising.check(config.network, replace(images, train=part))


def _trainers(
    config: Config, stage: FirstStage, images: Images, layout: sharding.Layout
) -> dict[str, Trainer]:
    """Of latents, and of pixels with as many operations."""
    data = replace(config.data, size=config.small)
    arm = Arm("latent", data, config.network, config.noise)
    settings = replace(config.training, steps=programs(config)["pixel step"].calls)
    return {
        "latent": Trainer(arm, config.training, stage.latents(images), layout),
        "pixel": Trainer(replace(arm, name="pixel"), settings, images, layout),
    }


def _ways(config: Config, trainer: Trainer) -> dict[str, enlarging.Way]:
    """Name -> (params, key) -> small or large arrays, of latents or pixels."""
    network = denoising.denoiser(config.network)
    logsnrs = trainer.schedule(jnp.linspace(1.0, 0.0, config.steps + 1))
    ends = float(trainer.schedule.ends[0]), float(trainer.schedule.ends[1])
    height, width, channels = trainer.images.train.shape[1:]

    def draw(denoiser: Any, factor: int) -> enlarging.Way:
        shape = (config.samples, height * factor, width * factor, channels)
        return enlarging.draw(denoiser, shape, logsnrs)

    ways = {"nearest of small": draw(network, 1), "naive": draw(network, config.factor)}
    for eta in config.etas if trainer.name == "latent" else (1.0,):
        options = {"interval": enlarging.interval(trainer.schedule, eta)}
        guided = enlarging.guided(network, config.factor, ends, options)
        ways[f"eta = {eta:g}"] = draw(guided, config.factor)
    return ways


def _measure(
    config: Config, x: np.ndarray, images: list[Images], judges: list[Any]
) -> tuple[dict[str, Any], np.ndarray]:
    """Of large images; of small ones as they are, and repeated. Also the large ones."""
    row: dict[str, Any] = {}
    if x.shape[1] == config.small:
        row["small"] = enlarging.measure(x, images[0].train, judges[0], config.small)
        x = np.asarray(pooling.nearest(jnp.asarray(x), config.factor))
    return row | enlarging.measure(x, images[1].train, judges[1], config.small), x


def _commutation(config: Config, stage: FirstStage, large: np.ndarray) -> float:
    """How far averages of latents are from latents of averages, in deviations of latents."""
    small = np.asarray(pooling.average(jnp.asarray(large), config.factor))
    pooled = pooling.average(jnp.asarray(stage.encode(large)), config.factor)
    return float(np.sqrt(np.mean((np.asarray(pooled) - stage.encode(small)) ** 2)))


def _result(
    config: Config,
    stage: FirstStage,
    trainers: dict[str, Trainer],
    images: list[Images],
    judges: list[Any],
) -> dict[str, Any]:
    """What real images have, as they are and through the autoencoder."""
    result: dict[str, Any] = {"pixel_steps": trainers["pixel"].settings.steps}
    grids: dict[str, Any] = {}
    for name, part, judge in zip(("small", "large"), images, judges, strict=True):
        real = judging.held_out(part, config.samples)
        through = stage.decode(stage.encode(real))
        result[name] = {
            "real, held out": enlarging.measure(real, part.train, judge, config.small),
            "the same, decoded": enlarging.measure(through, part.train, judge, config.small),
            "error": float(np.mean((real - through) ** 2)),
        }
        grids = {"real": real, "real, decoded": through}
    result["grids"] = {name: denoising.grey(shown[:8], 256) for name, shown in grids.items()}
    result["commutation"] = _commutation(config, stage, judging.held_out(images[1], config.samples))
    return result


def draw(record: Record):
    """Distances against the share of the way with guidance, and images."""
    figure, axes = figures.new(columns=3, width=4.2, height=4.0, width_ratios=(1.0, 1.0, 1.25))
    etas = record.config["etas"]
    lines = ("pixel, eta = 1", "latent, nearest of small", "latent, naive")
    for axis, metric, label in (
        (axes[0, 0], "frechet", "Frechet distance of features"),
        (axes[0, 1], "sliced_w2", "sliced W2 of pixels"),
    ):
        each = [by_arm.values(record, f"latent, eta = {eta:g}", metric) for eta in etas]
        for number, seed in enumerate(np.array(each).T):
            look = {"color": "#aaaaaa", "linewidth": 0.7, "label": "its seeds" * (number == 0)}
            axis.plot(etas, seed, **look)
        look = {"color": figures.COLORS[0], "marker": "D", "label": "latent, guided"}
        axis.plot(etas, [np.mean(e) for e in each], **look)
        styles = itertools.islice(figures.styles(), 1, None)
        for style, name in zip(styles, lines, strict=False):
            look = {**style, "marker": None, "label": name}
            axis.axhline(np.mean(by_arm.values(record, name, metric)), **look)
        floor = record.result["large"]["the same, decoded"][metric]
        axis.axhline(floor, color="#555555", linewidth=0.8, label="real, encoded and decoded")
        axis.set(xlabel="eta, share of the way with guidance", ylabel=label)
        axis.set_ylim(bottom=0.0)
    _draw_images(axes[0, 2], record)
    axes[0, 2].set(title="samples of one seed")
    figures.legend_below(figure)
    return figure


def _draw_images(axis: Any, record: Record) -> None:
    grids = {row["arm"]: row["grid"] for row in record.rows if row["seed"] == 0}
    enlarging.draw_grids(axis, {**grids, **record.result["grids"]})


def table(record: Record) -> str:
    """Means over seeds at both sizes, and what the first stage loses."""
    result = record.result
    fixed = {name: result["large"][name] for name in FIXED}
    small = {name: result["small"][name] for name in FIXED}
    for kind in ("latent", "pixel"):
        rows = [row["small"] for row in record.rows if row["arm"] == f"{kind}, nearest of small"]
        small[kind] = {m: float(np.mean([row[m] for row in rows])) for m in enlarging.METRICS}
    return (
        f"At the size of the training:\n\n{enlarging.rows(small)}\n\nTwice as large:\n\n"
        f"{enlarging.table(record, fixed)}\n"
        f"Autoencoder: mean squared error {result['small']['error']:.2g} of small, "
        f"{result['large']['error']:.2g} of large images. Averages of latents are "
        f"{result['commutation']:.2f} deviations from latents of averages. Pixels: "
        f"{result['pixel_steps']} steps.\n"
    )


def programs(config: Config) -> dict[str, Program]:
    """The training steps; those of pixels cost what both stages cost, encoding each batch anew."""
    data = replace(config.data, size=config.small)
    shape = image_sets.shape(data)
    network = config.autoencoder.network(shape[-1])
    problem = first_stage.make_problem(config.autoencoder, shape)
    params = jax.eval_shape(problem.init, jax.random.key(0))
    side = config.small // network.factor
    sizes = {"latent": (side, side, config.autoencoder.latent), "pixel": shape}
    steps = {
        name: denoising.step_program(
            config.network, size, config.noise.schedule(size[0]), config.training
        )
        for name, size in sizes.items()
    }
    batch = jax.ShapeDtypeStruct((config.training.batch_size, *shape), jnp.float32)
    found = {
        "autoencoder step": denoising.problem_program(problem, shape, config.first),
        "encoding": Program(
            lambda params, x: network.apply(params, x, method="encode"),
            (params, batch),
            calls=config.training.steps,
        ),
        "latent step": steps["latent"],
    }
    each = {name: _operations(program) for name, program in {**found, **steps}.items()}
    total = sum(program.calls * each[name] for name, program in found.items())
    count = max(1, round(total / each["pixel"]))
    return {**found, "pixel step": replace(steps["pixel"], calls=count)}


def _operations(program: Program) -> int:
    return matrix_flops(jax.make_jaxpr(program.function)(*program.arguments))


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return enlarging.describe(config.data, config.small, config.factor)


def _claim(name: str, what: str, *names: str) -> Claim:
    above, below = (f"latent, {part}" for part in names)
    return Claim(
        id=f"latent.{name}",
        statement=f"in latents, {what}, above 1: frechet",
        source="arXiv 2404.01709; https://kexue.fm/archives/10055",
        measure=lambda record: by_arm.ratio(record, above, below, "frechet"),
        paper=1.0,
        kind="ordering",
    )


CLAIMS = (
    _claim("naive", "no guidance over guidance on the first 60 %", "naive", "eta = 0.6"),
    _claim("cut", "guidance on the whole way over that on the first 60 %", "eta = 1", "eta = 0.6"),
)
