"""Any linear system of this package as an RTF, of its own order or of a smaller one.

Notation
    K_l   impulse response of a channel; K_0 the direct term
    Gamma Hankel matrix [K_{i+j+1}], i, j >= 0

A system of order N has an RTF of order N, but the coefficients of many poles close to 1 (short
steps) are as large as binomials, beyond any precision. Two ways to fewer poles:

    hankel   Gamma = U S V^T truncated to its largest singular values; A = S^-1/2 U^T Gamma' V
             S^-1/2 with Gamma' = [K_{i+j+2}], Gamma one step later (Ho, Kalman; Kung)
    pade     a from K_{N+i} + a_1 K_{N+i-1} + ... + a_N K_i = 0, i = 1..N: the first 2 N values
             are exact

Source: Ho, Kalman (1966); Kung, "A new identification and model reduction algorithm via singular
value decompositions" (1978); arXiv 2405.06147, which distills into small RTFs (table 3).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from ssm import checks, conversions, dss, fraction, rtf, s4, s4d, s5, stability

METHODS = ("hankel", "pade")
ROWS = 256  # of Hankel matrices, at most
ORDERS = (*range(1, 17), 20, 24, 32, 48, 64)  # that a search tries
EXACT = 1e-9  # relative error at which a search is content with the system's own order
MODULES: dict[type, Any] = {
    s4d.System: s4d,
    dss.System: s4d,
    s4.System: s4,
    s5.System: s5,
    fraction.System: rtf,
}


def state_space(system: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Matrices of a system in discrete time, with N real states: two for each complex one.

    They are those of x_{k+1} = A x_k + B u_k, y_k = C x_k + D u_k: the state is read before the
    input is added, so that K_0 = D and K_l = C A^{l-1} B.

    Args:
        system: of `s4`, `s4d`, `dss`, `s5` or `rtf`.

    Returns:
        A [H, N, N], B [H, N], C [H, N], D [H], float64. With one system for all channels (S5): A
        [1, N, N], B [N, H], C [H, N], D [H, H].

    Raises:
        ValueError: another object; what `prepare` refuses.
    """
    module = MODULES.get(type(system))
    if module is None:
        raise ValueError(f"system: expected one of this package, got {type(system).__name__}")
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), float), system)
        if isinstance(wide, dss.System):
            module, wide = s4d, dss.as_s4d(wide)
        prepared, rest = module.prepare(wide), module.init_state(wide, 1)
        leaves, tree = jax.tree.flatten(rest)
        shape, channels = leaves[0].shape[1:], _channels(system)
        part = shape[-1]
        size = part * len(leaves)
        basis = np.eye(size).reshape(size, *(1,) * (len(shape) - 1), len(leaves), part)
        basis = np.broadcast_to(basis, (size, *shape[:-1], len(leaves), part))
        state = jax.tree.unflatten(
            tree, [jnp.asarray(basis[..., i, :]) for i in range(len(leaves))]
        )
        moved, C = module.step(prepared, state, jnp.zeros((size, channels)))
        columns = np.concatenate([np.asarray(x) for x in jax.tree.leaves(moved)], axis=-1)
        inputs = np.eye(channels) if module is s5 else np.ones((1, channels))
        rest = jax.tree.map(lambda x: jnp.zeros((len(inputs), *shape)), rest)
        driven, D = module.step(prepared, rest, jnp.asarray(inputs))
        B = np.concatenate([np.asarray(x) for x in jax.tree.leaves(driven)], axis=-1)
        C, D = np.asarray(C).T, np.asarray(D).T
    if module is s5:
        return columns.T[None], B.T, C, D
    return np.moveaxis(columns, 0, -1), B[0], C, D[:, 0]


def _channels(system: Any) -> int:
    return (system.direct if isinstance(system, fraction.System) else system.D).shape[0]


def impulse_responses(system: Any, length: int) -> np.ndarray:
    """K_0..K_{length-1}, [H, length], or [H_out, H_in, length] for S5, in float64.

    Raises:
        ValueError: a length below 1.

    Source: https://kexue.fm/archives/10180, equation 3, one step later behind the direct term.
    """
    checks.length(length)
    A, B, C, D = state_space(system)
    K = np.zeros((*D.shape, length))
    K[..., 0] = D
    x = B if D.ndim == 2 else B[..., None]
    for k in range(1, length):
        K[..., k] = C @ x if D.ndim == 2 else (C[:, None] @ x)[:, 0, 0]
        x = A[0] @ x if D.ndim == 2 else A @ x
    return K


class Reduction(NamedTuple):
    """An RTF and its error.

    Attributes:
        system: one row per channel; for S5 one per pair [H_out, H_in] of channels, row-major: tile
            a signal of H_in channels H_out times, and sum the H_in results of each output.
        error: largest deviation of each impulse response, as the stored coefficients give it, over
            its largest value, [rows]. The direct term D counts as a value: if it is large, the
            rest may be far off although the error is small. The recurrence rounds at every step:
            in single precision its error is several times larger (see the tutorial).
        order: of each row, [rows]; rows of lower order are padded with zeros.
    """

    system: rtf.System
    error: np.ndarray
    order: np.ndarray


def to_rtf(
    system: Any, size: int | None = None, *, length: int = 1024, method: str = "hankel"
) -> Reduction:
    """The rational transfer function of a system, of its own order or reduced.

    Args:
        system: of `s4`, `s4d`, `dss` or `s5`.
        size: the order. At or above the system's own: the better of its coefficients and a
            reduction of that order. None: the coefficients if their error is at most 1e-9, else the
            best of several orders up to 64; that takes some seconds, most of them to compile.
        length: steps to measure the error on; of them "hankel" reads at most 512, "pade" 2 N.
        method: "hankel" or "pade".

    Returns:
        The exact (not truncated) RTF, in JAX's default precision, with its error.

    Raises:
        ValueError: invalid arguments; no reduction of that order that is stable in the stored
            precision and has an error below 1.

    Source: Kung (1978), as in `reduce`; the aim, small RTFs: arXiv 2405.06147, table 3, which
    fits them by gradients.
    """
    _check_method(method)
    if size is not None and (size < 1 or 2 * size >= length):
        raise ValueError(
            f"size: expected 1 to {(length - 1) // 2}, less than half of length, got {size}"
        )
    A, B, C, D = state_space(system)
    K = impulse_responses(system, length).reshape(-1, length)
    if D.ndim == 2:
        rows, columns = (index.ravel() for index in np.indices(D.shape))
        A, B, C = A[np.zeros(len(K), int)], B.T[columns], C[rows]
    results = [_best(K[i], (A[i], B[i], C[i]), size, method, i) for i in range(len(K))]
    largest = max(len(a) for _, a, _ in results)
    b, a = (np.zeros((len(K), largest)) for _ in range(2))
    for i, (above, below, _) in enumerate(results):
        b[i, : len(above)], a[i, : len(below)] = above, below
    order = np.array([len(below) for _, below, _ in results])
    return Reduction(rtf.from_coefficients(b, a, K[:, 0]), _errors(b, a, K), order)


def _best(
    K: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    size: int | None,
    method: str,
    row: int,
) -> tuple[np.ndarray, np.ndarray, float]:
    """(b, a, error) of one channel, or pair of channels."""
    own, candidates = len(parts[1]), []
    if size is None or size >= own:
        b, a, _ = conversions.to_transfer_function(*parts, K[0], minimal=False)
        if _radius(np.linalg.eigvals(parts[0])) >= 1.0 or _stable(a):
            candidates.append((b, a, _error(b, a, K, max(own, size or 1))))
            if candidates[0][2] <= EXACT:
                return candidates[0]
    most = min(own, (len(K) - 1) // 2)
    orders = [n for n in ORDERS if n <= most] if size is None else [min(size, most)]
    for b, a in reductions(K, orders, method):
        if _stable(a):
            candidates.append((b, a, _error(b, a, K, max(own, size or 1))))
    best = min(candidates, key=lambda one: one[2], default=None)
    if best is None or not best[2] < 1.0:
        which = "any order" if size is None else f"order {size}"
        rest = "" if size is None else "no or another size, "
        raise ValueError(
            f"size: the reduction of row {row} to {which} has no stable poles, or coefficients "
            f"beyond the precision of floats; try {rest}another length or method, or "
            "jax_enable_x64"
        )
    return best


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")


def _radius(poles: np.ndarray) -> float:
    return float(np.abs(poles).max(initial=0.0))


def _stable(a: np.ndarray) -> bool:
    """Of what is stored: rounding moves poles, many next to each other the most."""
    with np.errstate(over="ignore"):
        return bool(stability.stable(a.astype(np.dtype(jnp.result_type(float)))[None])[0])


def reduce(K: Any, order: int, method: str = "hankel") -> tuple[np.ndarray, np.ndarray]:
    """Numerator and denominator for an impulse response K [L], K_0 the direct term.

    Both of shape [order], or shorter where the Hankel matrix has a lower numerical rank.

    Raises:
        ValueError: values of K that are complex or not finite; an order outside 1 .. (L - 1) / 2;
            another method.

    Source: Ho, Kalman (1966) and Kung (1978); Pade's approximants.
    """
    return reductions(K, [order], method)[0]


def reductions(
    K: Any, orders: Sequence[int], method: str = "hankel"
) -> list[tuple[np.ndarray, np.ndarray]]:
    """As `reduce` for several orders, from one decomposition of the Hankel matrix.

    Raises:
        ValueError: as `reduce`.
    """
    K = np.asarray(K)
    if np.iscomplexobj(K) or not np.isfinite(K).all():
        raise ValueError("K: expected finite real values")
    K = K.astype(np.float64)
    for order in orders:
        if K.ndim != 1 or not 1 <= order <= (len(K) - 1) // 2:
            raise ValueError(
                f"order: expected 1 to half the length of K, got {order} for {K.shape}"
            )
    _check_method(method)
    if method == "pade":
        return [_pade(K, order) for order in orders]
    count = min(ROWS, (len(K) - 1) // 2)
    gamma = scipy.linalg.hankel(K[1 : count + 1], K[count : 2 * count])
    later = scipy.linalg.hankel(K[2 : count + 2], K[count + 1 : 2 * count + 1])
    # The matrix is symmetric: singular values are moduli of eigenvalues, right vectors are left
    # ones with their signs.
    values, U = scipy.linalg.eigh(gamma)
    largest = np.argsort(-np.abs(values))
    values, U = values[largest], U[:, largest]
    found, S, V = [], np.abs(values), U * np.sign(values)
    for order in orders:
        n = min(order, max(1, int(np.sum(1e-14 * S[0] < S))))
        root = np.sqrt(S[:n])
        if root[0] == 0.0:
            found.append((np.zeros(1), np.zeros(1)))
            continue
        A = (U[:, :n].T @ later @ V[:, :n]) / root[:, None] / root
        ends = root * V[0, :n], U[0, :n] * root
        b, a, _ = conversions.to_transfer_function(A, *ends, 0.0, minimal=False)
        found.append((b, a))
    return found


def _pade(K: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    rows = scipy.linalg.hankel(K[1 : order + 1], K[order : 2 * order])
    a, *_ = np.linalg.lstsq(rows[:, ::-1], -K[order + 1 : 2 * order + 1], rcond=None)
    return conversions.numerator(K[1:], a), a


def _error(b: np.ndarray, a: np.ndarray, K: np.ndarray, size: int) -> float:
    """As `_errors`, of one row, filled up to a size for which one program is compiled."""
    b, a = (np.pad(part, (0, size - len(part))) for part in (b, a))
    return float(_errors(b[None], a[None], K[None])[0])


def _errors(b: np.ndarray, a: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Of kernels that coefficients give in JAX's default precision, to the largest value, [rows].

    Infinite where they are beyond the range of floats.
    """
    with np.errstate(all="ignore"):
        single = np.dtype(jnp.result_type(float))
        if not (np.isfinite(b.astype(single)).all() and np.isfinite(a.astype(single)).all()):
            return np.full(len(K), np.inf)
        values = np.asarray(_kernel(rtf.from_coefficients(b, a, K[:, 0]), K.shape[1]), np.float64)
        worst = np.abs(values - K).max(axis=1) / np.maximum(np.abs(K).max(axis=1), 1e-300)
    return np.where(np.isfinite(worst), worst, np.inf)


_kernel = jax.jit(rtf.kernel, static_argnums=1)
