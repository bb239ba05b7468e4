"""All experiments of a scale, one process each, resumable, with a view of how far they are."""

import fnmatch
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments import catalog, processes
from experiments.harness import config as configs
from experiments.harness import run as runs
from experiments.harness.errors import ExperimentError, UsageError, nearest
from experiments.names import RESULTS
from experiments.processes import Event, Task


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
            if found == preset or found.startswith(f"{preset}_"):
                seconds = _published_seconds(name, found)
                jobs.append(Job(name, found, configs.digest(config), timed, seconds))
    if not jobs:
        catalog.get(names[0]).preset(preset)  # names the nearest one
    return sorted(jobs, key=lambda job: (job.timed, -_weight(job)))


def reproduce(jobs: Sequence[Job], root: Path, at_once: int) -> None:
    """Run what is not finished yet; what fails does not stop the rest.

    Raises:
        UsageError: `at_once` is below 1.
        ExperimentError: some failed.
        Interrupted: a signal.
    """
    processes.check_jobs(at_once)
    left = [job for job in jobs if not runs.done(root / job.name / job.preset, job.digest)]
    (root / "logs").mkdir(parents=True, exist_ok=True)
    board = Board(left, len(jobs) - len(left), at_once)
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
    label = f"{job.name} [{job.preset}]"
    log = root / "logs" / f"{job.name.replace('/', '-')}-{job.preset}.txt"
    return Task(label, [*start, "--workdir", str(root / job.name / job.preset)], log)


def _weight(job: Job) -> float:
    """For the order alone: what is slow at one scale is slow at another."""
    return job.expected or _published_seconds(job.name, "cpu") or 0.0


def _published_seconds(name: str, preset: str) -> float | None:
    path = RESULTS / name / preset / "run.json"
    return json.loads(path.read_text())["wall_seconds"] if path.exists() else None


class Board:
    """What runs, what it said last, and how long all will take: live, or as plain lines."""

    def __init__(self, left: Sequence[Job], done: int, at_once: int):
        self.done, self._total, self._at_once = done, done + len(left), at_once
        self._expected = {f"{job.name} [{job.preset}]": job.expected for job in left}
        self._running: dict[str, tuple[float, Path]] = {}
        self._lock = threading.Lock()
        self._live: Live | None = None

    def told(self, event: Event) -> None:
        """A task has begun or ended."""
        name = event.task.name
        with self._lock:
            if event.code is None:
                self._running[name] = (time.monotonic(), event.task.log)
                if self._live is None:
                    seconds = self._expected[name]
                    published = "" if seconds is None else f" (published: {_duration(seconds)})"
                    line = f"{name}: begins{published}, see {event.task.log}"
                    print(line, file=sys.stderr, flush=True)
                return
            del self._running[name]
            del self._expected[name]
            self.done += 1
            how = "done" if event.code == 0 else f"FAILED, exit status {event.code}"
            line = f"{name}: {how} after {_duration(event.seconds)}"
            if self._live is not None:
                self._live.console.print(line, markup=False)
            else:
                print(f"{line}; {self.state()}", file=sys.stderr, flush=True)

    def state(self) -> str:
        """How many runs are finished, and how long the others take at the published pace."""
        known = [seconds for seconds in self._expected.values() if seconds is not None]
        text = f"{self.done} of {self._total} runs finished"
        if not known or len(known) < len(self._expected):
            return text
        now = time.monotonic()
        spent = sum(
            min(now - began, self._expected[name] or 0.0)
            for name, (began, _) in self._running.items()
        )
        return f"{text}, about {_duration((sum(known) - spent) / self._at_once)} left"

    @contextmanager
    def shown(self) -> Iterator[None]:
        """A live view while the body runs, if there is a terminal."""
        if not sys.stderr.isatty():
            yield
            return
        with Live(
            console=Console(stderr=True), get_renderable=self._view, refresh_per_second=1
        ) as self._live:
            yield

    def _view(self) -> Table:
        with self._lock:
            table = Table(title=self.state(), title_justify="left", box=None, pad_edge=False)
            for column in ("running", "for", "says"):
                table.add_column(column, no_wrap=True)
            now = time.monotonic()
            for name, (began, log) in self._running.items():
                table.add_row(name.replace("[", "\\["), _duration(now - began), _last_line(log))
            return table


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - 1000, 0))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:70].replace("[", "\\[") if lines else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
