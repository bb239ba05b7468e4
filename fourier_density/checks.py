"""Checks of the arguments of densities: shapes always, values unless they are traced."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

Seed = Key[Array, ""] | int
Shape = int | tuple[int, ...]


def check_values(coefficients: Any, floor: Any) -> None:
    """Refuse concrete values that no density has; traced ones cannot be looked at.

    Args:
        coefficients: [..., N+1].
        floor: weights that broadcast against [...].
    """
    values, weight = concrete(coefficients), stored(floor)  # the former are rescaled
    if values is not None and not np.all(np.isfinite(values)):
        raise ValueError("coefficients: expected finite values, got NaN or infinity")
    if values is not None and values.size and not np.all(np.any(values != 0, axis=-1)):
        raise ValueError("coefficients: expected a non-zero a_0..a_N, got all zeros")
    if weight is not None and not np.all((weight >= 0) & (weight < 1)):
        raise ValueError(f"floor: expected a weight in [0, 1), got {floor}")


def real(value: Any, dtype: Any, name: str = "x") -> Array:
    """Points or levels as an array of a dtype.

    Raises:
        ValueError: complex numbers.
    """
    if jnp.iscomplexobj(value):
        raise ValueError(f"{name}: expected real numbers, got {jnp.result_type(value)}")
    return jnp.asarray(value, dtype)


def array(value: Any) -> Any:
    """Of NumPy, whose values are known, unless the value is of JAX or a list with a traced one."""
    if isinstance(value, jax.Array):
        return value
    known = concrete(value)
    return jnp.asarray(value) if known is None else known


def kind(name: str, value: Any, wanted: type) -> None:
    """Refuse what is of another class."""
    if not isinstance(value, wanted):
        got = "a number or an array" if isinstance(value, jax.Array) else type(value).__name__
        raise ValueError(f"{name}: expected a {wanted.__name__}, got {got}")


def whole(name: str, value: Any, least: int = 1) -> None:
    """Refuse what is no whole number from `least` on."""
    try:
        good = not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")


def parameters(params: Any, init: Callable[[Any], Any]) -> None:
    """Refuse a tree that `init` does not make, such as a key or data in the place of parameters."""
    if _places(params) != _made(init):
        raise ValueError(f"params: expected what `init` makes, got {type(params).__name__}")


@functools.lru_cache(maxsize=64)
def _made(init: Callable[[Any], Any]) -> list[str]:
    return _places(jax.eval_shape(init, jax.random.key(0)))


def _places(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]


def check_place(loc: Any, scale: Any) -> None:
    """Refuse concrete locations that are not finite and scales that are not positive."""
    values = stored(scale)
    if values is not None:
        kept = values.dtype if np.issubdtype(values.dtype, np.floating) else np.dtype(np.float32)
        if not ((values >= np.finfo(kept).tiny) & np.isfinite(values)).all():
            raise ValueError(f"scale: expected positive values that {kept} holds, got {scale}")
    values = stored(loc)
    if values is not None and not np.isfinite(values).all():
        raise ValueError(f"loc: expected finite values, got {loc}")


def draws(seed: Any, sample_shape: Any) -> tuple[Array, tuple[int, ...]]:
    """The key and the shape for `sample`; an integer may stand for either, as in distrax.

    Raises:
        ValueError: no random key, no shape.
    """
    if isinstance(seed, int | np.integer):
        seed = jax.random.key(seed)
    if not isinstance(seed, jax.Array | np.ndarray):
        raise ValueError(f"seed: expected a random key such as jax.random.key(0), got {seed!r}")
    try:
        shape = (sample_shape,) if np.ndim(sample_shape) == 0 else sample_shape
        shape = tuple(operator.index(size) for size in shape)
    except TypeError:
        shape = (-1,)
    if min(shape, default=0) < 0:
        raise ValueError(f"sample_shape: expected whole numbers from 0 on, got {sample_shape!r}")
    return jnp.asarray(seed), shape


def joint_shape(shape: tuple[int, ...], **parameters: Any) -> tuple[int, ...]:
    """The batch shape of coefficients and parameters, by broadcasting.

    Raises:
        ValueError: a parameter does not broadcast against the batch.
    """
    for name, value in parameters.items():
        try:
            shape = jnp.broadcast_shapes(shape, np.shape(value))
        except ValueError:
            raise ValueError(
                f"{name}: expected a shape that broadcasts against the batch {shape}, "
                f"got {np.shape(value)}"
            ) from None
    return shape


def concrete(value: Any) -> np.ndarray | None:
    """The value as an array, or None while it is traced."""
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return None


def stored(value: Any) -> np.ndarray | None:
    """As `concrete`, rounded as JAX stores it: what is small may be zero then, or else infinite."""
    known = concrete(value)
    if known is None:
        return None
    with np.errstate(over="ignore"):
        return known.astype(jax.dtypes.canonicalize_dtype(known.dtype))
