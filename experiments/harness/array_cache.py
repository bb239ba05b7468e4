"""Arrays that took long to make, kept in files; a run goes on without them."""

import contextlib
import os
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np


def read(path: Path) -> dict[str, np.ndarray] | None:
    """Arrays of a file in the cache; None if there is none, or a damaged one, which is said."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)  # checks the sums that a zip file has
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        print(f"note: {path}: {error}; it is made again", file=sys.stderr)
        return None


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Keep arrays in the cache, as a whole or not at all; where it cannot be, that is said."""
    temporary = path.with_suffix(f".{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, **arrays)  # pyright: ignore[reportArgumentType]
        temporary.replace(path)
    except OSError as error:
        print(f"note: {path}: {error.strerror or error}; nothing is kept", file=sys.stderr)
        with contextlib.suppress(OSError):
            temporary.unlink()
