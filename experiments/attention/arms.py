"""Arms of an ablation on text: decoders that differ in their attention, trained with shared seeds.

A seed gives every arm its first weights, and the order of the data, which is the same for all arms:
they are paired. Learning rates may be chosen arm by arm, on seeds that are not compared later.
"""

import contextlib
import functools
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

import attention
from attention import transformer
from experiments.attention import next_token
from experiments.harness import corpora, seeds, training
from experiments.harness.corpora import CorpusConfig
from experiments.harness.errors import NonFiniteError
from experiments.harness.estimate import Program, count
from experiments.harness.run import Part, Run
from experiments.harness.training import Problem, TrainingConfig

TUNING = 1000  # seeds from here on are for the choice of learning rates


@dataclass(frozen=True)
class Arm:
    """One of the decoders that are compared.

    Attributes:
        name: in tables and figures.
        decoder: all of it.
        mixer: its attention, where it is not that of `decoder.mixer` itself.
        dtype: of its activations, float32 if None.
    """

    name: str
    decoder: attention.TransformerConfig
    mixer: attention.Mixer | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Comparison:
    """How arms are compared.

    Attributes:
        seeds: of every arm, counted from `training.seed`.
        rates: peak learning rates, of which every arm takes the best; a single one is taken as
            it is.
        tuning_seeds: for that choice, others than those above.
        vectorised: train the seeds of an arm at once, or one after the other with the memory of
            one; by default at once where there is an accelerator, in one program where not.
    """

    seeds: int = 5
    rates: tuple[float, ...] = (3e-3,)
    tuning_seeds: int = 1
    vectorised: bool | None = None

    def __post_init__(self):
        if not 2 <= self.seeds <= TUNING or self.tuning_seeds < 1:
            raise ValueError(
                f"comparison.seeds, tuning_seeds: expected from 2 to {TUNING} and at least 1, got "
                f"{self.seeds}, {self.tuning_seeds}"
            )
        if not self.rates or any(not 0 < rate < math.inf for rate in self.rates):
            raise ValueError(
                f"comparison.rates: expected some finite numbers > 0, got {self.rates}"
            )


def check_rate(settings: TrainingConfig) -> None:
    """Refuse a learning rate that would not be used.

    Raises:
        ValueError: it is not the default.
    """
    if settings.learning_rate != TrainingConfig.learning_rate:
        raise ValueError(
            "training.learning_rate: expected it to be left alone, those of comparison.rates are "
            f"used; got {settings.learning_rate}"
        )


def parameters(arm: Arm) -> int:
    """How many an arm has."""
    return count(shapes(arm))


def shapes(arm: Arm) -> Any:
    """Shapes of its parameters."""
    init = functools.partial(transformer.init, config=arm.decoder, mixer=arm.mixer)
    return jax.eval_shape(init, jax.random.key(0))


def matched(arm: Arm, target: int) -> Arm:
    """The arm with the hidden width of SwiGLU that brings it closest to a number of parameters.

    Raises:
        ValueError: its attention alone has more.
    """
    decoder = arm.decoder
    each = 3 * decoder.d_model * decoder.n_layers
    hidden = decoder.hidden + round((target - parameters(arm)) / each)
    if hidden < 1:
        raise ValueError(
            f"{arm.name}: expected fewer than {target} parameters without SwiGLU, got "
            f"{parameters(arm) - each * decoder.hidden}"
        )
    return replace(arm, decoder=replace(decoder, d_ff=hidden))


def run_all(
    arms: Sequence[Arm],
    problem: Callable[[Arm, TrainingConfig], Problem],
    settings: TrainingConfig,
    comparison: Comparison,
    metric: str,
    run: Run,
) -> list[dict[str, Any]]:
    """Rows of every arm and seed with the metrics of the problem; none is trained twice.

    The rows of the run are of two kinds: `tuned`, `tried`, `mean` say what an arm reached with a
    learning rate; `arm`, `seed` and metrics are what is compared. `step` numbers them.

    Args:
        problem: what an arm trains.
        metric: of its evaluation, the lower the better, by which learning rates are chosen.

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
                _compare(arm, problem, replace(settings, learning_rate=rate), some, comparison, run)
                run.check_stop()
    shutil.rmtree(run.directory / "parts", ignore_errors=True)
    return run.tracker.rows()


def _compare(
    arm: Arm,
    problem: Callable[[Arm, TrainingConfig], Problem],
    settings: TrainingConfig,
    numbers: range,
    comparison: Comparison,
    run: Run,
) -> None:
    """Train some seeds of an arm and record their rows."""
    try:
        part, found = _train(arm, problem, settings, numbers, comparison, run)
    except NonFiniteError as error:
        raise NonFiniteError(
            f"{arm.name}, rate {settings.learning_rate:g}: {error}; or leave that rate out of "
            "comparison.rates"
        ) from None
    about = {"parameters": parameters(arm), "d_ff": arm.decoder.hidden}
    about |= {"cache": cache_elements(arm), "rate": settings.learning_rate}
    known = {row["seed"] for row in run.tracker.rows() if row.get("arm") == arm.name}
    for seed, row in zip(numbers, found, strict=True):
        if seed not in known:
            run.tracker.log(_next(run), arm=arm.name, seed=seed, **about, **row)
    part.remove()


def cache_elements(arm: Arm) -> int:
    """Numbers that a further token adds to the state of a layer."""
    mixer = arm.mixer or transformer.make_mixer(arm.decoder.mixer)
    small, large = (
        jax.eval_shape(functools.partial(mixer.init_state, 1, slots, np.float32))
        for slots in (8, 16)
    )
    return (count(large) - count(small)) // 8


def _rate(
    arm: Arm,
    problem: Callable[[Arm, TrainingConfig], Problem],
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
            part, found = _train(arm, problem, tried, numbers, comparison, run)
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
    arm: Arm,
    problem: Callable[[Arm, TrainingConfig], Problem],
    settings: TrainingConfig,
    numbers: range,
    comparison: Comparison,
    run: Run,
) -> tuple[Part, list[dict[str, float]]]:
    """What some seeds reach, and where they were trained, to be removed when that is recorded."""
    name = f"{arm.name} {settings.learning_rate!r} {numbers.start}".replace("/", "-")
    part = run.part(name)
    print(f"{arm.name}, rate {settings.learning_rate:g}, {len(numbers)} seeds", flush=True)
    try:
        make = functools.partial(problem, arm)
        return part, seeds.train(make, settings, numbers, part, comparison.vectorised)
    except NonFiniteError:
        part.remove()
        raise


def _next(run: Run) -> int:
    return len(run.tracker.rows())


def tuned(rows: Sequence[dict[str, Any]], arm: str) -> dict[float, float]:
    """Means by learning rate of an arm, without those that diverged."""
    mine = [row for row in rows if row.get("tuned") == arm]
    return {row["tried"]: row["mean"] for row in mine if row["mean"] is not None}


def at_an_end(rows: Sequence[dict[str, Any]], rates: Sequence[float]) -> list[str]:
    """Arms whose learning rate lies at an end of a grid of several."""
    ends = {min(rates), max(rates)} if len(rates) > 1 else set()
    return list(dict.fromkeys(r["arm"] for r in rows if "arm" in r and r["rate"] in ends))


def on_text(
    data: CorpusConfig, context: int, windows: int, run: Run
) -> tuple[Callable[[Arm, TrainingConfig], Problem], dict[str, str]]:
    """What arms train on a text, and what it is; a run goes on with the same text only.

    Args:
        context, windows: tokens of a window, and validation windows, evenly spaced.
    """
    text = corpora.load(data, run.check_stop)
    run.pin("text", text.sha256)

    def problem(arm: Arm, settings: TrainingConfig) -> Problem:
        return next_token.make_problem(
            arm.decoder, context, settings, windows, text, arm.mixer, arm.dtype
        )

    return problem, {"source": text.source, "sha256": text.sha256}


def trainings(comparison: Comparison) -> int:
    """Of an arm, over seeds and learning rates."""
    grid = len(comparison.rates) if len(comparison.rates) > 1 else 0
    return comparison.seeds + comparison.tuning_seeds * grid


def describe(
    arms: Sequence[Arm], settings: TrainingConfig, comparison: Comparison, context: int
) -> dict[str, str]:
    """What a dry run says about arms and trainings."""
    sizes = [parameters(arm) for arm in arms]
    each, tokens = trainings(comparison), settings.steps * settings.batch_size * context
    return {
        "arms": ", ".join(arm.name for arm in arms),
        "parameters": f"{min(sizes):,} to {max(sizes):,}",
        "trainings": f"{each} of each arm, {each * len(arms)} in all",
        "training": f"{tokens / 1e6:.2f}M tokens seen in each",
    }


def programs(
    arms: Sequence[Arm], settings: TrainingConfig, comparison: Comparison, context: int
) -> dict[str, Program]:
    """The training step of every arm on text."""
    batch, found = jax.ShapeDtypeStruct((settings.batch_size, context + 1), np.int32), {}
    for arm in arms:
        both = {"config": arm.decoder, "mixer": arm.mixer}
        problem = Problem(
            init=functools.partial(transformer.init, **both),
            loss=functools.partial(next_token.loss, **both, dtype=arm.dtype),
            batch=lambda step: None,
            evaluate=lambda params: {},
        )
        found[arm.name] = program(problem, settings, comparison, batch)
    return found


def program(
    problem: Problem, settings: TrainingConfig, comparison: Comparison, batch: Any
) -> Program:
    """The training step of an arm, of one seed.

    Args:
        batch: shapes of one.
    """
    state = jax.eval_shape(lambda: training.init_state(problem, settings))
    calls = settings.steps * trainings(comparison)
    return Program(training.make_step(problem, settings), (state, batch), (0,), calls)
