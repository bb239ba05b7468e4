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

from ssm import bases, discretize, hippo, history, signals

WINDOWED = (*discretize.METHODS, "trapezoid")
HOLDS = ("right", "trapezoid")


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
    """An online projection as two pure functions: initial state and body of a `jax.lax.scan`.

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
    hold: str = "right",
    alpha: float | None = None,
    laguerre: tuple[float, float] = (0.0, 1.0),
    dtype: Any = float,
) -> Projector:
    """Online projection onto the basis of a measure, for samples that arrive one by one.

    Args:
        measure: one of `hippo.MEASURES`.
        n: size of the state.
        method: for "legs" and "fous" (whole history) one of `history.METHODS`; for the others one
            of `discretize.METHODS`, or "trapezoid", short for "bilinear" with that hold.
        dt: time between samples in units of the window; required, but not for "legs" and "fous".
        hold: input of a step, except for "legs" and "fous": "right" takes u_k, "trapezoid" the
            mean of u_k and u_{k-1} (u_1 alone at the first sample). For "legs" and "fous" the
            method determines it: leave the default.
        alpha: weight of the new point, in [0, 1]: required by the method "gbt", for no other.
        laguerre: (alpha, beta) of the measure "glagt", as in `hippo.transition`.
        dtype: of the state, at least single precision, which counts up to 2^24 samples; double
            precision needs `jax.enable_x64`.

    Raises:
        ValueError: unknown measure, method or hold, impossible size or step, an argument of
            another measure or method.
    """
    hippo.check(measure, n)
    if measure != "glagt" and tuple(laguerre) != (0.0, 1.0):
        raise ValueError(f"laguerre: only for the measure glagt, got {laguerre} for {measure}")
    dtype = jnp.promote_types(jnp.zeros((), dtype).dtype, jnp.float32)
    if measure in hippo.WHOLE:
        _check_choice("method", method, history.METHODS, measure)
        _check_choice("hold", hold, HOLDS[:1], measure)
        if dt is not None or alpha is not None:
            raise ValueError(f"dt, alpha: {measure} has no step size and no method gbt")
        advance = functools.partial(history.step, history.system(measure, n, dtype), method)
    else:
        _check_choice("method", method, WINDOWED, measure)
        _check_choice("hold", hold, HOLDS, measure)
        if dt is None or not dt > 0:
            raise ValueError(f"dt: expected a positive number, got {dt}")
        if method == "trapezoid":
            method, hold = "bilinear", "trapezoid"
        A, B = hippo.transition(measure, n, alpha=laguerre[0], beta=laguerre[1])
        bars = discretize.discretize(A, B, dt, method, alpha)
        advance = functools.partial(_fixed_step, hold, *(jnp.asarray(x, dtype) for x in bars))

    def init() -> State:
        return State(jnp.zeros((), dtype), jnp.zeros(n, dtype), jnp.zeros((), dtype))

    def step(state: State, u: Array) -> tuple[State, Array]:
        read, u = state.read + 1.0, jnp.asarray(u, dtype)
        c = advance(read, state.coefficients, state.before, u)
        return State(read, c, u), c

    return Projector(init, step)


def _check_choice(name: str, value: str, known: tuple[str, ...], measure: str) -> None:
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)} for {measure}, got {value!r}")


def _fixed_step(
    hold: str, A_bar: Array, B_bar: Array, k: Array, c: Array, before: Array, u: Array
) -> Array:
    # Before the first sample the signal is taken to have had its value.
    held = jnp.where(k > 1, 0.5 * (before + u), u) if hold == "trapezoid" else u
    return A_bar @ c + B_bar * held


def project(
    signal: Any,
    measure: str,
    n: int,
    method: str = "bilinear",
    *,
    window: float = 1.0,
    hold: str = "right",
    alpha: float | None = None,
    laguerre: tuple[float, float] = (0.0, 1.0),
) -> Float[Array, "length n"]:
    """States after every sample of a signal of total time 1.

    Args:
        signal: [L], u(k/L) for k = 1..L.
        measure, n, method, hold, alpha, laguerre: as `projector`.
        window: length of the window as a fraction of the signal, in (0, 1]; of the Laguerre
            measures the unit of age.

    Returns:
        [L, N]; row k - 1 after consuming u_k.

    Raises:
        ValueError: as `projector`; an empty or non-finite signal, a window outside (0, 1].

    >>> c = project(jnp.ones(8), "legs", 3, "exact")
    >>> c[-1].round(3).tolist()
    [1.0, 0.0, 0.0]

    Source: https://kexue.fm/archives/10114, equation 14, kept up to date by the steps of
    https://kexue.fm/archives/10137, equations 6 to 9, 15 and 16; arXiv 2008.07669, section 3.3.
    """
    signal = jnp.asarray(signal)
    signal = signal.astype(jnp.result_type(signal, float))
    if signal.ndim != 1 or signal.size == 0:
        raise ValueError(f"signal: expected a vector with samples, got shape {signal.shape}")
    if not _finite(signal):
        raise ValueError("signal: expected finite numbers")
    if not 0 < window <= 1:
        raise ValueError(f"window: expected a fraction in (0, 1] of the signal, got {window}")
    hippo.check(measure, n, window)
    dt = None if measure in hippo.WHOLE else 1.0 / (signal.size * window)
    return _run(signal, measure, n, method, dt, hold, alpha, tuple(laguerre))


@functools.partial(jax.jit, static_argnums=range(1, 8))
def _run(
    signal: Array,
    measure: str,
    n: int,
    method: str,
    dt: float | None,
    hold: str,
    alpha: float | None,
    laguerre: tuple[float, float],
) -> Array:
    options = {"dt": dt, "hold": hold, "alpha": alpha, "laguerre": laguerre}
    memory = projector(measure, n, method, **options, dtype=signal.dtype)
    return jax.lax.scan(memory.step, memory.init(), signal)[1]


def _finite(signal: Array) -> bool:
    try:
        return bool(np.isfinite(np.asarray(signal)).all())
    except jax.errors.TracerArrayConversionError:
        return True  # cannot be looked at while it is traced


def reconstruct(
    coefficients: Any, measure: str, points: Any, *, laguerre: tuple[float, float] = (0.0, 1.0)
) -> Array:
    """The remembered signal at positions in the window or history.

    Args:
        coefficients: states [..., N].
        measure: one of `hippo.MEASURES`.
        points: positions [...points]: 0 the oldest point, 1 the newest. Laguerre measures
            reach back to any position below 1.
        laguerre: (alpha, beta) of "glagt".

    Returns:
        [..., ...points].

    Raises:
        ValueError: no states, an unknown measure, positions outside (unless traced).

    Source: https://kexue.fm/archives/10114, equations 7 and 23.
    """
    c = signals.real(coefficients)
    if not c.ndim:
        raise ValueError(f"coefficients: expected states [..., N], got {coefficients}")
    known = signals.concrete(points)
    least = -np.inf if measure in ("lagt", "glagt") else 0.0
    if known is not None and not ((known >= least - 1e-6) & (known <= 1.0 + 1e-6)).all():
        raise ValueError(
            f"points: expected from {least:g} to 1, got {known.min()} to {known.max()}"
        )
    alpha, beta = laguerre
    return bases.evaluate(c, measure, jnp.asarray(points, c.dtype), alpha=alpha, beta=beta)
