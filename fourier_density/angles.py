"""Points of the circle of period 2, and sine and cosine of their multiples to the last digits.

Notation
    x, m  a point, the multiple of its angle pi x
    z     exp(i pi x); pairs of real arrays stand for complex ones

Source: derived; the series of https://kexue.fm/archives/10007 are sums of such powers of z.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Pair = tuple[Array, Array]


def wrap(x: Any) -> Float[Array, "*shape"]:
    """Map x, of any shape, to [-1, 1] modulo the period 2.

    The subtraction is exact in floating point.
    """
    x = jnp.asarray(x)
    return x - 2.0 * jnp.round(0.5 * x)


def limit(x: Array, low: float, high: float) -> Array:
    """Clip x to [low, high], with derivative 1 at the bounds themselves (`jnp.clip` has 1/2)."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def rounded(x: Array, low: float, high: float) -> Array:
    """Clip x to bounds that only rounding errors exceed: the derivative is 1 everywhere."""
    return x + jax.lax.stop_gradient(jnp.clip(x, low, high) - x)


@jax.jit
def sinpi(x: Array, multiple: Array | int = 1) -> Array:
    """sin(pi m x), accurate to 2e-7 in single precision.

    Before the multiplication by pi, m x is reduced to an integer plus r with |r| <= 1/2. For this
    x is split in two: m times the head is exact (for m up to 2^11 in single precision), m times
    the tail is small. So the error does not grow with m, as that of computed powers of z does.

    Args:
        x: any real points.
        multiple: m, an integer or integral array that broadcasts against x.
    """
    r, sign = _reduce(x, multiple)
    return sign * r * _polynomial(r * r, _sine(x.dtype))


@jax.jit
def unit(x: Array, multiple: Array | int = 1) -> Pair:
    """The point z^m = exp(i pi m x) as a pair, accurate like `sinpi`."""
    r, sign = _reduce(x, multiple)
    square = r * r
    cos = _polynomial(square, _cosine(x.dtype))
    return sign * cos, sign * r * _polynomial(square, _sine(x.dtype))


def _reduce(x: Array, multiple: Array | int) -> Pair:
    """(r, sign): m x is r plus an even (sign 1) or odd (-1) integer, |r| <= 1/2."""
    if isinstance(multiple, int) and multiple == 1:
        half_turns = jnp.round(x)
        return x - half_turns, 1.0 - 2.0 * jnp.abs(wrap(half_turns))
    x = wrap(x)
    cut = 2.0 ** (26 if x.dtype == jnp.float64 else 12)
    head = jnp.round(cut * x) / cut
    high, low = multiple * head, multiple * (x - head)
    half_turns = jnp.round(high + low)
    return (high - half_turns) + low, 1.0 - 2.0 * jnp.abs(wrap(half_turns))


def _sine(dtype: jnp.dtype) -> list[float]:
    """Coefficients in r^2 of sin(pi r) / r for |r| <= 1/2: to 7e-9, or all digits of float64."""
    if dtype == jnp.float64:
        return _taylor(1)
    return _interpolated(lambda r: np.pi * np.sinc(r), 4)


def _cosine(dtype: jnp.dtype) -> list[float]:
    """Coefficients in r^2 of cos(pi r), as exact as the sine's."""
    return _taylor(0) if dtype == jnp.float64 else _interpolated(lambda r: np.cos(np.pi * r), 5)


def _taylor(start: int) -> list[float]:
    """Coefficients of r^start, r^{start+2}, .. in the series of cos or sin(pi r)."""
    return [(-1) ** (k // 2) * math.pi**k / math.factorial(k) for k in range(start, 26, 2)]


def _interpolated(function: Callable[[np.ndarray], np.ndarray], degree: int) -> list[float]:
    """Coefficients in r^2 of the interpolant at Chebyshev's points of [0, 1/4]."""
    interpolant = np.polynomial.Chebyshev.interpolate(
        lambda square: function(np.sqrt(square)), degree, [0.0, 0.25]
    )
    return [float(c) for c in interpolant.convert(kind=np.polynomial.Polynomial).coef]


def _polynomial(x: Array, coefficients: list[float]) -> Array:
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value
