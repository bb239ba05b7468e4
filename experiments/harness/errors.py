"""Errors that the command line shows as one line on standard error."""

import difflib
import re
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OWN = "user_experiment_"  # what the modules of files outside the package are called


class ExperimentError(Exception):
    """Something the user can mend: names what, what was expected, what was got, the remedy."""

    exit_code = 1


class UsageError(ExperimentError):
    """The command line itself is wrong."""

    exit_code = 2


class DataError(ExperimentError):
    """A data set is missing or unreadable."""


class NonFiniteError(ExperimentError):
    """Training produced NaN or infinity."""


class CheckpointError(ExperimentError):
    """A checkpoint that cannot be written or restored.

    Attributes:
        path: its folder.
        cause: what is wrong.
        remedy: what to do about it.
    """

    def __init__(self, path: Any, cause: str, remedy: str = "mend the storage, then try again"):
        super().__init__(f"checkpoint {path}: {cause}; {remedy}")
        self.path, self.cause, self.remedy = path, cause, remedy


class Interrupted(ExperimentError):
    """A signal asked the run to stop; its work is saved and the same command resumes it."""

    exit_code = 75


class HostError(ExperimentError):
    """Another process of a distributed run is missing, dead or hung."""

    exit_code = 69


def nearest(given: str, known: Iterable[str], prefix: str = "") -> str:
    """What to add to a message about an unknown name: the nearest one, or nothing.

    Names that have parts (`model.d_model`, `ssm/delay`) are near by their last one too.
    """

    def likeness(name: str) -> float:
        pairs = [(given, name), tuple(re.split(r"[./]", one)[-1] for one in (given, name))]
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    best = max(known, key=likeness, default=None)
    return "" if best is None or likeness(best) < 0.6 else f"; nearest: {prefix}{best}"


def in_line(error: object) -> str:
    """What an error says, in one line."""
    return " ".join(line.strip() for line in str(error).splitlines())


def place(error: BaseException) -> str:
    """Where in a file outside the package an error arose, ` (mine.py, line 12)`, or nothing."""
    own = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").startswith(OWN)
    ]
    return f" ({Path(own[-1][0]).name}, line {own[-1][1]})" if own else ""
