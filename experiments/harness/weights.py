"""Trained weights of a run: files of safetensors, one a network, read by any program."""

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import jax
import numpy as np

from experiments.harness import config as configs
from experiments.harness import hosts, recorded
from experiments.harness.checkpoint import Checkpoints, arrays
from experiments.harness.errors import ExperimentError
from experiments.harness.run import Record

FOLDER = "weights"
SUFFIX = ".safetensors"
C = TypeVar("C")


@dataclass(frozen=True)
class Network:
    """What a run trains.

    Attributes:
        init: key -> params.
        apply: (params, ...) -> outputs, as the experiment says.
        settings: what the network was made from, such as an `attention.TransformerConfig`.
    """

    init: Any
    apply: Any
    settings: Any = None


def save(directory: Path, name: str, params: Any) -> None:
    """Write the weights of a network of a run; by one of several hosts."""
    from safetensors.numpy import save_file

    if not hosts.first():
        return
    path = _path(directory, name)
    path.parent.mkdir(exist_ok=True)
    leaves = jax.tree.leaves_with_path(params)
    tensors = {jax.tree_util.keystr(at): np.asarray(leaf, order="C") for at, leaf in leaves}
    unfinished = path.with_suffix(".part")
    save_file(tensors, unfinished, {"sha256": _digest(tensors)})
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())  # whole on the disk before it has its name
    os.replace(unfinished, path)


def saved(directory: Path) -> list[str]:
    """Names of the networks of which a run has written the weights."""
    return sorted(unquote(path.stem) for path in (directory / FOLDER).glob(f"*{SUFFIX}"))


def load(directory: Path, name: str, network: Network) -> Any:
    """Weights of a run, in the shape that the network wants: those that `save` has written at the
    end of its training, or before it those of the newest checkpoint, averaged ones if it has any.

    Raises:
        ExperimentError: there are none, they cannot be read, are no longer what was written, or
            the network has others.
    """
    path, like = _path(directory, name), jax.eval_shape(network.init, jax.random.key(0))
    leaves = _written(path, like) if path.is_file() else _of_checkpoint(directory, name, like)
    return jax.tree.unflatten(jax.tree.structure(like), map(jax.numpy.asarray, leaves))


def _written(path: Path, like: Any) -> list[np.ndarray]:
    """The leaves that a file of weights holds, in order."""
    from safetensors import safe_open

    try:
        with safe_open(path, "numpy") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no dict
            digest = (file.metadata() or {}).get("sha256")
    except Exception as error:  # of many kinds
        raise ExperimentError(
            f"{path}: cannot be read: {error}; train again in another --workdir"
        ) from None
    if digest not in (None, _digest(tensors)):
        raise ExperimentError(f"{path}: has been changed since it was written; train again")
    _compare(path, arrays(like), {key: arrays(leaf)[""] for key, leaf in tensors.items()})
    return [tensors[jax.tree_util.keystr(at)] for at, _ in jax.tree.leaves_with_path(like)]


def _of_checkpoint(directory: Path, name: str, like: Any) -> list[np.ndarray]:
    """The leaves at the newest sound checkpoint of a training that has not ended."""
    found = ", ".join(saved(directory)) or "none; a training writes them at its end"
    if not (directory / "checkpoints").is_dir():
        raise ExperimentError(
            f"{directory}: expected weights of {name!r}, found {found}, and no checkpoint of them"
        )
    digest = str(recorded.load(directory).data.get("config_hash"))
    checkpoints = Checkpoints(directory, 1, digest, read_only=True)
    try:
        facts = checkpoints.newest()
        if facts is None:
            raise checkpoints.none()
        step, known = facts["step"], facts["arrays"]
        part = "ema" if any(key.startswith(".ema") for key in known) else "params"
        within = {key[1 + len(part) :]: it for key, it in known.items() if key[1:].startswith(part)}
        _compare(directory / "checkpoints" / str(step), arrays(like), within)
        tree = checkpoints.part(step, part, like)
    finally:
        checkpoints.close()
    print(f"{directory}: weights of step {step}, at its newest checkpoint", file=sys.stderr)
    return jax.tree.leaves(tree)


def _compare(path: Path, expected: dict[str, str], got: dict[str, str]) -> None:
    """Names and shapes of arrays, of any precision."""
    for key in sorted(expected.keys() | got.keys()):
        one, other = expected.get(key, "no such array"), got.get(key, "no such array")
        if one.partition("[")[1:] != other.partition("[")[1:]:
            raise ExperimentError(f"{path}: {key}: expected {one}, got {other}")


def configured(directory: str | Path, experiment: str, kind: type[C]) -> tuple[Record, C]:
    """A run of an experiment, and its configuration.

    Raises:
        ExperimentError: no run, one of another experiment, or of another version of its
            configuration.
    """
    record = recorded.load(Path(directory))
    if record.data.get("experiment") != experiment:
        raise ExperimentError(
            f"{directory}: expected a run of {experiment}, got one of "
            f"{record.data.get('experiment')}"
        )
    config = configs.from_dict(kind, record.data.get("config", {}))
    lines = configs.difference(record.data.get("config", {}), configs.to_dict(config))
    if lines or configs.digest(config) != record.data.get("config_hash"):
        raise ExperimentError(
            f"{directory}: expected a configuration of this version, as the run began with; "
            f"{'; '.join(lines) or 'run.json has been edited'}"
        )
    return record, config


def _digest(tensors: dict[str, np.ndarray]) -> str:
    """Of names and contents; safetensors itself looks at sizes only."""
    digest = hashlib.sha256()
    for name, values in sorted(tensors.items()):
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _path(directory: Path, name: str) -> Path:
    return directory / FOLDER / f"{quote(name, safe=' ,')}{SUFFIX}"
