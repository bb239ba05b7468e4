"""Where numbers go: metrics.jsonl (the source of truth), TensorBoard, W&B, the terminal."""

import json
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.harness import hosts, manifest
from experiments.harness.errors import UsageError


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; a line torn by a killed process is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


class Tracker:
    """Appends rows of metrics; on resume, drops those after the restored step.

    Of several hosts the first one writes; the others keep its rows in memory.

    Args:
        directory: the run's directory.
        wandb: also log to Weights & Biases (an optional dependency).
        config: configuration shown there.
    """

    def __init__(self, directory: Path, *, wandb: bool = False, config: Any = None):
        self.path = directory / "metrics.jsonl"
        self._board: Any = None
        self._wandb: Any = None
        self._kept = hosts.told(lambda: read_rows(self.path)) if hosts.several() else []
        if not hosts.first():
            return
        self._wandb = _start_wandb(directory, config) if wandb else None
        self._board = directory / "tensorboard"
        self._on_board(self._open)

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far."""
        return read_rows(self.path) if hosts.first() else [*self._kept]

    def rewind(self, step: int) -> None:
        """Forget rows of steps after `step` (they will be run again)."""
        kept = [row for row in self.rows() if row.get("step", 0) <= step]
        if not hosts.first():
            self._kept = kept
            return
        text = "".join(json.dumps(row) + "\n" for row in kept)
        manifest.replace(self.path, text.encode())

    def log(self, step: int, **values: Any) -> None:
        """Record one row, behind a line that a killed process may have torn."""
        values = manifest.plain(values)
        line = json.dumps({"step": step, **values})
        if not hosts.first():
            self._kept.append(json.loads(line))
            return
        with manifest.named(self.path), self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                torn = file.read(1) != b"\n"
                file.write(b"\n" * torn)
            file.write(f"{line}\n".encode())
        scalars = {k: v for k, v in values.items() if isinstance(v, int | float)}
        for name, value in scalars.items():
            self._on_board(lambda board, *one: board.add_scalar(*one), name, value, step)
        if self._wandb is not None:
            self._wandb.log(scalars, step=step)

    def close(self) -> None:
        """Flush everything."""
        self._on_board(lambda board: board.close())
        if self._wandb is not None:
            self._wandb.finish()

    def _open(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(folder), write_to_disk=True)

    def _on_board(self, function: Callable[..., None], *arguments: Any) -> None:
        """The board shows what metrics.jsonl holds: a run goes on without it."""
        if self._board is None:
            return
        try:
            function(self._board, *arguments)
        except OSError as error:
            folder = self.path.parent / "tensorboard"
            print(f"note: {folder}: {error.strerror or error}; not written on", file=sys.stderr)
            self._board = None


class Progress:
    """One live line on a terminal, plain lines every few seconds elsewhere, of the first host.

    Args:
        total: number of steps.
        unit: what is counted.
        start: steps done before.
    """

    def __init__(self, total: int, unit: str = "step", start: int = 0, every: float = 5.0):
        self._total, self._unit, self._start, self._every = total, unit, start, every
        self._began: float | None = None
        self._last = time.monotonic()
        self._marked = (start, self._last)
        self._live = (
            _live_bar(total, unit, start) if sys.stderr.isatty() and hosts.first() else None
        )

    def update(self, done: int, text: str = "") -> None:
        """Show that `done` steps are done."""
        if self._live is not None:
            bar, task = self._live
            bar.update(task, completed=done, text=text)
            return
        now = time.monotonic()
        if self._began is None:  # not the first one's time, which compiles
            self._start, self._began = done, now
        if not hosts.first() or (now - self._last < self._every and done < self._total):
            return
        self._last = now
        line = f"{self._unit} {done}/{self._total}  {text}"
        if done > self._start:
            rate = (done - self._start) / max(now - self._began, 1e-9)
            line += f"  {rate:.2f} {self._unit}s/s  {(self._total - done) / rate:.0f} s left"
        print(line, file=sys.stderr, flush=True)

    def rate(self, done: int) -> float:
        """Steps per second since the last call."""
        now = time.monotonic()
        (before, since), self._marked = self._marked, (done, now)
        return (done - before) / max(now - since, 1e-9)

    def __enter__(self):
        if self._live is not None:
            self._live[0].start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live is not None:
            self._live[0].stop()


def _live_bar(total: int, unit: str, start: int):
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.TextColumn(unit),
        progress.MofNCompleteColumn(),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[text]}"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    return bar, bar.add_task(unit, total=total, completed=start, text="")


def _start_wandb(directory: Path, config: Any):
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(
            "--wandb: the package wandb is not installed; pip install -e '.[wandb]'"
        ) from None
    kept = directory / "wandb" / "run-id"  # a resumed run goes on there as well
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        manifest.replace(kept, uuid.uuid4().hex[:8].encode())
    return wandb.init(
        project="kexue-jax",
        dir=str(directory),
        config=config,
        id=kept.read_text(),
        resume="allow",
    )
