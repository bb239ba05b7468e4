"""HiPPO projections in float64 by quadrature, and trajectories of dense systems as loops.

Notation
    u      the signal as a function of time
    t      now; c_n(t) is the projection of the past of u
    theta  window

The integrals are those of arXiv 2008.07669, appendix D, with weights and bases from SciPy.
Source of the Fourier system of the whole history: https://kexue.fm/archives/10137.
"""

import numpy as np
import scipy.integrate
import scipy.linalg
import scipy.special


def basis(measure, n, s, alpha=0.0, beta=1.0):
    """Values g_0..g_{n-1} at positions s (0 the oldest point, 1 the newest), [len(s), n]."""
    s = np.asarray(s, float)[:, None]
    k, age = np.arange(n), 1.0 - s
    if measure in ("legs", "legt"):
        return np.sqrt(2 * k + 1) * scipy.special.eval_legendre(k, 2 * s - 1)
    if measure == "lmu":
        return scipy.special.eval_legendre(k, 2 * age - 1)
    if measure == "lagt":
        return np.exp(-age / 2) * scipy.special.eval_laguerre(k, age)
    if measure == "glagt":
        norm = np.sqrt(scipy.special.gamma(k + alpha + 1) / scipy.special.gamma(k + 1))
        tilt = age**alpha * np.exp(-(1 - beta) / 2 * age)
        return tilt * scipy.special.eval_genlaguerre(k, alpha, age) / norm
    turns = s if measure == "fous" else age
    wave = (k + 1) // 2
    waves = np.where(k % 2 == 1, np.cos(2 * np.pi * wave * turns), np.sin(2 * np.pi * wave * turns))
    return np.where(k == 0, 1.0, np.sqrt(2) * waves)


def coefficients(u, t, measure, n, theta=1.0, alpha=0.0, beta=1.0):
    """c(t) by Gauss-Legendre quadrature on 64 panels; exponential weights end at an age of 160."""
    length = {"legs": t, "fous": t}.get(measure, theta)
    points, weights = np.polynomial.legendre.leggauss(32)
    edges = np.linspace(0.0, 1.0, 65)
    half = np.diff(edges)[:, None] / 2
    x = (edges[:-1, None] + half * (1 + points)).ravel()
    w = (half * weights).ravel()
    if measure in ("lagt", "glagt"):
        age, w = 160 * (1 - x), 160 * w
        if measure == "lagt":
            dual = basis("lagt", n, 1 - age)
        else:  # the weight divided by the tilt, times the polynomial
            k = np.arange(n)
            norm = np.sqrt(scipy.special.gamma(k + alpha + 1) / scipy.special.gamma(k + 1))
            poly = scipy.special.eval_genlaguerre(k, alpha, age[:, None]) / norm
            dual = np.exp(-(1 + beta) / 2 * age)[:, None] * poly
        return (w * u(t - theta * age)) @ dual
    dual = basis(measure, n, x)
    if measure == "lmu":  # P_n has the square norm 1 / (2n + 1)
        dual = dual * (2 * np.arange(n) + 1)
    return (w * u(t - length + length * x)) @ dual


def solution(A, B, powers):
    """c(1) of c' = A c + B u with c(0) = 0 and u = sum_j powers_j t^j, exactly.

    Derivatives of u are further coordinates: their system is a shift, and one exponential of
    both together is the solution.
    """
    n, m = len(B), len(powers)
    whole = np.zeros((n + m, n + m))
    whole[:n, :n], whole[:n, n] = A, B
    whole[n:, n:] = np.eye(m, k=1)
    start = np.concatenate([np.zeros(n), scipy.special.factorial(np.arange(m)) * powers])
    return (scipy.linalg.expm(whole) @ start)[:n]


def held(signal, measure, n):
    """Projections on [0, k] of the signal that is u_k on (k - 1, k], for all k, by integrals."""
    states = []
    for k in range(1, len(signal) + 1):
        state = np.zeros(n)
        for j in range(k):
            points, weights = np.polynomial.legendre.leggauss(64)
            s = (j + 0.5 * (1 + points)) / k
            state += signal[j] * (0.5 * weights / k) @ basis(measure, n, s)
        states.append(state)
    return np.array(states)


def whole_history(signal, A, B, method):
    """States of c' = (A c + B u)/t, step by step with dense solves."""
    n = len(B)
    c, states, eye = np.zeros(n), [], np.eye(n)
    for k, u in enumerate(signal, start=1):
        if method == "forward":
            c = c + (A @ c + B * u) / k
        elif method == "backward":
            c = np.linalg.solve(eye - A / k, c + B * u / k)
        elif method == "bilinear":
            c = np.linalg.solve(eye - A / (2 * k), (eye + A / (2 * k)) @ c + B * u / k)
        elif k == 1:
            c = np.eye(n)[0] * u
        elif method == "trapezoid":
            right = (eye + A / (2 * (k - 1))) @ c + B / 2 * (signal[k - 2] / (k - 1) + u / k)
            c = np.linalg.solve(eye - A / (2 * k), right)
        else:
            E = scipy.linalg.expm(A * np.log(k / (k - 1)))
            c = E @ c + np.linalg.solve(A, (E - eye) @ B) * u
        states.append(c)
    return np.array(states)


def window(signal, A, B, dt, method, hold="right", alpha=None):
    """States of c' = A c + B u, step by step; zero-order hold by the solution of the ODE."""
    n = len(B)
    c, states, eye = np.zeros(n), [], np.eye(n)
    previous = signal[0]
    share = {"forward": 0.0, "backward": 1.0, "bilinear": 0.5, "gbt": alpha, "zoh": None}[method]
    if share is None:
        E = scipy.linalg.expm(dt * A)
        integral = scipy.integrate.quad_vec(lambda r: scipy.linalg.expm(r * A) @ B, 0, dt)[0]
    for u in signal:
        source = (previous + u) / 2 if hold == "trapezoid" else u
        if share is None:
            c = E @ c + integral * source
        else:
            right = (eye + (1 - share) * dt * A) @ c + dt * B * source
            c = np.linalg.solve(eye - share * dt * A, right)
        previous = u
        states.append(c)
    return np.array(states)
