"""Training of small denoisers on small images, shared by the experiments of this folder."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import losses, process, times
from diffusion.schedules import Schedule
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import compiling, image_sets, training
from experiments.harness.errors import UsageError
from experiments.harness.estimate import Program
from experiments.harness.image_sets import ImageConfig, Images
from experiments.harness.recorded import Record
from experiments.harness.run import Run
from experiments.harness.training import TrainingConfig


@dataclass(frozen=True)
class LossConfig:
    """The training loss of a network that predicts v.

    Attributes:
        weighting: weighting of the noise levels, as in `diffusion.losses.weight`.
        space: the prediction whose squared error has weight 1 under the "uniform" weighting.
        scales: sides in pixels to which errors of the noise are averaged, for the multi-scale
            loss; empty: the weighted error.
    """

    weighting: losses.Weighting = "uniform"
    space: Literal["v", "eps", "x"] = "v"
    scales: tuple[int, ...] = ()

    def __post_init__(self):
        if self.scales and (self.weighting, self.space) != ("uniform", "v"):
            raise ValueError("loss.scales: expected no weighting or space of its own with scales")


SHAPE = "the shape of its images"
PLAIN = LossConfig()
QUICK = TrainingConfig(
    steps=300, batch_size=64, learning_rate=2e-3, weight_decay=0.0, ema=0.98, eval_every=100
)
CPU = TrainingConfig(
    steps=5000,
    batch_size=128,
    learning_rate=1e-3,
    weight_decay=0.0,
    ema=0.999,
    eval_every=500,
    checkpoint_every=1000,
)
SHORT = replace(CPU, steps=500, batch_size=64, ema=0.99)  # for each of many runs
PAPER = TrainingConfig(
    steps=200_000,
    batch_size=512,
    weight_decay=0.0,
    ema=0.9999,
    eval_every=5000,
    checkpoint_every=5000,
)


CHUNK = 2048  # images that a network sees at once outside training
EVALUATED = 1024  # held-out images whose error is measured in training


def grey(images: Any, levels: int) -> list[Any]:
    """Images in [-1, 1] as nested lists of whole numbers, for the record."""
    values = np.clip(np.asarray(images, np.float64), -1.0, 1.0)
    return np.round((values + 1.0) * 0.5 * (levels - 1)).astype(int).tolist()


def tile(images: Any, levels: int, columns: int = 10) -> np.ndarray:
    """Images of whole numbers side by side, white lines between them, in [0, 1], [H, W, 3].

    The last row is filled up with white.
    """
    images = np.asarray(images, np.float64) / (levels - 1)
    images = np.broadcast_to(images, (*images.shape[:3], 3))
    rest = [(0, -len(images) % columns), (0, 0), (0, 0), (0, 0)]
    images = np.pad(images, rest, constant_values=1.0)
    framed = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1.0)
    rows = [np.concatenate(framed[i : i + columns], axis=1) for i in range(0, len(framed), columns)]
    return np.concatenate(rows)[:-1, :-1]


def make_loss(
    network: NetworkConfig, schedule: Schedule, setting: LossConfig = PLAIN
) -> training.Loss:
    """The training loss, at evenly spread (low-discrepancy) times."""
    module = network.network()

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        t_key, noise_key, drop_key, inner_key = jax.random.split(key, 4)
        x, label = batch["x"], None
        logsnr = schedule(times.low_discrepancy(t_key, len(x)))
        eps = jax.random.normal(noise_key, x.shape)
        if network.classes is not None:
            without = jax.random.bernoulli(drop_key, network.drop, (len(x),))
            label = jnp.where(without, network.classes, batch["label"])
        z = process.diffuse(x, eps, logsnr)
        output = module.apply(params, z, logsnr, label, **network.training(inner_key))
        if setting.scales:
            eps_hat = process.convert(output, z, logsnr, "v", "eps")
            each = losses.multi_scale(eps, eps_hat, setting.scales)
        else:
            weighting, space = setting.weighting, setting.space
            each = losses.denoising(output, x, eps, logsnr, "v", weighting, schedule, space=space)
        return jnp.mean(each), {}

    return loss


def make_init(network: NetworkConfig, shape: tuple[int, ...]) -> Callable[[jax.Array], Any]:
    """Fresh weights for images of a shape [H, W, C]."""
    label = None if network.classes is None else jnp.zeros(1, int)
    module = network.network()
    return lambda key: module.init(key, jnp.zeros((1, *shape)), jnp.zeros(1), label)


def make_problem(
    network: NetworkConfig,
    images: Images,
    schedule: Schedule,
    settings: TrainingConfig,
    loss: LossConfig = PLAIN,
) -> training.Problem:
    """Prediction of v, evaluated on held-out images at even times.

    Raises:
        UsageError: images of a size, or of a number of classes, that the network was not made for.
    """
    check(network, images, loss)

    part = functools.partial(images.part, settings.seed, settings.batch_size)

    return training.Problem(
        init=make_init(network, images.train.shape[1:]),
        loss=make_loss(network, schedule, loss),
        batch=part,
        evaluate=make_evaluate(network, images, schedule),
        partition=network.partition,
        part=part,
    )


def check(network: NetworkConfig, images: Images, loss: LossConfig = PLAIN) -> None:
    """Refuse a network or scales that do not fit a set.

    Raises:
        UsageError: naming the argument.
    """
    try:
        network.check(images.train.shape[1:])
    except ValueError as error:
        raise UsageError(
            f"images of {images.train.shape[2]} x {images.train.shape[1]} pixels do not fit the "
            f"network: {error}; give --data.size, or other --network.multipliers"
        ) from None
    height, width = images.train.shape[1:3]
    if loss.scales and (height != width or any(r < 1 or height % r for r in loss.scales)):
        raise UsageError(
            f"loss.scales: expected divisors of the side of square images, {width} x {height} "
            f"pixels, got {loss.scales}"
        )
    if network.classes is not None and network.classes != images.classes:
        found = "without classes" if images.classes is None else f"of {images.classes} classes"
        raise UsageError(
            f"network.classes: expected the number of classes of the data, got {network.classes} "
            f"for images {found}"
        )


def make_evaluate(
    network: NetworkConfig, images: Images, schedule: Schedule
) -> Callable[[Any], dict[str, float]]:
    """Params -> the mean squared error of v on held-out images and its standard error.

    Levels of noise are even, so the error of the mean comes from neighbours' differences.
    """
    x = jnp.asarray(images.test[:EVALUATED])
    eps = jnp.asarray(np.random.default_rng(0).normal(size=x.shape).astype(np.float32))
    place = schedule((np.arange(len(x)) + 0.5) / len(x))
    z = process.diffuse(x, eps, place)
    known = None if network.classes is None else jnp.asarray(images.test_labels[:EVALUATED])

    @compiling.compile_call
    def error(params: Any) -> jax.Array:
        output = denoiser(network)(params, z, place, known)
        return losses.squared_error(output, losses.target(x, eps, place, "v"))

    def evaluate(params: Any) -> dict[str, float]:
        values = np.asarray(error(params), np.float64)
        return {
            "validation_v_error": float(values.mean()),
            "validation_standard_error": float(
                np.sqrt(np.mean(np.diff(values) ** 2) / 2 / len(values))
            ),
        }

    return evaluate


def note_shape(run: Run, images: Images) -> None:
    """Keep the shape of a run's images with it, so that its network is opened without them."""
    run.as_begun(SHAPE, " x ".join(map(str, images.train.shape[1:])))


def noted_shape(record: Record, data: ImageConfig) -> tuple[int, ...]:
    """The shape that a run has kept; of runs that have none, that of its images.

    Raises:
        ExperimentError: as `image_sets.shape`.
    """
    kept = record.data.get("begun", {}).get(SHAPE)
    if kept is None:
        return image_sets.shape(data)
    return tuple(int(size) for size in kept.split(" x "))


def programs(
    network: NetworkConfig,
    data: ImageConfig,
    schedule: Schedule,
    settings: TrainingConfig,
    loss: LossConfig = PLAIN,
) -> dict[str, Program]:
    """The training step on images of a set, without reading them."""
    shape = image_sets.shape(data)
    return {"training step": step_program(network, shape, schedule, settings, loss)}


def step_program(
    network: NetworkConfig,
    shape: tuple[int, ...],
    schedule: Schedule,
    settings: TrainingConfig,
    loss: LossConfig = PLAIN,
) -> Program:
    """The training step on arrays [H, W, C]."""
    return problem_program(shaped_problem(network, shape, schedule, loss), shape, settings)


def shaped_problem(
    network: NetworkConfig,
    shape: tuple[int, ...],
    schedule: Schedule,
    loss: LossConfig = PLAIN,
) -> training.Problem:
    """`make_problem` on arrays [H, W, C] that are not at hand."""
    return training.Problem(
        init=make_init(network, shape),
        loss=make_loss(network, schedule, loss),
        batch=lambda step: None,
        evaluate=lambda params: {},
        partition=network.partition,
    )


def problem_program(
    problem: training.Problem, shape: tuple[int, ...], settings: TrainingConfig
) -> Program:
    """The training step of a problem on labelled arrays [H, W, C]."""
    state = jax.eval_shape(lambda: training.init_state(problem, settings))
    batch = {
        "x": jax.ShapeDtypeStruct((settings.batch_size, *shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((settings.batch_size,), jnp.int32),
    }
    step = training.make_step(problem, settings)
    return Program(step, (state, batch), (0,), settings.steps, problem.partition)


@functools.lru_cache(maxsize=8)
def denoiser(network: NetworkConfig) -> Callable[..., jax.Array]:
    """(params, z, logsnr[, condition]) -> v, one function for each network."""
    module = network.network()

    predict = by_chunks(module.apply)
    setattr(predict, "size_bound", getattr(module, "size_bound", ()))  # noqa: B010
    return predict


def by_chunks(network: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """(params, z, level[, condition]) -> what the network predicts, of `CHUNK` images at a time."""

    def predict(params: Any, z: jax.Array, level: Any, condition: Any = None) -> jax.Array:
        level = jnp.broadcast_to(jnp.asarray(level), z.shape[:1])
        inputs = (z, level) if condition is None else (z, level, condition)
        if len(z) <= CHUNK:
            return network(params, *inputs)

        def one(inputs: tuple[Any, ...]) -> jax.Array:
            return network(params, *jax.tree.map(lambda leaf: leaf[None], inputs))[0]

        return jax.lax.map(one, inputs, batch_size=CHUNK)

    return predict
