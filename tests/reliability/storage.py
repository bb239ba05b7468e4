"""Storage that fills up, turns read-only or vanishes: on a small file system of its own.

Mounting needs privileges; without them a campaign has no cases, and says so.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.reliability import subject
from tests.reliability.subject import Outcome


@contextlib.contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[bool]:
    """A file system in memory; whether it could be had."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    good = _call(command)
    try:
        yield good
    finally:
        if good:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def _call(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:  # there is no such program
        return False


def remount(folder: Path, option: str) -> None:
    """Change a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def possible(folder: Path) -> bool:
    """Whether file systems can be mounted here."""
    with mounted(folder / "probe", 100) as good:
        return good


def _lines(path: Path) -> list[str]:
    """Errors but progress."""
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines() if not line.startswith(("step ", "note:"))]


def _told(errors: Path) -> bool:
    """Whether a failure ended in one line of ours, without a traceback."""
    lines = _lines(errors)
    return bool(lines) and lines[-1].startswith("kexue-jax: ") and "Traceback" not in str(lines)


def full(folder: Path, points: int) -> Outcome:
    """Disks of growing sizes; then with room, the same command.

    Every other run does not see how little room there is before it writes.
    """
    outcome = Outcome("disk full", "one clear line; with room the run ends as the whole one")
    if not possible(folder):
        outcome.notes = "not run: mounting is not permitted"
        return outcome
    subject.run(folder / "whole", folder / "whole.txt")
    needed = 2 * sum(f.stat().st_size for f in (folder / "whole").rglob("*") if f.is_file()) // 1024
    failed = 0
    for point in range(points):
        disk, errors = folder / f"disk{point}", folder / f"{point}.txt"
        with mounted(disk, max(4, needed * (point + 1) // points)):
            code = subject.run(disk / "run", errors, blind=bool(point % 2))
            told = code == 0 or _told(errors)
            failed += code != 0
            remount(disk, f"size={4 * needed}k")
            again = subject.run(disk / "run", folder / f"{point} again.txt")
            good = told and again == 0 and subject.same(folder / "whole", disk / "run")
            outcome.check(good, f"{point}: {code}, {again}, {_lines(errors)[-2:]}")
    outcome.notes = f"{failed} ended early, disks up to {needed} kB"
    return outcome


def broken(folder: Path, times: int) -> Outcome:
    """A directory that turns read-only, or goes away, while a run writes to it."""
    outcome = Outcome(
        "read-only and vanishing storage", "one clear line; when it is back the run ends as whole"
    )
    possibly = possible(folder)
    subject.run(folder / "warm", folder / "warm.txt")
    first, length = subject.timed(folder / "whole", folder / "whole.txt")
    for kind in ("vanishing", "read-only"):
        if kind == "read-only" and not possibly:
            outcome.notes = "read-only not run: mounting is not permitted"
            continue
        for index in range(times):
            disk, errors = folder / f"{kind}{index}", folder / f"{kind}{index}.txt"
            process = subject.start(disk / "run", errors)
            time.sleep(first + 0.8 * (length - first) * index / times)
            _break(disk, kind)
            process.join()
            code = process.exitcode
            refused = kind == "vanishing" or subject.run(disk / "run", errors) == 1
            told = refused and (code == 0 or _told(errors))
            _mend(disk, kind)
            again = subject.run(disk / "run", folder / f"{kind}{index} again.txt")
            good = told and again == 0 and subject.same(folder / "whole", disk / "run")
            outcome.check(good, f"{kind} {index}: {code}, {again}, {_lines(errors)[-2:]}")
    return outcome


def _break(disk: Path, kind: str) -> None:
    """Move it away, or lay an empty file system over it that cannot be written to."""
    if kind == "vanishing":
        disk.rename(disk.with_name(f"{disk.name} gone"))
    else:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)], check=True)


def _mend(disk: Path, kind: str) -> None:
    gone = disk.with_name(f"{disk.name} gone")
    if kind == "read-only":
        subprocess.run(["umount", "-l", str(disk)], check=True)
    elif gone.exists():
        if disk.exists():  # what was written meanwhile, on nothing
            disk.rename(disk.with_name(f"{disk.name} meanwhile"))
        gone.rename(disk)
