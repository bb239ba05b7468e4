"""Tensors of a directory of safetensors files, memory-mapped and read piece by piece.

No file is trusted: names in an index stay inside the directory, headers are checked against sizes
by the library of the format, and nothing is ever unpickled.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")
MOST_JSON = 1 << 28  # bytes; an index of 100 000 tensors has some 1 << 23
MAPPED = 1 << 24  # bytes read of a file before its pages are given back


def read_json(path: Path) -> dict[str, Any]:
    """An object of a file.

    Raises:
        ValueError: no such file, no JSON, something else than an object.
    """
    try:
        size = path.stat().st_size
        if size > MOST_JSON:
            raise ValueError(f"{size} bytes, more than {MOST_JSON}")
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path.parent}: expected {path.name}, found none") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected an object, got {type(found).__name__}")
    return found


def inside(folder: Path, name: str) -> Path:
    """A file of a folder, links followed.

    Links of a Hugging Face cache lead from its snapshots to the blobs beside them.

    Raises:
        ValueError: it lies elsewhere, or is not there.
    """
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{folder}: expected files inside of it, got {name}")
    try:
        target, there = path.resolve(), path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{folder}: expected a file, got {name[:80]!r}: {error}") from None
    if not any(target.is_relative_to(place) for place in allowed):
        raise ValueError(f"{path}: expected a file inside {folder}, got a link to elsewhere")
    if not there:
        raise ValueError(f"{folder}: expected {name}, found none")
    return path


class TensorFiles:
    """The tensors of model.safetensors, or of the files that its index names.

    Attributes:
        folder: where they are.
        shapes: of every tensor.
    """

    def __init__(self, folder: Path):
        """Read the headers.

        Raises:
            ValueError: a file is missing, truncated or outside the folder; a tensor is not in the
                file that the index says, or not of floats.
        """
        self.folder, self.shapes = folder, {}
        self._files: dict[str, Path] = {}
        self._open: tuple[Path, Any] | None = None
        self._read = 0
        if (folder / INDEX).exists():
            table = read_json(inside(folder, INDEX)).get("weight_map")
            if not isinstance(table, dict) or not all(isinstance(f, str) for f in table.values()):
                raise ValueError(f"{folder / INDEX}: expected a weight_map of files by tensor")
            for name in sorted(set(table.values())):
                self._list(inside(folder, name), {k for k, v in table.items() if v == name})
            missing = sorted(set(table) - set(self.shapes))
            if missing:
                where = table[missing[0]]
                raise ValueError(f"{folder / where}: expected tensor {missing[0]}, found none")
        elif (folder / SINGLE).exists():
            self._list(inside(folder, SINGLE), None)
        else:
            raise ValueError(f"{folder}: expected {SINGLE} or {INDEX}{_pickles(folder)}")

    def _list(self, path: Path, said: set[str] | None) -> None:
        with self._opened(path) as file:
            for name in list(file.keys()):
                if said is not None and name not in said:
                    raise ValueError(f"{path}: tensor {name} is not said by {INDEX} to be here")
                entry = file.get_slice(name)
                kind = entry.get_dtype()
                if kind not in FLOATS:
                    raise ValueError(f"{path}: {name}: expected one of {FLOATS}, got {kind}")
                self.shapes[name], self._files[name] = tuple(entry.get_shape()), path

    @staticmethod
    def _opened(path: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(path, framework="np")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: expected a whole safetensors file, got {error}") from None

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Part of a tensor."""
        path = self._files[name]
        if self._open is None or self._open[0] != path or self._read > MAPPED:
            self._open = None  # before the next is mapped
            self._open, self._read = (path, self._opened(path)), 0
        found = self._open[1].get_slice(name)[index]
        self._read += found.nbytes
        return found

    def check(self, expected: dict[str, tuple[int, ...]], spare: Iterable[str] = ()) -> None:
        """Compare names and shapes with those that a model has.

        Raises:
            ValueError: naming the first tensor that is missing, superfluous or of another shape.
        """
        for name, shape in expected.items():
            if name not in self.shapes:
                raise ValueError(f"{self.folder}: expected tensor {name} {shape}, found none")
            if self.shapes[name] != shape:
                path = self._files[name]
                raise ValueError(f"{path}: {name}: expected {shape}, got {self.shapes[name]}")
        extra = sorted(set(self.shapes) - set(expected) - set(spare))
        if extra:
            path = self._files[extra[0]]
            raise ValueError(f"{path}: expected no tensor {extra[0]} for this config.json")


def _pickles(folder: Path) -> str:
    found = sorted(p.name for kind in ("*.bin", "*.pt", "*.pth") for p in folder.glob(kind))
    return f"; {found[0]} is a pickle, which can run code: convert it first" if found else ""
