"""One run: its directory while it goes on, its signals."""

import contextlib
import json
import os
import platform
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock

from experiments.harness import config as configs
from experiments.harness import hosts, machine, manifest, recorded
from experiments.harness.errors import ExperimentError, Interrupted, UsageError
from experiments.harness.recorded import LOCK, Record
from experiments.harness.sharding import DEFAULT, Layout
from experiments.harness.tracking import Tracker


class Part:
    """A piece of a run with metrics and checkpoints of its own, for `training.train`.

    Attributes:
        directory: parts/<name> below that of the run.
        config: that of the run.
        tracker: its rows.
    """

    def __init__(self, run: "Run", name: str):
        self._run, self.config = run, run.config
        self.directory = run.directory / "parts" / name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.tracker = Tracker(self.directory)

    @property
    def layout(self) -> Layout:
        """That of the run."""
        return self._run.layout

    def stopping(self) -> bool:
        """As `Run.stopping`."""
        return self._run.stopping()

    def check_stop(self) -> None:
        """As `Run.check_stop`."""
        self._run.check_stop()

    def remove(self) -> None:
        """Delete its files; what is to be kept stands in the rows of the run."""
        self.tracker.close()
        if hosts.first():
            shutil.rmtree(self.directory)


class Run:
    """A run in progress. Use as a context manager.

    A first SIGTERM, SIGINT or SIGHUP sets `stop_requested`; a second one aborts at once. Of several
    hosts the first one writes, and a signal to any of them reaches all. A second run of the same
    directory is refused for as long as the first one goes on.

    Attributes:
        directory: where everything is written.
        tracker: rows of metrics.
        resumed: whether the directory already held work of the same configuration.
        finished: whether that work had come to its end.
        divided: whether anything has asked for the layout of devices.

    `overrides` are what the command line changed, for the command that run.json names.
    """

    def __init__(
        self,
        experiment: str,
        preset: str,
        config: Any,
        directory: Path,
        *,
        wandb: bool = False,
        layout: Layout = DEFAULT,
        overrides: Sequence[str] = (),
    ):
        self._overrides, self._handlers = overrides, {}
        self.experiment, self.preset, self.config = experiment, preset, config
        self.directory, self._layout = directory, layout
        self.stop_requested = self.divided = False
        self._lock = filelock.FileLock(directory / LOCK, timeout=0)
        if hosts.several():
            digest = configs.digest(config)
            hosts.agree(experiment=experiment, configuration=digest, code=hosts.code())
        self.data = hosts.told(self._open)
        self.resumed = bool(self.data)
        self.finished = self.data.get("status") == "done"
        self._began = time.monotonic()
        if not self.finished:
            self._write(status="running")
        try:
            self.tracker = Tracker(directory, wandb=wandb, config=configs.to_dict(config))
        except UsageError:
            self._end("failed", withdrawn=not self.resumed)
            raise

    @property
    def layout(self) -> Layout:
        """How devices are to be used."""
        self.divided = True
        return self._layout

    def stopping(self) -> bool:
        """Whether to save and stop now. Of several hosts all have to ask, and stop together."""
        if time.monotonic() - self._began > 60.0:
            self._write()  # the time so far, which a kill would lose
        if hosts.several() and not self.stop_requested:
            self.stop_requested = hosts.preempted()
        return self.stop_requested

    def check_stop(self) -> None:
        """Raise `Interrupted` if a signal asked to stop and all work so far is recorded."""
        if self.stopping():
            raise Interrupted(
                f"stopped by a signal; work is saved in {self.directory}; "
                "the same command resumes it"
            )

    def part(self, name: str) -> Part:
        """A piece of the run, begun or found again."""
        return Part(self, name)

    def pin(self, name: str, value: str) -> None:
        """Remember what the run works on; refuse to go on with something else.

        Raises:
            ExperimentError: another value was pinned when the run began.
        """
        recorded.check_pinned(self.directory, self.data, name, value)
        self._write(pinned={**self.data.get("pinned", {}), name: value})

    def as_begun(self, name: str, value: str) -> bool:
        """Whether something is as it was when the run began; unlike `pin` this refuses nothing."""
        known = self.data.get("begun", {})
        if name not in known and not self.finished:
            self._write(begun={**known, name: value})
        return known.get(name, value) == value

    def finish(self, result: dict[str, Any] | None) -> Record:
        """Write the result.

        Raises:
            ExperimentError: it is not of plain JSON types, numbers and arrays.
        """
        try:
            result = manifest.plain(result)
            plain = result is None or isinstance(result, dict)
        except (TypeError, ValueError, RecursionError):
            plain = False
        if not plain:
            raise ExperimentError(
                f"{self.experiment}: expected main to return a dict of plain JSON types, got "
                f"{str(result)[:80]}"
            )
        self._write(status="done", result=result)
        return self.record()

    def record(self) -> Record:
        """What is known so far, as it would be read from disk."""
        return Record(self.directory, json.loads(json.dumps(self.data)), self.tracker.rows())

    def __enter__(self):
        numbers = [signal.SIGINT]
        if not hosts.several():  # else the runtime's own handler tells all hosts
            numbers += [signal.SIGTERM, *machine.hangup()]
        if threading.current_thread() is threading.main_thread():  # others cannot
            self._handlers = {one: signal.signal(one, self._handle) for one in numbers}
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self.tracker.close()
        if kind is not None:
            stopped = issubclass(kind, Interrupted | KeyboardInterrupt | BrokenPipeError)
            named = issubclass(kind, ExperimentError | ValueError | TypeError)
            refused = named and not (stopped or self.resumed)
            with contextlib.suppress(OSError):  # what ended the run is to be told, not this
                self._end("interrupted" if stopped else "failed", withdrawn=refused)
        self._lock.release()

    def _end(self, status: str, withdrawn: bool) -> None:
        """Record how it ended; of a run that was refused before it had anything, leave nothing."""
        found = {entry.name for entry in self.directory.iterdir()}
        if not withdrawn or found - {"run.json", "tensorboard", LOCK}:
            self._write(status=status)
        elif hosts.first():
            (self.directory / "run.json").unlink()
            shutil.rmtree(self.directory / "tensorboard", ignore_errors=True)
            (self.directory / LOCK).unlink()
            self._lock.release()
            for path in (self.directory, *self.directory.absolute().parents):
                if path == self._found or any(path.iterdir()):
                    break
                path.rmdir()

    def _handle(self, number: int, _: Any) -> None:
        if hosts.several():
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if self.stop_requested:
            os._exit(128 + number)
        self.stop_requested = True
        print("stopping after this step or at the end; once more to abort", file=sys.stderr)

    def _open(self) -> dict[str, Any]:
        """Make or check the directory: foreign contents and other configurations are refused."""
        try:
            recorded.check_free(self.directory)
            self._found = recorded.nearest(self.directory)
            self.directory.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        except OSError as error:
            raise recorded.not_writable(self.directory, error) from None
        try:
            data = recorded.begun(self.directory)
            if data:
                recorded.check_same(self.directory, data, self.experiment, self.config)
        except ExperimentError:
            self._lock.release()
            raise
        return data

    def _take_lock(self) -> None:
        """The system gives it back when the process ends, however it does."""
        path = self.directory / LOCK
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise ExperimentError(
                f"{self.directory}: in use by {path.read_text() or 'another process'}; wait for "
                "its end, or give another --workdir"
            ) from None
        path.write_text(f"process {os.getpid()} of {platform.node()}")

    def _write(self, **changes: Any) -> None:
        now = time.monotonic()
        wall = self.data.get("wall_seconds", 0.0) + (now - self._began)
        self._began = now
        self.data = {
            "experiment": self.experiment,
            "preset": self.preset,
            "config": configs.to_dict(self.config),
            "config_hash": configs.digest(self.config),
            "seed": configs.seed(self.config),
            "command": command(self.experiment, self.preset, self._overrides),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **self.data,
            **machine.environment(),
            "wall_seconds": round(wall, 3),
            "peak_memory_bytes": machine.peak_memory(),
            **changes,
        }
        if not hosts.first():
            return
        text = manifest.readable(self.data)
        manifest.replace(self.directory / "run.json", text.encode())


def command(experiment: str, preset: str, overrides: Sequence[str] = ()) -> str:
    """The command that reproduces a run."""
    return shlex.join(
        ["python", "-m", "experiments", "run", experiment, "--preset", preset, *overrides]
    )


def slug(name: str) -> Path:
    """A relative path for an experiment's name, or for its file wherever that lies."""
    parts = [part for part in Path(name).with_suffix("").parts if part not in ("..", "/")]
    return Path(*parts)
