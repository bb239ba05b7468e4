"""What diagonal systems have in common: how a step follows from poles.

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

from ssm import discretize, signals, vandermonde
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
            raise ValueError(f"{name}: expected real numbers, got complex ones")
        known = signals.stored(value)
        if known is not None and not np.isfinite(known).all():
            raise ValueError(f"{name}: expected finite values, got NaN or infinity")
        if known is not None and name == "dt" and not (known > 0).all():
            raise ValueError(f"dt: expected positive steps, got {known.min()}")


def check_step_exists(discretization: str, Lambda: Any, dt: Any) -> None:
    """Refuse poles whose bilinear step divides by zero, unless traced.

    Args:
        Lambda: [..., M], dt: [...] or the shape of Lambda.
    """
    poles, steps = signals.stored(Lambda), signals.stored(dt)
    if discretization != "bilinear" or poles is None or steps is None:
        return
    steps = steps if steps.shape == poles.shape else steps[..., None]
    if (steps * poles == 2).any():
        raise ValueError("Lambda: a bilinear step divides by 1 - dt Lambda / 2, which is zero")


def log_steps(key: Array, count: int, dt_min: float, dt_max: float) -> Array:
    """Logarithms of initial steps, evenly between those of dt_min and dt_max."""
    return jax.random.uniform(key, (count,), minval=np.log(dt_min), maxval=np.log(dt_max))
