"""HiPPO matrices: linear systems whose state is a projection of the past on a basis.

Notation
    u     the signal, a function of time t
    c     the state [N]: coefficients of the past of u on a basis g_0..g_{N-1}
    A, B  matrix [N, N] and vector [N] of the system, in float64 NumPy
    r     r_n = sqrt(2n + 1)
    b     values of the basis at the newest point: b_n = g_n
    D     derivative of the basis, g' = D^T g

Measures, and what part of the past they keep:

    a window of length theta, c' = (A c + B u) / theta
        legt        Legendre, orthonormal: c_n = (1/theta) int u r_n P_n
        lmu         the same in the scaling and time direction of Legendre Memory Units
        fout        Fourier; at the ends of the window the series is the mean of u at both of them
        fout_naive  Fourier; the value leaving the window is taken from the series itself
    everything, weighted by an exponential, c' = (A c + B u) / theta
        lagt        Laguerre functions: g_n = exp(-age/2) L_n(age)
        glagt       generalised Laguerre, with alpha and beta
    the whole history [0, t] evenly, c' = (A c + B u) / t
        legs        Legendre, orthonormal
        fous        Fourier

Bases are evaluated in `bases`, systems are run in `online`. Chebyshev polynomials are not here:
their weight is infinite at both ends, so that the value leaving the window cannot be read off,
and the derivative of weight times polynomial is no combination of their own kind.

Other codebases count a window differently: state-spaces/s4 halves A and B of LegT and FouT,
which is `window=2` here.

Source: arXiv 2008.07669, appendix D; arXiv 2206.12037 (FouT, HTTYH); LMU: Voelker, Kajic,
Eliasmith, NeurIPS 2019; https://kexue.fm/archives/10114, https://kexue.fm/archives/10137.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float
from scipy.special import binom, gammaln

System = tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n"]]


def transition(
    measure: str, n: int, *, window: float = 1.0, alpha: float = 0.0, beta: float = 1.0
) -> System:
    """The system (A, B) of a measure, with the factor 1/theta of a window included.

    Args:
        measure: one of `MEASURES`.
        n: size N of the state; odd for the Fourier measures (1, cos 1, sin 1, cos 2, ...).
        window: length theta of the window, or unit of age of the Laguerre measures.
        alpha, beta: of "glagt": c_n = int u L_n^(alpha)(age) exp(-(1 + beta)/2 age) d age / l_n
            with l_n^2 = Gamma(n + alpha + 1) / n!.

    Raises:
        ValueError: unknown measure, n < 1, n even for Fourier, window not positive, a window
            other than 1 for the whole history, alpha or beta not above -1.

    >>> A, B = transition("legs", 2)
    >>> A.round(3).tolist(), B.round(3).tolist()
    ([[-1.0, -0.0], [-1.732, -2.0]], [1.0, 1.732])

    Source: https://kexue.fm/archives/10114, equations 9, 26, 28 and 32, and
    https://kexue.fm/archives/10137, equation 32, in other units: legt and legs with lambda_n =
    sqrt(2) (equations 27 and 33), lmu times (-1)^n, fout_naive and fous in real coordinates;
    arXiv 2008.07669, appendices D.1 to D.3; arXiv 2206.12037 (fout).
    """
    check(measure, n, window)
    if not (alpha > -1 and beta > -1):
        raise ValueError(f"alpha, beta: expected numbers above -1, got {alpha}, {beta}")
    A, B = _laguerre(n, alpha, beta) if measure == "glagt" else MEASURES[measure](n)
    return A / window, B / window


def check(measure: str, n: int, window: float = 1.0) -> None:
    """Refuse unknown measures, impossible sizes and windows with a `ValueError`."""
    if measure not in MEASURES:
        raise ValueError(f"measure: expected one of {', '.join(MEASURES)}, got {measure!r}")
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n: expected an integer >= 1, got {n!r}")
    if measure in FOURIER and n % 2 == 0:
        raise ValueError(
            f"n: {measure} has a constant and pairs of cosine and sine: expected odd, got {n}"
        )
    if not (np.isfinite(window) and window > 0):
        raise ValueError(f"window: expected a positive number, got {window}")
    if measure in WHOLE and window != 1:
        raise ValueError(f"window: {measure} keeps the whole history, got a window of {window}")


def rescale(A: np.ndarray, B: np.ndarray, scale: np.ndarray) -> System:
    """(A, B) of the rescaled state scale * c, for scale [N]: the same memory in other units.

    For instance `rescale(*transition("legs", n), sqrt(2n + 1))` has no square roots: -(2n + 1)
    below the diagonal, -(n + 1) on it, B = 2n + 1 (end of archives/10114).

    Source: https://kexue.fm/archives/10114, equations 27 and 33 with scale = 1/lambda, 28 and
    34.
    """
    return A * scale[:, None] / scale, B * scale


def _roots(n: int) -> np.ndarray:
    return np.sqrt(2.0 * np.arange(n) + 1.0)


def _legs(n: int) -> System:
    """A_nk = -r_n r_k below the diagonal, -(n + 1) on it; B_n = r_n."""
    r = _roots(n)
    return -np.tril(np.outer(r, r), -1) - np.diag(np.arange(1.0, n + 1)), r


def _legt(n: int) -> System:
    """A_nk = -r_n r_k (-1)^{n-k} above the diagonal, without the sign elsewhere; B_n = r_n."""
    r = _roots(n)
    sign = (-1.0) ** np.subtract.outer(np.arange(n), np.arange(n))
    return -np.outer(r, r) * np.where(np.tri(n, dtype=bool), 1.0, sign), r


def _lmu(n: int) -> System:
    """LegT with time reversed and m_n = (-1)^n r_n c_n: u is sum_n m_n P_n(2 age - 1)."""
    A, B = _legt(n)
    return rescale(A, B, (-1.0) ** np.arange(n) * _roots(n))


def _lagt(n: int) -> System:
    """A = -1/2 on the diagonal, -1 below; B = 1."""
    return -np.tril(np.ones((n, n)), -1) - 0.5 * np.eye(n), np.ones(n)


def _laguerre(n: int, alpha: float, beta: float) -> System:
    """A = -(1 + beta)/2 on the diagonal, -1 below, B_n = binom(n + alpha, n), both scaled by l."""
    k = np.arange(n)
    A = -np.tril(np.ones((n, n)), -1) - 0.5 * (1.0 + beta) * np.eye(n)
    norm = np.exp(0.5 * (gammaln(k + alpha + 1.0) - gammaln(k + 1.0)))
    return rescale(A, binom(k + alpha, k), 1.0 / norm)


def _fourier(n: int) -> System:
    """(D, b) of 1, sqrt(2) cos(2 pi k age), sqrt(2) sin(2 pi k age): c' without the far end."""
    D, b = np.zeros((n, n)), np.zeros(n)
    for k in range(1, (n + 1) // 2):
        D[2 * k - 1, 2 * k], D[2 * k, 2 * k - 1] = -2.0 * np.pi * k, 2.0 * np.pi * k
    b[0], b[1::2] = 1.0, np.sqrt(2.0)
    return D, b


def _fout(n: int) -> System:
    """A = D - 2 b b^T, B = 2 b: at a jump a Fourier series gives the average of both sides.

    So b^T c is (u(t) + u(t - theta)) / 2, which gives u(t - theta) = 2 b^T c - u(t).
    """
    D, b = _fourier(n)
    return D - 2.0 * np.outer(b, b), 2.0 * b


def _fout_naive(n: int) -> System:
    """A = D - b b^T, B = b: as if b^T c were u(t - theta)."""
    D, b = _fourier(n)
    return D - np.outer(b, b), b


def _fous(n: int) -> System:
    """The whole-history Fourier system of archives/10137 in real coordinates.

    With complex coordinates, frequencies |m| <= M of exp(2 pi i m s) and s = time / t,
    A_mk = -m/(m - k) off the diagonal, i pi m - 1 on it, B = 1.
    """
    A, B = fous_complex(n)
    U = real_from_complex(n)
    # cos and sin of 2 pi k s; `fout` has the age 1 - s, which turns the sign of the sines.
    return np.real(U @ A @ U.conj().T), np.real(U @ B)


def fous_complex(n: int) -> tuple[Complex[np.ndarray, "n n"], Complex[np.ndarray, "n"]]:
    """The post's own form of "fous": frequencies -M..M with n = 2M + 1.

    A_mk = -m/(m - k) off the diagonal, i pi m - 1 on it; B = 1.

    Source: https://kexue.fm/archives/10137, equation 32.
    """
    check("fous", n)
    m = np.arange(n) - n // 2
    gap = np.subtract.outer(m, m)
    off = np.where(gap == 0, 0.0, -m[:, None] / np.where(gap == 0, 1, gap))
    return off + np.diag(1j * np.pi * m - 1.0), np.ones(n, complex)


def real_from_complex(n: int) -> Complex[np.ndarray, "n n"]:
    """Unitary: coefficients of exp(2 pi i m s), m = -M..M, to those of 1, cos 1, sin 1, ...

    Source: derived from https://kexue.fm/archives/10137, equation 26: cos and sin as sums of
    its two exponentials.
    """
    U = np.zeros((n, n), complex)
    middle, half = n // 2, np.sqrt(0.5)
    U[0, middle] = 1.0
    for k in range(1, middle + 1):
        U[2 * k - 1, [middle - k, middle + k]] = half
        U[2 * k, [middle - k, middle + k]] = -1j * half, 1j * half
    return U


MEASURES: dict[str, Callable[[int], System]] = {
    "legs": _legs,
    "legt": _legt,
    "lmu": _lmu,
    "lagt": _lagt,
    "glagt": lambda n: _laguerre(n, 0.0, 1.0),
    "fout": _fout,
    "fout_naive": _fout_naive,
    "fous": _fous,
}
FOURIER = ("fout", "fout_naive", "fous")
WHOLE = ("legs", "fous")


class NPLR(NamedTuple):
    """A = normal - sum_r p_r p_r^T.

    Attributes:
        normal: [N, N]: a multiple of the identity plus an antisymmetric matrix.
        P: the vectors p_r, [R, N].
    """

    normal: Float[np.ndarray, "n n"]
    P: Float[np.ndarray, "r n"]


class DPLR(NamedTuple):
    """A = V (diag(Lambda) - sum_r P_r P_r^*) V^*, with P and B in the coordinates of V.

    Attributes:
        Lambda: [N], sorted by ascending imaginary part.
        P: [R, N].
        B: V^* B, [N].
        V: unitary [N, N].
    """

    Lambda: Complex[np.ndarray, "n"]
    P: Complex[np.ndarray, "r n"]
    B: Complex[np.ndarray, "n"]
    V: Complex[np.ndarray, "n n"]


def nplr(measure: str, n: int, *, window: float = 1.0) -> NPLR:
    """Split A into a normal matrix minus a correction of rank one (LegT: two).

    Raises:
        ValueError: a measure whose correction has no low rank in these coordinates (LMU, fous,
            generalised Laguerre); as `transition`.

    Source: arXiv 2111.00396, theorem 1 and appendix C.1; arXiv 2206.12037 (FouT).
    """
    A, _ = transition(measure, n, window=window)
    r = _roots(n)
    if measure == "legs":
        P = np.sqrt(0.5) * r[None]
    elif measure == "legt":
        odd = np.arange(n) % 2 == 1
        P = np.stack([r * odd, r * ~odd])
    elif measure == "lagt":
        P = np.full((1, n), np.sqrt(0.5))
    elif measure in ("fout", "fout_naive"):
        _, b = _fourier(n)
        P = (np.sqrt(2.0) if measure == "fout" else 1.0) * b[None]
    else:
        raise ValueError(
            f"measure: expected one of legs, legt, lagt, fout, fout_naive (normal plus low "
            f"rank), got {measure!r}"
        )
    P = P / np.sqrt(window)
    return NPLR(A + P.T @ P, P)


def dplr(measure: str, n: int, *, window: float = 1.0) -> DPLR:
    """Diagonalise the normal part by a Hermitian eigenproblem in double precision.

    The real part of Lambda is exact; frequencies come in exact pairs of opposite sign.

    Source: arXiv 2111.00396, theorem 1; https://kexue.fm/archives/10162, equation 31, for LegS.
    """
    _, B = transition(measure, n, window=window)
    normal, P = nplr(measure, n, window=window)
    turning = 0.5 * (normal - normal.T)
    frequency, V = np.linalg.eigh(-1j * turning)
    frequency = 0.5 * (frequency - frequency[::-1])
    Lambda = -0.5 * (measure == "legs") + 1j * frequency
    return DPLR(Lambda, P @ V.conj(), V.conj().T @ B, V)
