"""Several seeds of one problem trained together: one program, one checkpoint, paired by seed.

The weights of all seeds are stacked along a first axis. On accelerators the seeds of a step are
vectorised; on CPUs, where products of stacked small matrices are slower than one after the other
(`benchmarks/language_model_training.py --seeds`), they are taken in turn inside the program.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import training
from experiments.harness.run import Part, Run
from experiments.harness.training import How, Problem, TrainingConfig, TrainState

Make = Callable[[TrainingConfig], Problem]


def train(
    make: Make,
    settings: TrainingConfig,
    seeds: Sequence[int],
    run: Run | Part,
    vectorised: bool | None = None,
) -> tuple[list[dict[str, float]], Any]:
    """The metrics of every seed at the end of its training, and the weights of the first.

    Args:
        make: settings -> problem; called with the settings of every seed. Losses may depend on the
            seed through weights, batches and noise only.
        vectorised: take the seeds of a step at once; None leaves it to the device.

    Raises:
        NonFiniteError, Interrupted: as `training.train`.
    """
    problems = [make(replace(settings, seed=seed)) for seed in seeds]
    state = training.train(
        _stacked(problems, seeds), settings, run, how(problems[0], seeds, vectorised)
    )
    params = training.averaged(state)
    return _evaluate(problems, params), jax.tree.map(lambda leaf: leaf[0], params)


def _stacked(problems: Sequence[Problem], seeds: Sequence[int]) -> Problem:
    """Batches [batch, seeds, ...], weights [seeds, ...]; evaluated seed by seed."""

    def stacked(parts: Sequence[Any]) -> Any:
        return jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *parts)

    def batch(step: int) -> Any:
        return stacked([problem.batch(step) for problem in problems])

    def part(step: int, rows: slice) -> Any:
        return stacked([problem.part(step, rows) for problem in problems if problem.part])

    def evaluate(params: Any) -> Any:
        each = _evaluate(problems, params)
        return {name: [row[name] for row in each] for name in each[0]} | {"seeds": [*seeds]}

    first = problems[0]
    return replace(first, batch=batch, evaluate=evaluate, part=first.part and part)


def _evaluate(problems: Sequence[Problem], params: Any) -> list[dict[str, float]]:
    return [
        problem.evaluate(jax.tree.map(lambda leaf, i=i: leaf[i], params))
        for i, problem in enumerate(problems)
    ]


def how(problem: Problem, seeds: Sequence[int], vectorised: bool | None = None) -> How:
    """First state and update of all seeds, for `training.train`; they share the step's number.

    Args:
        problem: of any seed; batches are [batch, seeds, ...].
    """
    together = jax.default_backend() != "cpu" if vectorised is None else vectorised
    numbers = jnp.asarray(seeds, jnp.uint32)

    def each(function: Callable[..., Any], *stacked: Any) -> Any:
        if together:
            return jax.vmap(function)(*stacked)
        return jax.lax.map(lambda row: function(*row), stacked)

    def init_state(_: Problem, config: TrainingConfig) -> TrainState:
        state = each(lambda seed: training.init_state(problem, config, seed), numbers)
        return state.replace(step=jnp.zeros((), jnp.int32))

    def make_step(_: Problem, config: TrainingConfig) -> training.Step:
        one = training.make_step(problem, config)

        def step(state: TrainState, batch: Any, _: Any = None) -> tuple[TrainState, Any]:
            def update(weights: Any, optimizer: Any, ema: Any, rows: Any, seed: Any) -> Any:
                return one(TrainState(state.step, weights, optimizer, ema), rows, seed)

            rows = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batch)
            parts = (state.params, state.optimizer, state.ema)
            new, metrics = each(update, *parts, rows, numbers)
            bad = metrics.pop("bad_leaf").max()
            metrics = {name: value.mean(0) for name, value in metrics.items()}
            return new.replace(step=state.step + 1), {**metrics, "bad_leaf": bad}

        return step

    return How(init_state, make_step)
