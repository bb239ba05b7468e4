"""Features of a TFDS set, looked at before TFDS imports whatever modules they name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.harness.errors import DataError

TRUSTED = "tensorflow_datasets."
NAMES = "pythonClassName", "type"  # the latter in sets of old


def check(folder: Path) -> None:
    """Refuse a set whose features are of classes outside of TFDS.

    Raises:
        DataError: it is, or cannot be read.
    """
    for path in sorted(folder.rglob("features.json")):
        try:
            classes = set(_classes(json.loads(path.read_text())))
        except (ValueError, OSError, RecursionError) as error:
            raise DataError(f"{path}: expected readable JSON of features, got: {error}") from None
        for name in sorted(classes):
            if not name.startswith(TRUSTED):
                raise DataError(
                    f"{path}: expected features of TFDS itself, got {name!r}, a class whose module "
                    "would be imported"
                )


def _classes(tree: Any) -> Iterator[str]:
    """Names of classes anywhere in it; other types, such as "string", have no dot."""
    if isinstance(tree, dict):
        named = (value for key, value in tree.items() if key in NAMES and isinstance(value, str))
        yield from (name for name in named if "." in name)
    if isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _classes(part)
