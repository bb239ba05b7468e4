"""Checkpoints through orbax: asynchronous, atomic, restored bit-exactly."""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from experiments.harness.errors import ExperimentError


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

        On a CPU the writer would share memory with donated buffers, hence the copy.
        """
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_copy(state)),
            meta=ocp.args.JsonSave({"config_hash": self._hash}),
        )
        self._manager.save(step, args=args)

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
        """Return when everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then release threads."""
        self._manager.close()


@jax.jit
def _copy(state: Any) -> Any:
    return jax.tree.map(jnp.copy, state)
