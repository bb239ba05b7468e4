"""All experiments of a scale, one process each, resumable, with a view of how far they are."""

import fnmatch
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments import catalog, processes
from experiments.board import Board
from experiments.harness import config as configs
from experiments.harness import recorded
from experiments.harness.errors import ExperimentError, UsageError, nearest
from experiments.names import RESULTS
from experiments.processes import Task


@dataclass(frozen=True)
class Job:
    """One run to make.

    Attributes:
        name, preset: of the experiment.
        digest: of its configuration.
        timed: it measures times, so nothing may run beside it.
        expected: seconds that the published run took, if there is one.
    """

    name: str
    preset: str
    digest: str
    timed: bool
    expected: float | None

    @property
    def label(self) -> str:
        """How it is called in logs."""
        return f"{self.name} [{self.preset}]"


def plan(preset: str, patterns: Sequence[str]) -> list[Job]:
    """Presets of a scale ("cpu" and all "cpu_..."), the longest first, those with clocks last.

    Raises:
        UsageError: a pattern matches nothing, or nothing has the preset.
    """
    names = catalog.names()
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            near = nearest(pattern, names)
            raise UsageError(
                f"--only: {pattern!r} matches no experiment{near} (all: kexue-jax list)"
            )
    jobs = []
    for name in names:
        if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            continue
        experiment = catalog.get(name)
        timed = bool(getattr(experiment.module, "TIMED", False))
        for found, config in experiment.module.PRESETS.items():
            if of_scale(found, preset):
                seconds = _published_seconds(name, found)
                jobs.append(Job(name, found, configs.digest(config), timed, seconds))
    if not jobs:
        catalog.get(names[0]).preset(preset)  # names the nearest one
    return sorted(jobs, key=lambda job: (job.timed, -_weight(job)))


def of_scale(found: str, preset: str) -> bool:
    """Whether a preset belongs to a scale: "cpu" and all "cpu_..."."""
    return found == preset or found.startswith(f"{preset}_")


def made(record: recorded.Record, root: Path, preset: str) -> bool:
    """Whether a run below `root` is one that `reproduce` makes at a scale."""
    name, found = record.data["experiment"], record.data["preset"]
    return of_scale(found, preset) and record.directory == root / name / found


def reproduce(jobs: Sequence[Job], root: Path, at_once: int) -> None:
    """Run what is not finished yet; what fails does not stop the rest.

    Raises:
        UsageError: `at_once` is below 1.
        ExperimentError: some failed.
        Interrupted: a signal.
    """
    processes.check_jobs(at_once)
    left = [job for job in jobs if not recorded.done(root / job.name / job.preset, job.digest)]
    (root / "logs").mkdir(parents=True, exist_ok=True)
    board = Board({job.label: job.expected for job in left}, len(jobs) - len(left), at_once)
    print(f"{len(jobs)} runs, {board.done} of them finished; {root}", file=sys.stderr, flush=True)
    failed = []
    with board.shown():
        for timed in (False, True):
            tasks = [_task(job, root) for job in left if job.timed == timed]
            failed += processes.run(tasks, 1 if timed else at_once, board.told, root)
    if failed:
        raise ExperimentError(
            f"failed: {'; '.join(failed)}; see {root / 'logs'}; the same command goes on"
        )


def _task(job: Job, root: Path) -> Task:
    # -P: folders of results in the working directory have the names of our packages.
    start = [sys.executable, "-P", "-m", "experiments", "run", job.name, "--preset", job.preset]
    log = root / "logs" / f"{job.name.replace('/', '-')}-{job.preset}.txt"
    return Task(job.label, [*start, "--workdir", str(root / job.name / job.preset)], log)


def _weight(job: Job) -> float:
    """For the order alone: what is slow at one scale is slow at another."""
    return job.expected or _published_seconds(job.name, "cpu") or 0.0


def _published_seconds(name: str, preset: str) -> float | None:
    path = RESULTS / name / preset / "run.json"
    return json.loads(path.read_text())["wall_seconds"] if path.exists() else None
