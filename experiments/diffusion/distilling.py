"""Score identity distillation in the harness: two networks, two optimisers, one state.

An iteration trains the fake denoiser on fresh samples of the generator, then the generator against
both denoisers. Noise of an example depends on its number alone, so that batches may be spread over
devices.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion import distillation, process, schedules
from experiments.diffusion import denoising
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import compiling, optimizers, sharding, training
from experiments.harness.estimate import Program
from experiments.harness.training import How, TrainingConfig, TrainState

Network = Callable[..., jax.Array]  # (params, y, sigma[, label]) -> x
NOISE = schedules.edm()
TRAINED = ("fake", "generator")


class Model(NamedTuple):
    """A denoiser that distillation begins with.

    Attributes:
        network: (params, y, sigma[, label]) -> x.
        params: its weights, {} for one without any.
        classes: how many, or None.
        settings: what the network was made from, or None.
    """

    network: Network
    params: Any
    classes: int | None = None
    settings: Any = None


@dataclass(frozen=True)
class DistillConfig:
    """Score identity distillation: its losses, and settings of its two optimisers.

    Attributes:
        alpha: weight of L1 in the generator's loss L2 - alpha L1.
        naive: minimise L1 alone instead, which collapses.
        levels: sigma of each step of the generator, descending; one value: a single step.
        t_max: fraction of EDM's noise levels, from the lowest up, used in the generator's loss.
        sigma_min: sigma of the lowest of these levels.
        sigma_max: sigma of the highest one, which is used if t_max is 1.
        sigma_data: standard deviation of the data in EDM's weighting of the fake denoiser's loss.
        beta1, fake_beta1: beta1 of AdamW, for the generator and for the fake denoiser.
        fake_rate: learning rate of the fake denoiser over the generator's.
        final_rate: final learning rates over their peaks, by a cosine; 1 keeps them constant.
        ramp: limit of the EMA's half-life, as a fraction of the steps so far; 0: no limit.
    """

    alpha: int | float = 1.0
    naive: bool = False
    levels: tuple[float, ...] = (distillation.SIGMA_INIT,)
    t_max: int | float = 0.8
    sigma_min: float = 0.002
    sigma_max: int | float = 80.0
    sigma_data: int | float = 0.5
    beta1: int | float = 0.0
    fake_beta1: int | float = 0.0
    fake_rate: int | float = 1.0
    final_rate: int | float = 0.1
    ramp: int | float = 0.0

    def __post_init__(self):
        distillation.generator_sigma(0.0, self.t_max, self.sigma_min, self.sigma_max)
        if not (math.isfinite(self.alpha) and math.isfinite(self.sigma_max)):
            raise ValueError(
                f"distill.alpha, sigma_max: expected finite numbers, got {self.alpha}, "
                f"{self.sigma_max}"
            )
        falling = all(a > b for a, b in zip(self.levels, self.levels[1:], strict=False))
        if not self.levels or self.levels[-1] <= 0 or not falling:
            raise ValueError(
                f"distill.levels: expected positive levels that fall, got {self.levels}"
            )
        if not (self.sigma_data > 0 and self.fake_rate > 0 and self.ramp >= 0):
            raise ValueError(
                "distill.sigma_data, fake_rate, ramp: expected two positive numbers and one that "
                f"is not negative, got {self.sigma_data}, {self.fake_rate}, {self.ramp}"
            )
        betas = self.beta1, self.fake_beta1
        if not (min(betas) >= 0 and max(betas) < 1 and 0 <= self.final_rate <= 1):
            raise ValueError(
                "distill.beta1, fake_beta1, final_rate: expected two numbers in [0, 1) and one in "
                f"[0, 1], got {self.beta1}, {self.fake_beta1}, {self.final_rate}"
            )

    @property
    def weights(self) -> tuple[float, float]:
        """Alpha, and what L2 is multiplied with."""
        return (-1.0, 0.0) if self.naive else (float(self.alpha), 1.0)

    def diagnose(self, width: float, reference: float) -> str | None:
        """What is wrong with generated arrays of a width, as `distillation.diagnose`."""
        return distillation.diagnose(width, reference, float(self.alpha), naive=self.naive)


@functools.lru_cache(maxsize=8)
def network_of(config: NetworkConfig) -> Network:
    """(params, y, sigma) -> x of a network that predicts v."""
    module = config.network()

    def network(params: Any, y: jax.Array, sigma: jax.Array, *label: Any) -> jax.Array:
        bound = functools.partial(module.apply, params)
        return process.edm_denoiser(bound, "v")(y, sigma, *label)

    return network


@functools.lru_cache(maxsize=8)
def generator(network: Network, levels: tuple[float, ...]) -> Callable[..., Any]:
    """(weights, noise, key, label) -> images of a student, compiled once."""

    @compiling.compile_call
    def generate(params: Any, z: jax.Array, key: jax.Array, label: Any) -> jax.Array:
        bound = functools.partial(denoising.by_chunks(network), params)
        return distillation.generate_steps(bound, z, levels, key, None, label)

    return generate


def check(settings: TrainingConfig) -> None:
    """Refuse settings of training that distillation does not have.

    Raises:
        ValueError: naming them.
    """
    if not settings.ema:
        raise ValueError("training.ema: expected an average of weights, got 0")
    if settings.accumulate != 1:
        raise ValueError(f"training.accumulate: expected 1 here, got {settings.accumulate}")


def how(config: DistillConfig, teacher: Model, student: Model, shape: tuple[int, ...]) -> How:
    """Training of a generator and a fake denoiser that both begin as the student.

    Batches are {"index": [B]} and, for networks with classes, "label": [B]; the state's params are
    {"fake": ..., "generator": ..., "teacher": ...}, its ema the generator's.

    Args:
        shape: of an example.
    """

    def init_state(
        problem: training.Problem | None, settings: TrainingConfig, params: Any, frozen: Any
    ) -> TrainState:
        own = {name: jax.tree.map(jnp.copy, params) for name in TRAINED}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params={**own, "teacher": jax.tree.map(jnp.copy, frozen)},
            optimizer={name: optimizer(config, settings, name).init(params) for name in TRAINED},
            ema=jax.tree.map(jnp.copy, params) if settings.ema else None,
        )

    def make_step(
        problem: training.Problem | None, settings: TrainingConfig
    ) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
        return joint_step(config, teacher.network, student.network, shape, settings)

    return How(init_state, make_step, (student.params, teacher.params))


def _losses(
    config: DistillConfig, teacher: Network, network: Network, shape: tuple[int, ...]
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Samples of the generator, the loss of the fake denoiser, and that of the generator."""

    def samples(generator: Any, batch: Any, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 3)
        z = _normal(keys[0], batch["index"], shape)
        steps = len(config.levels)
        last = None if steps == 1 else _integers(keys[1], batch["index"], steps)
        bound, label = functools.partial(network, generator), batch.get("label")
        return distillation.generate_steps(bound, z, config.levels, keys[2], last, label)

    def fake_loss(fake: Any, x: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key)
        sigma = jnp.exp(-0.5 * NOISE(_uniform(keys[0], batch["index"])))
        noise = _normal(keys[1], batch["index"], shape)
        bound, label = functools.partial(network, fake), batch.get("label")
        data = float(config.sigma_data)
        return jnp.mean(distillation.fake_score_loss(x, bound, sigma, noise, data, label))

    def generator_loss(
        generator: Any,
        frozen: Any,
        fake: Any,
        batch: Any,
        key: jax.Array,
        alpha: Any,
        identity: Any,
    ) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(key, 3)
        x = samples(generator, batch, keys[0])
        u = _uniform(keys[1], batch["index"])
        levels = float(config.t_max), config.sigma_min, float(config.sigma_max)
        sigma = distillation.generator_sigma(u, *levels)
        noise = _normal(keys[2], batch["index"], shape)
        f, p = functools.partial(teacher, frozen), functools.partial(network, fake)
        label = batch.get("label")
        each = distillation.generator_loss(x, f, p, sigma, noise, alpha, label, identity=identity)
        return jnp.mean(each), deviation(x)

    return samples, fake_loss, generator_loss


def joint_step(
    config: DistillConfig,
    teacher: Network,
    network: Network,
    shape: tuple[int, ...],
    settings: TrainingConfig,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The pure update (state, batch[, seed[, weights]]) of both networks.

    `weights`, alpha and that of L2, may be traced, so that a sweep compiles once.
    """
    optimizers = {name: optimizer(config, settings, name) for name in TRAINED}

    samples, fake_loss, generator_loss = _losses(config, teacher, network, shape)

    def step(
        state: TrainState, batch: Any, seed: Any = None, weights: Any = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        alpha, identity = config.weights if weights is None else weights
        keys = jax.random.split(training.step_key(settings, state, seed), 3)
        params, optimizer = dict(state.params), dict(state.optimizer)  # pyright: ignore
        x = samples(params["generator"], batch, keys[0])
        fake_value, fake_grads = jax.value_and_grad(fake_loss)(params["fake"], x, batch, keys[1])
        grads = {"fake": fake_grads}
        _update(optimizers, params, optimizer, grads, "fake")
        (value, width), grads["generator"] = jax.value_and_grad(generator_loss, has_aux=True)(
            params["generator"], params["teacher"], params["fake"], batch, keys[2], alpha, identity
        )
        _update(optimizers, params, optimizer, grads, "generator")
        ema = state.ema
        if settings.ema:
            rate = 1.0 - _decay(config, settings, state.step)
            ema = optax.incremental_update(params["generator"], ema, rate)
        metrics = {"loss": value, "fake_loss": fake_value, "deviation": width}
        metrics |= training.gradient_metrics(grads)
        return TrainState(state.step + 1, params, optimizer, ema), metrics

    return step


def _update(optimizers: Any, params: Any, optimizer: Any, grads: Any, name: str) -> None:
    change, optimizer[name] = optimizers[name].update(grads[name], optimizer[name], params[name])
    params[name] = optax.apply_updates(params[name], change)


def optimizer(
    config: DistillConfig, settings: TrainingConfig, name: str
) -> optax.GradientTransformation:
    """Of one of the two networks."""
    beta1 = config.beta1
    if name == "fake":
        beta1 = config.fake_beta1
        settings = replace(settings, learning_rate=settings.learning_rate * config.fake_rate)
    return optimizers.make_optimizer(settings, float(beta1), float(config.final_rate))


def _decay(config: DistillConfig, settings: TrainingConfig, step: jax.Array) -> Any:
    """Of the averaged weights at the update that follows a number of steps."""
    if not config.ramp:
        return settings.ema
    life = jnp.minimum(jnp.log(0.5) / jnp.log(settings.ema), config.ramp * step)
    return 0.5 ** (1.0 / jnp.maximum(life, 1e-6))


def deviation(x: Any) -> jax.Array:
    """Root of the mean variance of an element over the batch."""
    return jnp.sqrt(jnp.mean(jnp.var(x, axis=0)))


def indices(settings: TrainingConfig) -> dict[str, np.ndarray]:
    """A batch without classes."""
    return {"index": np.arange(settings.batch_size)}


def _normal(key: jax.Array, index: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape))(index)


def _uniform(key: jax.Array, index: jax.Array) -> jax.Array:
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(index)


def _integers(key: jax.Array, index: jax.Array, count: int) -> jax.Array:
    return jax.vmap(lambda i: jax.random.randint(jax.random.fold_in(key, i), (), 0, count))(index)


def program(
    config: DistillConfig,
    teacher: Model,
    student: Model,
    shape: tuple[int, ...],
    settings: TrainingConfig,
    partition: sharding.Partition | None = None,
) -> Program:
    """An iteration, from models of which shapes of weights are enough."""
    made = how(config, teacher, student, shape)
    state = jax.eval_shape(functools.partial(made.init_state, None, settings), *made.given)
    size = jax.ShapeDtypeStruct((settings.batch_size,), jnp.int32)
    batch = {"index": size, **({} if teacher.classes is None else {"label": size})}
    step: Any = made.make_step(None, settings)  # pyright: ignore[reportArgumentType]
    return Program(step, (state, batch), (0,), settings.steps, partition)
