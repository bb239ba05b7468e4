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

from ssm import checks, diagonal, signals
from ssm.vandermonde import Pair

STILL = 1e-2
FOREVER = 2**62
UNDAMPED = 2000.0


@struct.dataclass
class System:
    """A system of H channels; complex arrays are pairs of real ones.

    Attributes:
        Lambda, B, C: pairs [H, N].
        P: pair [H, R, N].
        D, dt: [H].
        length: L if C is C~ for kernels up to that length; None if C is exact.
        conjugate: whether one mode of each conjugate pair is stored, followed by the real modes.
        real: number of real modes, stored last; they represent themselves only.
        still: whether some |Lambda| may be below `STILL`, where Woodbury's identity loses
            the digits of frequency zero; that one then comes from a dense solve.
        undamped: whether some |P_n|^2 may exceed `UNDAMPED` times the decay of Lambda_n; then
            the kernel of a conjugate system treats the nearest pole of each frequency apart (see
            `spectrum`), that of another comes from dense powers, and `still` has no effect.
        lasting: time constant of the slowest mode in steps, rounded up to 2^k; 2^62 if unknown.
    """

    Lambda: Pair
    P: Pair
    B: Pair
    C: Pair
    D: Array
    dt: Array
    length: int | None = struct.field(pytree_node=False, default=None)
    conjugate: bool = struct.field(pytree_node=False, default=False)
    real: int = struct.field(pytree_node=False, default=0)
    still: bool = struct.field(pytree_node=False, default=False)
    undamped: bool = struct.field(pytree_node=False, default=False)
    lasting: int = struct.field(pytree_node=False, default=FOREVER)

    @property
    def rank(self) -> int:
        """R."""
        return self.P[0].shape[1]


def from_dplr(
    Lambda: Any, P: Any, B: Any, C: Any, D: Any, dt: Any, length: int | None = None
) -> System:
    """A system from DPLR parameters, such as published ones: A = diag(Lambda) - sum_r P_r P_r^*.

    Args:
        Lambda, B, C: complex [H, N], all modes: y = Re(C x) + D u, C not conjugated.
        P: complex [H, R, N].
        D, dt: real [H].
        length: store C~ = C (1 - a^length), the fast form that training uses, for kernels up to
            this length. None: store C, and every kernel computes the C~ of its own length.

    Unless traced, systems whose modes come in conjugate pairs store one mode of each pair.

    Raises:
        ValueError: shapes that do not fit, complex D or dt, dt not positive, values that are not
            finite, length < 1 or for which 1 - a^length is singular (traced: such a length gives
            NaN, in values and gradients).

    Source: arXiv 2111.00396, theorem 1, with Q = P; https://kexue.fm/archives/10162, equations 32
    and 39.
    """
    if np.ndim(Lambda) != 2 or 0 in np.shape(Lambda):
        raise ValueError(f"Lambda: expected shape [H, N], got {np.shape(Lambda)}")
    if np.ndim(P) != 3:
        raise ValueError(f"P: expected shape [H, R, N], got {np.shape(P)}")
    whole, channels = np.shape(Lambda), np.shape(Lambda)[:1]
    shapes = {"Lambda": whole, "B": whole, "C": whole, "D": channels, "dt": channels}
    shapes["P"] = (whole[0], np.shape(P)[1], whole[1])
    diagonal.check_values(shapes, Lambda=Lambda, P=P, B=B, C=C, D=D, dt=dt)
    if length is not None:
        checks.length(length)
    numbers = [_complex(value) for value in (Lambda, P, B, C)]
    still = numbers[0] is None or bool(np.any(np.abs(numbers[0]) < STILL))
    undamped = all(n is not None for n in numbers[:2]) and is_undamped(*numbers[:2])
    steps, lasting = signals.concrete(dt), FOREVER
    if numbers[0] is not None and numbers[1] is not None and steps is not None:
        poles = _poles(numbers[0], numbers[1]) * steps[:, None]
        lasting = _lasting(poles)
        if length is not None:
            _check_regular(poles, length, float(np.finfo(signals.real(dt).dtype).eps))
    half = None if any(n is None for n in numbers) else _halves(*numbers)
    real = 0
    if half is not None:
        Lambda, P, B, C, real = half
    plain = System(
        signals.pair(Lambda),
        signals.pair(P),
        signals.pair(B),
        signals.pair(C),
        signals.real(D),
        signals.real(dt),
        conjugate=half is not None,
        real=real,
        still=still,
        undamped=undamped,
        lasting=lasting,
    )
    return plain if length is None else truncated(plain, length)


def _complex(value: Any) -> Any:
    known = signals.concrete(value)
    return None if known is None else known.astype(np.result_type(known, np.complex64))


def _poles(Lambda: Any, P: Any) -> Any:
    """Poles of the systems, the eigenvalues of A, [H, N]; equal channels are computed once."""
    rows = np.concatenate([Lambda[:, None], P], axis=1)
    different, index = np.unique(rows, axis=0, return_inverse=True)
    Lambda, P = different[:, 0].astype(complex), different[:, 1:].astype(complex)
    A = np.eye(Lambda.shape[1]) * Lambda[:, None] - P.swapaxes(1, 2) @ P.conj()
    poles = np.linalg.eigvals(A)[index.reshape(-1)]
    rounding = 1e-13 * np.abs(A).max(axis=(1, 2))[index.reshape(-1), None]
    return np.where(np.abs(poles) > rounding, poles, 0.0)


def _lasting(poles: Any) -> int:
    slowest = float(-np.real(poles).max())
    return FOREVER if slowest < 1.0 / FOREVER else 2 ** max(0, int(np.ceil(-np.log2(slowest))))


def _check_regular(poles: Any, length: int, eps: float) -> None:
    """Refuse C~ where modes have turned back to where they were and decayed too little.

    Slow modes, whose a^L is next to 1 because a is, lose nothing.
    """
    with np.errstate(all="ignore"):
        logarithm = 2.0 * np.arctanh(0.5 * poles)  # of a
        gap = np.abs(np.expm1(length * logarithm))
        gap = gap / np.minimum(1.0, length * np.abs(np.expm1(logarithm)))
    gap = np.where(np.isnan(gap) & (poles != 0), 1.0, gap)
    if not (gap > 1e4 * eps).all():
        raise ValueError(
            f"length: 1 - a^{length} is singular to rounding, a mode is after {length} steps where "
            "it was; choose another length, or none for exact kernels"
        )


def is_undamped(Lambda: Any, P: Any) -> bool:
    """Whether poles [H, N] decay so little beside |P|^2 [H, R, N] that digits are at stake."""
    strength = np.sum(np.abs(P) ** 2, axis=1)
    return bool(np.any(strength > -UNDAMPED * np.real(Lambda)))


def _halves(Lambda: Any, P: Any, B: Any, C: Any) -> tuple[Any, Any, Any, Any, int] | None:
    """One mode of each conjugate pair, then a real one; None if the modes do not come so.

    Coordinates of a mode may be turned by a phase: what counts are the products over it. Any C
    does: states whose coordinates are conjugates see, in Re(C x), only the part of C like them.
    """
    index = np.argsort(np.imag(Lambda), axis=1, kind="stable")
    Lambda, B, C = (np.take_along_axis(part, index, 1) for part in (Lambda, B, C))
    P = np.take_along_axis(P, index[:, None], 2)
    columns = np.concatenate([P, B[:, None]], axis=1)
    largest = np.abs(columns).max(axis=-1, keepdims=True)
    columns = columns / np.where(largest > 0, largest, 1.0)  # none hides behind a larger one
    products = columns.conj()[:, :, None] * columns[:, None]
    speed = np.abs(Lambda).max(axis=-1, keepdims=True)
    for part in (Lambda / np.where(speed > 0, speed, 1.0), products):
        if (np.abs(part - part[..., ::-1].conj()) > 64 * np.finfo(part.dtype).eps).any():
            return None
    turn = np.sum(columns * columns[..., ::-1], axis=1)  # B_n' = turn conj(B_n), P_n' likewise
    size = np.abs(turn)
    if (size < 0.99 * np.sum(np.abs(columns) ** 2, axis=1)).any():
        return None
    turn = np.where(size > 0, turn, 1.0) / np.where(size > 0, size, 1.0)
    C = 0.5 * (C + (C[:, ::-1] * turn).conj())
    middle, real = divmod(Lambda.shape[1], 2)
    if not (np.imag(Lambda)[:, middle + real :] > 0).all():
        return None
    kept = np.r_[middle + real : Lambda.shape[1], middle : middle + real]
    Lambda, P, B, C = Lambda[:, kept], P[..., kept].copy(), B[:, kept].copy(), C[:, kept].copy()
    if real:
        Lambda = np.where(np.arange(len(kept)) < middle, Lambda, Lambda.real)
        turn = real_phase(np.concatenate([P[..., -1], B[:, -1:]], axis=1))
        P[..., -1] = np.real(P[..., -1] * turn[:, None])
        B[:, -1], C[:, -1] = np.real(B[:, -1] * turn), np.real(C[:, -1] / turn)
    return Lambda, P, B, C, real


def real_phase(columns: Any) -> Any:
    """The factors of size 1 that make rows of complex numbers of one phase real, [H]."""
    largest = np.take_along_axis(columns, np.abs(columns).argmax(axis=1)[:, None], axis=1)[:, 0]
    size = np.abs(largest)
    return np.where(size > 0, largest.conj(), 1.0) / np.where(size > 0, size, 1.0)


def as_complex(parts: Pair) -> Array:
    """One array from its parts."""
    return jax.lax.complex(*parts)


def all_modes(system: System) -> tuple[Array, Array, Array, Array]:
    """Lambda, P, B, C with all modes, complex."""
    parts = (system.Lambda, system.P, system.B, system.C)
    Lambda, P, B, C = (with_conjugates(system, as_complex(part)) for part in parts)
    return Lambda, P, B, C


def _mirrored(system: System, value: Array) -> Array:
    """Conjugates of the modes that stand for pairs: what `all_modes` adds."""
    pairs = value.shape[-1] - system.real if system.conjugate else 0
    return value[..., :pairs].conj()


def with_conjugates(system: System, state: Array) -> Array:
    """A state of all modes [..., N] from that of the modes that are kept."""
    return jnp.concatenate([state, _mirrored(system, state)], axis=-1)


def share(system: System) -> Array:
    """How many modes each kept one stands for, [N]: 2 in pairs, 1 alone."""
    count = system.B[0].shape[-1]
    pairs = count - system.real if system.conjugate else 0
    return jnp.where(jnp.arange(count) < pairs, 2.0, 1.0)


def dense(system: System) -> Array:
    """The matrix A of all modes, [H, N, N].

    diag(Lambda) - sum_r P_r P_r^*.

    Source: https://kexue.fm/archives/10162, equation 32.
    """
    Lambda, P, _, _ = all_modes(system)
    identity = jnp.eye(Lambda.shape[-1], dtype=Lambda.dtype)
    return identity * Lambda[..., None] - matmul(P.swapaxes(-1, -2), P.conj())


def resolvent(system: System) -> Array:
    """The matrix (1 - dt A/2)^-1 of all modes, [H, N, N], one rank after the other.

    No batched LU decomposition: two of them in one program can wait for each other's threads
    forever on CPUs (jaxlib 0.10.2).

    Source: Woodbury's identity; https://kexue.fm/archives/10162, equations 27 and 35.
    """
    Lambda, P, _, _ = all_modes(system)
    half = 0.5 * system.dt[:, None]
    inverse = jnp.eye(Lambda.shape[-1], dtype=Lambda.dtype) / (1.0 - half * Lambda)[..., None]
    for r in range(system.rank):
        p = P[:, r]
        right = matmul(inverse, p[..., None])
        left = matmul(p.conj()[:, None], inverse)
        strength = half[..., None] / (1.0 + half[..., None] * matmul(p.conj()[:, None], right))
        inverse = inverse - strength * right * left
    return inverse


def discrete(system: System) -> tuple[Array, Array]:
    """The matrices (1 - a, b) of a bilinear step of all modes, [H, N, N] and [H, N].

    Source: https://kexue.fm/archives/10162, equation 9.
    """
    inverse = resolvent(system)
    B = system.dt[:, None] * all_modes(system)[2]
    return _change(system, inverse), matmul(inverse, B[..., None])[..., 0]


def _change(system: System, inverse: Array) -> Array:
    """1 - a = -dt (1 - dt A/2)^-1 A, without cancellation."""
    return matmul(inverse, -system.dt[:, None, None] * dense(system))


def small_inverse(matrix: Array) -> Array:
    """Inverses of small matrices [..., R, R] whose leading blocks are regular, by sweeps.

    Source: Gauss and Jordan's elimination, without exchanges of rows.
    """
    for r in range(matrix.shape[-1]):
        pivot = matrix[..., r, r]
        row = matrix[..., r, :] / pivot[..., None]
        column = matrix[..., :, r]
        swept = matrix - column[..., None] * row[..., None, :]
        swept = swept.at[..., r, :].set(row).at[..., :, r].set(-column / pivot[..., None])
        matrix = swept.at[..., r, r].set(1.0 / pivot)
    return matrix


def matmul(x: Array, y: Array) -> Array:
    """A product in full single precision."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _remainder(system: System, length: int) -> Array:
    """1 - a^length, [H, N, N], to the digits of a - 1 however close a is to 1."""
    one = _change(system, resolvent(system))
    rest = one
    for bit in f"{length:b}"[1:]:
        rest = 2.0 * rest - matmul(rest, rest)  # 1 - a^2k = (1 - a^k) (2 - (1 - a^k))
        if bit == "1":
            rest = rest + one - matmul(rest, one)
    return rest


def truncated(system: System, length: int) -> System:
    """The same system with C~ for kernels up to `length` in place of C.

    C~ = C (1 - a^length).

    Source: arXiv 2111.00396, algorithm 1, line 1; https://kexue.fm/archives/10162, equation 39
    where z^L = 1.
    """
    C = all_modes(exact(system))[3]
    C = matmul(C[:, None], _remainder(system, length))[:, 0]
    return dataclasses.replace(system, C=_kept(system, C), length=length)


def exact(system: System) -> System:
    """The same system with C itself: solves C (1 - a^L) = C~.

    Raises:
        ValueError: 1 - a^L is singular, as for a mode that neither decays nor oscillates (traced:
            NaN or infinity).

    Source: https://kexue.fm/archives/10162, the text behind equation 39.
    """
    if system.length is None:
        return system
    rest = _remainder(system, system.length).swapaxes(-1, -2)
    C = jnp.linalg.solve(rest, all_modes(system)[3][..., None])[..., 0]
    known = signals.concrete(C)
    if known is not None and not np.isfinite(known).all():
        raise ValueError(f"length: 1 - a^{system.length} is singular, it has no exact C")
    return dataclasses.replace(system, C=_kept(system, C), length=None)


def _kept(system: System, C: Array) -> Pair:
    C = C[:, : system.B[0].shape[-1]]
    return jnp.real(C), jnp.imag(C)
