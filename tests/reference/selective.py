"""Selective state spaces in float64, step by step from the definitions."""

import numpy as np


def selective(u, dt, A, B, C, D, start):
    """(y [L, E], last state [E, N]) of one example: x = exp(dt A) x + dt u B, y = C x + D u."""
    x, outputs = start.copy(), []
    for now, step, into, out in zip(u, dt, B, C, strict=True):
        for e in range(len(now)):
            x[e] = np.exp(step[e] * A[e]) * x[e] + step[e] * now[e] * into
        outputs.append(x @ out + D * now)
    return np.array(outputs), x


def selective_heads(x, dt, A, B, C, D, start):
    """(y [L, H, P], last state [H, P, N]) of one example; B, C [L, G, N]."""
    state, outputs = start.copy(), []
    heads, groups = x.shape[1], B.shape[1]
    for now, step, into, out in zip(x, dt, B, C, strict=True):
        y = np.zeros_like(now)
        for h in range(heads):
            g = h * groups // heads
            state[h] = np.exp(step[h] * A[h]) * state[h] + step[h] * np.outer(now[h], into[g])
            y[h] = state[h] @ out[g] + D[h] * now[h]
        outputs.append(y)
    return np.array(outputs), state


def taps(u, weight, bias):
    """y_l = sum_w weight_w u_{l - W + 1 + w} + bias, [L, H], by the double sum."""
    width, y = len(weight), np.tile(bias, (len(u), 1)).astype(float)
    for place in range(len(u)):
        for w in range(width):
            past = place - width + 1 + w
            if past >= 0:
                y[place] += weight[w] * u[past]
    return y


def _silu(x):
    return x / (1.0 + np.exp(-x))


def _softplus(x):
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0.0)


def mamba(params, u, rank, states):
    """The output [L, d] of one signal [L, d]; params as in `ssm.selective`, float64."""
    inside, gate = np.split(u @ params["in"], 2, axis=-1)
    convolution = params["convolution"]
    inside = _silu(taps(inside, convolution["weight"], convolution["bias"]))
    low, B, C = np.split(inside @ params["select"], [rank, rank + states], axis=-1)
    dt = _softplus(low @ params["step"]["matrix"] + params["step"]["bias"])
    A = -np.exp(params["log_decay"])
    y, _ = selective(inside, dt, A, B, C, params["D"], np.zeros_like(A))
    return (y * _silu(gate)) @ params["output"]


def mamba2(params, u, heads, groups, states, eps=1e-5):
    """The output [L, d] of one signal [L, d]; params as in `ssm.ssd`, float64."""
    inner = len(params["norm"])
    places = [inner, 2 * inner + 2 * groups * states]
    gate, inside, dt = np.split(u @ params["in"], places, axis=-1)
    dt = _softplus(dt + params["step_bias"])
    convolution = params["convolution"]
    inside = _silu(taps(inside, convolution["weight"], convolution["bias"]))
    x, B, C = np.split(inside, [inner, inner + groups * states], axis=-1)
    x = x.reshape(len(u), heads, -1)
    B, C = (part.reshape(len(u), groups, states) for part in (B, C))
    A = -np.exp(params["log_decay"])
    start = np.zeros((heads, x.shape[-1], states))
    y, _ = selective_heads(x, dt, A, B, C, params["D"], start)
    y = y.reshape(len(u), inner) * _silu(gate)
    y = y / np.sqrt(np.mean(y**2, axis=-1, keepdims=True) + eps) * params["norm"]
    return y @ params["output"]


def gated_filter(params, u, kernel):
    """The output [L, d] of Hyena of order two with given kernels [d, L]."""
    convolution = params["convolution"]
    every = taps(u @ params["in"], convolution["weight"], convolution["bias"])
    q, k, v = np.split(every, 3, axis=-1)
    product, y = k * v, np.zeros_like(q)
    for place in range(len(u)):
        for lag in range(place + 1):
            y[place] += kernel[:, lag] * product[place - lag]
    return (q * y) @ params["output"]
