"""Training of small denoisers on small images, shared by the experiments of this folder."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import layers, losses, process, times, unet, uvit
from diffusion.schedules import Schedule
from experiments.harness import datasets, training
from experiments.harness.estimate import Program
from experiments.harness.training import TrainingConfig


@dataclass(frozen=True)
class NetworkConfig:
    """A denoiser.

    Attributes:
        kind: a residual MLP on all pixels, convolutions, or a U-Net or U-ViT of two levels.
        width: of the MLP, or channels of the convolutions (64 a head at the bottom of both U).
        depth: blocks; those of the bottom for both U.
        classes: number of classes it is told, or None.
        drop: share of training examples without their class.
        fourier: exponents of the waves of z that the network reads as well.
    """

    kind: Literal["mlp", "conv", "unet", "uvit"] = "mlp"
    width: int = 128
    depth: int = 3
    classes: int | None = None
    drop: float = 0.1
    fourier: tuple[int, ...] = ()

    def __post_init__(self):
        if min(self.width, self.depth) < 1 or not 0 <= self.drop <= 1:
            raise ValueError(
                "network.width, depth, drop: expected at least 1, 1 and a share in [0, 1], got "
                f"{self.width}, {self.depth}, {self.drop}"
            )
        self.network()

    def network(self) -> Any:
        """The Linen module."""
        if self.kind == "mlp":
            return layers.MLP(self.width, self.depth, self.classes, self.fourier)
        if self.kind in ("unet", "uvit"):
            if self.fourier:
                raise ValueError(f"network.fourier: expected none for {self.kind}")
            levels = ((1, 2), (2, self.depth), (0, max(1, self.width // 32)))
            make = unet.UNet if self.kind == "unet" else uvit.UViT
            return make(self.width, *levels, classes=self.classes)
        dilations = tuple(1 + block % 2 for block in range(self.depth))
        return layers.Conv(self.width, dilations, self.classes, self.fourier)


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
PAPER = TrainingConfig(
    steps=200_000,
    batch_size=512,
    weight_decay=0.0,
    ema=0.9999,
    eval_every=5000,
    checkpoint_every=5000,
)


CHUNK = 2048  # images that a network sees at once outside training
SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10_jpeg": (32, 32, 3)}


@dataclass(frozen=True)
class Images:
    """Both splits of a set, in [-1, 1], [n, H, W, C], their labels, and its grey levels."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    levels: int


def load(name: str = "digits", data_dir: str | None = None) -> Images:
    """A set of `datasets.load_images`, scaled."""
    levels = 17 if name == "digits" else 256
    parts = [datasets.load_images(name, split, data_dir) for split in ("train", "test")]
    scaled = [2.0 * images.astype(np.float32) / (levels - 1) - 1.0 for images, _ in parts]
    return Images(scaled[0], parts[0][1], scaled[1], parts[1][1], levels)


def grey(images: Any, levels: int) -> list[Any]:
    """Images in [-1, 1] as nested lists of whole numbers, for the record."""
    values = np.clip(np.asarray(images, np.float64), -1.0, 1.0)
    return np.round((values + 1.0) * 0.5 * (levels - 1)).astype(int).tolist()


def tile(images: Any, levels: int, columns: int = 10) -> np.ndarray:
    """Images of whole numbers side by side, white lines between them, in [0, 1], [H, W, 3]."""
    images = np.asarray(images, np.float64) / (levels - 1)
    images = np.broadcast_to(images, (*images.shape[:3], 3))
    images = images[: len(images) // columns * columns]
    framed = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1.0)
    rows = [np.concatenate(framed[i : i + columns], axis=1) for i in range(0, len(framed), columns)]
    return np.concatenate(rows)[:-1, :-1]


def make_loss(network: NetworkConfig, schedule: Schedule, weighting: str) -> training.Loss:
    """Error of v at even times, weighted."""
    module = network.network()

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        t_key, noise_key, drop_key = jax.random.split(key, 3)
        x, label = batch["x"], None
        logsnr = schedule(times.low_discrepancy(t_key, len(x)))
        eps = jax.random.normal(noise_key, x.shape)
        if network.classes is not None:
            without = jax.random.bernoulli(drop_key, network.drop, (len(x),))
            label = jnp.where(without, network.classes, batch["label"])
        output = module.apply(params, process.diffuse(x, eps, logsnr), logsnr, label)
        each = losses.denoising(output, x, eps, logsnr, "v", weighting, schedule, space="v")
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
    weighting: str = "uniform",
) -> training.Problem:
    """Prediction of v, evaluated on the test images at even times."""

    def batch(step: int) -> dict[str, np.ndarray]:
        chosen = datasets.shuffled(len(images.train), settings.batch_size, settings.seed, step)
        return {"x": images.train[chosen], "label": images.train_labels[chosen]}

    noise = np.random.default_rng(0).normal(size=images.test.shape).astype(np.float32)
    place = np.asarray(schedule((np.arange(len(images.test)) + 0.5) / len(images.test)))
    z = process.diffuse(jnp.asarray(images.test), jnp.asarray(noise), jnp.asarray(place))
    known = None if network.classes is None else jnp.asarray(images.test_labels)

    @jax.jit
    def error(params: Any) -> jax.Array:
        output = denoiser(network)(params, z, jnp.asarray(place), known)
        truth = losses.target(jnp.asarray(images.test), jnp.asarray(noise), place, "v")
        return losses.squared_error(output, truth)

    def evaluate(params: Any) -> dict[str, float]:
        values = np.asarray(error(params), np.float64)
        return {
            "validation_v_error": float(values.mean()),
            "validation_error": float(values.std() / np.sqrt(len(values))),
        }

    return training.Problem(
        init=make_init(network, images.train.shape[1:]),
        loss=make_loss(network, schedule, weighting),
        batch=batch,
        evaluate=evaluate,
    )


def programs(
    network: NetworkConfig,
    data: str,
    schedule: Schedule,
    settings: TrainingConfig,
    weighting: str = "uniform",
) -> dict[str, Program]:
    """The training step on images of a set, without reading them."""
    shape = SHAPES.get(data, (32, 32, 3))
    problem = training.Problem(
        init=make_init(network, shape),
        loss=make_loss(network, schedule, weighting),
        batch=lambda step: None,
        evaluate=lambda params: {},
    )
    state = jax.eval_shape(lambda: training.init_state(problem, settings))
    batch = {
        "x": jax.ShapeDtypeStruct((settings.batch_size, *shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((settings.batch_size,), jnp.int32),
    }
    step = training.make_step(problem, settings)
    return {"training step": Program(step, (state, batch), (0,), settings.steps)}


@functools.lru_cache(maxsize=8)
def denoiser(network: NetworkConfig) -> Callable[..., jax.Array]:
    """(params, z, logsnr[, condition]) -> v, one function for each network."""
    module = network.network()

    def predict(params: Any, z: jax.Array, logsnr: jax.Array, condition: Any = None) -> jax.Array:
        if len(z) <= CHUNK:
            return module.apply(params, z, logsnr, condition)

        def one(inputs: tuple[Any, ...]) -> jax.Array:
            return module.apply(params, *jax.tree.map(lambda leaf: leaf[None], inputs))[0]

        return jax.lax.map(one, (z, logsnr, condition), batch_size=CHUNK)

    return predict
