"""What makes a folder of files verifiable: a list of sizes and SHA-256 digests, itself digested.

Written last, over a temporary file that is flushed to the disk and renamed, so that a folder with
a manifest is a complete one. Whatever byte of whatever file changes afterwards is found by `check`.
Files are digested in pieces of `PIECE` bytes, by as many threads as there are processors.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NAME = "manifest.json"
PIECE = 2**23
MOST_BYTES = 2**26  # of a manifest: one of 100 000 arrays has some 2^24


class Damaged(Exception):
    """A folder that does not hold what its manifest says; the text is the reason."""


def write(folder: Path, **facts: Any) -> None:
    """List all files of a folder, beside `facts`, which are plain JSON types.

    Raises:
        OSError: of the file system.
    """
    sizes = {name: (folder / name).stat().st_size for name in _files(folder)}
    pieces = [(name, offset) for name, size in sizes.items() for offset in _offsets(size)]
    found: dict[str, Any] = {name: {"bytes": size, "sha256": []} for name, size in sizes.items()}
    for (name, _), digest in zip(pieces, _digests(folder, pieces), strict=True):
        found[name]["sha256"].append(digest)
    data = {**facts, "files": found}
    replace(folder / NAME, _encoded(data))


def read(folder: Path) -> dict[str, Any]:
    """The manifest, if it is whole.

    Raises:
        Damaged: it is missing, or not as it was written.
        OSError: it cannot be read for other reasons.
    """
    path = folder / NAME
    try:
        if path.stat().st_size > MOST_BYTES:
            raise Damaged(f"{NAME}: expected at most {MOST_BYTES} bytes")
        text = path.read_bytes()
        data = json.loads(text)
        del data["digest"]
        whole = text == _encoded(data)
    except (FileNotFoundError, NotADirectoryError):
        raise Damaged(f"no {NAME}: it was never completed") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise Damaged(f"{NAME}: not as it was written") from None
    if not whole:
        raise Damaged(f"{NAME}: not as it was written")
    return data


def check(folder: Path) -> dict[str, Any]:
    """The manifest, once all files agree with it.

    Raises:
        Damaged: one is missing or has other contents.
        OSError: one cannot be read for other reasons.
    """
    data = read(folder)
    try:
        _compare(folder, data["files"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Damaged(f"{NAME}: expected a list of files with sizes and digests") from None
    return data


def replace(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all, also if the machine stops on the way.

    Raises:
        OSError: with the path.
    """
    temporary = path.with_name(path.name + ".tmp")
    with named(path):
        temporary.unlink(missing_ok=True)  # a link there would lead elsewhere
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the renaming itself
        finally:
            os.close(folder)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of writing name the file, which a full disk does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def listed(path: Path) -> str:
    """Digest of the name and size of a file, or of those of all files of a folder, hidden ones not.

    Raises:
        OSError: of the file system.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    lines = [
        f"{f.relative_to(path.parent)} {f.stat().st_size}"
        for f in files
        if f.is_file() and not any(part.startswith(".") for part in f.relative_to(path).parts)
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def plain(data: Any) -> Any:
    """The same in plain JSON types: numbers and arrays of NumPy and JAX as numbers and lists.

    Raises:
        TypeError, ValueError, RecursionError: of something else.
    """

    def as_list(value: Any) -> Any:
        if not hasattr(value, "tolist"):
            raise TypeError(f"not of JSON: {type(value).__name__}")
        return value.tolist()

    return json.loads(json.dumps(data, default=as_list))


def readable(data: Any) -> str:
    """Indented JSON, a list of numbers on one line."""
    text = json.dumps(data, indent=1)
    inner = re.compile(r'\[\n([^][{}"]*)\]')  # strings have no line breaks
    return inner.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def _compare(folder: Path, files: dict[str, Any]) -> None:
    pieces, expected = [], []
    real = folder.resolve()
    for name, file in files.items():
        elsewhere = (folder / name).resolve() != real / name
        if Path(name).is_absolute() or ".." in Path(name).parts or elsewhere:
            raise Damaged(f"{name}: expected a file of this folder")
        if not (folder / name).is_file():
            raise Damaged(f"{name}: missing")
        size = (folder / name).stat().st_size
        if size != file["bytes"]:
            raise Damaged(f"{name}: expected {file['bytes']} bytes, got {size}")
        pieces += [(name, offset) for offset in _offsets(size)]
        expected += file["sha256"]
    for (name, _), one, other in zip(pieces, expected, _digests(folder, pieces), strict=True):
        if one != other:
            raise Damaged(f"{name}: not as it was written (SHA-256 differs)")


def _files(folder: Path) -> list[str]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != NAME]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _offsets(size: int) -> range:
    """Of the pieces of a file; an empty one has one piece."""
    return range(0, max(size, 1), PIECE)


def _digests(folder: Path, pieces: list[tuple[str, int]]) -> Iterator[str]:
    """SHA-256 of pieces, each a file's name and an offset; hashlib lets other threads run."""

    def digest(piece: tuple[str, int]) -> str:
        with (folder / piece[0]).open("rb") as file:
            file.seek(piece[1])
            return hashlib.sha256(file.read(PIECE)).hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(digest, pieces)


def _encoded(data: dict[str, Any]) -> bytes:
    """JSON with the digest of all else."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{json.dumps({**data, 'digest': digest}, indent=1)}\n".encode()
