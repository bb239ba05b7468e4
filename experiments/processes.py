"""Commands side by side on this machine: each with cores and a log of its own, stopped together."""

import os
import queue
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.harness import machine
from experiments.harness.errors import Interrupted, UsageError


@dataclass(frozen=True)
class Task:
    """A command to run to its end.

    Attributes:
        name: shown.
        command: with its arguments.
        log: file for what it prints, appended to.
    """

    name: str
    command: list[str]
    log: Path


@dataclass(frozen=True)
class Event:
    """A task has begun (`code` is None) or ended."""

    task: Task
    code: int | None = None
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        """How it ended, in words."""
        if self.code == Interrupted.exit_code:
            return "stopped (the same command goes on)"
        return "done" if self.code == 0 else f"FAILED, exit status {self.code}"


def check_jobs(jobs: int) -> None:
    """Refuse fewer than one at once.

    Raises:
        UsageError: `jobs` is below 1.
    """
    if jobs < 1:
        raise UsageError(f"--jobs: expected at least 1, got {jobs}")


def run(tasks: Sequence[Task], jobs: int, told: Callable[[Event], None], kept: Path) -> list[str]:
    """Run all, `jobs` at once; each gets an equal share of this process's cores.

    SIGTERM, SIGINT and SIGHUP are passed on to what runs; nothing more is started then.

    Args:
        told: called at the beginning and at the end of every task, from several threads.
        kept: where their work lies, for the message.

    Returns:
        What failed, with its exit status.

    Raises:
        Interrupted: a signal; tasks have been given the time to save.
    """
    started: list[subprocess.Popen[bytes]] = []
    stopped: list[int] = []
    shares: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    for share in _shares(jobs):
        shares.put(share)

    def stop(number: int, _: Any) -> None:
        stopped.append(number)
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    def one(task: Task) -> str | None:
        if stopped:
            return None
        share, began = shares.get(), time.monotonic()
        told(Event(task))
        try:
            code = work(task, share)
        except OSError as error:  # it could not begin
            told(Event(task, error.errno or 1, time.monotonic() - began))
            return f"{task.name} ({error.strerror})"
        finally:
            shares.put(share)
        told(Event(task, code, time.monotonic() - began))
        return None if code == 0 else f"{task.name} (exit status {code})"

    def work(task: Task, share: set[int]) -> int:
        with task.log.open("ab") as log:
            process = subprocess.Popen(task.command, stdout=log, stderr=log, start_new_session=True)
            started.append(process)
            if stopped:  # while it started, untold
                process.send_signal(signal.SIGTERM)
            if share:
                _pin(process.pid, share)
            return process.wait()

    numbers = (signal.SIGTERM, signal.SIGINT, *machine.hangup())
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        with ThreadPoolExecutor(jobs) as pool:
            failed = [name for name in pool.map(one, tasks) if name]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise Interrupted(f"stopped by a signal; {kept} is kept, the same command resumes it")
    return failed


def _shares(jobs: int) -> list[set[int]]:
    """Cores of each job, disjoint; empty sets where they cannot be divided."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = len(cores) // jobs
    if jobs == 1 or each == 0:
        return [set() for _ in range(jobs)]
    return [set(cores[i * each : (i + 1) * each]) for i in range(jobs)]


def _pin(process: int, cores: set[int]) -> None:
    try:
        os.sched_setaffinity(process, cores)
    except OSError:  # it has ended already
        return
