"""Checkpoints through orbax: asynchronous, atomic, restored bit-exactly, saved again on failure."""

import contextlib
import logging
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from experiments.harness import hosts
from experiments.harness.errors import ExperimentError

TRIES = 3
PAUSE = 1.0  # seconds before a second try, doubled for a third


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: they lie in directory/checkpoints.
        keep: how many of the newest to keep.
        config_hash: stored beside every state, checked when it is restored.
        read_only: leave alone what another process may be writing.
    """

    def __init__(self, directory: Path, keep: int, config_hash: str, *, read_only: bool = False):
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._hash = config_hash
        self._asked: int | None = None  # the step of the last save, until it is known to be good
        self._failures = 0
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(
            (directory / "checkpoints").absolute(), options=options
        )

    def latest(self) -> int | None:
        """The newest complete step, if any."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Save in the background; the caller may donate `state` to its next step at once.

        A save that fails is tried again: at once where that shows at once, else with the state of
        the next call.

        Raises:
            ExperimentError: three have failed without one between that did not.
        """
        self._settle()
        while self._asked != step:
            try:
                self._begin(step, state)
                self._asked = step
            except Exception as error:  # of the file system, in many kinds
                self._fail(step, error)

    def failed(self) -> bool:
        """Whether a save in the background has failed, so that another is due."""
        if self._asked is None or hosts.several() or self._manager.is_saving_in_progress():
            return False  # hosts have to find it together, in the next save
        return not self._settle()

    def finish(self, step: int, state: Any) -> None:
        """Wait for the last save; if it fails, try again with the state of that step.

        Raises:
            ExperimentError: as `save`.
        """
        while not self._settle():
            self.save(step, state)

    def _begin(self, step: int, state: Any) -> None:
        """On a CPU the writer would share memory with donated buffers, hence the copy."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_copy(state)),
            meta=ocp.args.JsonSave({"config_hash": self._hash}),
        )
        self._manager.save(step, args=args)

    def _settle(self) -> bool:
        """Wait for a save in the background; whether all is well."""
        step, self._asked = self._asked, None
        if step is None:
            return True
        error = None
        try:
            self._manager.wait_until_finished()
        except Exception as raised:
            error = raised
        self._manager.reload()
        if error is None and self._manager.latest_step() == step:
            self._failures = 0
            return True
        self._fail(step, error)
        return False

    def _fail(self, step: int, error: Exception | None) -> None:
        self._failures += 1
        said = "it is not there" if error is None else f"{type(error).__name__}: {error}"
        reason = " ".join(said.split())[:200]
        folder, latest = self._manager.directory, self.latest()
        kept = "none" if latest is None else f"step {latest}"
        message = f"checkpoint {step} in {folder}: could not be saved, {reason}"
        if self._failures >= TRIES:
            raise ExperimentError(
                f"{message}; tried {TRIES} times, newest good one: {kept}; make room or mend the "
                "storage, the same command goes on from there"
            ) from None
        print(f"{message}; trying again", file=sys.stderr, flush=True)
        time.sleep(PAUSE * 2 ** (self._failures - 1))

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step, with the shapes, types and placement of `like`.

        Raises:
            ExperimentError: it cannot be read or belongs to another configuration.
        """
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
        except Exception as error:  # orbax raises many kinds for damaged files
            reason = " ".join(str(error).split())[:200]
            raise ExperimentError(
                f"checkpoint {step} in {self._manager.directory}: expected a readable one, got "
                f"{type(error).__name__}: {reason}; remove that step's folder to use an older one"
            ) from None
        if restored["meta"]["config_hash"] != self._hash:
            raise ExperimentError(
                f"checkpoint {step} in {self._manager.directory}: expected configuration "
                f"{self._hash}, got {restored['meta']['config_hash']}; give another --workdir"
            )
        return restored["state"]

    def wait(self) -> None:
        """Return when everything is on disk that can be."""
        with contextlib.suppress(Exception):  # reported by the next save
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then release threads; failures are for `finish` to report."""
        with contextlib.suppress(Exception):
            self._manager.close()


@jax.jit
def _copy(state: Any) -> Any:
    return jax.tree.map(jnp.copy, state)
