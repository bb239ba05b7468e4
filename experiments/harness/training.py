"""One readable loop over a pure step (state, batch) -> (state, metrics)."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from experiments.harness import config as configs
from experiments.harness import sharding
from experiments.harness.checkpoint import Checkpoints
from experiments.harness.errors import ExperimentError, NonFiniteError
from experiments.harness.run import Part, Record, Run
from experiments.harness.tracking import Progress

Batch = Any
Params = Any
Loss = Callable[[Params, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
Step = Callable[..., tuple["TrainState", dict[str, jax.Array]]]


@dataclass(frozen=True)
class TrainingConfig:
    """How to optimise.

    Attributes:
        steps: updates in all.
        batch_size: examples per update.
        learning_rate: peak, reached after `warmup` steps, then a cosine down to a tenth.
        warmup: steps of linear warm-up.
        weight_decay: of AdamW, on matrices only.
        beta2: second-moment decay of AdamW.
        clip: global gradient norm; None leaves gradients alone.
        ema: decay of the averaged weights used for evaluation; 0 turns averaging off.
        accumulate: micro-batches per update.
        eval_every, checkpoint_every, log_every: in steps.
        keep: number of checkpoints kept.
        seed: of the initial weights, the order of the data and the noise.
    """

    steps: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.1
    beta2: float = 0.99
    clip: float | None = 1.0
    ema: float = 0.0
    accumulate: int = 1
    eval_every: int = 100
    checkpoint_every: int = 100
    log_every: int = 10
    keep: int = 2
    seed: int = 0

    def __post_init__(self):
        counts = ("steps", "batch_size", "accumulate", "eval_every", "checkpoint_every")
        for name in (*counts, "log_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name}: expected at least 1, got {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"training.accumulate: expected a divisor of batch_size = {self.batch_size}, "
                f"got {self.accumulate}"
            )
        for name in ("warmup", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"training.{name}: expected >= 0, got {getattr(self, name)}")
        if not (self.learning_rate > 0 and (self.clip is None or self.clip > 0)):
            raise ValueError(
                f"training.learning_rate, clip: expected > 0, got {self.learning_rate}, {self.clip}"
            )
        for name in ("ema", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"training.{name}: expected in [0, 1), got {getattr(self, name)}")


@struct.dataclass
class TrainState:
    """Everything that changes; `ema` is None without averaging."""

    step: jax.Array
    params: Params
    optimizer: optax.OptState
    ema: Params


@dataclass(frozen=True)
class Problem:
    """What to train, as pure functions.

    Attributes:
        init: key -> params.
        loss: (params, batch, key) -> (mean loss, metrics).
        batch: step -> host arrays with the batch as first axis.
        evaluate: params -> metrics of a validation set.
        optimizer: configuration -> the update; `make_optimizer` if None.
    """

    init: Callable[[jax.Array], Params]
    loss: Loss
    batch: Callable[[int], Batch]
    evaluate: Callable[[Params], dict[str, float]]
    optimizer: Callable[[TrainingConfig], optax.GradientTransformation] | None = None


def make_optimizer(
    config: TrainingConfig, beta1: float = 0.9, final: float = 0.1
) -> optax.GradientTransformation:
    """AdamW behind gradient clipping; its rate warms up and falls by a cosine to `final` of it."""
    adamw = optax.adamw(
        make_schedule(config, config.learning_rate, final),
        b1=beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=_is_matrix,
    )
    clip = optax.identity() if config.clip is None else optax.clip_by_global_norm(config.clip)
    return optax.chain(clip, adamw)


def make_schedule(config: TrainingConfig, peak: float, final: float = 0.1) -> optax.Schedule:
    """A rate that warms up to a peak and falls by a cosine to `final` of it."""
    warmup = min(config.warmup, config.steps - 1)
    return optax.warmup_cosine_decay_schedule(
        peak / (warmup + 1), peak, warmup, config.steps, final * peak
    )


def _optimizer(problem: Problem, config: TrainingConfig) -> optax.GradientTransformation:
    return (problem.optimizer or make_optimizer)(config)


def init_state(problem: Problem, config: TrainingConfig, seed: Any = None) -> TrainState:
    """The state before the first step, a function of the seed: the configuration's by default."""
    params = problem.init(_key(config.seed if seed is None else seed, 0))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=_optimizer(problem, config).init(params),
        ema=jax.tree.map(jnp.copy, params) if config.ema else None,
    )


def make_step(problem: Problem, config: TrainingConfig) -> Step:
    """The pure update (state, batch[, seed]). Metrics include `bad_leaf`: the first gradient that
    is not finite, or -1.
    """
    optimizer = _optimizer(problem, config)
    gradients = jax.value_and_grad(problem.loss, has_aux=True)

    def step(
        state: TrainState, batch: Batch, seed: Any = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = step_key(config, state, seed)
        (loss, aux), grads = _accumulate(gradients, state.params, batch, key, config.accumulate)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if config.ema:
            ema = optax.incremental_update(params, ema, 1.0 - config.ema)
        metrics = {"loss": loss, **gradient_metrics(grads), **aux}
        return TrainState(state.step + 1, params, optimizer_state, ema), metrics

    return step


def step_key(config: TrainingConfig, state: TrainState, seed: Any = None) -> jax.Array:
    """For the noise of the step that follows a state."""
    return jax.random.fold_in(_key(config.seed if seed is None else seed, 1), state.step)


def gradient_metrics(grads: Any) -> dict[str, jax.Array]:
    """Their norm, and `bad_leaf`, the first that is not finite, or -1."""
    norms = jnp.stack([jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)])
    bad = ~jnp.isfinite(norms)
    return {
        "gradient_norm": jnp.sqrt(norms.sum()),
        "bad_leaf": jnp.where(bad.any(), jnp.argmax(bad), -1),
    }


class How(NamedTuple):
    """How a problem becomes a state and its update.

    Attributes:
        init_state: (problem, config, *given) -> state; `state.ema` is what is evaluated, if there
            is any.
        make_step: (problem, config) -> pure update, as `make_step`.
        given: weights that training begins with, arguments so that no program holds them.
    """

    init_state: Callable[..., TrainState]
    make_step: Callable[[Problem, TrainingConfig], Step]
    given: tuple[Params, ...] = ()


def compile_step(step: Step) -> Step:
    """Jit that gives the state's memory to the new state.

    On CPUs with a library of small kernels beside XLA's own, convolutions stay with the latter,
    whose gradients are a fifth quicker.
    """
    return jax.jit(step, donate_argnums=0, compiler_options=_compiler_options())


def compile_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Jit with the options of `compile_step`."""
    return jax.jit(function, compiler_options=_compiler_options())


@functools.cache
def _compiler_options() -> dict[str, str] | None:
    if jax.default_backend() != "cpu":
        return None
    dots = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
    try:
        jax.jit(lambda x: x + 1, compiler_options=dots)(0)
    except jax.errors.JaxRuntimeError:  # a version of XLA without that option
        return None
    return dots


def train(
    problem: Problem, config: TrainingConfig, run: Run | Part, how: How | None = None
) -> TrainState:
    """Train to the last step, resuming from the newest checkpoint of the run.

    Args:
        how: the first state and the update, where they are not those of one loss.

    Raises:
        NonFiniteError: loss or gradients are not finite; checkpoints keep the last good state.
        Interrupted: a signal asked to stop; the state is saved.
    """
    mesh = sharding.data_mesh()
    sharding.check_batch(config.batch_size // config.accumulate, mesh)
    checkpoints = Checkpoints(run.directory, config.keep, configs.digest(run.config))
    how = How(init_state, make_step) if how is None else how
    begin = functools.partial(how.init_state, problem, config)
    state, start = _start(begin, how.given, checkpoints, mesh)
    run.tracker.rewind(start if start else -1)
    step_fn = compile_step(how.make_step(problem, config))
    leaves = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.params)]

    try:
        if start == 0:
            _evaluate(problem, state, run, 0)
        with Progress(config.steps, start=start) as progress:
            pending = None
            for step in range(start, config.steps):
                batch = sharding.put_batch(problem.batch(step), mesh)
                state, metrics = step_fn(state, batch)
                done = step + 1
                saving = done % config.checkpoint_every == 0 or done == config.steps
                saving = saving or run.stop_requested
                evaluating = done % config.eval_every == 0 or done == config.steps
                # Metrics are read one step late so that the device never waits for the host,
                # except before their state is saved or evaluated.
                _report(pending, config, run, leaves, checkpoints, progress)
                pending = (done, metrics)
                if saving or evaluating:
                    _report(pending, config, run, leaves, checkpoints, progress)
                    pending = None
                if evaluating:
                    _evaluate(problem, state, run, done)
                if saving:
                    checkpoints.save(done, state)
                if run.stop_requested and saving:
                    break
    finally:
        checkpoints.close()
    if int(state.step) < config.steps:
        run.check_stop()
    return state


def restore(problem: Problem, config: TrainingConfig, record: Record) -> TrainState:
    """The state of a run's newest checkpoint, without going on.

    Raises:
        ExperimentError: there is none, or it cannot be read.
    """
    folder = record.directory / "checkpoints"
    if not folder.is_dir():
        raise ExperimentError(f"{record.directory}: expected checkpoints, found none")
    digest = record.data["config_hash"]
    checkpoints = Checkpoints(record.directory, config.keep, digest, read_only=True)
    try:
        latest = checkpoints.latest()
        if latest is None:
            raise ExperimentError(f"{folder}: expected a complete checkpoint, found none")
        like = _shapes(lambda: init_state(problem, config), sharding.data_mesh())
        return checkpoints.restore(latest, like)
    finally:
        checkpoints.close()


def averaged(state: TrainState) -> Params:
    """The weights to evaluate: averaged ones if there are any."""
    return state.params if state.ema is None else state.ema


def _key(seed: Any, role: int) -> jax.Array:
    """Roles: 0 initial weights, 1 noise of the steps."""
    return jax.random.fold_in(jax.random.key(seed), role)


def _is_matrix(params: Params) -> Any:
    """Weight decay is for matrices; stacked vectors ([layers, d] gains) are not matrices."""

    def decays(path: Any, leaf: jax.Array) -> bool:
        name = jax.tree_util.keystr(path)
        return leaf.ndim >= 2 and not any(vector in name for vector in ("norm", "_bias", "shift"))

    return jax.tree.map_with_path(decays, params)


def _accumulate(gradients: Any, params: Params, batch: Batch, key: jax.Array, parts: int) -> Any:
    """Mean loss, metrics and gradients over `parts` micro-batches, by a scan."""
    if parts == 1:
        return gradients(params, batch, key)
    # Strided parts, so that each keeps its share of examples on every device.
    stacked = jax.tree.map(
        lambda a: jnp.swapaxes(a.reshape(a.shape[0] // parts, parts, *a.shape[1:]), 0, 1), batch
    )
    first = jax.tree.map(lambda a: a[0], stacked)
    shapes = jax.eval_shape(gradients, params, first, key)

    def body(total: Any, inputs: Any) -> tuple[Any, None]:
        part, index = inputs
        result = gradients(params, part, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, result), None

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(body, zeros, (stacked, jnp.arange(parts)))
    return jax.tree.map(lambda a: a / parts, total)


def _start(
    init: Callable[..., TrainState], given: tuple[Params, ...], checkpoints: Checkpoints, mesh: Any
) -> tuple[TrainState, int]:
    latest = checkpoints.latest()
    if latest is None:
        return jax.jit(init, out_shardings=sharding.replicated(mesh))(*given), 0
    return checkpoints.restore(latest, _shapes(functools.partial(init, *given), mesh)), latest


def _shapes(make: Callable[[], TrainState], mesh: Any) -> Any:
    """What a state looks like, a copy on every device."""
    placement = sharding.replicated(mesh)
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=placement),
        jax.eval_shape(make),
    )


def _report(
    pending: Any,
    config: TrainingConfig,
    run: Run | Part,
    leaves: list[str],
    checkpoints: Checkpoints,
    progress: Progress,
) -> None:
    if pending is None:
        return
    step, metrics = pending
    values = {name: float(np.asarray(value)) for name, value in metrics.items()}
    bad = int(values.pop("bad_leaf"))
    if bad >= 0 or not np.isfinite(values["loss"]):
        where = "gradients finite" if bad < 0 else f"first bad gradient: params{leaves[bad]}"
        checkpoints.wait()
        kept = checkpoints.latest()
        raise NonFiniteError(
            f"step {step}: expected finite numbers, got loss {values['loss']}; {where}; "
            f"last good checkpoint: {'none' if kept is None else f'step {kept}'} in "
            f"{run.directory}; lower training.learning_rate or set training.clip"
        )
    if step % config.log_every == 0 or step == config.steps:
        run.tracker.log(step, **values, steps_per_second=progress.rate(step))
    progress.update(step, f"loss {values['loss']:.4f}")


def _evaluate(problem: Problem, state: TrainState, run: Run | Part, step: int) -> None:
    run.tracker.log(step, **problem.evaluate(averaged(state)))
