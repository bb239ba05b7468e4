"""From c' = A c + B u in continuous time to c_k = A_bar c_{k-1} + B_bar u_k.

Notation
    dt      the step
    A, B    matrix [N, N] and vector [N] (or [N, M] for several inputs)
    Lambda  the diagonal of a diagonal A [N]

What a step does, by name of the method:

    forward   c_k = c_{k-1} + dt (A c_{k-1} + B u_k)
    backward  c_k = c_{k-1} + dt (A c_k + B u_k)
    bilinear  c_k = c_{k-1} + dt (A (c_{k-1} + c_k)/2 + B u_k)
    gbt       c_k = c_{k-1} + dt (A ((1 - alpha) c_{k-1} + alpha c_k) + B u_k), the generalised
              bilinear transform: alpha = 0 is forward, 1/2 bilinear, 1 backward
    zoh       zero-order hold: exact for an input that is constant over the step

The input of a step is u_k, its right end, or the mean of both ends (see `online.project`).

Source: https://kexue.fm/archives/10137; arXiv 2008.07669, appendix B.3.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array

SHARES = {"forward": 0.0, "backward": 1.0, "bilinear": 0.5}
METHODS = (*SHARES, "gbt", "zoh")


def share(method: str, alpha: float | None) -> float | None:
    """The implicit weight of a method, that of A c_k at the new point; None for zero-order hold.

    Raises:
        ValueError: unknown method; alpha missing for "gbt", outside [0, 1], or given for
            another method.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if method != "gbt":
        if alpha is not None:
            raise ValueError(f"alpha: only for the method gbt, got {alpha} for {method}")
        return SHARES.get(method)
    if alpha is None or not 0 <= alpha <= 1:
        raise ValueError(f"alpha: gbt needs a number in [0, 1], got {alpha}")
    return alpha


def discretize(A: Any, B: Any, dt: Any, method: str, alpha: float | None = None) -> tuple[Any, Any]:
    """(A_bar, B_bar) of a dense system.

    NumPy arguments give NumPy results in their own precision, on the host; JAX arrays give JAX
    arrays, differentiable in A, B and dt.

    Args:
        A: [N, N].
        B: [N] or [N, M].
        dt: step, a positive number.
        method: one of `METHODS`.
        alpha: weight of the new point in "gbt", in [0, 1]; for no other method.

    Raises:
        ValueError: unknown method, wrong shapes, a step that is not positive; I - share dt A
            singular (NumPy; NaN or infinity in JAX).

    >>> A_bar, B_bar = discretize(np.array([[-1.0]]), np.array([1.0]), 0.5, "bilinear")
    >>> round(float(A_bar[0, 0]), 6), round(float(B_bar[0]), 6)
    (0.6, 0.4)

    Source: https://kexue.fm/archives/10137, equations 6 to 9, where the alpha of gbt is the
    share of the old point; arXiv 2008.07669, appendix B.3.
    """
    implicit = share(method, alpha)
    if np.ndim(A) != 2 or np.shape(A)[0] != np.shape(A)[1]:
        raise ValueError(f"A: expected a square matrix, got shape {np.shape(A)}")
    if np.ndim(B) not in (1, 2) or np.shape(B)[0] != np.shape(A)[0]:
        raise ValueError(f"B: expected {np.shape(A)[0]} rows, got shape {np.shape(B)}")
    on_host = not any(isinstance(part, jax.Array) for part in (A, B, dt))
    if on_host and not dt > 0:
        raise ValueError(f"dt: expected a positive number, got {dt}")
    xp: Any = np if on_host else jnp
    A, B = xp.asarray(A), xp.asarray(B)
    size, columns = A.shape[0], B.reshape(A.shape[0], -1)
    if implicit is None:
        ends = _hold(A, columns, dt, xp)
    else:
        identity = xp.eye(size, dtype=A.dtype)
        left = identity - implicit * dt * A
        if on_host and np.linalg.cond(left) > 1.0 / np.finfo(left.dtype).eps:
            raise ValueError(f"dt: I - {implicit} dt A is singular at dt = {dt}")
        ends = xp.concatenate([identity + (1.0 - implicit) * dt * A, dt * columns], axis=1)
        ends = xp.linalg.solve(left, ends) if implicit else ends
    return ends[:, :size], ends[:, size:].reshape(B.shape)


def _hold(A: Any, columns: Any, dt: Any, xp: Any) -> Any:
    """Zero-order hold as one exponential of [[A, B], [0, 0]]: A may be singular."""
    size, inputs = columns.shape
    top = xp.concatenate([A, columns], axis=1)
    block = xp.concatenate([top, xp.zeros((inputs, size + inputs), top.dtype)], axis=0)
    expm: Any = scipy.linalg.expm if xp is np else jax.scipy.linalg.expm
    return expm(dt * block)[:size]


def discretize_diagonal(
    Lambda: Any, B: Any, dt: Any, method: str, alpha: float | None = None
) -> tuple[Array, Array]:
    """(Lambda_bar, B_bar) of a diagonal system; elementwise, so any shapes that broadcast.

    The zero-order hold is B dt phi(dt Lambda) with phi(z) = (exp(z) - 1)/z, also at z = 0.

    Source: https://kexue.fm/archives/10137, equations 6 to 9, for a diagonal A.
    """
    Lambda, B, dt = jnp.asarray(Lambda), jnp.asarray(B), jnp.asarray(dt)
    z, implicit = Lambda * dt, share(method, alpha)
    if implicit is None:
        return jnp.exp(z), dt * phi(z) * B
    left = 1.0 - implicit * z
    return (1.0 + (1.0 - implicit) * z) / left, dt * B / left


def phi(z: Any) -> Array:
    """(exp(z) - 1) / z for real or complex z, accurate near 0 in value and gradient.

    Source: derived from https://kexue.fm/archives/10137, equation 9: A^-1 (exp(dt A) - 1) = dt
    phi(dt A).
    """
    z = jnp.asarray(z)
    small = jnp.real(z) ** 2 + jnp.imag(z) ** 2 < 0.25
    near, far = jnp.where(small, z, 0.0), jnp.where(small, 1.0, z)
    series = jnp.ones_like(near)
    for n in range(16, 1, -1):
        series = 1.0 + near / n * series
    return jnp.where(small, series, (jnp.exp(far) - 1.0) / far)
