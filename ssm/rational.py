"""Power series of rational functions, and polynomials modulo their denominator, by FFT.

Notation
    w       the delay z^-1
    a       a_1..a_N, the denominator 1 + a_1 w + ... + a_N w^N; its leading 1 is not stored
    b       b_1..b_N, the numerator b_1 + b_2 w + ... + b_N w^(N-1)
    t       the series t_0 + t_1 w + ... = b / a
    L, r    terms of it; radius of the circle on which it is evaluated

All arrays are real [..., N] and broadcast. Multiplied by powers of z, b is the polynomial
b_1 z^(N-1) + ... + b_N of degree below that of z^N + a_1 z^(N-1) + ... + a_N, and

    t_L + t_(L+1) w + ... = (z^L b mod a) / a:

what is left of the series after L terms is another fraction with the same denominator. Its
numerator comes from the binary digits of L by squaring modulo a, O(N log N log L). With it the
first L terms have a generating function without the rest, which L points on a circle determine:

    t_0 + ... + t_(L-1) w^(L-1) = (b - w^L (z^L b mod a)) / a,    w^L = r^L there.

Source: arXiv 2405.06147 (RTF), sections 3.1 and 3.4, whose matrix powers cost O(N^3 log L).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ssm.convolution import fast

DENSE = 64  # largest N for which `response` follows the recurrence
SHRINK = 0.1  # r^L of `response`: poles on the circle stay away, and a digit is the most it costs

_HIGHEST = jax.lax.Precision.HIGHEST


def multiply(p: Array, q: Array) -> Array:
    """The product of two polynomials, [..., N] and [..., M] to [..., N + M - 1]."""
    terms = p.shape[-1] + q.shape[-1] - 1
    size = fast(terms)
    return jnp.fft.irfft(jnp.fft.rfft(p, size) * jnp.fft.rfft(q, size), size)[..., :terms]


def with_one(a: Array) -> Array:
    """The denominator with its leading 1, [..., N + 1]."""
    return jnp.concatenate([jnp.ones_like(a[..., :1]), a], axis=-1)


def reciprocal(a: Array, terms: int) -> Array:
    """The first terms of 1 / (1 + a_1 w + ...), [..., terms], by Newton's iteration."""
    whole = with_one(a)[..., :terms]
    g = jnp.ones_like(whole[..., :1])
    while g.shape[-1] < terms:
        more = min(2 * g.shape[-1], terms)
        wrong = multiply(whole[..., :more], g)[..., g.shape[-1] : more]
        g = jnp.concatenate([g, -multiply(wrong, g)[..., : more - g.shape[-1]]], axis=-1)
    return g


def times_z(p: Array, a: Array) -> Array:
    """Z p modulo a."""
    return jnp.concatenate([p[..., 1:], jnp.zeros_like(p[..., :1])], axis=-1) - p[..., :1] * a


def remainder(p: Array, a: Array) -> Array:
    """P of 2 N - 1 coefficients, highest power first, modulo a, [..., N]."""
    size = a.shape[-1]
    if size == 1:
        return p
    quotient = multiply(p[..., : size - 1], reciprocal(a, size - 1))[..., : size - 1]
    return p[..., size - 1 :] - multiply(quotient, with_one(a))[..., size - 1 :]


def power(a: Array, exponent: int) -> Array:
    """z^exponent modulo a, [..., N]."""
    size, digits = a.shape[-1], 0
    while exponent >> digits >= size:
        digits += 1
    start = jnp.zeros_like(a).at[..., size - 1 - (exponent >> digits)].set(1.0)
    bits = [(exponent >> i) & 1 for i in reversed(range(digits))]

    def double(x: Array, bit: Array) -> tuple[Array, None]:
        x = remainder(multiply(x, x), a)
        return jnp.where(bit == 1, times_z(x, a), x), None

    return jax.lax.scan(double, start, jnp.asarray(np.array(bits, np.int32)))[0]


def after(b: Array, a: Array, terms: int) -> Array:
    """Numerator of the series from its term number `terms` on, z^terms b modulo a."""
    return remainder(multiply(b, power(a, terms)), a)


def periodic(b: Array, a: Array, length: int) -> Array:
    """The series folded to one period: sums of t_l, t_(l + length), ..., for l < length.

    Args:
        b: [..., up to length], a: [..., N], N < length.
    """
    return jnp.fft.irfft(ratio(b, with_one(a), length), length)


def ratio(b: Array, a: Array, length: int) -> Array:
    """Spectra of b over those of a, on `length` points: [..., length // 2 + 1]."""
    above, below = jnp.fft.rfft(b, length), jnp.fft.rfft(a, length)
    return above * (below.conj() / (below.real**2 + below.imag**2))


def scale(r: float, count: int, dtype: jnp.dtype, first: int = 0) -> Array:
    """r^first, r^(first + 1), ...: `count` of them."""
    return jnp.asarray(float(r) ** np.arange(first, first + count), dtype)


def response(b: Array, a: Array, length: int) -> Array:
    """The first terms t_0..t_(length-1) of b / a, [..., length], for poles in any place.

    Up to `DENSE` coefficients the terms are those of the recurrence, in blocks of sqrt(length):
    O(N length). Beyond, they come from their generating function, O(length log length), which
    loses the digits by which the denominator's spectrum varies. Clustered poles cost digits
    either way: their coefficients are large and cancel.
    """
    size, dtype = a.shape[-1], jnp.result_type(a, b)
    a, b = a.astype(dtype), b.astype(dtype)
    if size <= DENSE:
        return _by_blocks(b, a, length)
    period = fast(max(length, size + 1))
    r = SHRINK ** (1.0 / period)
    shrunken = (b - SHRINK * after(b, a, period)) * scale(r, size, b.dtype)
    folded = periodic(shrunken, a * scale(r, size, a.dtype, 1), period)
    return folded[..., :length] * scale(1.0 / r, length, b.dtype)


def _by_blocks(b: Array, a: Array, length: int) -> Array:
    """Terms T j + i from the state before block j, s_j = M^j b, and its first T outputs."""
    size = a.shape[-1]
    width = 2 ** ((length - 1).bit_length() + 1 >> 1)

    def one(S: Array, _: None) -> tuple[Array, Array]:
        first = S[..., :1, :]
        shifted = jnp.concatenate([S[..., 1:, :], jnp.zeros_like(first)], axis=-2)
        return shifted - a[..., None] * first, first[..., 0, :]

    start = jnp.broadcast_to(jnp.eye(size, dtype=a.dtype), (*a.shape, size))
    M, outputs = jax.lax.scan(one, start, None, width)

    def block(s: Array, _: None) -> tuple[Array, Array]:
        return jnp.einsum("...ij,...j->...i", M, s, precision=_HIGHEST), s

    shape = jnp.broadcast_shapes(a.shape, b.shape)
    _, states = jax.lax.scan(block, jnp.broadcast_to(b, shape), None, -(-length // width))
    rows = jnp.einsum("j...n,i...n->...ji", states, outputs, precision=_HIGHEST)
    return rows.reshape(*rows.shape[:-2], -1)[..., :length]
