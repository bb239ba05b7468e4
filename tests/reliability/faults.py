"""Faults inside one process: damaged files, signals and NaN at every step."""

import functools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import training
from experiments.harness.checkpoint import Checkpoints
from experiments.harness.errors import Interrupted, NonFiniteError
from experiments.harness.run import Run
from tests.experiments import test_training as small
from tests.reliability.subject import Outcome, rows

SETTINGS = replace(small.SETTINGS, steps=50, checkpoint_every=7, eval_every=20)


def _state(step: int) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(step), 3)
    return {
        "a": jax.random.normal(keys[0], (64, 48)),
        "b": jax.random.normal(keys[1], (33,)).astype(jnp.bfloat16),
        "c": jax.random.bits(keys[2], (8, 8)),
        "d": jnp.int32(step),
    }


def _equal(one: Any, other: Any) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def damages(data: bytes, offsets: int, generator: random.Random) -> list[tuple[str, bytes | None]]:
    """Names and what becomes of a file: flipped bits, cut ends, zeros and nothing at all."""
    found: list[tuple[str, bytes | None]] = [("delete", None)]
    for _ in range(offsets if data else 0):
        at, bit = generator.randrange(len(data)), generator.randrange(8)
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        found.append((f"flip bit {bit} of byte {at}", bytes(flipped)))
        found.append((f"truncate to {at}", data[:at]))
        zeros = bytearray(data)
        end = min(len(data), at + generator.choice((1, 16, 4096)))
        zeros[at:end] = bytes(end - at)
        if zeros != data:
            found.append((f"zero {at} to {end}", bytes(zeros)))
    return found


def corruptions(folder: Path, offsets: int, seed: int = 0) -> Outcome:
    """Every file of the newest checkpoint, damaged in all ways; the older one has to come back."""
    outcome = Outcome("damaged checkpoint", "found, set aside, the older step restored bit-equal")
    generator = random.Random(seed)
    manager = Checkpoints(folder, 2, "hash")
    for step in (1, 2):
        manager.save(step, _state(step))
        manager.finish(step, _state(step))
    newest = folder / "checkpoints" / "2"
    older = _state(1)
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    for path in files:
        data = path.read_bytes()
        for name, changed in damages(data, offsets, generator):
            path.unlink() if changed is None else path.write_bytes(changed)
            found = manager.restore(older)
            good = found is not None and found[1] == 1 and _equal(found[0], older)
            outcome.check(good, f"{path.relative_to(newest)}: {name}")
            aside = folder / "quarantine" / "2"
            if aside.exists():
                aside.rename(newest)
                aside.with_suffix(".txt").unlink()
            path.write_bytes(data)
    found = manager.restore(older)
    outcome.check(found is not None and found[1] == 2, "the mended checkpoint")
    manager.close()
    outcome.notes = f"{len(files)} files"
    return outcome


def signals(folder: Path, steps: list[int]) -> Outcome:
    """SIGTERM during a step, then the same run again."""
    outcome = Outcome("SIGTERM", "saved at that step; the resumed run equals the whole one")
    whole = small.run(folder / "whole", SETTINGS)
    for step in steps:
        directory = folder / str(step)
        try:
            small.run(directory, SETTINGS, stop=step)
            stopped = step == SETTINGS.steps - 1  # nothing was left to be done
        except Interrupted:
            stopped = (directory / "checkpoints" / str(step + 1)).is_dir()
        good = stopped and _equal(small.run(directory, SETTINGS), whole)
        outcome.check(good and rows(directory) == rows(folder / "whole"), f"step {step}")
    return outcome


def _poisoned(place: str, at: int) -> tuple[training.Problem, training.How]:
    """The small problem, with a NaN that comes about in step `at`."""
    problem = small.problem(SETTINGS, poison=at if place == "data" else None)
    problem = replace(problem, batch=_marked(problem.batch, at))

    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        value, aux = problem.loss(params, batch, key)
        if place == "gradients":  # of a loss that is finite itself
            value += jnp.sqrt(jnp.where(batch["marked"][0] > 0, 0.0 * params["w"].sum(), 1.0)) - 1
        return value, aux

    def make_step(made: training.Problem, config: training.TrainingConfig) -> training.Step:
        plain = training.make_step(made, config)

        def step(state: training.TrainState, batch: Any, seed: Any = None) -> Any:
            state, metrics = plain(state, batch, seed)
            spoil = functools.partial(_spoiled, batch["marked"][0] > 0)
            if place == "parameters":
                state = state.replace(params=jax.tree.map(spoil, state.params))
            elif place == "average":
                state = state.replace(ema=jax.tree.map(spoil, state.ema))
            elif place == "optimizer":
                state = state.replace(optimizer=jax.tree.map(spoil, state.optimizer))
            return state, metrics

        return step

    return replace(problem, loss=loss), training.How(training.init_state, make_step)


def _marked(batch: Callable[[int], Any], at: int) -> Callable[[int], Any]:
    return lambda step: {**batch(step), "marked": np.full(8, step == at, np.float32)}


def _spoiled(when: jax.Array, leaf: jax.Array) -> jax.Array:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return jnp.where(when, jnp.nan, leaf)


def not_finite(folder: Path, steps: list[int]) -> Outcome:
    """NaN in data, gradients, parameters, moments and averages at each of the steps."""
    outcome = Outcome("NaN", "run ends by name; no checkpoint holds NaN; a clean rerun is whole")
    whole = small.run(folder / "whole", SETTINGS)
    for place in ("data", "gradients", "parameters", "optimizer", "average"):
        for at in steps:
            directory = folder / f"{place}{at}"
            problem, how = _poisoned(place, at)
            raised = False
            try:
                with Run("test", "quick", small.Config(SETTINGS), directory) as current:
                    training.train(problem, SETTINGS, current, how)
            except NonFiniteError as error:
                raised = "finite" in str(error)
            manager = Checkpoints(directory, 2, _hash(directory), read_only=True)
            found = manager.restore(whole)
            manager.close()
            finite = found is None or all(
                np.isfinite(np.asarray(leaf, np.float64)).all()
                for leaf in jax.tree.leaves(found[0])
            )
            good = raised and finite and (found is None or found[1] <= at)
            outcome.check(good and _equal(small.run(directory, SETTINGS), whole), f"{place}, {at}")
    return outcome


def _hash(directory: Path) -> str:
    from experiments.harness.recorded import load

    return load(directory).data["config_hash"]


def writers(folder: Path, count: int) -> Outcome:
    """Processes that begin the same run at once."""
    from tests.reliability import subject

    outcome = Outcome("two writers", "one goes on, the others end in one line, nothing is mixed")
    every = [subject.start(folder / "run", folder / f"{i}.txt") for i in range(count)]
    for process in every:
        process.join()
    refused = [i for i, process in enumerate(every) if process.exitcode == 1]
    for i in refused:
        text = (folder / f"{i}.txt").read_text()
        outcome.check("in use by" in text and text.count("\n") == 1, text[-300:])
    winners = [i for i, process in enumerate(every) if process.exitcode == 0]
    outcome.check(len(winners) >= 1 and len(winners) + len(refused) == count, f"{winners}")
    subject.run(folder / "alone", folder / "alone.txt")
    outcome.check(subject.same(folder / "alone", folder / "run"), "weights of the winner")
    return outcome
