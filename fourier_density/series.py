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

How A is evaluated. Powers of z lose a rounding error each, so the sum is cut up and the powers
that step from one part to the next are taken afresh: z^K = exp(i pi K x), where K x is exact
for K a power of two. Parts are interleaved, A = sum_i z^i sum_j a_{Kj+i} (z^K)^j, because the
inner sums then do not wait for each other, and unrolled into one elementwise expression; long
series scan over blocks of it. The gradient with respect to shared coefficients is a product
with the matrix of powers, over chunks of points. Memory is proportional to the number of points.

Source: https://kexue.fm/archives/10007, whose densities are such series.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fourier_density import checks
from fourier_density.angles import Pair, unit

BLOCK = 64  # terms of one unrolled expression
CHUNK = 8192  # points whose powers are held at once


@jax.custom_jvp
def evaluate(re: Array, im: Array, x: Array) -> Pair:
    """A(x) = sum_k a_k exp(i pi k x).

    Args:
        re, im: parts of the coefficients, shape [..., N+1].
        x: points, broadcast against the leading axes of the coefficients.

    Returns:
        Real and imaginary part of A(x). Differentiable any number of times, forwards and
        backwards; neither direction stores the powers of z.

    Source: derived from https://kexue.fm/archives/10007, equations 6 and 12: the series f is |A|^2.
    """
    return _linear(re, im, x)


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


def log_mixture(u: Array, v: Array, floor: Array) -> Array:
    """log((1 - floor) (u^2 + v^2) / 2 + floor / 2), also where the squares underflow."""
    p = (1.0 - floor) * 0.5 * (u**2 + v**2) + 0.5 * floor
    small = (p < 1e3 * jnp.finfo(u.dtype).tiny) & ((u != 0) | (v != 0))
    # The value does not depend on `size`, nor may the gradient: its cube underflows.
    size = jax.lax.stop_gradient(jnp.where(small, jnp.maximum(jnp.abs(u), jnp.abs(v)), 1.0))
    scaled = (u / size) ** 2 + (v / size) ** 2
    by_parts = jnp.log(0.5 * (1.0 - floor)) + 2.0 * jnp.log(size) + jnp.log(scaled)
    dead = (p == 0) & ~small
    direct = jnp.where(dead, -jnp.inf, jnp.log(jnp.where(small | dead, 1.0, p)))
    return jnp.where(small, by_parts, direct)


def _linear(re: Array, im: Array, x: Array) -> Pair:
    """A(x) for coefficients shared by all points or of their own at every point."""
    size = re.shape[-1]
    shape = checks.joint_shape(re.shape[:-1], x=x)
    stride = 1 if size <= 4 else 4 if size <= 32 else 8
    z, turn = unit(x), unit(stride * x)
    if size <= BLOCK:
        u, v = _interleaved(re, im, stride, z, turn)
        return jnp.broadcast_to(u, shape), jnp.broadcast_to(v, shape)

    def blocks(part: Array) -> Array:
        part = jnp.pad(part, [(0, 0)] * (re.ndim - 1) + [(0, -size % BLOCK)])
        return jnp.moveaxis(part.reshape(*part.shape[:-1], -1, BLOCK), -2, 0)

    def body(value: Pair, block: Pair) -> tuple[Pair, None]:
        return _horner([_interleaved(*block, stride, z, turn)], *far, value=value), None

    far = unit(BLOCK * x)
    zero = jnp.zeros(shape, re.dtype)
    value, _ = jax.lax.scan(body, (zero, zero), (blocks(re), blocks(im)), reverse=True)
    return value


def _interleaved(re: Array, im: Array, stride: int, z: Pair, turn: Pair) -> Pair:
    """sum_i z^i sum_j a_{Kj+i} (z^K)^j for K the stride and z^K the turn."""
    terms = [(re[..., k], im[..., k]) for k in range(re.shape[-1])]
    return _horner([_horner(terms[i::stride], *turn) for i in range(stride)], *z)


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


def _chunked(re: Array, im: Array, x: Array) -> Pair:
    """sum_j z^{Kj} (sum_l a_{Kj+l} z^l): a matrix product and a sum, chunk by chunk."""
    width = 2 ** max(2, round(0.5 * math.log2(0.5 * re.shape[-1])))
    padding = (0, -re.shape[-1] % width)
    c, s = (jnp.pad(part, padding).reshape(-1, width) for part in (re, im))
    matrix = jnp.block([[c, -s], [s, c]])  # [2J, 2K]

    @jax.checkpoint
    def chunk(_: None, x: Array) -> tuple[None, Pair]:
        inner = jnp.matmul(  # [2J, n]
            matrix, jnp.concatenate(_powers(x, width)), precision=jax.lax.Precision.HIGHEST
        )
        u, v = jnp.split(inner, 2)
        cos, sin = _powers(width * x, c.shape[0])
        return None, (jnp.sum(u * cos - v * sin, axis=0), jnp.sum(u * sin + v * cos, axis=0))

    points = x.reshape(-1)
    if points.size <= CHUNK:
        u, v = chunk(None, points)[1]
    else:
        padded = jnp.pad(points, (0, -points.size % CHUNK)).reshape(-1, CHUNK)
        _, (u, v) = jax.lax.scan(chunk, None, padded)
        u, v = (part.reshape(-1)[: points.size] for part in (u, v))
    return u.reshape(x.shape), v.reshape(x.shape)


def _powers(x: Array, count: int) -> Pair:
    """z^0..z^{count-1} at points [n], parts [count, n]: products of fresh z^1, z^2, z^4, .."""
    rows = (jnp.ones((1, x.size), x.dtype), jnp.zeros((1, x.size), x.dtype))
    while rows[0].shape[0] < count:
        # The barriers keep XLA from computing the earlier rows again for each later one.
        (cos, sin), (c, s) = jax.lax.optimization_barrier((rows, unit(rows[0].shape[0] * x)))
        rows = (
            jnp.concatenate([cos, cos * c - sin * s]),
            jnp.concatenate([sin, cos * s + sin * c]),
        )
    cos, sin = jax.lax.optimization_barrier(rows)
    return cos[:count], sin[:count]


def autocorrelation(re: Array, im: Array) -> Pair:
    """c_n = sum_k a_{k+n} conj(a_k) for n = 0..N, summed directly.

    A direct sum keeps the relative accuracy of small c_n that an FFT would lose.

    Source: https://kexue.fm/archives/10007, equation 12, conjugated; arXiv 2402.15345, section 2.
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
