"""What configurations ask of their sizes."""

import operator
from typing import Any


def kind(config: Any, wanted: type) -> None:
    """Refuse the configuration of another mixer.

    Raises:
        ValueError: naming both.
    """
    if not isinstance(config, wanted):
        name, got = (f"{k.__module__}.{k.__qualname__}" for k in (wanted, type(config)))
        raise ValueError(f"config: expected {name}, got {got}")


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
