"""Trigonometric polynomials of period 2 and their autocorrelation.

Notation
    a  coefficients a_0..a_N, shape [..., N+1]; N is the *order*
    z  exp(i pi x), a point of the unit circle
    A  A(x) = sum_k a_k z^k
    c  autocorrelation c_n = sum_k a_{k+n} conj(a_k), n = 0..N, so that
       |A(x)|^2 = c_0 + 2 sum_{n>=1} Re(c_n z^n)

Conjugation: the paper and the post print c_n = sum_k a_k conj(a_{k+n}) together with
sum_n c_n z^n, which is |A(-x)|^2: the mirrored density. Here the same `a` always means
|A(x)|^2; conjugate the coefficients to obtain the other convention.

Complex numbers are pairs (real part, imaginary part) of real arrays throughout, because
gradient transformations and some accelerators handle complex arrays badly.

How A is evaluated. Powers of z lose a rounding error each, so the sum is cut into blocks,
A(x) = sum_j (z^K)^j B_j(z), and z^K = exp(i pi K x) is taken afresh: K x is exact for K a
power of two. Short series are one fused elementwise expression; long ones, and the gradient
with respect to shared coefficients, are products with the matrix of powers z^0..z^{K-1}, over
chunks of points so that memory stays proportional to the number of points.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Pair = tuple[Array, Array]

BLOCK = 16  # terms between two fresh powers of z
FUSED = 64  # terms up to which a series is one expression
CHUNK = 4096  # points whose powers are held at once


def wrap(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Map x to [-1, 1] modulo the period 2 (the subtraction is exact in floating point)."""
    return x - 2.0 * jnp.round(0.5 * x)


@jax.jit
def sinpi(x: Array, multiple: Array | int = 1, shift: Array | float = 0.0) -> Array:
    """sin(pi (m x + shift)), accurate to 2e-7 in single precision.

    The angle is reduced to q + r with |r| <= 1/2 before the multiplication by pi. For that x is
    split in two: m times the head is exact (for m up to 2^11 in single precision), m times the
    tail is small. So the error does not grow with m, as it does in powers of z.

    Args:
        x: any real points.
        multiple: m, an integer or integral array that broadcasts against x.
        shift: a multiple of 1/2.
    """
    r, sign = _reduce(x, multiple, shift)
    return sign * r * _polynomial(r * r, _taylor(x.dtype, 1))


@jax.jit
def unit(x: Array, multiple: Array | int = 1) -> Pair:
    """The point z^m = exp(i pi m x) as a pair, accurate like `sinpi`."""
    r, sign = _reduce(x, multiple, 0.0)
    square = r * r
    cos = _polynomial(square, _taylor(x.dtype, 0))
    return sign * cos, sign * r * _polynomial(square, _taylor(x.dtype, 1))


def _reduce(x: Array, multiple: Array | int, shift: Array | float) -> Pair:
    """(r, sign): m x + shift is r plus an even (sign 1) or odd (-1) integer, |r| <= 1/2."""
    x = wrap(x)
    cut = 2.0 ** (26 if x.dtype == jnp.float64 else 12)
    head = jnp.round(cut * x) / cut
    high, low = multiple * head + shift, multiple * (x - head)
    half_turns = jnp.round(high + low)
    return (high - half_turns) + low, 1.0 - 2.0 * jnp.abs(wrap(half_turns))


def _taylor(dtype: jnp.dtype, start: int) -> list[float]:
    """Coefficients of r^start, r^{start+2}, .. in the series of cos or sin(pi r)."""
    powers = range(start, 26 if dtype == jnp.float64 else 15, 2)
    return [(-1) ** (power // 2) * math.pi**power / math.factorial(power) for power in powers]


def _polynomial(x: Array, coefficients: list[float]) -> Array:
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


@jax.custom_jvp
def evaluate(re: Array, im: Array, x: Array) -> Pair:
    """A(x).

    Args:
        re, im: parts of the coefficients, shape [..., N+1].
        x: points, broadcast against the leading axes of the coefficients.

    Returns:
        Real and imaginary part of A(x). Differentiable any number of times, forwards and
        backwards; neither direction stores the powers of z.
    """
    long = re.ndim == 1 and re.shape[-1] > FUSED
    return _chunked(re, im, x) if long else _linear(re, im, x)


@functools.partial(evaluate.defjvp, symbolic_zeros=True)
def _evaluate_jvp(primals: tuple[Array, ...], tangents: Any) -> tuple[Pair, Pair]:
    re, im, x = primals
    d_re, d_im, d_x = (
        None if isinstance(t, jax.custom_derivatives.SymbolicZero) else t for t in tangents
    )
    value = evaluate(re, im, x)
    change: Pair = tuple(jnp.zeros_like(part) for part in value)  # type: ignore[assignment]
    if d_re is not None or d_im is not None:
        d_re = jnp.zeros_like(re) if d_re is None else d_re
        d_im = jnp.zeros_like(im) if d_im is None else d_im
        change = _chunked(d_re, d_im, x) if re.ndim == 1 else _linear(d_re, d_im, x)
    if d_x is not None:  # A'(x) = sum_k (i pi k a_k) z^k
        k = jnp.pi * jnp.arange(re.shape[-1], dtype=re.dtype)
        slope = evaluate(-k * im, k * re, x)
        change = (change[0] + slope[0] * d_x, change[1] + slope[1] * d_x)
    return value, change


def _linear(re: Array, im: Array, x: Array) -> Pair:
    return _fused(re, im, x) if re.shape[-1] <= FUSED else _scanned(re, im, x)


def _horner(terms: list[Pair], cos: Array, sin: Array, value: Pair | None = None) -> Pair:
    """((value z + last term) z + ...) z + first term."""
    for re, im in reversed(terms):
        if value is None:
            value = (re, im)
        else:
            u, v = value
            value = (u * cos - v * sin + re, u * sin + v * cos + im)
    assert value is not None
    return value


def _fused(re: Array, im: Array, x: Array) -> Pair:
    """Two levels of Horner's rule, all unrolled: XLA makes one loop over the points."""
    z, turn = unit(x), unit(x, BLOCK)
    terms = [(re[..., k], im[..., k]) for k in range(re.shape[-1])]
    blocks = [_horner(terms[k : k + BLOCK], *z) for k in range(0, len(terms), BLOCK)]
    u, v = _horner(blocks, *turn)
    shape = jnp.broadcast_shapes(re.shape[:-1], x.shape)
    return jnp.broadcast_to(u, shape), jnp.broadcast_to(v, shape)


def _scanned(re: Array, im: Array, x: Array) -> Pair:
    """The same with a loop over the blocks, for coefficients of their own at every point."""
    z, turn = unit(x), unit(x, BLOCK)
    padding = [(0, 0)] * (re.ndim - 1) + [(0, -re.shape[-1] % BLOCK)]

    def blocks(part: Array) -> Array:
        part = jnp.pad(part, padding)
        return jnp.moveaxis(part.reshape(*part.shape[:-1], -1, BLOCK), -2, 0)

    def body(value: Pair, block: Pair) -> tuple[Pair, None]:
        terms = [(block[0][..., k], block[1][..., k]) for k in range(BLOCK)]
        return _horner([_horner(terms, *z)], *turn, value=value), None

    zero = jnp.zeros(jnp.broadcast_shapes(re.shape[:-1], x.shape), re.dtype)
    value, _ = jax.lax.scan(body, (zero, zero), (blocks(re), blocks(im)), reverse=True)
    return value


def _chunked(re: Array, im: Array, x: Array) -> Pair:
    """sum_j z^{Kj} (sum_l a_{Kj+l} z^l): a matrix product and a sum, chunk by chunk."""
    width = 2 ** max(2, round(0.5 * math.log2(2 * re.shape[-1])))
    padding = (0, -re.shape[-1] % width)
    c, s = (jnp.pad(part, padding).reshape(-1, width) for part in (re, im))
    matrix = jnp.block([[c, -s], [s, c]])  # [2J, 2K]
    low, low_shift = _multiples(width, 1, x.dtype)
    high, high_shift = _multiples(c.shape[0], width, x.dtype)

    @jax.checkpoint
    def chunk(_: None, x: Array) -> tuple[None, Pair]:
        inner = jnp.matmul(  # [2J, n]
            matrix, sinpi(x, low, low_shift), precision=jax.lax.Precision.HIGHEST
        )
        u, v = jnp.split(inner, 2)
        cos, sin = jnp.split(sinpi(x, high, high_shift), 2)
        return None, (jnp.sum(u * cos - v * sin, axis=0), jnp.sum(u * sin + v * cos, axis=0))

    points = x.reshape(-1)
    if points.size <= CHUNK:
        u, v = chunk(None, points)[1]
    else:
        padded = jnp.pad(points, (0, -points.size % CHUNK)).reshape(-1, CHUNK)
        _, (u, v) = jax.lax.scan(chunk, None, padded)
        u, v = (part.reshape(-1)[: points.size] for part in (u, v))
    return u.reshape(x.shape), v.reshape(x.shape)


def _multiples(count: int, step: int, dtype: jnp.dtype) -> Pair:
    """Multiples 0, step, .. and shifts, [2 count, 1]: rows of cosines, then rows of sines."""
    m = step * jnp.arange(count, dtype=dtype)
    shifts = jnp.repeat(jnp.array([0.5, 0.0], dtype), count)
    return jnp.tile(m, 2)[:, None], shifts[:, None]


def autocorrelation(re: Array, im: Array) -> Pair:
    """c_n = sum_k a_{k+n} conj(a_k) for n = 0..N, summed directly.

    A direct sum keeps the relative accuracy of small c_n that an FFT would lose.
    """
    size = re.shape[-1]
    lag, k = jnp.arange(size)[:, None], jnp.arange(size)[None, :]
    shifted = jnp.where(k + lag < size, k + lag, 0)
    inside = (k + lag < size).astype(re.dtype)
    re_n, im_n = re[..., shifted] * inside, im[..., shifted] * inside
    re_k, im_k = re[..., None, :], im[..., None, :]
    c_re = jnp.sum(re_n * re_k + im_n * im_k, axis=-1)
    c_im = jnp.sum(im_n * re_k - re_n * im_k, axis=-1)
    return c_re, c_im
