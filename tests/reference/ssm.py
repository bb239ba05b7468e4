"""State-space models in float64, term by term from the definitions."""

import mpmath
import numpy as np
import scipy.signal


def recurrence(a, b, start=0.0):
    """x_k = a_k x_{k-1} + b_k, one step after the other."""
    x, states = np.broadcast_to(start, b.shape[1:]), []
    varying = np.ndim(a) == np.ndim(b)
    for k in range(len(b)):
        x = (a[k] if varying else a) * x + b[k]
        states.append(x)
    return np.array(states)


def convolution(u, kernel):
    """y_l = sum_{j <= l} k_j u_{l-j} for vectors, by the double sum."""
    y = np.zeros(len(u))
    for i in range(len(u)):
        for j in range(min(i + 1, len(kernel))):
            y[i] += kernel[j] * u[i - j]
    return y


def power_sums(weights, multipliers, length):
    """sum_n w_n lambda_n^l, complex [length]."""
    return np.array([np.sum(weights * multipliers**k) for k in range(length)])


def diagonal_step(Lambda, B, dt, rule):
    """(a, b) of one step by the rule, from the definitions."""
    if rule == "zoh":
        a = np.exp(dt * Lambda)
        safe = np.where(Lambda == 0, 1.0, Lambda)
        return a, np.where(Lambda == 0, dt, (a - 1.0) / safe) * B
    below = 1.0 - 0.5 * dt * Lambda
    return (1.0 + 0.5 * dt * Lambda) / below, dt * B / below


def diagonal_output(Lambda, B, C, D, dt, u, rule, start=0.0):
    """(y [L, H], last state [H, M]) of x' = Lambda x + B u, y = 2 Re(C x) + D u, step by step."""
    a, b = diagonal_step(Lambda, B, dt[:, None], rule)
    x, outputs = start + np.zeros_like(Lambda), []
    for now in u:
        x = a * x + b * now[:, None]
        outputs.append(2.0 * np.sum(C * x, axis=-1).real + D * now)
    return np.array(outputs), x


def multi_channel_output(Lambda, B, C, D, dt, u, rule, start=0.0, steps=None, share=2.0):
    """(y [L, H], states [L, P]) of one diagonal system for all channels, step by step."""
    x, outputs, states = start + np.zeros_like(Lambda), [], []
    for k, now in enumerate(u):
        a, gain = diagonal_step(Lambda, 1.0, dt if steps is None else steps[k] * dt, rule)
        x = a * x + gain * (B @ now)
        outputs.append(share * (C @ x).real + D * now)
        states.append(x)
    return np.array(outputs), np.array(states)


def dense_output(A, B, C, D, dt, u, start=None):
    """(y [L], states [L, N]) of x' = A x + B u, y = Re(C x) + D u by bilinear steps."""
    n = len(B)
    left, right = np.eye(n) - 0.5 * dt * A, np.eye(n) + 0.5 * dt * A
    x, outputs, states = np.zeros(n, complex) if start is None else start, [], []
    for now in u:
        x = np.linalg.solve(left, right @ x + dt * B * now)
        outputs.append((C @ x).real + D * now)
        states.append(x)
    return np.array(outputs), np.array(states)


def pole_sums(v, w, length):
    """sum_n v_n / (i s - c w_n) and the same with conjugates, at theta_j = 2 pi j / length."""
    half = np.pi * np.arange(length // 2 + 1) / length
    s, c = np.sin(half), np.cos(half)
    both = [(v, w), (np.conj(v), np.conj(w))]
    return sum(np.sum(a[:, None] / (1j * s - c * b[:, None]), axis=0) for a, b in both)


def fraction_output(b, a, d, u):
    """Y [L, H] of H(z) = d + sum b_k z^-k / (1 + sum a_k z^-k) for u [L, H], by `lfilter`."""
    rows = [
        scipy.signal.lfilter(np.append(0.0, b[h]), np.append(1.0, a[h]), u[:, h]) + d[h] * u[:, h]
        for h in range(len(b))
    ]
    return np.stack(rows, axis=1)


def fraction_response(b, a, d, length):
    """K [H, length] of the same."""
    return fraction_output(b, a, d, np.eye(length, 1) * np.ones(len(b))).T


def series(b, a, length):
    """The series of (b_1 + b_2 w + ...) / (1 + a_1 w + ...), with 60 digits."""
    with mpmath.workdps(60):
        b, a, t = [mpmath.mpf(float(x)) for x in b], [mpmath.mpf(float(x)) for x in a], []
        for k in range(length):
            past = mpmath.fsum(a[j] * t[k - 1 - j] for j in range(min(k, len(a))))
            t.append((b[k] if k < len(b) else 0) - past)
        return np.array([float(x) for x in t])


def companion(a):
    """The matrix of the post, with characteristic polynomial z^N + a_1 z^(N-1) + ... + a_N."""
    A = np.diag(np.ones(len(a) - 1), -1)
    A[0] = -np.asarray(a)
    return A


def truncated_numerator(b, a, length):
    """b~ = C (1 - A^L) in companion coordinates, where C = b: by matrix powers."""
    return b @ (np.eye(len(a)) - np.linalg.matrix_power(companion(a), length))


def fraction_state(b, a, u, length):
    """The state of the transposed direct form II after u [L], step by step."""
    state = np.zeros(len(a))
    for now in u[:length]:
        v = state[0]
        state = np.append(state[1:], 0.0) + b * now - a * v
    return state
