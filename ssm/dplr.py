"""Normal-plus-low-rank systems: their numbers, with all modes or one of each conjugate pair.

Notation
    H, N, R   channels, modes of a channel, rank of the correction
    A         diag(Lambda) - sum_r P_r P_r^*, by channel
    B, C, D   x' = A x + B u,  y = Re(C x) + D u
    a         (1 - dt A/2)^-1 (1 + dt A/2), of a bilinear step
    C~        C (1 - a^L), what kernels of length L need (see `s4`)

Source: arXiv 2111.00396, sections 2.2 and 3; https://kexue.fm/archives/10162.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array

from ssm import diagonal
from ssm.vandermonde import Pair

STILL = 1e-2


@struct.dataclass
class System:
    """A system of H channels; complex arrays are pairs of real ones.

    Attributes:
        Lambda, B, C: pairs [H, N].
        P: pair [H, R, N].
        D, dt: [H].
        length: L if C is C~ for kernels up to that length; None if C is exact.
        conjugate: whether the modes are one of each conjugate pair.
        still: whether some |Lambda| may be below `STILL`, where Woodbury's identity loses
            the digits of frequency zero; that one then comes from a dense solve.
    """

    Lambda: Pair
    P: Pair
    B: Pair
    C: Pair
    D: Array
    dt: Array
    length: int | None = struct.field(pytree_node=False, default=None)
    conjugate: bool = struct.field(pytree_node=False, default=False)
    still: bool = struct.field(pytree_node=False, default=False)


def from_dplr(
    Lambda: Any, P: Any, B: Any, C: Any, D: Any, dt: Any, length: int | None = None
) -> System:
    """A system from the literature's own numbers: A = diag(Lambda) - sum_r P_r P_r^*.

    Args:
        Lambda, B, C: complex [H, N], all modes: y = Re(C x) + D u, C not conjugated.
        P: complex [H, R, N].
        D, dt: real [H].
        length: store C~ = C (1 - a^length), the form that is fast and trained, for kernels up
            to that length. None: C stays exact, and every kernel computes its own C~.

    Concrete systems whose modes come in conjugate pairs are stored by halves.

    Raises:
        ValueError: shapes that do not fit, complex D or dt, dt not positive, values that are not
            finite, length < 1.
    """
    if np.ndim(Lambda) != 2 or 0 in np.shape(Lambda):
        raise ValueError(f"Lambda: expected shape [H, N], got {np.shape(Lambda)}")
    if np.ndim(P) != 3:
        raise ValueError(f"P: expected shape [H, R, N], got {np.shape(P)}")
    whole, channels = np.shape(Lambda), np.shape(Lambda)[:1]
    shapes = {"Lambda": whole, "B": whole, "C": whole, "D": channels, "dt": channels}
    shapes["P"] = (whole[0], np.shape(P)[1], whole[1])
    diagonal.check_values(shapes, Lambda=Lambda, P=P, B=B, C=C, D=D, dt=dt)
    if length is not None and length < 1:
        raise ValueError(f"length: expected at least 1, got {length}")
    numbers = [diagonal.concrete(value) for value in (Lambda, P, B, C)]
    still = numbers[0] is None or bool(np.any(np.abs(numbers[0]) < STILL))
    half = None if any(n is None for n in numbers) else _halves(*numbers)
    if half is not None:
        Lambda, P, B, C = half
    plain = System(
        diagonal.pair(Lambda),
        diagonal.pair(P),
        diagonal.pair(B),
        diagonal.pair(C),
        diagonal.real(D),
        diagonal.real(dt),
        conjugate=half is not None,
        still=still,
    )
    return plain if length is None else truncated(plain, length)


def _halves(Lambda: Any, P: Any, B: Any, C: Any) -> tuple[Any, ...] | None:
    """One mode of each conjugate pair, or None if the modes do not come so.

    Coordinates of a mode may be turned by a phase: what counts are the products over it.
    """
    if Lambda.shape[1] % 2:
        return None
    index = np.argsort(np.imag(Lambda), axis=1, kind="stable")
    Lambda, B, C = (np.take_along_axis(part, index, 1) for part in (Lambda, B, C))
    P = np.take_along_axis(P, index[:, None], 2)
    left = np.concatenate([C[:, None], P.conj()], axis=1)[:, :, None]
    right = np.concatenate([B[:, None], P], axis=1)[:, None]
    for part in (Lambda[:, None, None], left * right):
        gap = np.abs(part - part[..., ::-1].conj()).max()
        if gap > 64 * np.finfo(part.dtype).eps * np.abs(part).max():
            return None
    middle = Lambda.shape[1] // 2
    if not (np.imag(Lambda)[:, middle:] > 0).all():
        return None
    return Lambda[:, middle:], P[..., middle:], B[:, middle:], C[:, middle:]


def as_complex(parts: Pair) -> Array:
    """One array from its parts."""
    return jax.lax.complex(*parts)


def all_modes(system: System) -> tuple[Array, Array, Array, Array]:
    """Lambda, P, B, C with all modes, complex."""

    def both(parts: Pair) -> Array:
        value = as_complex(parts)
        return jnp.concatenate([value, value.conj()], axis=-1) if system.conjugate else value

    return both(system.Lambda), both(system.P), both(system.B), both(system.C)


def dense(system: System) -> Array:
    """The matrix A of all modes, [H, N, N]."""
    Lambda, P, _, _ = all_modes(system)
    identity = jnp.eye(Lambda.shape[-1])
    return identity * Lambda[..., None] - matmul(P.swapaxes(-1, -2), P.conj())


def discrete(system: System) -> tuple[Array, Array]:
    """The matrices (a, b) of a bilinear step of all modes, [H, N, N] and [H, N]."""
    A, B = dense(system), all_modes(system)[2]
    identity = jnp.eye(A.shape[-1])
    dt = system.dt[:, None, None]
    right = jnp.concatenate([identity + 0.5 * dt * A, dt * B[..., None]], axis=-1)
    both = jnp.linalg.solve(identity - 0.5 * dt * A, right)
    return both[..., :-1], both[..., -1]


def matmul(x: Array, y: Array) -> Array:
    """A product in full single precision."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _remainder(system: System, length: int) -> Array:
    """1 - a^length, [H, N, N], to the digits of a - 1 however close a is to 1."""
    A = dense(system)
    dt = system.dt[:, None, None]
    one = jnp.linalg.solve(jnp.eye(A.shape[-1]) - 0.5 * dt * A, -dt * A)  # 1 - a
    rest = one
    for bit in f"{length:b}"[1:]:
        rest = 2.0 * rest - matmul(rest, rest)  # 1 - a^2k = (1 - a^k) (2 - (1 - a^k))
        if bit == "1":
            rest = rest + one - matmul(rest, one)
    return rest


def truncated(system: System, length: int) -> System:
    """The same system with C~ for kernels up to `length` in place of C."""
    C = all_modes(exact(system))[3]
    C = matmul(C[:, None], _remainder(system, length))[:, 0]
    return dataclasses.replace(system, C=_kept(system, C), length=length)


def exact(system: System) -> System:
    """The same system with C itself: solves C (1 - a^L) = C~.

    NaN or infinity where 1 - a^L is singular: a mode that neither decays nor turns.
    """
    if system.length is None:
        return system
    rest = _remainder(system, system.length).swapaxes(-1, -2)
    C = jnp.linalg.solve(rest, all_modes(system)[3][..., None])[..., 0]
    return dataclasses.replace(system, C=_kept(system, C), length=None)


def _kept(system: System, C: Array) -> Pair:
    C = C[:, : system.B[0].shape[-1]]
    return jnp.real(C), jnp.imag(C)
