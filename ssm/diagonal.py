"""What diagonal systems have in common: how a step follows from poles, and how numbers come in.

Notation
    lambda, dt  poles in continuous time and steps, any shapes that broadcast
    a, b        x_k = a x_{k-1} + b B u_k
    zoh         a = exp(dt lambda),                       b = (a - 1)/lambda
    bilinear    a = (1 + dt lambda/2)/(1 - dt lambda/2),  b = dt/(1 - dt lambda/2)

Complex arrays are pairs of real ones: optimizers then need no care.

Source: https://kexue.fm/archives/10137, which derives both kinds of steps.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ssm import convolution, discretize, vandermonde
from ssm.vandermonde import Modes, Pair

DISCRETIZATIONS = ("zoh", "bilinear")
DECAY = 1e-4  # least rate of decay of trained modes


def modes(Lambda: Pair, dt: Array, discretization: str) -> Modes:
    """Logarithms of a."""
    rule = vandermonde.held if discretization == "zoh" else vandermonde.bilinear
    return rule(*Lambda, dt)


def multipliers(Lambda: Pair, dt: Array, discretization: str) -> Pair:
    """The a of a step.

    exp(dt lambda) or (1 + dt lambda/2)/(1 - dt lambda/2).

    Source: https://kexue.fm/archives/10162, equations 8, 9 and 20, for a diagonal A.
    """
    return vandermonde.power(modes(Lambda, dt, discretization), jnp.ones((), jnp.int32))


def gains(Lambda: Pair, dt: Array, discretization: str) -> Pair:
    """The b of a step, accurate near lambda = 0 too.

    (a - 1)/lambda or dt/(1 - dt lambda/2).

    Source: https://kexue.fm/archives/10162, equations 8 and 9, for a diagonal A.
    """
    re, im = dt * Lambda[0], dt * Lambda[1]
    if discretization == "zoh":
        whole = vandermonde.held(*Lambda, dt)
        turn = (whole.turns - jnp.round(whole.turns)) + whole.rest
        factor = _phi(re, im, jax.lax.stop_gradient(turn))
        return dt * factor[0], dt * factor[1]
    x, y = 1.0 - 0.5 * re, 0.5 * im
    size = dt / (x**2 + y**2)
    return size * x, size * y


@jax.custom_jvp
def _phi(x: Array, y: Array, turn: Array) -> Pair:
    """(exp(z) - 1)/z at z = x + i y, without cancellation; y is `turn` turns, and whole ones.

    The parts of exp(z) - 1 are expm1(x) cos y - 2 sin(y/2)^2 and exp(x) sin y. The division
    comes last: XLA does not repeat it for every power of a kernel, as it would the sum of
    `discretize.phi`, which keeps the derivative's digits next to zero.
    """
    cos, sin = vandermonde.circle(0.5 * turn)  # of y/2, up to a common sign
    real = jnp.expm1(x) * (1.0 - 2.0 * sin**2) - 2.0 * sin**2
    imaginary = jnp.exp(x) * 2.0 * sin * cos
    size = x**2 + y**2
    zero = size < 1e-30
    size = jnp.where(zero, 1.0, size)
    return (
        jnp.where(zero, 1.0, real * x + imaginary * y) / size,
        (imaginary * x - real * y) / size,
    )


@_phi.defjvp
def _phi_jvp(primals: Any, tangents: Any) -> tuple[Pair, Pair]:
    z, change = jax.lax.complex(*primals[:2]), jax.lax.complex(*tangents[:2])
    _, slope = jax.jvp(discretize.phi, (z,), (jnp.ones_like(z),))
    moved = slope * change
    return _phi(*primals), (moved.real, moved.imag)


def decaying(log_decay: Array) -> Array:
    """Real parts of poles from a trained logarithm, never above -`DECAY`; smooth everywhere.

    -(DECAY + exp(log_decay)).

    Source: arXiv 2206.11893; the bound is ours.
    """
    return -(DECAY + jnp.exp(log_decay))


def log_decay(Lambda: np.ndarray) -> np.ndarray:
    """The logarithms for which `decaying` gives Re(Lambda), or -2 `DECAY` if that is less."""
    return np.log(np.maximum(-np.real(Lambda) - DECAY, DECAY))


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


def check_rule(discretization: str) -> None:
    """Refuse unknown discretisations."""
    if discretization not in DISCRETIZATIONS:
        raise ValueError(
            f"discretization: expected one of {', '.join(DISCRETIZATIONS)}, got {discretization!r}"
        )


def check_range(dt_min: float, dt_max: float) -> None:
    """Refuse impossible ranges of initial steps."""
    if not 0 < dt_min <= dt_max:
        raise ValueError(f"dt_min, dt_max: expected 0 < dt_min <= dt_max, got {dt_min}, {dt_max}")


def check_values(shapes: dict[str, tuple[int, ...]], **values: Any) -> None:
    """Refuse wrong shapes, complex D and dt, and concrete values that no system has."""
    for name, value in values.items():
        if np.shape(value) != shapes[name]:
            raise ValueError(f"{name}: expected shape {shapes[name]}, got {np.shape(value)}")
        if name in ("D", "dt") and np.iscomplexobj(value):
            raise ValueError(f"{name}: expected real numbers")
        known = concrete(value)
        if known is not None and not np.isfinite(known).all():
            raise ValueError(f"{name}: expected finite values")
        if known is not None and name == "dt" and not (known > 0).all():
            raise ValueError(f"dt: expected positive steps, got {known.min()}")


def check_step_exists(discretization: str, Lambda: Any, dt: Any) -> None:
    """Refuse poles whose bilinear step divides by zero, unless traced.

    Args:
        Lambda: [..., M], dt: [...] or the shape of Lambda.
    """
    poles, steps = concrete(Lambda), concrete(dt)
    if discretization != "bilinear" or poles is None or steps is None:
        return
    steps = steps if steps.shape == poles.shape else steps[..., None]
    if (steps * poles == 2).any():
        raise ValueError("Lambda: a bilinear step divides by 1 - dt Lambda / 2, which is zero")


def concrete(value: Any) -> np.ndarray | None:
    """The value as an array, or None while it is traced."""
    try:
        return np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return None


def signal(u: Any, channels: int, stored: int | None = None) -> Array:
    """Check a real signal [..., L, H], no longer than what a kernel is stored for."""
    u = jnp.asarray(u)
    if u.ndim < 2 or u.shape[-1] != channels or u.shape[-2] < 1:
        raise ValueError(f"u: expected shape [..., L, {channels}] with L >= 1, got {u.shape}")
    if jnp.issubdtype(u.dtype, jnp.complexfloating):
        raise ValueError(f"u: expected real numbers, got {u.dtype}")
    if stored is not None and u.shape[-2] > stored:
        raise ValueError(f"u: expected at most the stored length of {stored}, got {u.shape[-2]}")
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
    """Check signals [B, L, H] and how many steps of each count; all of them for None."""
    u = signal(u, channels)
    if u.ndim != 3:
        raise ValueError(f"u: expected shape [B, L, {channels}], got {u.shape}")
    batch, length = u.shape[:2]
    if lengths is None:
        return u, jnp.full(batch, length)
    known, lengths = concrete(lengths), jnp.asarray(lengths)
    if lengths.shape != (batch,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(
            f"lengths: expected {batch} whole numbers, got {lengths.dtype} {lengths.shape}"
        )
    if known is not None and not ((known >= 0) & (known <= length)).all():
        raise ValueError(f"lengths: expected 0 to {length}, got {known.tolist()}")
    return u, lengths


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


def log_steps(key: Array, count: int, dt_min: float, dt_max: float) -> Array:
    """Logarithms of initial steps, evenly between those of dt_min and dt_max."""
    return jax.random.uniform(key, (count,), minval=np.log(dt_min), maxval=np.log(dt_max))
