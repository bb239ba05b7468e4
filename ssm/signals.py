"""Signals and states as layers take them: their precision, and checks that name what does not fit.

Notation
    B, L, H  batch, steps, channels

Complex arrays are pairs of real ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ssm import convolution
from ssm.vandermonde import Pair


def real(x: Any) -> Array:
    """As a real floating-point array."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x.astype(float)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def dtype(system: Any) -> Any:
    """The precision that the arrays of a system have in common."""
    return jnp.result_type(*jax.tree.leaves(system))


def pair(x: Any) -> Pair:
    """Parts of a complex array, cut on the host where the device has less precision."""
    if not isinstance(x, jax.Array):
        x = np.asarray(x)
    return real(x.real), real(x.imag)


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


def signal(u: Any, channels: int, stored: int | None = None) -> Array:
    """Check a real signal [..., L, H], no longer than what a kernel is stored for."""
    u = jnp.asarray(u)
    if u.ndim < 2 or u.shape[-1] != channels or u.shape[-2] < 1:
        raise ValueError(f"u: expected shape [..., L, {channels}] with L >= 1, got {u.shape}")
    if jnp.issubdtype(u.dtype, jnp.complexfloating):
        raise ValueError(f"u: expected real numbers, got {u.dtype}")
    if stored is not None and u.shape[-2] > stored:
        raise ValueError(
            f"u: expected at most the stored length of {stored}, got {u.shape[-2]}; `prefill` "
            "of a causal system takes any number (with another length parameters are another one)"
        )
    return u


def filtered(u: Array, kernel: Array, D: Array | None = None) -> Array:
    """Convolution of each channel of u [..., L, H] with its kernel [H, L], and D u.

    Source: https://kexue.fm/archives/10162, equations 1 and 11.
    """
    rows = jnp.moveaxis(convolution.causal(jnp.moveaxis(u, -1, -2), kernel), -2, -1)
    return rows if D is None else rows + D * u


def at_rest(*shape: int, dtype: Any = None) -> Pair:
    """A state of zeros, in single precision at least; None: the default of JAX.

    Raises:
        ValueError: a batch that is no whole number of at least 1.
    """
    if not hasattr(shape[0], "__index__") or shape[0] < 1:
        raise ValueError(f"batch: expected a whole number of at least 1, got {shape[0]!r}")
    dtype = jnp.promote_types(jnp.result_type(float) if dtype is None else dtype, jnp.float32)
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)


def prefix(u: Any, channels: int, lengths: Any) -> tuple[Array, Array]:
    """Check signals [B, L, H] and how many steps of each count; all of them for None.

    The others are read as zeros where they are no numbers.
    """
    u = signal(u, channels)
    if u.ndim != 3:
        raise ValueError(f"u: expected shape [B, L, {channels}], got {u.shape}")
    batch, length = u.shape[:2]
    if lengths is None:
        return u, jnp.full(batch, length)
    lengths = counted(lengths, batch, length)
    live = (jnp.arange(length) < lengths[:, None])[..., None]
    return jnp.where(live | jnp.isfinite(u), u, jnp.zeros((), u.dtype)), lengths


def counted(lengths: Any, batch: int, length: int, least: int = 0) -> Array:
    """Steps of each example that count, checked, [B].

    Raises:
        ValueError: another shape; known ones outside least..length.
    """
    known, lengths = concrete(lengths), jnp.asarray(lengths)
    if lengths.shape != (batch,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(
            f"lengths: expected {batch} whole numbers, got {lengths.dtype} {lengths.shape}"
        )
    if known is not None and not ((known >= least) & (known <= length)).all():
        raise ValueError(f"lengths: expected {least} to {length}, got {known.tolist()}")
    return lengths.astype(jnp.int32)  # what is computed with them may be beyond a smaller type


def check_skip(D: Any, shape: tuple[int, ...], *rest: Array) -> None:
    """Refuse a skip of another shape, and complex numbers anywhere."""
    if any(jnp.iscomplexobj(part) for part in (*rest, 0.0 if D is None else D)):
        raise ValueError("expected real numbers, got complex ones")
    if D is not None and jnp.shape(D) != shape:
        raise ValueError(f"D: expected shape {shape}, got {jnp.shape(D)}")


def check_state(state: Pair, shape: tuple[int, ...]) -> None:
    """Refuse the state of another batch or system."""
    if state[0].shape != shape:
        raise ValueError(f"state: expected shape {shape}, got {state[0].shape}")


def check_step(
    state: Any, u: Any, shape: tuple[int, ...], modes: tuple[int, ...] | None = None
) -> None:
    """Refuse inputs of other channels, complex ones, and states that do not fit them.

    Args:
        state: a pair, or one array.
        u: [B, H].
        shape: of the state of one example, [H, ...].
        modes: that shape if channels share their states; `shape` is [H] then.
    """
    if jnp.iscomplexobj(u):
        raise ValueError(f"u: expected real numbers, got {u.dtype}")
    if np.ndim(u) < 1 or u.shape[-1] != shape[0]:
        raise ValueError(f"u: expected shape [B, {shape[0]}], got {np.shape(u)}")
    state = state if isinstance(state, tuple) else (state, state)
    check_state(state, (*u.shape[:-1], *(shape if modes is None else modes)))
