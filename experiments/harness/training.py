"""One readable loop over a pure step (state, batch) -> (state, metrics)."""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from experiments.harness import config as configs
from experiments.harness import hosts, placing, sharding
from experiments.harness.checkpoint import Checkpoints
from experiments.harness.compiling import compile_step
from experiments.harness.errors import ExperimentError, NonFiniteError
from experiments.harness.optimizers import TrainingConfig, make_optimizer
from experiments.harness.run import Part, Record, Run
from experiments.harness.tracking import Progress

Batch = Any
Params = Any
Loss = Callable[[Params, Batch, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
Step = Callable[..., tuple["TrainState", dict[str, jax.Array]]]


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
        partition: how weights are divided among devices (see `sharding.placements`).
        part: (step, rows) -> those rows of a batch, where a host should not read them all.
    """

    init: Callable[[jax.Array], Params]
    loss: Loss
    batch: Callable[[int], Batch]
    evaluate: Callable[[Params], dict[str, Any]]
    optimizer: Callable[[TrainingConfig], optax.GradientTransformation] | None = None
    partition: sharding.Partition | None = None
    part: Callable[[int, slice], Batch] | None = None


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
        metrics = {"loss": loss, **gradient_metrics(grads)}
        if taken := sorted({*metrics, "step", "steps_per_second"} & aux.keys()):
            raise ValueError(f"loss: {taken[0]} is logged already, give its metric another name")
        metrics |= aux
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


PLAIN = How(init_state, make_step)


@dataclass(frozen=True)
class Placed:
    """A problem on a mesh: compiled, with the place of every array.

    Attributes:
        mesh: of all devices.
        like: shapes, types and placements of a state.
        init: (*given) -> the first state.
        step: the update.
    """

    mesh: jax.sharding.Mesh
    like: TrainState
    init: Callable[..., TrainState]
    step: Step


def place(
    problem: Problem, config: TrainingConfig, layout: sharding.Layout, how: How = PLAIN
) -> Placed:
    """Compile a problem for a layout of devices.

    Args:
        how: as of `train`.

    Raises:
        UsageError: devices, batch or weights cannot be divided so.
    """
    mesh = sharding.make_mesh(layout)
    sharding.check_batch(config.batch_size // config.accumulate, mesh)
    begin = functools.partial(how.init_state, problem, config)
    shapes = jax.eval_shape(begin, *how.given)
    where = sharding.placements(shapes, mesh, problem.partition, fsdp=layout.fsdp)
    update = compile_step(sharding.within(mesh, how.make_step(problem, config)), where, mesh)
    init = jax.jit(begin, out_shardings=where)
    return Placed(mesh, placing.described(shapes, where), init, update)


def train(
    problem: Problem, config: TrainingConfig, run: Run | Part, how: How = PLAIN
) -> TrainState:
    """Train to the last step, resuming from the newest checkpoint of the run.

    Args:
        how: the first state and the update.

    Raises:
        NonFiniteError: loss or gradients are not finite; checkpoints keep the last good state.
        Interrupted: a signal asked to stop; the state is saved.

    Returns:
        The last state, its weights on one device.
    """
    placed = place(problem, config, run.layout, how)
    checkpoints = Checkpoints(run.directory, config.keep, configs.digest(run.config))
    state, start = _start(placed, how.given, checkpoints)
    run.tracker.rewind(start if start else -1)
    if 0 < start < config.steps and hosts.first():
        print(f"resumes at step {start}", file=sys.stderr, flush=True)
    leaves = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.params)]

    try:
        if start == 0:
            _evaluate(problem, placed, state, run, 0)
        with Progress(config.steps, start=start) as progress, hosts.watch() as beat:
            pending = None
            for step in range(start, config.steps):
                batch = _batch(problem, placed.mesh, config.batch_size, step)
                state, metrics = placed.step(state, batch)
                done = step + 1
                saving = done % config.checkpoint_every == 0 or done == config.steps
                stopping = run.stopping()
                saving = stopping or checkpoints.failed() or saving
                evaluating = done % config.eval_every == 0 or done == config.steps
                # Metrics are read one step late so that the device never waits for the host,
                # except before their state is saved or evaluated.
                _report(pending, config, run, leaves, checkpoints, progress, problem)
                pending = (done, metrics)
                if saving or evaluating:
                    _report(pending, config, run, leaves, checkpoints, progress, problem)
                    pending = None
                if evaluating:
                    _evaluate(problem, placed, state, run, done)
                if saving:
                    checkpoints.save(done, state)
                beat(done)
                if stopping:
                    break
        checkpoints.finish(int(state.step), state)
    finally:
        checkpoints.close()
    if int(state.step) < config.steps:
        run.check_stop()
    elif start < config.steps and hosts.first():
        print("trained; now it is measured", file=sys.stderr, flush=True)
    return _whole(state, placed.mesh)


def restore(problem: Problem, config: TrainingConfig, record: Record) -> TrainState:
    """The state of a run's newest sound checkpoint, without going on.

    Raises:
        ExperimentError: there is none, or it cannot be read.
    """
    folder = record.directory / "checkpoints"
    if not folder.is_dir():
        raise ExperimentError(f"{record.directory}: expected checkpoints, found none")
    digest = record.data["config_hash"]
    checkpoints = Checkpoints(record.directory, config.keep, digest, read_only=True)
    try:
        placed = place(problem, config, sharding.DEFAULT)
        found = checkpoints.restore(placed.like)
        if found is None:
            raise checkpoints.none()
        return _whole(found[0], placed.mesh)
    finally:
        checkpoints.close()


def _whole(state: TrainState, mesh: jax.sharding.Mesh) -> TrainState:
    """The state with its weights on one device; moments stay where they are."""
    params, ema = placing.whole((state.params, state.ema), mesh)
    return replace(state, params=params, ema=ema)


def averaged(state: TrainState) -> Params:
    """The weights to evaluate: averaged ones if there are any."""
    return state.params if state.ema is None else state.ema


def _key(seed: Any, role: int) -> jax.Array:
    """Roles: 0 initial weights, 1 noise of the steps."""
    return jax.random.fold_in(jax.random.key(seed), role)


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


def _batch(problem: Problem, mesh: jax.sharding.Mesh, size: int, step: int) -> Batch:
    if problem.part is None or not hosts.several():
        return placing.put_batch(problem.batch(step), mesh)
    return placing.put_rows(problem.part(step, placing.rows(size, mesh)), size, mesh)


def _start(
    placed: Placed, given: tuple[Params, ...], checkpoints: Checkpoints
) -> tuple[TrainState, int]:
    found = checkpoints.restore(placed.like)
    if found is None:
        return placed.init(*placing.put(given, sharding.replicated(placed.mesh))), 0
    return found


def _report(
    pending: Any,
    config: TrainingConfig,
    run: Run | Part,
    leaves: list[str],
    checkpoints: Checkpoints,
    progress: Progress,
    problem: Problem,
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
        advice = "lower training.learning_rate"
        advice += " or set training.clip" if config.clip is None else ""
        if found := _not_finite(problem.batch(step - 1)):
            advice = f"batch{found} is not finite: look at the data"
        raise NonFiniteError(
            f"step {step}: expected finite numbers, got loss {values['loss']}; {where}; "
            f"last good checkpoint: {'none' if kept is None else f'step {kept}'} in "
            f"{run.directory}; {advice}"
        )
    if step % config.log_every == 0 or step == config.steps:
        run.tracker.log(step, **values, steps_per_second=progress.rate(step))
    progress.update(step, f"loss {values['loss']:.4f}")


def _evaluate(
    problem: Problem, placed: Placed, state: TrainState, run: Run | Part, step: int
) -> None:
    params = placing.whole(averaged(state), placed.mesh)
    found = problem.evaluate(params)
    if "step" in found:
        raise ValueError("evaluate: step is logged already, give this metric another name")
    run.tracker.log(step, **found)


def _not_finite(batch: Any) -> str:
    """Where numbers of a batch are NaN or infinite, or nothing."""
    for path, leaf in jax.tree.leaves_with_path(batch):
        values = np.asarray(leaf)
        if np.issubdtype(values.dtype, np.inexact) and not np.isfinite(values).all():
            return jax.tree_util.keystr(path)
    return ""
