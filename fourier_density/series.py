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
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Pair = tuple[Array, Array]


def wrap(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Map x to [-1, 1] modulo the period 2 (the subtraction is exact in floating point)."""
    return x - 2.0 * jnp.round(0.5 * x)


def unit(x: Float[Array, "*shape"]) -> Pair:
    """The point z = exp(i pi x) as a pair."""
    angle = jnp.pi * wrap(x)
    return jnp.cos(angle), jnp.sin(angle)


def evaluate(re: Array, im: Array, x: Array) -> Pair:
    """A(x) by Horner's rule.

    Args:
        re, im: parts of the coefficients, shape [..., N+1].
        x: points, broadcast against the leading axes of the coefficients.

    Returns:
        Real and imaginary part of A(x).
    """
    cos, sin = unit(x)
    shape = jnp.broadcast_shapes(re.shape[:-1], cos.shape)
    dtype = jnp.result_type(re, cos)

    def horner(value: Pair, coefficient: Pair) -> tuple[Pair, None]:
        u, v = value
        r, s = coefficient
        return (u * cos - v * sin + r, u * sin + v * cos + s), None

    reversed_coefficients = (
        jnp.moveaxis(re, -1, 0)[::-1].astype(dtype),
        jnp.moveaxis(im, -1, 0)[::-1].astype(dtype),
    )
    zero = jnp.zeros(shape, dtype)
    (u, v), _ = jax.lax.scan(horner, (zero, zero), reversed_coefficients)
    return u, v


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
