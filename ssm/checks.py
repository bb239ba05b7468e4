"""What configurations ask of their sizes, and functions of their parameters."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def kind(given: Any, wanted: type, name: str = "config", remedy: str = "") -> None:
    """Refuse an argument of another class, such as the configuration of another mixer.

    Raises:
        ValueError: naming both classes.
    """
    if not isinstance(given, wanted):
        one, other = (f"{k.__module__}.{k.__qualname__}" for k in (wanted, type(given)))
        other = other.removeprefix("builtins.")
        raise ValueError(f"{name}: expected {one}, got {other}{remedy}")


def system(given: Any, wanted: type) -> None:
    """Refuse what is no system, such as the parameters of a mixer."""
    kind(given, wanted, "system", "; of parameters: system(params, config)")


def prepared(given: Any, wanted: type) -> None:
    """Refuse what does not come from `prepare`, such as a system."""
    kind(given, wanted, "prepared", "; of a system: prepare(system)")


def length(value: Any, stored: int | None = None) -> None:
    """Refuse what is no whole number from 1 on, up to the length that a system stands for."""
    if not _whole(value):
        raise ValueError(f"length: expected a whole number, got {value!r}")
    if value < 1 or (stored is not None and value > stored):
        most = "" if stored is None else f" and at most the stored {stored}"
        raise ValueError(f"length: expected at least 1{most}, got {value}")


def _whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def sizes(config: Any, *names: str) -> None:
    """Refuse fields that are neither None nor whole numbers of at least 1, by name."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (_whole(value) and value >= 1):
            raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")


def parameters(params: Any, init: Callable[..., Any], *arguments: Any) -> None:
    """Refuse parameters that `init(key, *arguments)` does not make.

    Raises:
        ValueError: naming the first weight that is missing, too many or of another shape.
    """
    wanted, found = _made(init, *arguments), _shapes(params)
    for name in {**wanted, **found}:
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"params: expected those that `init` makes with this config, {name} "
                f"{wanted.get(name, 'absent')}, got {found.get(name, 'none')}"
            )


@functools.lru_cache(maxsize=64)
def _made(init: Callable[..., Any], *arguments: Any) -> dict[str, tuple[int, ...]]:
    return _shapes(jax.eval_shape(lambda key: init(key, *arguments), jax.random.key(0)))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(p): np.shape(v) for p, v in jax.tree.leaves_with_path(tree)}
