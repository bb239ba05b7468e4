"""What configurations ask of their sizes."""

import operator
from typing import Any


def sizes(config: Any, *names: str) -> None:
    """Refuse fields that are neither None nor whole numbers of at least 1, by name."""
    for name in names:
        value = getattr(config, name)
        try:
            good = value is None or (not isinstance(value, bool) and operator.index(value) >= 1)
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
