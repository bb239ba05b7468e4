"""Sums of powers K_l = Re sum_n w_n lambda_n^l and x_n = sum_l lambda_n^l u_l, by two factors.

Notation
    lambda  multipliers per step, [..., M]; log lambda = rate + 2 pi i (turns + rest)
    w       weights [..., M], pairs of reals
    L       length; l = T q + r with T a power of two near sqrt(L)

A table of all powers has M L entries. With lambda^(Tq + r) = lambda^(Tq) lambda^r two tables of
M sqrt(L) are enough, and the sum over n is a product of real matrices.

Phases: the angle l turns is reduced modulo one turn before it is multiplied by 2 pi. T turns is
exact, its product with q too once turns is cut in two; the error of a phase then does not grow
with l. In single precision dt Im(lambda) itself, rounded, is wrong by a full turn after 1e7
steps, hence `rest`.

Source: S4D (arXiv 2206.11893), section 3.3; https://kexue.fm/archives/10162.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

Pair = tuple[Array, Array]


class Modes(NamedTuple):
    """Logarithms of multipliers: rate + 2 pi i (turns + rest), all [..., M]."""

    rate: Array
    turns: Array
    rest: Array


def held(re: Array, im: Array, dt: Array) -> Modes:
    """Modes of a continuous system over a step, lambda = exp(dt (re + i im))."""
    shape = jnp.broadcast_shapes(re.shape, im.shape, dt.shape)
    turns, rest = _turns(im, dt)
    return Modes(*(jnp.broadcast_to(part, shape) for part in (dt * re, turns, rest)))


def modes(re: Array, im: Array) -> Modes:
    """Modes of given multipliers re + i im, none of them zero."""
    rate = 0.5 * jnp.log(re**2 + im**2)
    return Modes(rate, jnp.arctan2(im, re) / (2.0 * jnp.pi), jnp.zeros_like(rate))


@jax.custom_jvp
def _turns(im: Array, dt: Array) -> Pair:
    """The turns dt im / (2 pi) as an unevaluated sum of two numbers: twice the digits."""
    exact = 1.0 / (2.0 * np.pi)
    high = jnp.asarray(exact, im.dtype)
    low = jnp.asarray(_INVERSE_LOW if im.dtype == jnp.float64 else exact - float(np.float32(exact)))
    low = low.astype(im.dtype)
    product, error = _product(im, dt)
    turns, more = _product(product, high)
    return turns, more + (product * low + error * high)


@_turns.defjvp
def _turns_jvp(primals: Pair, tangents: Pair) -> tuple[Pair, Pair]:
    im, dt = primals
    change = (tangents[0] * dt + im * tangents[1]) / (2.0 * jnp.pi)
    return _turns(im, dt), (change, jnp.zeros_like(change))


_INVERSE_LOW = -9.839338337591243e-18  # 1/(2 pi) minus its float64


def _product(a: Array, b: Array) -> Pair:
    """(p, e) with p + e = a b exactly (Dekker), by halves of the mantissa."""
    p = a * b
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2


def _halves(x: Array) -> Pair:
    """Two numbers with half the digits each whose sum is x, by cutting bits."""
    kind, mask = (jnp.uint32, 0xFFFFF000) if x.dtype == jnp.float32 else (jnp.uint64, -(2**27))
    bits = jax.lax.bitcast_convert_type(x, kind)
    mask = jnp.asarray(np.array(mask).astype(np.dtype(kind)))
    high = jax.lax.bitcast_convert_type(bits & mask, x.dtype)
    return high, x - high


def powers(modes: Modes, count: int, stride: int = 1) -> Pair:
    """lambda^(stride l) for l = 0..count-1, [..., M, count].

    Args:
        count: at most 4096 for phases exact in single precision.
        stride: a power of two.
    """
    dtype = modes.rate.dtype
    double = dtype == jnp.float64
    l = jnp.arange(count, dtype=dtype)  # noqa: E741
    turns = stride * modes.turns
    turns = turns - jnp.round(turns)
    cut = 2.0 ** (26 if double else 12)
    head = jnp.round(cut * turns) / cut
    tail = (turns - head) + stride * modes.rest
    high, low = head[..., None] * l, tail[..., None] * l
    angle = 2.0 * jnp.pi * ((high - jnp.round(high)) + low)
    # Two factors of these are not yet subnormal, which would be slow and mean nothing.
    size = jnp.exp(jnp.maximum(stride * modes.rate[..., None] * l, -350.0 if double else -40.0))
    return size * jnp.cos(angle), size * jnp.sin(angle)


def _tables(modes: Modes, length: int) -> tuple[Pair, Pair]:
    """lambda^r for r < T, and lambda^(T q)."""
    width = 2 ** ((length - 1).bit_length() + 1 >> 1)
    return powers(modes, width), powers(modes, -(-length // width), width)


_matmul = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def kernel(weights: Pair, modes: Modes, length: int) -> Array:
    """Re sum_n w_n lambda_n^l for l = 0..length-1, [..., length].

    Time L M, memory L + M sqrt(L) for each of the leading axes.

    Raises:
        ValueError: length < 1.
    """
    if length < 1:
        raise ValueError(f"length: expected at least 1, got {length}")
    low, high = _tables(modes, length)
    re, im = weights[0][..., None], weights[1][..., None]
    left = jnp.concatenate([re * high[0] - im * high[1], -re * high[1] - im * high[0]], axis=-2)
    right = jnp.concatenate(low, axis=-2)
    rows = _matmul("...nq,...nr->...qr", left, right)
    return rows.reshape(*rows.shape[:-2], -1)[..., :length]


def moments(u: Array, modes: Modes) -> Pair:
    """sum_l lambda_n^l u_l, [..., M], for real u [..., L]: the transpose of `kernel`."""
    low, high = _tables(modes, u.shape[-1])
    width = low[0].shape[-1]
    u = jnp.pad(u, [(0, 0)] * (u.ndim - 1) + [(0, -u.shape[-1] % width)])
    rows = u.reshape(*u.shape[:-1], -1, width)
    re, im = (_matmul("...qr,...nr->...nq", rows, part) for part in low)
    return (
        jnp.sum(re * high[0] - im * high[1], axis=-1),
        jnp.sum(re * high[1] + im * high[0], axis=-1),
    )
