"""How much more likely data could be under any density of the same order: a proven bound.

Notation as in `likelihood`: weights w_j, order N, floor eps, q_j twice the density of the fit. With
v_j = (1, z_j^*, ..) and R = sum_j w_j v_j v_j^* / g_j for any positive g_j, Jensen's inequality
gives for the values q'_j of every density of that order and floor

    sum_j w_j log(q'_j / g_j) <= log sum_j w_j q'_j / g_j
                              <= log((1 - eps) lambda_max(R) + eps sum_j w_j / g_j),

so the log-likelihood of the fit is at most that plus sum_j w_j log(g_j / q_j) below the maximum.
With g = q this is zero for the best density, but far too large where the fit nearly vanishes at
points of little weight: w_j / q_j is large there, though little can be gained. A mixture g of q and
of the densities of R's leading eigenvectors is then a far better choice of g (a "witness").

Source: Jensen's bound with g = q is common for mixtures and in quantum tomography; other witnesses
are derived here.
"""

import numpy as np
import scipy.linalg

TINY = np.finfo(float).tiny
LOOSE, TIGHT = 1e-5, 1e-6  # nats: above, better witnesses are sought, until one is below
MOST = 30  # of them
SHARE = 0.1  # of the largest excess: what eigenvalues have to exceed 1 by to be asked


def polynomial(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A(x) by Horner's rule in complex128."""
    z = np.exp(1j * np.pi * x)
    value = np.full_like(z, a[-1])
    for coefficient in a[-2::-1]:
        value *= z
        value += coefficient
    return value


def bound(
    x: np.ndarray, w: np.ndarray, q: np.ndarray, order: int, floor: float, even: bool
) -> float:
    """Upper bound in nats on how far the log-likelihood of a fit is below the maximum.

    Args:
        even: compare only with densities with p(x) = p(-x).

    x, w, q: points, weights, twice the fit's density, [n] each. Infinity if a point is a root.

    Source: Jensen's inequality, as above; the witnesses are steps of Frank and Wolfe's method.
    """
    used = w > 0
    x, w, q = x[used], w[used], q[used]
    if np.any(q < TINY):
        return float("inf")
    witness, best = q, np.inf
    for _ in range(MOST):
        matrix = moments(x, w / witness, order, even)
        if not np.all(np.isfinite(matrix)):
            return float("inf")
        values, vectors = np.linalg.eigh(matrix)
        inside = (1.0 - floor) * values[-1] + floor * float(np.real(matrix[0, 0]))
        best = min(best, float(np.sum(w * np.log(witness / q)) + np.log(inside)))
        if best < (LOOSE if witness is q else TIGHT):
            break
        excess = values - 1.0
        if excess[-1] <= 0:  # up to rounding
            break
        asked = np.flatnonzero(excess > SHARE * excess[-1])
        new = sum(excess[i] * np.abs(polynomial(vectors[:, i], x)) ** 2 for i in asked)
        change = (1.0 - floor) * new / np.sum(excess[asked]) + floor - witness
        witness = witness + _best_share(w, witness, change) * change
    return max(0.0, best)


def moments(x: np.ndarray, ratio: np.ndarray, order: int, even: bool) -> np.ndarray:
    """R [N+1, N+1], a Hermitian Toeplitz matrix, for ratios w_j / g_j; real if even."""
    z, term = np.exp(-1j * np.pi * x), ratio.astype(complex)
    column = np.empty(order + 1, complex)
    for n in range(order + 1):
        column[n] = np.sum(term)
        term *= z
    return scipy.linalg.toeplitz(np.real(column) if even else column)


def _best_share(w: np.ndarray, g: np.ndarray, change: np.ndarray) -> float:
    """Of `change` [n]: t in [0, 1] with the largest sum_j w_j log(g_j + t change_j)."""
    low, high = 1e-18, 1.0
    for _ in range(26):
        middle = np.sqrt(low * high)
        rises = np.sum(w * change / (g + middle * change)) > 0
        low, high = (middle, high) if rises else (low, middle)
    return float(low)
