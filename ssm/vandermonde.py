"""Sums of powers K_l = Re sum_n w_n lambda_n^l and x_n = sum_l lambda_n^l u_l, by two factors.

Notation
    lambda  multipliers per step, [..., M]; log lambda = rate + 2 pi i (turns + rest)
    w       weights [..., M], pairs of reals
    L       length; l = T q + r with T a power of two near sqrt(L)

A table of all powers has M L entries. With lambda^(Tq + r) = lambda^(Tq) lambda^r two tables of
M sqrt(L) are enough, and the sum over n is a product of real matrices.

Phases: the product l * turns is reduced modulo 1 before it is multiplied by 2 pi. T * turns is
exact, and so is its product with q once turns is split in two; the error of a phase then does not
grow with l. In single precision the phase per step alone, rounded, is off by a full turn after 1e7
steps, hence `rest`.

Source: S4D (arXiv 2206.11893), section 3.3; https://kexue.fm/archives/10162.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ssm import checks

Pair = tuple[Array, Array]


class Modes(NamedTuple):
    """Logarithms of multipliers: rate + 2 pi i (turns + rest), all [..., M]."""

    rate: Array
    turns: Array
    rest: Array


def held(re: Array, im: Array, dt: Array) -> Modes:
    """Modes of a continuous system over a step, lambda = exp(dt (re + i im)).

    Source: https://kexue.fm/archives/10162, equation 8, for a diagonal A.
    """
    shape = jnp.broadcast_shapes(re.shape, im.shape, dt.shape)
    turns, rest = _turns(im, dt)
    return Modes(*(jnp.broadcast_to(part, shape) for part in (dt * re, turns, rest)))


def modes(re: Array, im: Array) -> Modes:
    """Modes of given multipliers re + i im, none of them zero."""
    rate = 0.5 * jnp.log(re**2 + im**2)
    return Modes(rate, jnp.arctan2(im, re) / (2.0 * jnp.pi), jnp.zeros_like(rate))


def bilinear(re: Array, im: Array, dt: Array) -> Modes:
    """Modes of lambda = (1 + z)/(1 - z), z = dt (re + i im)/2, z not 1.

    In single precision the turns of a step are good to 1e-11. Next to z = -1, where lambda is 0,
    its size stays above the root of the smallest float.

    Source: https://kexue.fm/archives/10162, equation 20, for a diagonal A.
    """
    x, y = 0.5 * dt * re, 0.5 * dt * im
    below = (1.0 - x) ** 2 + y**2
    # |lambda|^2 = 1 + 4 x / |1 - z|^2: no digits are lost next to the circle.
    near = 4.0 * x > -0.5 * below
    close = 0.5 * jnp.log1p(jnp.where(near, 4.0 * x / below, 0.0))
    above = jnp.maximum((1.0 + x) ** 2 + y**2, jnp.finfo(x.dtype).tiny)
    rate = jnp.where(near, close, 0.5 * (jnp.log(above) - jnp.log(below)))
    shape = rate.shape
    return Modes(rate, *_bilinear_turns(*(jnp.broadcast_to(p, shape) for p in (re, im, dt))))


def _plain_turns(re: Array, im: Array, dt: Array) -> Array:
    """Argument of (1 + z) (1 - conj z) in turns."""
    x, y = 0.5 * dt * re, 0.5 * dt * im
    up, across = 2.0 * y, 1.0 - x**2 - y**2
    across = jnp.where((up == 0) & (across == 0), 1.0, across)
    return jnp.arctan2(up, across) / (2.0 * jnp.pi)


@jax.custom_jvp
def _bilinear_turns(re: Array, im: Array, dt: Array) -> Pair:
    """As `_plain_turns`, as a sum of two numbers: the nearest of 4096 directions and the rest.

    The rest is the argument of (1 + z) (1 - conj z) turned back by that direction, whose cosine
    and sine are known to twice the digits.
    """
    near = jnp.round(4096.0 * _plain_turns(re, im, dt))
    index = near.astype(jnp.int32) % 4096
    cos, cos_low, sin, sin_low = (jnp.asarray(t)[index] for t in _directions(re.dtype.name))
    y, y_low = _product(dt, im)
    size, size_low = jnp.zeros_like(y), jnp.zeros_like(y)  # of |z|^2 = x^2 + y^2
    for part in (re, im):
        half, half_low = (0.5 * p for p in _product(dt, part))
        square, square_low = _product(half, half)
        size, error = _sum(size, square)
        size_low += error + square_low + 2.0 * half * half_low
    x, error = _sum(jnp.ones_like(size), -size)
    x_low = error - size_low
    (up, up_low), (down, down_low) = _product(y, cos), _product(x, sin)
    low = (up_low - down_low) + (y_low * cos + y * cos_low) - (x_low * sin + x * sin_low)
    rest = jnp.arctan2((up - down) + low, x * cos + y * sin) / (2.0 * jnp.pi)
    return near / 4096.0, rest


@_bilinear_turns.defjvp
def _bilinear_turns_jvp(primals: Any, tangents: Any) -> tuple[Pair, Pair]:
    _, change = jax.jvp(_plain_turns, primals, tangents)
    return _bilinear_turns(*primals), (change, jnp.zeros_like(change))


@functools.cache
def _directions(dtype: str) -> tuple[np.ndarray, ...]:
    """Cosines and sines of j / 4096 turns, each as a number and what it lacks."""
    j = np.arange(4096)
    parts = []
    for shift in (0, 1024):  # sin t = cos(t - a quarter)
        turn = ((j - shift + 2048) % 4096 - 2048) / 4096
        exact = np.cos(2.0 * np.pi * turn)
        exact[np.abs(turn) == 0.25] = 0.0
        parts += [exact.astype(dtype), (exact - exact.astype(dtype)).astype(dtype)]
    return tuple(parts)


def _sum(a: Array, b: Array) -> Pair:
    """(s, e) with s + e = a + b exactly (Knuth)."""
    s = jax.lax.optimization_barrier(a + b)
    back = s - a
    return s, (a - (s - back)) + (b - back)


def times(a: Pair, b: Pair) -> Pair:
    """The product of complex numbers as pairs of reals."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def split(modes: Modes) -> tuple[Pair, Pair]:
    """The multiplier lambda as a sum: the nearest 4096th root of unity, and the rest.

    Products with both keep a recurrence of many steps on its circle, where lambda rounded once
    drifts by a rounding error a step.
    """
    near = jnp.round(4096.0 * modes.turns)
    index = near.astype(jnp.int32) % 4096
    c, c_low, s, s_low = (jnp.asarray(t)[index] for t in _directions(modes.rate.dtype.name))
    beyond = (modes.turns - near / 4096.0) + modes.rest
    _, sin = circle(beyond)
    _, half = circle(0.5 * beyond)
    less = -2.0 * half**2  # cos - 1
    re, im = c_low + (c * less - s * sin), s_low + (s * less + c * sin)
    shrink = jnp.expm1(modes.rate)
    return (c, s), (re + shrink * (c + re), im + shrink * (s + im))


def divide(a: Pair, b: Pair) -> Pair:
    """The quotient of complex numbers as pairs of reals, |b|^2 within the range of floats."""
    re, im = times(a, (b[0], -b[1]))
    size = b[0] ** 2 + b[1] ** 2
    return re / size, im / size


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
    p = jax.lax.optimization_barrier(a * b)  # or a fused multiply-add would not see it rounded
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

    Source: arXiv 2206.11893, section 3.3: Vandermonde's matrix.
    """
    l = jnp.arange(count, dtype=modes.rate.dtype)  # noqa: E741
    return _at(Modes(*(part[..., None] for part in modes)), l, stride)


def scaled(modes: Modes, count: int) -> Modes:
    """Logarithms of lambda^count, to the same number of digits."""
    turns, low = _product(modes.turns, jnp.asarray(count, modes.turns.dtype))
    return Modes(count * modes.rate, turns - jnp.round(turns), low + count * modes.rest)


def power(modes: Modes, exponent: Any) -> Pair:
    """lambda^l for integers l >= 0 below 2^24 that broadcast against [..., M]."""
    exponent = jnp.asarray(exponent)
    low, high = (part.astype(modes.rate.dtype) for part in (exponent % 4096, exponent // 4096))
    return times(_at(modes, low, 1), _at(modes, high, 4096))


def _at(modes: Modes, l: Array, stride: int) -> Pair:  # noqa: E741
    """lambda^(stride l) for whole numbers l up to 4096."""
    double = modes.rate.dtype == jnp.float64
    turns = stride * modes.turns
    turns = turns - jnp.round(turns)
    cut = 2.0 ** (26 if double else 12)
    head = jnp.round(cut * turns) / cut
    tail = (turns - head) + stride * modes.rest
    high, low = head * l, tail * l
    cos, sin = circle((high - jnp.round(high)) + low)
    # Two factors of these are not yet subnormal, which would be slow and mean nothing.
    shrink = jnp.exp(jnp.minimum(-stride * modes.rate * l, 350.0 if double else 40.0))
    # A division: XLA does not compute one again wherever the table is read, as it would all else.
    # Without the bound it would make a product of it.
    shrink = jnp.maximum(shrink, jnp.finfo(shrink.dtype).tiny)
    return cos / shrink, sin / shrink


@jax.custom_jvp
def circle(turns: Array) -> Pair:
    """Cosine and sine of 2 pi turns, by Taylor's series in the nearest quarter.

    The library's functions branch by quarters on CPUs: with phases that jump from entry to
    entry they take seven times as long.

    Source: Taylor's series of cosine and sine.
    """
    quarter = jnp.round(4.0 * turns)
    x = 2.0 * jnp.pi * (turns - 0.25 * quarter)  # at most pi/4
    terms = range(9 if turns.dtype == jnp.float64 else 5, 0, -1)
    cos, sin = jnp.ones_like(x), jnp.ones_like(x)
    for n in terms:
        cos = 1.0 - x**2 / ((2 * n) * (2 * n - 1)) * cos
        sin = 1.0 - x**2 / ((2 * n) * (2 * n + 1)) * sin
    sin = x * sin
    index = quarter.astype(jnp.int32)
    odd = index % 2 == 1
    cos, sin = jnp.where(odd, sin, cos), jnp.where(odd, cos, sin)
    return jnp.where((index + 1) & 2 == 2, -cos, cos), jnp.where(index & 2 == 2, -sin, sin)


@circle.defjvp
def _circle_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Pair, Pair]:
    cos, sin = circle(*primals)
    change = 2.0 * jnp.pi * tangents[0]
    return (cos, sin), (-sin * change, cos * change)


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

    Source: arXiv 2206.11893, section 3.3; https://kexue.fm/archives/10162, equation 12, for a
    diagonal A.
    """
    checks.length(length)
    low, high = _tables(modes, length)
    re, im = times((weights[0][..., None], weights[1][..., None]), high)
    left = jnp.concatenate([re, -im], axis=-2)
    right = jnp.concatenate(low, axis=-2)
    rows = _matmul("...nq,...nr->...qr", left, right)
    return rows.reshape(*rows.shape[:-2], -1)[..., :length]


def moments(u: Array, modes: Modes) -> Pair:
    """sum_l lambda_n^l u_l, [..., M], for real u [..., L]: the transpose of `kernel`.

    Source: derived from arXiv 2206.11893, section 3.3.
    """
    low, high = _tables(modes, u.shape[-1])
    width = low[0].shape[-1]
    u = jnp.pad(u, [(0, 0)] * (u.ndim - 1) + [(0, -u.shape[-1] % width)])
    rows = u.reshape(*u.shape[:-1], -1, width)
    re, im = (_matmul("...qr,...nr->...nq", rows, part) for part in low)
    real, imaginary = times((re, im), high)
    return jnp.sum(real, axis=-1), jnp.sum(imaginary, axis=-1)
