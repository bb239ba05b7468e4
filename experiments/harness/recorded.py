"""What a run's directory holds: read back, found, and checked before it is used."""

import errno
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from experiments.harness import config as configs
from experiments.harness.errors import ExperimentError
from experiments.harness.tracking import read_rows

LOCK = "run.lock"
SWEEP = "sweep.json"  # in a folder whose sub-folders are the runs of a sweep


@dataclass(frozen=True)
class Record:
    """What a run wrote, as figures, tables and claims read it.

    Attributes:
        directory: where it lies.
        data: the contents of run.json: experiment, preset, config, result, status, ...
        rows: the rows of metrics.jsonl.
    """

    directory: Path
    data: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def result(self) -> dict[str, Any]:
        """What `main` returned."""
        return self.data.get("result") or {}

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as plain types."""
        return self.data["config"]


class Contents(msgspec.Struct):
    """What has to stand in run.json, among other things."""

    experiment: str
    preset: str
    config: dict[str, Any]
    status: str
    result: dict[str, Any] | None = None


def load(directory: Path) -> Record:
    """Read a run's directory.

    Raises:
        ExperimentError: there is no readable run.json.
    """
    path = directory / "run.json"
    try:
        data = json.loads(path.read_text())
        msgspec.convert(data, Contents)
    except (FileNotFoundError, NotADirectoryError):
        found = "found none" if directory.is_dir() else "there is no such folder"
        raise ExperimentError(
            f"{directory}: expected a run directory with run.json, {found}"
        ) from None
    except (ValueError, RecursionError, OSError) as error:
        raise ExperimentError(f"{path}: expected readable JSON of a run, got: {error}") from None
    return Record(directory, data, read_rows(directory / "metrics.jsonl"))


def begun(directory: Path) -> dict[str, Any]:
    """The contents of run.json, none where no run has begun."""
    return load(directory).data if (directory / "run.json").exists() else {}


def done(directory: Path, digest: str | None = None) -> bool:
    """Whether it holds a run that came to its end, of this configuration if a digest is given."""
    data = begun(directory)
    return data.get("status") == "done" and digest in (None, data.get("config_hash"))


def state(data: dict[str, Any]) -> str:
    """What a run would do where that is `begun`, in a word or two."""
    return {None: "new", "done": "complete"}.get(data.get("status"), "resumes")


def of_sweep(directory: Path) -> bool:
    """Whether a run is one of a sweep's."""
    return (directory.absolute().parent / SWEEP).exists()


def check_free(directory: Path, record: str = "run.json") -> None:
    """Refuse a directory that holds other things than a run, or cannot be written.

    Args:
        record: the file that a run has there, or a sweep.

    Raises:
        ExperimentError: naming the directory.
    """
    above = nearest(directory)
    try:
        found = {entry.name for entry in directory.iterdir()} if above == directory else set()
        if not (above.is_dir() and os.access(above, os.W_OK)):
            code = errno.EACCES if above.is_dir() else errno.ENOTDIR
            raise OSError(code, os.strerror(code))
    except OSError as error:
        raise not_writable(directory, error) from None
    if record not in found and found - {LOCK, f"{record}.tmp"}:
        owner = "a sweep's" if record == SWEEP else "a run's"
        raise ExperimentError(
            f"{directory}: expected an empty directory or {owner}, got one with other files; give "
            "another --workdir"
        )


def nearest(directory: Path) -> Path:
    """The directory itself if it exists, else the lowest one above it that does."""
    return next(path for path in (directory, *directory.absolute().parents) if path.exists())


def not_writable(directory: Path, error: OSError) -> ExperimentError:
    """The error that tells of a directory that the system refuses."""
    return ExperimentError(
        f"{directory}: expected a writable directory: {error.strerror}; give another --workdir"
    )


def check_pinned(directory: Path, data: dict[str, Any], name: str, value: str) -> None:
    """Refuse to go on with a run in a directory that works on something else.

    Raises:
        ExperimentError: another value was pinned when the run began.
    """
    if data.get("pinned", {}).get(name, value) != value:
        raise ExperimentError(
            f"{directory}: {name} has changed since the run began; give another --workdir"
        )


def check_same(directory: Path, data: dict[str, Any], experiment: str, config: Any) -> None:
    """Refuse to go on with what a directory holds, if that is another run.

    Raises:
        ExperimentError: naming what differs.
    """
    lines = configs.difference(data.get("config", {}), configs.to_dict(config))
    if data.get("experiment") != experiment:
        lines.insert(0, f"experiment: {data.get('experiment')} -> {experiment}")
    if lines:
        raise ExperimentError(
            f"{directory}: holds a run of another configuration ({'; '.join(lines)}); "
            "give another --workdir"
        )


def find(root: Path) -> list[Record]:
    """All runs below a directory, sorted by path; what cannot be read is told and left out."""
    found = []
    for path in sorted(root.rglob("run.json")):
        try:
            found.append(load(path.parent))
        except ExperimentError as error:
            print(f"note: left out: {error}", file=sys.stderr)
    return found
