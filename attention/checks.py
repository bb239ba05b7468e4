"""What every layer asks of its sizes, tokens and lengths."""

import functools
import inspect
import operator
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

Untraceable = (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError)


def of_parameters(init: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator: functions refuse parameters that were made with another configuration.

    Args:
        init: (key, config, mixer) -> parameters, for functions of `params`, `config` and `mixer`.

    Raises:
        ValueError: in the function, naming the first weight that is missing, too many or of
            another shape.
    """

    @functools.lru_cache(maxsize=64)
    def expected(config: Any, mixer: Any) -> tuple[Any, list[tuple[int, ...]]]:
        params = jax.eval_shape(lambda key: init(key, config, mixer), jax.random.key(0))
        leaves, tree = jax.tree.flatten(params)
        return tree, [leaf.shape for leaf in leaves]

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*arguments: Any, **options: Any) -> Any:
            given = signature.bind(*arguments, **options).arguments
            for name, kind in (("params", dict), ("config", Hashable)):
                if not isinstance(given[name], kind):
                    got = type(given[name]).__name__
                    raise ValueError(f"{name}: expected what `init` takes or makes, got {got}")
            tree, shapes = expected(given["config"], given.get("mixer"))
            leaves, found = jax.tree.flatten(given["params"])
            if found != tree or [np.shape(leaf) for leaf in leaves] != shapes:
                _differ(given["params"], jax.tree.unflatten(tree, shapes))
            return function(*arguments, **options)

        return checked

    return decorated


def _differ(params: Any, shapes: Any) -> None:
    """Raise for parameters of other names or shapes."""
    found = {jax.tree_util.keystr(p): np.shape(v) for p, v in jax.tree.leaves_with_path(params)}
    is_shape = lambda value: isinstance(value, tuple)  # noqa: E731
    pairs = jax.tree.leaves_with_path(shapes, is_leaf=is_shape)
    wanted = {jax.tree_util.keystr(path): shape for path, shape in pairs}
    for name in {**wanted, **found}:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"params: expected those that `init` makes with this config, {name} "
                f"{wanted.get(name, 'absent')}, got {found.get(name, 'none')}"
            )


def states(state: Any, init_state: Callable[..., Any], config: Any, mixer: Any) -> None:
    """Refuse states that `init_state(config, ...)` does not make.

    Raises:
        ValueError: naming both.
    """
    wanted, found = _made(init_state, config, mixer), jax.tree.structure(tuple(state))
    if found != wanted:
        raise ValueError(
            f"state: expected one that `init_state` makes with this config, {wanted}, got {found}"
        )


@functools.lru_cache(maxsize=64)
def _made(init_state: Callable[..., Any], config: Any, mixer: Any) -> Any:
    return jax.tree.structure(jax.eval_shape(lambda: init_state(config, 1, 8, mixer=mixer)))


def whole(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is not a whole number of at least `least`.

    Raises:
        ValueError: naming the field.
    """
    try:
        good = not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")


def sizes(config: Any, *names: str) -> None:
    """Refuse fields of a configuration that are neither None nor whole and positive.

    Raises:
        ValueError: naming the field.
    """
    for name in names:
        if getattr(config, name) is not None:
            whole(name, getattr(config, name))


def batches(x: Array, length: Array) -> None:
    """Refuse a cache whose number of examples is not that of x.

    Raises:
        ValueError: naming both numbers.
    """
    if length.shape != x.shape[:1]:
        raise ValueError(
            f"state: expected a cache of {x.shape[0]} examples, as x has, got {length.shape[0]}"
        )


def live(lengths: Any, batch: int, time: int) -> tuple[Array, Array]:
    """Live tokens of each prompt or chunk, and which of these numbers are invalid, [B] both.

    Raises:
        ValueError: another shape, or known lengths outside 0..T.
    """
    if lengths is None:
        return jnp.full((batch,), time, jnp.int32), jnp.zeros((batch,), bool)
    lengths = jnp.asarray(lengths)
    if lengths.shape != (batch,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(
            f"lengths: expected {batch} whole numbers, got {lengths.dtype} {lengths.shape}"
        )
    bad = (lengths < 0) | (lengths > time)
    try:
        known = np.asarray(bad)
    except Untraceable:
        known = np.zeros(batch, bool)
    if known.any():
        raise ValueError(f"lengths: expected values in [0, {time}], got {np.asarray(lengths)}")
    return lengths.astype(jnp.int32), bad


def spoil(y: Array, bad: Array) -> Array:
    """NaN for the examples [B] that are bad."""
    return jnp.where(bad.reshape(-1, *(1,) * (y.ndim - 1)), jnp.nan, y)
