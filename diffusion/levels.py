"""What samplers share: checks of noise levels, calls of denoisers, checks of their answers."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def rising(values: Any, name: str, sign: float = 1.0) -> None:
    """Refuse fewer than two levels, and known ones that do not rise (fall, with sign -1).

    Raises:
        ValueError: naming the place.
    """
    if np.ndim(values) != 1 or np.shape(values)[0] < 2:
        raise ValueError(f"{name}: expected at least 2 levels, got shape {np.shape(values)}")
    known = concrete(values)
    if known is None:
        return
    good = sign * np.diff(known) > 0
    if not np.all(good):
        place, way = int(np.argmin(good)), "rise" if sign > 0 else "fall"
        raise ValueError(
            f"{name}: expected values that {way}, got {known[place]:g} and then "
            f"{known[place + 1]:g}"
        )
    if sign < 0 and known[-1] < 0:
        raise ValueError(f"{name}: expected no negative level, got {known[-1]:g}")


def concrete(value: Any) -> np.ndarray | None:
    """The value in float64 on the host, or None while it is traced."""
    try:
        return np.asarray(value, np.float64)
    except jax.errors.TracerArrayConversionError:
        return None


def call(denoiser: Callable[..., Array], z: Array, level: Array, condition: Any) -> Array:
    """The prediction; a denoiser that takes no condition is not given None.

    Raises:
        ValueError: a network without its parameters, a prediction of another shape than z.
        Exception: of the denoiser, with a note of what it was called with.
    """
    owner = getattr(denoiser, "__self__", denoiser)
    if hasattr(owner, "apply") and getattr(owner, "scope", owner) is None:  # Flax, unbound
        raise ValueError("params: expected the network's, beside its `apply` as denoiser, got None")
    rest = () if condition is None and _without(denoiser) else (condition,)
    try:
        value = denoiser(z, level, *rest)
    except Exception as error:  # of whatever the denoiser is made of
        error.add_note(f"denoiser: raised this for z {z.shape} and levels {jnp.shape(level)}")
        raise
    if value.shape != z.shape:
        raise ValueError(f"denoiser: expected the shape {z.shape} of z, got {value.shape}")
    return value


def _without(denoiser: Callable[..., Array]) -> bool:
    try:
        inspect.signature(denoiser).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True


def report(x: Array, bad: Array, name: str, z: Array) -> Array:
    """Raise where it is known that a prediction was not finite, else make the sample NaN.

    Args:
        x, z: the sample; what it was made from.
        bad: level of the first such prediction, or NaN.
        name: of levels.

    Raises:
        ValueError: naming z, or the level.
    """
    try:
        level = float(bad)
    except (jax.errors.ConcretizationTypeError, TypeError):
        return jnp.where(jnp.isnan(bad), x, jnp.nan)
    if not np.isnan(level):
        if not jnp.isfinite(z).all():
            raise ValueError("z: expected finite numbers, got NaN or infinity")
        raise ValueError(
            f"denoiser: expected finite predictions, got others at {name} {level:g} (networks here "
            "answer NaN to a class that they do not know)"
        )
    return x
