"""Score identity distillation in the harness: two networks, two optimisers, one state.

An iteration trains the fake denoiser on fresh samples of the generator, then the generator against
both denoisers. Noise of an example depends on its number alone, so that batches may be spread over
devices.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion import distillation, process, schedules
from experiments.diffusion import denoising
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import training
from experiments.harness.estimate import Program
from experiments.harness.training import How, TrainingConfig, TrainState

Network = Callable[..., jax.Array]  # (params, y, sigma[, label]) -> x
NOISE = schedules.edm()


@dataclass(frozen=True)
class DistillConfig:
    """The losses of score identity distillation.

    Attributes:
        alpha: of L2 - alpha L1.
        naive: L1 alone instead, which collapses.
        levels: sigma of each step of the generator, falling; one for a single step.
        t_max: share of EDM's noise levels that the generator's loss looks at.
        sigma_min, sigma_max: those levels.
        sigma_data: of EDM's weight in the loss of the fake denoiser.
        beta1: decay of the gradients' mean in both optimisers.
        fake_rate: peak learning rate of the fake denoiser over the generator's.
    """

    alpha: int | float = 1.0
    naive: bool = False
    levels: tuple[float, ...] = (distillation.SIGMA_INIT,)
    t_max: int | float = 0.8
    sigma_min: float = 0.002
    sigma_max: int | float = 80.0
    sigma_data: int | float = 0.5
    beta1: int | float = 0.0
    fake_rate: int | float = 1.0

    def __post_init__(self):
        distillation.generator_sigma(0.0, self.t_max, self.sigma_min, self.sigma_max)
        falling = all(a > b for a, b in zip(self.levels, self.levels[1:], strict=False))
        if not self.levels or self.levels[-1] <= 0 or not falling:
            raise ValueError(
                f"distill.levels: expected positive levels that fall, got {self.levels}"
            )
        if not (self.sigma_data > 0 and self.fake_rate > 0 and 0 <= self.beta1 < 1):
            raise ValueError(
                "distill.sigma_data, fake_rate, beta1: expected positive numbers and one in "
                f"[0, 1), got {self.sigma_data}, {self.fake_rate}, {self.beta1}"
            )

    @property
    def weights(self) -> tuple[float, float]:
        """Alpha, and what L2 is multiplied with."""
        return (-1.0, 0.0) if self.naive else (float(self.alpha), 1.0)


def network_of(config: NetworkConfig) -> Network:
    """(params, y, sigma) -> x of a network that says v."""
    predict = denoising.denoiser(config)

    def network(params: Any, y: jax.Array, sigma: jax.Array, *label: Any) -> jax.Array:
        bound = functools.partial(predict, params)
        return process.edm_denoiser(bound, "v")(y, sigma, *label)

    return network


def how(
    config: DistillConfig, teacher: Any, network: Network, params: Any, shape: tuple[int, ...]
) -> How:
    """Training from a teacher's weights.

    Batches are {"index": [B]} and, for networks with classes, "label": [B]; the state's params are
    {"fake": ..., "generator": ...}, its ema the generator's.

    Args:
        teacher: (y, sigma[, label]) -> x.
        network: of the fake denoiser and the generator.
        params: weights that both begin with.
        shape: of an example.
    """

    def init_state(problem: training.Problem, settings: TrainingConfig) -> TrainState:
        start = {"fake": params, "generator": params}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=start,
            optimizer={name: optimizer(config, settings, name).init(params) for name in start},
            ema=jax.tree.map(jnp.copy, params) if settings.ema else None,
        )

    def make_step(problem: training.Problem, settings: TrainingConfig) -> Callable[..., Any]:
        return joint_step(config, teacher, network, shape, settings)

    return How(init_state, make_step)


def joint_step(
    config: DistillConfig,
    teacher: Any,
    network: Network,
    shape: tuple[int, ...],
    settings: TrainingConfig,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The pure update (state, batch[, seed[, weights]]) of both networks.

    `weights`, alpha and that of L2, may be traced, so that a sweep compiles once.
    """
    optimizers = {name: optimizer(config, settings, name) for name in ("fake", "generator")}

    def samples(generator: Any, batch: Any, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 3)
        z = _normal(keys[0], batch["index"], shape)
        steps = len(config.levels)
        last = None if steps == 1 else _integers(keys[1], batch["index"], steps)
        bound = lambda y, sigma, *label: network(generator, y, sigma, *label)  # noqa: E731
        label = batch.get("label")
        return distillation.generate_steps(bound, z, config.levels, keys[2], last, label)

    def fake_loss(fake: Any, x: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
        keys = jax.random.split(key)
        sigma = jnp.exp(-0.5 * NOISE(_uniform(keys[0], batch["index"])))
        noise = _normal(keys[1], batch["index"], shape)
        bound = lambda y, sigma, *label: network(fake, y, sigma, *label)  # noqa: E731
        each = distillation.fake_score_loss(
            x, bound, sigma, noise, float(config.sigma_data), batch.get("label")
        )
        return jnp.mean(each)

    def generator_loss(
        generator: Any, fake: Any, batch: Any, key: jax.Array, alpha: Any, identity: Any
    ) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(key, 3)
        x = samples(generator, batch, keys[0])
        u = _uniform(keys[1], batch["index"])
        levels = float(config.t_max), config.sigma_min, float(config.sigma_max)
        sigma = distillation.generator_sigma(u, *levels)
        bound = lambda y, sigma, *label: network(fake, y, sigma, *label)  # noqa: E731
        noise = _normal(keys[2], batch["index"], shape)
        label = batch.get("label")
        each = distillation.generator_loss(
            x, teacher, bound, sigma, noise, alpha, label, identity=identity
        )
        return jnp.mean(each), deviation(x)

    def step(
        state: TrainState, batch: Any, seed: Any = None, weights: Any = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        alpha, identity = config.weights if weights is None else weights
        root = jax.random.key(settings.seed if seed is None else seed)
        keys = jax.random.split(jax.random.fold_in(root, state.step), 3)
        params, optimizer = dict(state.params), dict(state.optimizer)  # pyright: ignore
        x = samples(params["generator"], batch, keys[0])
        fake_value, fake_grads = jax.value_and_grad(fake_loss)(params["fake"], x, batch, keys[1])
        grads = {"fake": fake_grads}
        _update(optimizers, params, optimizer, grads, "fake")
        (value, width), grads["generator"] = jax.value_and_grad(generator_loss, has_aux=True)(
            params["generator"], params["fake"], batch, keys[2], alpha, identity
        )
        _update(optimizers, params, optimizer, grads, "generator")
        ema = state.ema
        if settings.ema:
            ema = optax.incremental_update(params["generator"], ema, 1.0 - settings.ema)
        norms = jnp.stack([jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)])
        bad = ~jnp.isfinite(norms)
        metrics = {
            "loss": value,
            "fake_loss": fake_value,
            "deviation": width,
            "gradient_norm": jnp.sqrt(norms.sum()),
            "bad_leaf": jnp.where(bad.any(), jnp.argmax(bad), -1),
        }
        return TrainState(state.step + 1, params, optimizer, ema), metrics

    return step


def _update(optimizers: Any, params: Any, optimizer: Any, grads: Any, name: str) -> None:
    change, optimizer[name] = optimizers[name].update(grads[name], optimizer[name], params[name])
    params[name] = optax.apply_updates(params[name], change)


def optimizer(
    config: DistillConfig, settings: TrainingConfig, name: str
) -> optax.GradientTransformation:
    """Of one of the two networks."""
    if name == "fake":
        settings = replace(settings, learning_rate=settings.learning_rate * config.fake_rate)
    return training.make_optimizer(settings, float(config.beta1))


def deviation(x: jax.Array) -> jax.Array:
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
    network: Network,
    params: Any,
    shape: tuple[int, ...],
    settings: TrainingConfig,
    teacher: Any = None,
    classes: int | None = None,
) -> Program:
    """An iteration, (state, teacher's weights, batch), from the shapes of weights.

    Args:
        teacher: (y, sigma[, label]) -> x, if it has no weights.
    """
    state = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),  # pyright: ignore[reportArgumentType]
        params={"fake": params, "generator": params},
        optimizer={
            name: jax.eval_shape(optimizer(config, settings, name).init, params)
            for name in ("fake", "generator")
        },
        ema=params if settings.ema else None,
    )

    def step(state: TrainState, weights: Any, batch: Any) -> Any:
        frozen = functools.partial(network, weights) if teacher is None else teacher
        return joint_step(config, frozen, network, shape, settings)(state, batch)

    size = jax.ShapeDtypeStruct((settings.batch_size,), jnp.int32)
    batch = {"index": size, **({} if classes is None else {"label": size})}
    weights = params if teacher is None else {}
    return Program(step, (state, weights, batch), (0,), settings.steps)
