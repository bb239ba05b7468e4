"""Checkpoints through orbax: asynchronous, atomic, verified, saved again on failure.

A step's folder counts once its manifest lies in it, with the digests of all its files, the
configuration's hash and the names, shapes and types of all arrays. What no longer agrees with its
manifest is moved aside, never restored, and the newest step that agrees is taken instead.
"""

import contextlib
import logging
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from experiments.harness import hosts, manifest
from experiments.harness.errors import CheckpointError, ExperimentError, NonFiniteError, in_line

TRIES = 3
PAUSE = 1.0  # seconds before a second try, doubled for a third
SPARE_BYTES = 2**20  # that are to be free beside a state
MEND = "make room or mend the storage, the same command goes on from there"


class Checkpoints:
    """The checkpoints of one run, in directory/checkpoints; damaged ones in directory/quarantine.

    Args:
        directory: of the run.
        keep: how many of the newest to keep.
        config_hash: stored beside every state, checked when it is restored.
        read_only: leave alone what another process may be writing.
    """

    def __init__(self, directory: Path, keep: int, config_hash: str, *, read_only: bool = False):
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._folder = (directory / "checkpoints").absolute()
        self._hash, self._keep, self._read_only = config_hash, keep, read_only
        self._damage: list[str] = []
        self._asked: int | None = None  # the step of the last save, until it is known to be good
        self._failures = 0
        self._sealing: _Thread | None = None
        # Weights do not compress by much; without, writing and reading take about half the time.
        self._orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_compression=False))
        if not read_only and hosts.first():
            self._folder.mkdir(parents=True, exist_ok=True)
            for rest in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(rest, ignore_errors=True)

    def steps(self) -> list[int]:
        """Of complete checkpoints, the newest first; whether they are sound is not known yet."""
        return [step for step in _steps(self._folder) if self._at(step, manifest.NAME).exists()]

    def latest(self) -> int | None:
        """The newest complete step, if any."""
        return next(iter(self.steps()), None)

    def save(self, step: int, state: Any) -> None:
        """Save in the background; the caller may donate `state` to its next step at once.

        A failed save is repeated: at once if it fails within this call, else, if it fails in the
        background, with the state of the next call.

        Raises:
            CheckpointError: three saves in a row have failed.
            NonFiniteError: the state holds NaN or infinity.
        """
        self._settle()
        copied = self._checked(step, state)
        while self._asked != step:
            try:
                self._begin(step, copied)
                self._asked = step
            except Exception as error:  # of the file system, in many kinds
                self._fail(step, error)

    def failed(self) -> bool:
        """Whether a save in the background has failed, so that another is due."""
        if self._asked is None or hosts.several():
            return False  # hosts have to find it together, in the next save
        if self._sealing is not None and self._sealing.is_alive():
            return False
        return not self._settle()

    def finish(self, step: int, state: Any) -> None:
        """Wait for the last save; if it fails, try again with the state of that step.

        Raises:
            CheckpointError, NonFiniteError: as `save`.
        """
        while not self._settle():
            self.save(step, state)

    def restore(self, like: Any) -> tuple[Any, int] | None:
        """The state and step of the newest sound checkpoint; None if there is none at all.

        Args:
            like: shapes, types and placements of all arrays.

        Raises:
            CheckpointError: it belongs to another configuration, holds other arrays, or cannot be
                read for reasons that are not its contents.
        """
        facts = hosts.told(self.newest)
        if facts is None:
            return None
        step = facts["step"]
        self._compare(step, facts["arrays"], arrays(like))
        how = ocp.checkpoint_utils.construct_restore_args(like)
        state = self._read(step, like, how)
        return state, step

    def newest(self) -> dict[str, Any] | None:
        """What the manifest of the newest sound checkpoint says: its `step`, the `config_hash`, the
        names, types and shapes of `arrays`; None if there is none.

        Raises:
            CheckpointError: it belongs to another configuration, or cannot be read for reasons that
                are not its contents.
        """
        facts = self._newest()
        if facts is not None and facts["config_hash"] != self._hash:
            raise CheckpointError(
                self._at(facts["step"]),
                f"expected configuration {self._hash}, got {facts['config_hash']}",
                "give another --workdir",
            )
        return facts

    def none(self) -> ExperimentError:
        """That there is no sound one, and why, for those who need one."""
        cause = f"{self._folder}: expected a sound checkpoint, found none"
        if self._damage:
            cause = f"{cause}: {'; '.join(self._damage)}; remove the run to train again"
        return ExperimentError(cause)

    def part(self, step: int, name: str, like: Any) -> Any:
        """One field of the state of a sound step, as it was written, in host memory.

        Args:
            name: of the field, such as "params".
            like: its tree.

        Raises:
            CheckpointError: it cannot be read.
        """
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        return self._read(step, {name: like}, {name: how}, partial_restore=True)[name]

    def wait(self) -> None:
        """Return when everything is on disk that can be."""
        if self._sealing is not None:
            self._sealing.join()

    def close(self) -> None:
        """Wait, then release threads; failures are for `finish` to report."""
        self.wait()
        with contextlib.suppress(Exception):
            self._orbax.close()

    def _read(self, step: int, like: Any, how: Any, **more: Any) -> Any:
        args = ocp.args.PyTreeRestore(item=like, restore_args=how, **more)
        try:
            return self._orbax.restore(self._at(step), args=args)
        except Exception as error:  # of many kinds
            raise CheckpointError(
                self._at(step),
                f"is as it was written, but cannot be read, {_said(error)}",
                "mend the storage, or use the versions of jax and orbax that wrote it (run.json)",
            ) from None

    def _at(self, step: int, *more: str) -> Path:
        return self._folder.joinpath(str(step), *more)

    def _checked(self, step: int, state: Any) -> Any:
        """A copy, since on a CPU the writer would share memory with donated buffers."""
        copied, finite = _copy(state)
        for (path, _), good in zip(jax.tree.leaves_with_path(state), finite, strict=True):
            if not bool(np.asarray(good)):
                latest = self.latest()
                raise NonFiniteError(
                    f"checkpoint {step} in {self._folder}: expected finite numbers to save, got "
                    f"NaN or infinity in state{jax.tree_util.keystr(path)}; newest good one: "
                    f"{'none' if latest is None else f'step {latest}'}; lower "
                    "training.learning_rate or set training.clip"
                )
        return copied

    def _begin(self, step: int, state: Any) -> None:
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + SPARE_BYTES
        if hosts.first():
            self._folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._folder).free
            if free < needed and not hosts.several():
                raise OSError(f"expected {needed} bytes of free space, got {free}")
        self._orbax.save(self._at(step), args=ocp.args.PyTreeSave(state), force=True)
        facts = {"step": step, "config_hash": self._hash, "arrays": arrays(state)}
        self._sealing = _Thread(lambda: self._seal(step, facts))

    def _seal(self, step: int, facts: dict[str, Any]) -> None:
        """Behind the writer: the manifest, then no more than `keep` steps."""
        self._orbax.wait_until_finished()
        if not hosts.first():
            return
        manifest.write(self._at(step), **facts)
        for old in [other for other in self.steps() if other < step][self._keep - 1 :]:
            _remove(self._at(old))

    def _settle(self) -> bool:
        """Wait for a save in the background; whether all is well."""
        step, self._asked = self._asked, None
        if step is None or self._sealing is None:
            return True
        self._sealing.join()
        error = self._sealing.error
        good = error is None and self._at(step, manifest.NAME).exists()
        if hosts.several():
            good = bool(hosts.told(lambda: good))
        if good:
            self._failures = 0
            return True
        self._fail(step, error)
        return False

    def _fail(self, step: int, error: BaseException | None) -> None:
        self._failures += 1
        latest = self.latest()
        kept = "none" if latest is None else f"step {latest}"
        cause = f"could not be saved, {'it is not there' if error is None else _said(error)}"
        if self._failures >= TRIES:
            raise CheckpointError(
                self._at(step), f"{cause}; tried {TRIES} times, newest good one: {kept}", MEND
            ) from None
        _say(f"checkpoint {self._at(step)}: {cause}; trying again")
        time.sleep(PAUSE * 2 ** (self._failures - 1))

    def _newest(self) -> dict[str, Any] | None:
        """The manifest of the newest step that agrees with it; newer ones are moved aside."""
        facts, steps = None, _steps(self._folder)
        for step in steps:
            if facts is not None:
                if not self._read_only and not self._at(step, manifest.NAME).exists():
                    _remove(self._at(step))  # what a removal that was cut off has left
                continue
            try:
                facts = manifest.check(self._at(step))
            except manifest.Damaged as reason:
                self._set_aside(step, str(reason))
            except OSError as error:
                raise CheckpointError(self._at(step), f"cannot be read, {_said(error)}") from None
        if steps and facts is None and not self._read_only:
            _say(f"checkpoint {self._folder}: none is sound; the training begins anew")
        return facts

    def _set_aside(self, step: int, reason: str) -> None:
        """Move a damaged step to quarantine, with the reason."""
        self._damage.append(f"step {step} is damaged, {reason}")
        if self._read_only:
            _say(f"checkpoint {self._at(step)}: {reason}; not taken")
            return
        quarantine = self._folder.parent / "quarantine"
        taken, name = 1, str(step)
        while (quarantine / name).exists():
            taken, name = taken + 1, f"{step}-{taken + 1}"
        try:
            quarantine.mkdir(exist_ok=True)
            self._at(step).rename(quarantine / name)
            (quarantine / f"{name}.txt").write_text(f"{reason}\n")
        except OSError as error:
            raise CheckpointError(
                self._at(step), f"{reason}; cannot be moved to {quarantine}, {_said(error)}"
            ) from None
        _say(f"checkpoint {self._at(step)}: {reason}; moved to {quarantine / name}")

    def _compare(self, step: int, found: dict[str, str], expected: dict[str, str]) -> None:
        for name in sorted(expected.keys() | found.keys()):
            one, other = expected.get(name, "no such array"), found.get(name, "no such array")
            if one != other:
                raise CheckpointError(
                    self._at(step),
                    f"state{name}: expected {one}, got {other}",
                    "it was written by another version of the code; give another --workdir",
                )


class _Thread(threading.Thread):
    """Runs a function; what it raises is kept."""

    def __init__(self, function: Any):
        super().__init__(daemon=True)
        self._function, self.error = function, None
        self.start()

    def run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self.error = error


def arrays(tree: Any) -> dict[str, str]:
    """Type and shape of every array by its name, such as "float32[3,4]"."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


@jax.jit
def _copy(state: Any) -> tuple[Any, list[jax.Array]]:
    """And whether each leaf is finite."""
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]
    return jax.tree.map(jnp.copy, state), finite


def _steps(folder: Path) -> list[int]:
    """Numbered folders, the newest first."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def _remove(folder: Path) -> None:
    """The manifest first: a folder without one is none."""
    with contextlib.suppress(OSError):
        (folder / manifest.NAME).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _said(error: BaseException) -> str:
    return in_line(f"{type(error).__name__}: {error}")[:200]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
