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
numerator is the state of the recurrence after L terms, O(N L), or comes from the binary digits of L
by squaring modulo a, O(N log N log L). With it the first L terms have a generating function without
the rest, which L points on a circle determine:

    t_0 + ... + t_(L-1) w^(L-1) = (b - w^L (z^L b mod a)) / a,    w^L = r^L there.

Source: arXiv 2405.06147 (RTF), whose matrix powers cost O(N^3 log L).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ssm import fourier
from ssm.convolution import fast


def multiply(p: Array, q: Array) -> Array:
    """The product of two polynomials, [..., N] and [..., M] to [..., N + M - 1].

    Source: https://kexue.fm/archives/10162, equation 14, by transforms with room for the result
    (equation 17).
    """
    terms = p.shape[-1] + q.shape[-1] - 1
    size = fast(terms)
    return jnp.fft.irfft(jnp.fft.rfft(p, size) * jnp.fft.rfft(q, size), size)[..., :terms]


def with_one(a: Array) -> Array:
    """The denominator with its leading 1, [..., N + 1]."""
    return jnp.concatenate([jnp.ones_like(a[..., :1]), a], axis=-1)


def reciprocal(a: Array, terms: int) -> Array:
    """The first terms of 1 / (1 + a_1 w + ...), [..., terms], by Newton's iteration.

    Source: Newton's iteration for the reciprocal of a power series.
    """
    whole = with_one(a)[..., :terms]
    g = jnp.ones_like(whole[..., :1])
    while g.shape[-1] < terms:
        more = min(2 * g.shape[-1], terms)
        wrong = multiply(whole[..., :more], g)[..., g.shape[-1] : more]
        g = jnp.concatenate([g, -multiply(wrong, g)[..., : more - g.shape[-1]]], axis=-1)
    return g


def times_z(p: Array, a: Array) -> Array:
    """The polynomial z p modulo a, [..., N]."""
    return jnp.concatenate([p[..., 1:], jnp.zeros_like(p[..., :1])], axis=-1) - p[..., :1] * a


def remainder(p: Array, a: Array) -> Array:
    """The remainder p modulo a, [..., N], for p with 2 N - 1 coefficients, highest power first.

    Source: division with remainder by the reciprocal of the divisor.
    """
    size = a.shape[-1]
    if size == 1:
        return p
    quotient = multiply(p[..., : size - 1], reciprocal(a, size - 1))[..., : size - 1]
    return p[..., size - 1 :] - multiply(quotient, with_one(a))[..., size - 1 :]


def power(a: Array, exponent: int) -> Array:
    """z^exponent modulo a, [..., N].

    Source: binary powering modulo the characteristic polynomial (Fiduccia, 1985).
    """
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
    """Numerator of the series from its term number `terms` on, z^terms b modulo a, by squaring.

    Squares amplify rounding by the square of the largest power: fit for poles that are spread over
    angles, worthless for poles that stand together (see `steps`).

    Source: derived from https://kexue.fm/archives/10180, equation 5: the numerator of its part
    with z^L A^L.
    """
    return remainder(multiply(b, power(a, terms)), a)


def periodic(b: Array, a: Array, length: int) -> Array:
    """The series folded to one period: sums of t_l, t_(l + length), ..., for l < length.

    Args:
        b: [..., up to length], a: [..., N], N < length.

    Source: https://kexue.fm/archives/10180, equation 18.
    """
    return fourier.irfft(ratio(b, with_one(a), length), length)


def ratio(b: Array, a: Array, length: int) -> Array:
    """Spectra of b over those of a, on `length` points: [..., length // 2 + 1].

    Source: https://kexue.fm/archives/10180, equations 17 and 18, before the inverse transform.
    """
    above, below = fourier.rfft(b, length), fourier.rfft(a, length)
    return above * (below.conj() / (below.real**2 + below.imag**2))


def scale(r: float, count: int, dtype: jnp.dtype, first: int = 0) -> Array:
    """r^first, r^(first + 1), ...: `count` of them."""
    return jnp.asarray(float(r) ** np.arange(first, first + count), dtype)


def response(b: Array, a: Array, length: int) -> Array:
    """The first terms t_0..t_(length-1) of b / a, [..., length], for poles in any place.

    Source: https://kexue.fm/archives/10180, the series of equation 8.
    """
    return steps(b, a, length)[0]


def steps(b: Array, a: Array, length: int) -> tuple[Array, Array]:
    """The first terms and the numerator of the rest, by the recurrence, term by term: O(N length).

    Each term is t = s_1 and leaves s_i <- s_(i+1) - a_i t, from s = b. No other way is as accurate:
    powers of the companion matrix, squares modulo a and spectra of a all vary by many orders where
    poles stand together, as those of a low-pass do. Gradients keep sqrt(length) of the states.

    Returns:
        t [..., length] and s [..., N] after them.

    Source: https://kexue.fm/archives/10180, the series of equation 8; the state: its equation
    26 in the transposed form.
    """
    dtype = jnp.result_type(a, b)
    a, b = a.astype(dtype), b.astype(dtype)
    b = jnp.broadcast_to(b, jnp.broadcast_shapes(a.shape, b.shape))

    def one(s: Array, _: None) -> tuple[Array, Array]:
        shifted = jnp.concatenate([s[..., 1:], jnp.zeros_like(s[..., :1])], axis=-1)
        return shifted - a * s[..., :1], s[..., 0]

    width = 2 ** ((length - 1).bit_length() + 1 >> 1)
    whole, rest = divmod(length, width)

    @jax.checkpoint
    def several(s: Array, _: None) -> tuple[Array, Array]:
        return jax.lax.scan(one, s, None, width, unroll=8)

    s, terms = jax.lax.scan(several, b, None, whole)
    terms = terms.reshape(-1, *b.shape[:-1])
    s, last = jax.lax.scan(one, s, None, rest)
    return jnp.moveaxis(jnp.concatenate([terms, last]), 0, -1), s
