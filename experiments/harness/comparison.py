"""Arms of a comparison: problems trained with shared seeds, each at its own best learning rate.

A seed gives every arm its first weights, and the order of the data, which is the same for all arms:
they are paired. Learning rates may be chosen arm by arm, on seeds that are not compared later.
"""

import contextlib
import functools
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import jax
import numpy as np

from experiments.harness import seeds, training, weights
from experiments.harness.errors import NonFiniteError
from experiments.harness.estimate import Program
from experiments.harness.run import Part, Run
from experiments.harness.training import Problem, TrainingConfig

TUNING = 1000  # seeds from here on are for the choice of learning rates


class Named(Protocol):
    """An arm: anything with a name for tables and figures."""

    @property
    def name(self) -> str:
        """Unique among the arms of a run."""
        ...


A = TypeVar("A", bound=Named)


@dataclass(frozen=True)
class Comparison:
    """How arms, the variants that are compared, are trained.

    Attributes:
        seeds: number of seeds of every arm: `training.seed` and those that follow it.
        rates: peak learning rates; each arm takes the one with the lowest mean metric over
            `tuning_seeds` seeds. A single rate is used without tuning.
        tuning_seeds: number of seeds for that choice; they are other than the seeds compared.
        vectorised: True: all seeds of an arm at once; False: one after another, in the memory of
            one; None: at once on accelerators, on CPUs in turn within one program.
    """

    seeds: int = 5
    rates: tuple[float, ...] = (3e-3,)
    tuning_seeds: int = 1
    vectorised: bool | None = None

    def __post_init__(self):
        if not 1 <= self.seeds <= TUNING or self.tuning_seeds < 1:
            raise ValueError(
                f"comparison.seeds, tuning_seeds: expected from 1 to {TUNING} and at least 1, got "
                f"{self.seeds}, {self.tuning_seeds}"
            )
        if not self.rates or any(not 0 < rate < math.inf for rate in self.rates):
            raise ValueError(
                f"comparison.rates: expected some finite numbers > 0, got {self.rates}"
            )


def check(settings: TrainingConfig, comparison: Comparison, least: int = 1) -> None:
    """Refuse a learning rate that would not be used, and too few seeds for an interval.

    Raises:
        ValueError: the rate is not the default; fewer seeds than `least`.
    """
    if settings.learning_rate != TrainingConfig.learning_rate:
        raise ValueError(
            "training.learning_rate: expected it to be left alone, those of comparison.rates are "
            f"used; got {settings.learning_rate}"
        )
    if comparison.seeds < least:
        raise ValueError(f"comparison.seeds: expected at least {least}, got {comparison.seeds}")


def run_all(
    arms: Sequence[A],
    problem: Callable[[A, TrainingConfig], Problem],
    settings: TrainingConfig,
    comparison: Comparison,
    metric: str,
    run: Run,
    about: Callable[[A], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Rows of every arm and seed with the metrics of the problem; none is trained twice.

    The rows of the run are of two kinds: `tuned`, `tried`, `mean` say what an arm reached with a
    learning rate; `arm`, `seed` and metrics are what is compared, with the `curve` of one of them,
    pairs of a step and a value. `step` numbers the rows. The weights of every arm's first seed
    are kept (see `experiments.trained`).

    Args:
        problem: what an arm trains.
        metric: of its evaluation, the lower the better, by which learning rates are chosen, and
            whose curve is kept.
        about: what else the rows of an arm say.

    Raises:
        NonFiniteError: an arm diverges with every rate, or in the comparison.
    """
    numbers = range(settings.seed, settings.seed + comparison.seeds)
    apart = comparison.vectorised is False
    for arm in arms:
        rate = _rate(arm, problem, settings, comparison, metric, run)
        for some in [range(n, n + 1) for n in numbers] if apart else [numbers]:
            rows = run.tracker.rows()
            done = {row["seed"] for row in rows if row.get("arm") == arm.name}
            if not done.issuperset(some):
                used = replace(settings, learning_rate=rate)
                part, found, params = _compare(arm, problem, used, some, comparison, run)
                if some[0] == numbers[0]:
                    weights.save(run.directory, arm.name, params)
                more = {**about(arm), "rate": rate}
                curves = _curves(part, metric, len(some))
                for seed, row, curve in zip(some, found, curves, strict=True):
                    if seed not in done:
                        row = {**more, **row, "curve": curve}
                        run.tracker.log(_next(run), arm=arm.name, seed=seed, **row)
                part.remove()
                run.check_stop()
    shutil.rmtree(run.directory / "parts", ignore_errors=True)
    return run.tracker.rows()


def _compare(
    arm: A,
    problem: Callable[[A, TrainingConfig], Problem],
    settings: TrainingConfig,
    numbers: range,
    comparison: Comparison,
    run: Run,
) -> tuple[Part, list[dict[str, float]], Any]:
    try:
        return _train(arm, problem, settings, numbers, comparison, run)
    except NonFiniteError as error:
        raise NonFiniteError(
            f"{arm.name}, rate {settings.learning_rate:g}: {error}; or leave that rate out of "
            "comparison.rates"
        ) from None


def _rate(
    arm: A,
    problem: Callable[[A, TrainingConfig], Problem],
    settings: TrainingConfig,
    comparison: Comparison,
    metric: str,
    run: Run,
) -> float:
    """The best learning rate of the grid, by the mean over seeds that are not compared."""
    if len(comparison.rates) == 1:
        return comparison.rates[0]
    first = settings.seed + TUNING
    numbers = range(first, first + comparison.tuning_seeds)
    for rate in comparison.rates:
        known = {row["tried"] for row in run.tracker.rows() if row.get("tuned") == arm.name}
        if rate in known:
            continue
        tried = replace(settings, learning_rate=rate)
        part, found = None, []
        with contextlib.suppress(NonFiniteError):
            part, found, _ = _train(arm, problem, tried, numbers, comparison, run)
        values = [row[metric] for row in found]
        mean = float(np.mean(values)) if values and np.isfinite(values).all() else None
        run.tracker.log(_next(run), tuned=arm.name, tried=rate, mean=mean)
        if part is not None:
            part.remove()
        run.check_stop()
    means = tuned(run.tracker.rows(), arm.name)
    if not means:
        raise NonFiniteError(
            f"{arm.name}: expected a finite loss at one of the rates {comparison.rates}"
        )
    return min(means, key=means.__getitem__)


def _train(
    arm: A,
    problem: Callable[[A, TrainingConfig], Problem],
    settings: TrainingConfig,
    numbers: range,
    comparison: Comparison,
    run: Run,
) -> tuple[Part, list[dict[str, float]], Any]:
    """Where some seeds were trained, to be removed when the rest is kept; what they reach; the
    weights of the first.
    """
    name = f"{arm.name} {settings.learning_rate!r} {numbers.start}".replace("/", "-")
    part = run.part(name)
    print(f"{arm.name}, rate {settings.learning_rate:g}, {len(numbers)} seeds", flush=True)
    try:
        make = functools.partial(problem, arm)
        return part, *seeds.train(make, settings, numbers, part, comparison.vectorised)
    except NonFiniteError:
        part.remove()
        raise


def _curves(part: Part, metric: str, count: int) -> list[list[tuple[int, float]]]:
    """Held-out values of a metric by step, of every seed of a training."""
    rows = [row for row in part.tracker.rows() if "seeds" in row]  # others are of batches
    return [[(row["step"], row[metric][seed]) for row in rows] for seed in range(count)]


def _next(run: Run) -> int:
    return len(run.tracker.rows())


def tuned(rows: Sequence[dict[str, Any]], arm: str) -> dict[float, float]:
    """Means by learning rate of an arm, without those that diverged."""
    mine = [row for row in rows if row.get("tuned") == arm]
    return {row["tried"]: row["mean"] for row in mine if row["mean"] is not None}


def at_an_end(rows: Sequence[dict[str, Any]], rates: Sequence[float]) -> list[str]:
    """Arms whose learning rate lies at an end of a grid of more than two."""
    ends = {min(rates), max(rates)} if len(rates) > 2 else set()
    return list(dict.fromkeys(r["arm"] for r in rows if "arm" in r and r["rate"] in ends))


def trainings(comparison: Comparison) -> int:
    """Of an arm, over seeds and learning rates."""
    grid = len(comparison.rates) if len(comparison.rates) > 1 else 0
    return comparison.seeds + comparison.tuning_seeds * grid


def program(
    problem: Problem, settings: TrainingConfig, comparison: Comparison, batch: Any
) -> Program:
    """The training step of an arm, of one seed.

    Args:
        batch: shapes of one.
    """
    state = jax.eval_shape(lambda: training.init_state(problem, settings))
    calls = settings.steps * trainings(comparison)
    step = training.make_step(problem, settings)
    return Program(step, (state, batch), (0,), calls, problem.partition)
