"""A small language model trained by the command line, in processes that may be killed."""

import functools
import multiprocessing
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODEL = "--model.d_model 32 --model.n_layers 2 --model.n_heads 2 --model.context 32"
TRAINING = "--training.checkpoint_every 4 --training.ema 0.9"
REST = "--training.eval_every 50 --training.log_every 1 --windows 8 --new_bytes 8"
COMMAND = f"run attention/language_model {MODEL} {TRAINING} {REST} --model.n_kv_heads 1".split()
STEPS = 200  # of a training; tests take fewer


@dataclass
class Outcome:
    """What a campaign found.

    Attributes:
        name: of the campaign.
        must: what has to hold in every case.
        cases: how many there were.
        wrong: a line for every case in which it did not hold.
        notes: further counts.
    """

    name: str
    must: str
    cases: int = 0
    wrong: list[str] = field(default_factory=list)
    notes: str = ""

    def check(self, good: bool, text: str) -> None:
        """Count a case, and note it if it is not good."""
        self.cases += 1
        if not good:
            self.wrong.append(text)


@functools.cache
def context() -> Any:
    """Processes that begin with everything imported."""
    made = multiprocessing.get_context("forkserver")
    modules = ["experiments.commands", "experiments.attention.language_model", "tensorboardX"]
    made.set_forkserver_preload(modules)
    return made


def work(directory: str, errors: str, blind: bool, steps: int) -> None:
    """One run, with its errors in a file; a blind one takes all disks for large ones."""
    from experiments.__main__ import main, quieten

    quieten()
    if blind:
        usage = shutil.disk_usage("/")._replace(free=2**40)
        shutil.disk_usage = lambda path: usage
    sys.stderr = open(errors, "a", buffering=1)  # noqa: SIM115
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    os._exit(main([*COMMAND, "--training.steps", str(steps), "--workdir", directory]))


def start(directory: Path, errors: Path, *, blind: bool = False) -> Any:
    """A process that runs or resumes; `blind` as of `work`."""
    process = context().Process(target=work, args=(str(directory), str(errors), blind, STEPS))
    process.start()
    return process


def run(directory: Path, errors: Path, *, blind: bool = False) -> int:
    """To the end; the exit status."""
    process = start(directory, errors, blind=blind)
    process.join()
    return process.exitcode


def timed(directory: Path, errors: Path) -> tuple[float, float]:
    """Seconds of a run to its first row and to its end."""
    began, rows = time.monotonic(), directory / "metrics.jsonl"
    process = start(directory, errors)
    while process.is_alive() and not (rows.exists() and rows.stat().st_size):
        time.sleep(0.02)
    first = time.monotonic() - began
    process.join()
    return first, time.monotonic() - began


def arrays(directory: Path) -> list[bytes]:
    """Weights, optimizer and averages of the last checkpoint."""
    import jax
    import orbax.checkpoint as ocp

    step = directory / "checkpoints" / str(STEPS)
    return [leaf.tobytes() for leaf in jax.tree.leaves(ocp.PyTreeCheckpointer().restore(step))]


def rows(directory: Path) -> list[dict[str, Any]]:
    """What was recorded, without timings."""
    from experiments.harness.recorded import load

    return [{k: v for k, v in r.items() if k != "steps_per_second"} for r in load(directory).rows]


def same(one: Path, other: Path) -> bool:
    """Whether two finished runs agree bit for bit."""
    return rows(one) == rows(other) and arrays(one) == arrays(other)
