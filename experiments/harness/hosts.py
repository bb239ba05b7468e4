"""Several processes that train as one, on JAX's multi-controller runtime.

All hosts run the same program on the same configuration. The first one writes; what it finds in
the run's directory is told to the others, so that all take the same way.
"""

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.harness.errors import ExperimentError, HostError, UsageError, in_line


@dataclass(frozen=True)
class Hosts:
    """How the processes find each other; None is read from the cluster's environment.

    Attributes:
        coordinator: address:port of the first process.
        count: of processes.
        index: of this one.
        timeout: seconds to wait for the others at the start.
        patience: seconds without a step after which another host counts as dead or hung; it has to
            cover an evaluation. The first step, which compiles, has half an hour at least.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    timeout: int = 300
    patience: int = 1800

    def __post_init__(self):
        given = [self.coordinator is None, self.count is None, self.index is None]
        if len(set(given)) > 1:
            raise UsageError(
                "hosts.coordinator, count, index: expected all three, or none on a cluster that "
                f"tells them, got {self.coordinator}, {self.count}, {self.index}"
            )
        if self.index is not None and not 0 <= self.index < (self.count or 0):
            raise UsageError(
                f"hosts.index: expected from 0 to count - 1, got {self.index} of {self.count}"
            )
        if min(self.timeout, self.patience) < 1:
            raise UsageError(
                f"hosts.timeout, patience: expected at least 1 s, got {self.timeout}, "
                f"{self.patience}"
            )


_patience = Hosts.patience
_polls = 0


def join(how: Hosts) -> None:
    """Meet the other processes; before anything else asks JAX for devices.

    Raises:
        HostError: they cannot be found in time.
    """
    global _patience
    _patience = how.patience
    who = "" if how.index is None else f"process {how.index} of {how.count}, "
    missing = (
        f"{who}coordinator {how.coordinator or 'of the cluster'}: expected all processes within "
        f"{how.timeout} s"
    )
    # The runtime's own limit ends the process without an exception.
    timer = threading.Timer(how.timeout, leave, [HostError(f"{missing}, some did not come")])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            how.coordinator, how.count, how.index, initialization_timeout=how.timeout + 60
        )
        jax.devices()
    except Exception as error:  # of several kinds
        reason = in_line(error)[:200]
        raise HostError(f"{missing}, got {type(error).__name__}: {reason}") from None
    finally:
        timer.cancel()


def several() -> bool:
    """Whether there is more than one process."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def told(function: Callable[[], Any]) -> Any:
    """The result of a function that only the first host calls, sent as JSON to all hosts.

    Raises:
        ExperimentError: on all hosts, if the call raises one on the first.
    """
    if not several():
        return function()
    message: dict[str, Any] = {}
    if first():
        try:
            message = {"value": function()}
        except ExperimentError as error:
            message = {"error": str(error)}
    data = np.frombuffer(json.dumps(message).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    padded = np.zeros(size, np.uint8) if not first() else data
    message = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))))
    if "error" in message:
        raise ExperimentError(message["error"])
    return message["value"]


def agree(**what: str) -> None:
    """Refuse to go on where hosts differ.

    Raises:
        ExperimentError: on all hosts, naming what differs and where.
    """
    for name, value in what.items():
        digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
        found = np.asarray(multihost_utils.process_allgather(digest))
        other = [str(i) for i, row in enumerate(found) if not np.array_equal(row, found[0])]
        if other:
            raise ExperimentError(
                f"hosts: expected the same {name} on all, that of process {', '.join(other)} is "
                f"not that of process 0 (here, on {jax.process_index()}, {value[:80]})"
            )


def code() -> str:
    """A digest of the project's own source files."""
    root, found = Path(__file__).resolve().parents[2], hashlib.sha256()
    for package in ("attention", "diffusion", "experiments", "fourier_density", "ssm"):
        for file in sorted((root / package).rglob("*.py")):
            found.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return found.hexdigest()[:16]


def preempted() -> bool:
    """Whether a signal has reached any host; it turns true in the same call on all of them.

    All hosts have to call it equally often.
    """
    global _polls
    _polls += 1
    return bool(multihost_utils.reached_preemption_sync_point(_polls))


@contextlib.contextmanager
def watch() -> Iterator[Callable[[int], None]]:
    """Ends the process, with a message, when steps stop coming or a collective fails.

    A host that waits for a dead or hung one can neither go on nor exit cleanly: the runtime's
    own shutdown waits for all. Yields the function to call with the number of every step.
    """
    if not several():
        yield lambda step: None
        return
    state = {"step": 0, "time": time.monotonic()}
    over = threading.Event()

    def beat(step: int) -> None:
        state.update(step=step, time=time.monotonic())

    def look() -> None:
        while not over.wait(min(1.0, _patience / 10)):
            allowed = _patience if state["step"] else max(_patience, Hosts.patience)
            if time.monotonic() - state["time"] > allowed:
                leave(lost(int(state["step"]), f"no step for {allowed} s"))

    threading.Thread(target=look, daemon=True).start()
    try:
        yield beat
    except jax.errors.JaxRuntimeError as error:
        leave(lost(int(state["step"]), in_line(error)[:120]))
    finally:
        over.set()


def lost(step: int, reason: str) -> HostError:
    """The error of a host that has lost another."""
    return HostError(
        f"process {jax.process_index()} of {jax.process_count()}, after step {step}: expected the "
        f"other hosts to go on, one is dead or hung ({reason}); the same command on all hosts "
        "resumes from the newest checkpoint"
    )


def leave(error: ExperimentError) -> None:
    """Print and end the process at once."""
    print(f"kexue-jax: {error}", file=sys.stderr, flush=True)
    os._exit(error.exit_code)
