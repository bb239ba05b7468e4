"""Reading a signal sample by sample into the state of a HiPPO system.

Notation
    u_k  the signal at its k-th sample, k = 1..L; sample k is u(k/L) in units of the whole
    c_k  the state after it [N]

A windowed or weighted measure is one fixed linear map per sample. A measure of the whole
history divides A and B by the time, so the step size drops out: nothing has to be set, and a
signal played at another speed leaves the same states.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssm import bases, discretize, hippo, legs

WINDOWED = (*discretize.METHODS, "trapezoid")


class State(NamedTuple):
    """What a projector carries from sample to sample.

    Attributes:
        read: samples read so far.
        coefficients: c [N].
        before: the last sample.
    """

    read: Array
    coefficients: Float[Array, " n"]
    before: Array


class Projector(NamedTuple):
    """A memory: two pure functions, the body and the start of a `jax.lax.scan`.

    Attributes:
        init: () -> state.
        step: (state, u_k) -> (state, c_k).
    """

    init: Callable[[], State]
    step: Callable[[State, Array], tuple[State, Array]]


def projector(
    measure: str,
    n: int,
    method: str = "bilinear",
    *,
    dt: float | None = None,
    alpha: float | None = None,
    dtype: Any = float,
) -> Projector:
    """The memory of a measure, for samples that arrive one by one.

    Args:
        measure: one of `hippo.MEASURES`.
        n: size of the state.
        method: for the whole history one of `legs.METHODS`, else one of
            `discretize.METHODS` or "trapezoid": bilinear, with the mean of both ends as input.
        dt: time between samples in units of the window; not for the whole history.
        alpha: of the method "gbt".
        dtype: of the state; double precision needs `jax.enable_x64`.

    Raises:
        ValueError: unknown measure or method, impossible size or step.
    """
    A, B = hippo.transition(measure, n)
    dtype = jnp.zeros((), dtype).dtype
    if measure in hippo.WHOLE:
        _check_method(measure, method, legs.METHODS)
        if dt is not None or alpha is not None:
            raise ValueError(f"dt, alpha: {measure} has no step size and no method gbt")
        advance = functools.partial(legs.step, method)
        if measure != "legs":
            parts = (jnp.asarray(A, dtype), jnp.asarray(B, dtype))
            advance = functools.partial(_dense_step, method, *parts)
    else:
        _check_method(measure, method, WINDOWED)
        if dt is None or not dt > 0:
            raise ValueError(f"dt: expected a positive number, got {dt}")
        ends = method == "trapezoid"
        bars = discretize.discretize(A, B, dt, "bilinear" if ends else method, alpha)
        advance = functools.partial(_fixed_step, ends, *(jnp.asarray(x, dtype) for x in bars))

    def init() -> State:
        return State(jnp.zeros((), dtype), jnp.zeros(n, dtype), jnp.zeros((), dtype))

    def step(state: State, u: Array) -> tuple[State, Array]:
        read = state.read + 1.0
        c = advance(read, state.coefficients, state.before, u)
        return State(read, c, u), c

    return Projector(init, step)


def _check_method(measure: str, method: str, methods: tuple[str, ...]) -> None:
    if method not in methods:
        raise ValueError(
            f"method: expected one of {', '.join(methods)} for {measure}, got {method!r}"
        )


def _fixed_step(
    ends: bool, A_bar: Array, B_bar: Array, k: Array, c: Array, before: Array, u: Array
) -> Array:
    # Before the first sample the signal is taken to have had its value.
    held = jnp.where(k > 1, 0.5 * (before + u), u) if ends else u
    return A_bar @ c + B_bar * held


def _dense_step(
    method: str, A: Array, B: Array, k: Array, c: Array, before: Array, u: Array
) -> Array:
    """`legs.step` for any system c' = (A c + B u)/t whose constant state is the first unit vector.

    O(N^3) operations: A/k is another matrix at every sample.
    """
    identity = jnp.eye(c.shape[-1], dtype=c.dtype)
    if method == "forward":
        return c + (A @ c + B * u) / k
    if method == "backward":
        return jnp.linalg.solve(identity - A / k, c + B * u / k)
    if method == "bilinear":
        return jnp.linalg.solve(identity - 0.5 * A / k, c + (0.5 * (A @ c) + B * u) / k)
    start = jnp.zeros_like(c).at[0].set(u)
    past = jnp.maximum(k - 1.0, 1.0)
    if method == "trapezoid":
        old = c + 0.5 * (A @ c + B * before) / past
        new = jnp.linalg.solve(identity - 0.5 * A / k, old + 0.5 * B * u / k)
    else:
        A_bar, B_bar = discretize.discretize(A, B, jnp.log(k / past), "zoh")
        new = A_bar @ c + B_bar * u
    return jnp.where(k > 1, new, start)


def project(
    signal: Any,
    measure: str,
    n: int,
    method: str = "bilinear",
    *,
    window: float = 1.0,
    alpha: float | None = None,
) -> Float[Array, "length n"]:
    """States after every sample of a signal of total time 1.

    Args:
        signal: [L], u(k/L) for k = 1..L.
        measure, n, method, alpha: as `projector`.
        window: length of the window as a fraction of the signal, in (0, 1]; of the Laguerre
            measures the unit of age.

    Returns:
        [L, N]; row k - 1 after consuming u_k.

    Raises:
        ValueError: as `projector`; an empty or non-finite signal, a window outside (0, 1].

    >>> c = project(jnp.ones(8), "legs", 3, "exact")
    >>> c[-1].round(3).tolist()
    [1.0, 0.0, 0.0]
    """
    signal = jnp.asarray(signal)
    signal = signal.astype(jnp.result_type(signal, float))
    if signal.ndim != 1 or signal.size == 0:
        raise ValueError(f"signal: expected a vector with samples, got shape {signal.shape}")
    if not _finite(signal):
        raise ValueError("signal: expected finite numbers")
    if not 0 < window <= 1:
        raise ValueError(f"window: expected a fraction in (0, 1] of the signal, got {window}")
    whole = measure in hippo.WHOLE
    if whole and window != 1:
        raise ValueError(f"window: {measure} keeps the whole history, got a window of {window}")
    dt = None if whole else 1.0 / (signal.size * window)
    return _run(signal, measure, n, method, dt, alpha)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _run(
    signal: Array, measure: str, n: int, method: str, dt: float | None, alpha: float | None
) -> Array:
    memory = projector(measure, n, method, dt=dt, alpha=alpha, dtype=signal.dtype)
    return jax.lax.scan(memory.step, memory.init(), signal)[1]


def _finite(signal: Array) -> bool:
    try:
        return bool(np.isfinite(np.asarray(signal)).all())
    except jax.errors.TracerArrayConversionError:
        return True  # cannot be looked at while it is traced


def reconstruct(
    coefficients: Any, measure: str, points: Any, *, alpha: float = 0.0, beta: float = 1.0
) -> Array:
    """The remembered signal at positions in the window or history.

    Args:
        coefficients: states [..., N].
        measure: one of `hippo.MEASURES`.
        points: positions [...points]: 0 the oldest point, 1 the newest. Laguerre measures
            reach back to any position below 1.
        alpha, beta: of "glagt".

    Returns:
        [..., ...points].
    """
    c = jnp.asarray(coefficients)
    return bases.evaluate(c, measure, jnp.asarray(points, c.dtype), alpha=alpha, beta=beta)
