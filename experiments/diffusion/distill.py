"""Score identity distillation of an image diffusion model into a one-step generator.

Reproduces: SiD (arXiv 2404.04057; the post https://kexue.fm/archives/10085): one step against the
teacher at every number of evaluations, and the distance falling as a power of the images that the
generator has made. The teacher is trained first, or given: a run of diffusion/train, or a directory
of diffusers. Data are only looked at to measure; distances are of a small classifier's features,
not an FID.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import samplers, schedules
from experiments.diffusion import denoising, distilling, enlarging, judging, teachers
from experiments.diffusion.arms import Arm
from experiments.diffusion.distilling import DistillConfig, Model
from experiments.diffusion.networks import NetworkConfig
from experiments.diffusion.noise import NoiseConfig
from experiments.harness import datasets, figures, image_sets, ledger, sharding, training, weights
from experiments.harness.errors import NonFiniteError
from experiments.harness.estimate import Program
from experiments.harness.image_sets import ImageConfig, Images
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig
from experiments.harness.weights import Network

PATIENCE = 100  # steps at which, or behind which, an evaluation must have been for the guard
SMALL = NetworkConfig(width=64, depth=2)
DISTILL = DistillConfig(sigma_data=1.0, sigma_min=0.02, t_max=0.7)
TRAINING = TrainingConfig(
    steps=200,
    batch_size=64,
    learning_rate=4e-4,
    warmup=0,
    weight_decay=0.0,
    beta2=0.999,
    clip=None,
    ema=0.98,
    eval_every=50,
    checkpoint_every=100,
)


@dataclass(frozen=True)
class Config:
    """What to distil.

    Attributes:
        teacher: folder of a run of diffusion/train, or of diffusers' UNet2DModel; None trains one.
        data: images that samples are compared with, and that a teacher is trained on.
        network: denoiser of the teacher that is trained; not with `teacher`.
        noise: noise schedule of that training, log-SNR for images of a size; not with `teacher`.
        start: how that teacher is trained; not with `teacher`.
        distill, training: of the distillation. Learning rates are the generator's.
        calls: network evaluations per sample of the teacher, by EDM's Heun: odd, from 3 on.
        samples: number of samples for each distance.
    """

    teacher: str | None = None
    data: ImageConfig = image_sets.DIGITS
    network: NetworkConfig = SMALL
    noise: NoiseConfig = enlarging.COSINE
    start: TrainingConfig = denoising.QUICK
    distill: DistillConfig = DISTILL
    training: TrainingConfig = TRAINING
    calls: tuple[int, ...] = (3, 9, 17)
    samples: int = 300

    def __post_init__(self):
        distilling.check(self.training)
        if self.teacher is not None:
            teachers.check_alone(self, PRESETS.values())
        if self.samples < 20 or any(call < 3 or call % 2 == 0 for call in self.calls):
            raise ValueError(
                "samples, calls: expected at least 20 and odd numbers from 3 on, got "
                f"{self.samples}, {self.calls}"
            )


DIGITS = Config(
    network=NetworkConfig(width=256, depth=3),
    start=replace(denoising.CPU, steps=4000),
    training=replace(TRAINING, steps=2500, batch_size=128, ema=0.99, eval_every=50),
    calls=(3, 5, 9, 17, 35),
    samples=2000,
)


def _paper(
    data: ImageConfig,
    network: NetworkConfig,
    batch: int,
    images: float,
    rate: float,
    half_life: float = 0.5e6,
    **distill: Any,
) -> Config:
    """Settings of the paper's script, in images; networks are this project's, of similar sizes."""
    return Config(
        data=data,
        network=network,
        start=denoising.PAPER,
        distill=DistillConfig(**{"alpha": 1.2, "final_rate": 1.0, "ramp": 0.05, **distill}),
        training=replace(
            TRAINING,
            steps=round(images / batch),
            batch_size=batch,
            learning_rate=rate,
            ema=0.5 ** (batch / half_life),
            eval_every=10_000,
            checkpoint_every=10_000,
        ),
        calls=(35,),
        samples=10_000,
    )


def _network(
    multipliers: tuple[int, ...], width: int, dropout: float, **rest: Any
) -> NetworkConfig:
    blocks = (4,) * (len(multipliers) - 1)
    return NetworkConfig(
        "unet", width, 4, None, multipliers=multipliers, blocks=blocks, dropout=dropout, **rest
    )


_CIFAR = _network((1, 2, 2), 128, 0.13, attention=2)
_FACES = _network((1, 2, 2, 2), 128, 0.05, attention=2, dtype="bfloat16")
_IMAGENET = replace(
    _network((1, 2, 3, 4), 192, 0.1, attention=3, dtype="bfloat16"), classes=1000, dropout_size=64
)
CIFAR = _paper(ImageConfig("cifar10"), _CIFAR, 256, 500e6, 1e-5)
PRESETS = {
    "quick": Config(),
    "cpu": replace(
        DIGITS,
        data=ImageConfig("mnist", size=16),
        training=replace(DIGITS.training, steps=4000, eval_every=100),
    ),
    "paper": CIFAR,
    "cpu_digits": DIGITS,
    "paper_cifar10_classes": _paper(CIFAR.data, replace(_CIFAR, classes=10), 256, 800e6, 1e-5),
    "paper_imagenet_64": _paper(
        ImageConfig("imagenet_resized/64x64", size=64, lazy=True),
        _IMAGENET,
        8192,
        1000e6,
        4e-6,
        2e6,
    ),
    "paper_ffhq_64": _paper(
        ImageConfig(path="data/ffhq", size=64, mode="RGB"), _FACES, 512, 500e6, 1e-5, beta1=0.9
    ),
    "paper_afhq_64": _paper(
        ImageConfig(path="data/afhq", size=64, mode="RGB"), _FACES, 512, 500e6, 5e-6, alpha=1.0
    ),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train or read the teacher, distil it, measure both."""
    images = image_sets.load(config.data)
    shape = images.train.shape[1:]
    if config.teacher is None:
        arm = Arm("teacher", config.data, config.network, config.noise)
        teacher = teachers.trained(arm, config.start, images, run)
    else:
        teacher = teachers.read(config.teacher, images, config.data)
    features, _ = judging.features(config.data, images)
    how = distilling.how(config.distill, teacher, teacher, shape)
    problem = training.Problem(
        init=lambda key: teacher.params,
        loss=lambda *_: (jnp.zeros(()), {}),
        batch=_batch(config, teacher, images),
        evaluate=_evaluate(config, teacher, images, features, run),
        partition=_partition(config),
    )
    state = training.train(problem, config.training, run, how)
    generator = training.averaged(state)
    weights.save(run.directory, "generator", generator)
    x = sample(config, teacher, generator, images)
    real, held_out = images.train, judging.held_out(images, config.samples)
    return {
        **judging.distances(x, real, features),
        "floor": {**judging.distances(held_out, real, features), "n": len(held_out)},
        "teacher": _teacher_curve(config, teacher, images, features),
        "grid": denoising.grey(x[:20], images.levels),
        "levels": images.levels,
        "images": config.training.steps * config.training.batch_size,
    }


def trained_networks(config: Config) -> dict[str, Network]:
    """The generator: (params, noise [B, H, W, C][, key][, label [B]]) -> images in [-1, 1]."""
    if config.teacher is None:
        settings, shape = config.network, image_sets.shape(config.data)
        network, init = distilling.network_of(settings), denoising.make_init(settings, shape)
    else:
        teacher = teachers.read(config.teacher)
        network, init, settings = teacher.network, lambda key: teacher.params, teacher.settings
    generate = distilling.generator(network, tuple(config.distill.levels))

    def apply(params: Any, z: jax.Array, key: Any = None, label: Any = None) -> jax.Array:
        key = jax.random.key(0) if key is None else jnp.asarray(key)
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.dtype != jnp.uint32:
            raise ValueError(f"key: expected one of JAX, got {key.dtype}; classes are `label=`")
        return generate(params, z, key, label)

    return {"generator": Network(init, apply, settings)}


def _partition(config: Config) -> sharding.Partition | None:
    """How networks are divided among devices: not at all where the teacher brings its own."""
    return config.network.partition if config.teacher is None else None


def _batch(config: Config, teacher: Model, images: Images) -> Callable[[int], Any]:
    """Numbers of examples, and classes as often as in training for teachers that know any."""
    index, size = distilling.indices(config.training), config.training.batch_size

    def batch(step: int) -> dict[str, np.ndarray]:
        if teacher.classes is None:
            return index
        labels = images.train_labels
        chosen = datasets.shuffled(len(labels), size, config.training.seed, step)
        return {**index, "label": labels[chosen]}

    return batch


def _labels(config: Config, teacher: Model, images: Images) -> jax.Array | None:
    return None if teacher.classes is None else jnp.asarray(images.labels(config.samples))


def sample(config: Config, teacher: Model, generator: Any, images: Images) -> np.ndarray:
    """Images of the generator."""
    noise, key = jax.random.split(jax.random.key(config.training.seed + 1))
    z = jax.random.normal(noise, (config.samples, *images.train.shape[1:]))
    levels, label = tuple(config.distill.levels), _labels(config, teacher, images)
    return np.asarray(distilling.generator(teacher.network, levels)(generator, z, key, label))


def _evaluate(
    config: Config, teacher: Model, images: Images, features: judging.Features, run: Run
) -> Callable[[Any], dict[str, float]]:
    """Generator -> distances of its images; stops a generator that runs away or collapses."""
    reference = float(distilling.deviation(images.train))

    def evaluate(generator: Any) -> dict[str, float]:
        x = sample(config, teacher, generator, images)
        width = float(distilling.deviation(x))
        late = any(row["step"] >= PATIENCE for row in run.tracker.rows() if "frechet" in row)
        message = config.distill.diagnose(width, reference)
        if message and (late or not np.isfinite(width)):  # at the start images are means
            raise NonFiniteError(message)
        return {**judging.distances(x, images.train, features), "width": width / reference}

    return evaluate


def _teacher_curve(
    config: Config, teacher: Model, images: Images, features: judging.Features
) -> list[dict[str, Any]]:
    """Distances of the teacher's samples, by calls of its denoiser."""
    rows, label = [], _labels(config, teacher, images)
    network = denoising.by_chunks(teacher.network)
    shape = (config.samples, *images.train.shape[1:])
    for calls in config.calls:
        sigmas = schedules.edm_sigmas((calls + 1) // 2, 0.01, 80.0)
        y = sigmas[0] * jax.random.normal(jax.random.key(2), shape)
        x = samplers.sample_edm(network, y, sigmas, condition=label, params=teacher.params)
        row = judging.distances(np.asarray(x), images.train, features)
        rows.append({"calls": calls, **row, "grid": denoising.grey(x[:20], images.levels)})
    return rows


def draw(record: Record):
    """The teacher by calls beside the generator, the way there, and images of both."""
    figure, axes = figures.new(columns=3, width=3.5, height=3.0, width_ratios=(1.0, 1.0, 1.3))
    (left, middle, right), result, styles = axes[0], record.result, figures.styles()
    curve, steps = result["teacher"], len(record.config["distill"]["levels"])
    best = min(curve, key=lambda row: row["frechet"])
    calls = [row["calls"] for row in curve]
    left.plot(calls, [row["frechet"] for row in curve], label="teacher", **next(styles))
    star = {"marker": "*", "markersize": 12, "color": figures.COLORS[1], "linestyle": "none"}
    left.plot([steps], [result["frechet"]], label="generator", **star)
    floor, n = result["floor"]["frechet"], result["floor"]["n"]
    sets = f"{n} real images (samples: {record.config['samples']})"
    left.axhline(floor, color="#777777", linestyle="--", linewidth=1.2, label=sets)
    left.set(xlabel="calls of the network", title="after training")
    rows = [row for row in record.rows if "frechet" in row and row["step"]]
    images = [record.config["training"]["batch_size"] * row["step"] / 1000 for row in rows]
    look = {**next(styles), "markersize": 3.5, "linewidth": 1.2}
    middle.plot(images, [row["frechet"] for row in rows], **look)
    look = {"color": figures.COLORS[0], "linestyle": ":", "linewidth": 1.4}
    middle.axhline(best["frechet"], label=f"teacher, {best['calls']} calls", **look)
    middle.set(xlabel="thousands of images generated", title="generator in training")
    for axis in (left, middle):
        figures.logarithmic(axis, "x")
        figures.logarithmic(axis, "y")
        axis.set(ylabel="Frechet distance of features")
    figures.legend_below(figure, axes=(left, middle))
    said = f"generator,\n{steps} call{'s' * (steps > 1)}", f"teacher,\n{best['calls']} calls"
    grids = dict(zip(said, (result["grid"], best["grid"]), strict=True))
    enlarging.draw_grids(right, grids, result["levels"], columns=10, lines=2)
    right.set(title=f"samples: {image_sets.label(record.config)}")
    return figure


def table(record: Record) -> str:
    """The generator beside the teacher."""
    names = ("frechet", "sliced_w2", "precision", "recall")
    lines = [f"| images | calls | {' | '.join(names)} |", "| --- " * (len(names) + 2) + "|"]
    steps = len(record.config["distill"]["levels"])
    parts = [("real, held out", "-", record.result["floor"])]
    parts += [("generator", str(steps), record.result)]
    parts += [("teacher", str(row["calls"]), row) for row in record.result["teacher"]]
    for name, calls, row in parts:
        cells = " | ".join(f"{row[metric]:.3g}" for metric in names)
        lines.append(f"| {name} | {calls} | {cells} |")
    power, n = _power(record), record.result["floor"]["n"]
    fit = "" if power is None else f"; while it falls, the power of images is {-power.value:.2f}"
    count = record.config["samples"]
    return "\n".join(lines) + f"\n\n{count} samples each, {n} held-out images{fit}.\n"


def _power(record: Record) -> Measurement | None:
    """Of the images, with which the distance falls until it is within a quarter of its least."""
    rows = [row for row in record.rows if "frechet" in row and row["step"]]
    least = min((row["frechet"] for row in rows), default=0.0)
    near = next((i for i, row in enumerate(rows) if row["frechet"] < 1.25 * least), 0)
    rows = rows[: near + 1]
    if len(rows) < 4:
        return None
    return ledger.falling([row["step"] for row in rows], [row["frechet"] for row in rows])


def programs(config: Config) -> dict[str, Program]:
    """The training step of the teacher, and that of both networks."""
    shape = image_sets.shape(config.data)
    schedule, network = config.noise.schedule(shape[0]), distilling.network_of(config.network)
    if config.teacher is None:
        params = jax.eval_shape(denoising.make_init(config.network, shape), jax.random.key(0))
        model = Model(network, params, config.network.classes)
    else:
        model = teachers.read(config.teacher, data=config.data)
    joint = distilling.program(
        config.distill, model, model, shape, config.training, _partition(config)
    )
    if config.teacher is not None:
        return {"distillation step": joint}
    first = denoising.step_program(config.network, shape, schedule, config.start)
    return {"teacher's training step": first, "distillation step": joint}


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about data and teacher."""
    return {"data": config.data.label, "teacher": config.teacher or "trained first"}


def _over(record: Record, best: bool) -> float:
    """Distance of the teacher, at its best or with most calls, over that of the generator."""
    curve = record.result["teacher"]
    key = (lambda row: -row["frechet"]) if best else (lambda row: row["calls"])
    return max(curve, key=key)["frechet"] / record.result["frechet"]


CLAIMS = (
    Claim(
        id="distill.one_step",
        statement="Frechet distance of the teacher with most calls over one step's, above 1",
        source="arXiv 2404.04057: FID 1.92 on CIFAR-10, its teacher's 1.97 with 35 calls",
        measure=functools.partial(_over, best=False),
        paper=1.0,
        kind="ordering",
    ),
    Claim(
        id="distill.best",
        statement="Frechet distance of the teacher at its best over one step's, above 1",
        source="arXiv 2404.04057, which gives the teacher one number of calls",
        measure=functools.partial(_over, best=True),
        paper=1.0,
        kind="ordering",
    ),
    Claim(
        id="distill.power",
        statement="power of images that the distance follows while it falls, negated, above 0",
        source="arXiv 2404.04057, figure of the distance by images (a line in log-log)",
        measure=_power,
        paper=0.0,
        kind="ordering",
    ),
)
