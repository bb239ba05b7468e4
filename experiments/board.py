"""The view of runs side by side: which are under way, what they say, how long the rest takes."""

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.processes import Event


class Board:
    """What runs, what it said last, and how long all will take: live, or as plain lines.

    Args:
        expected: the seconds of every task that is to run, by its name, where they are known.
        done: how many need not run.
        at_once: how many run side by side.
    """

    def __init__(self, expected: Mapping[str, float | None], done: int, at_once: int):
        self.done, self._total, self._at_once = done, done + len(expected), at_once
        self._expected = dict(expected)
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
            self.done += event.code == 0  # not what failed, or was stopped
            line = f"{name}: {event.outcome} after {_duration(event.seconds)}"
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
