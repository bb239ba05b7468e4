"""What configurations ask of their sizes, and functions of their parameters."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


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
