"""Student's t distribution, with relative accuracy in both tails for any degrees of freedom.

Notation
    a, x  df / 2, and df / (df + u^2), which is small in the tails
    I     the incomplete beta function I_x(a, 1/2), the probability of both tails
    T     a - 1/4
    J_n   integrals over the tail of a normal distribution, J_0 = sqrt(pi / z) exp(z) erfc(sqrt(z))
          at z = -T log x

Three sums of few terms share the line. Where x <= 1/2, the series of I in x; next to the median,
that of 1/2 - I / 2 in 1 - x; in between, for many degrees of freedom, with H the derivative of
erf(sqrt(z)) times z,

    I = Gamma(a + 1/2) / (Gamma(a) sqrt(T)) H sum_n p_n J_n,
    4 T^2 J_{n+1} = (2n + 1/2) (2n + 3/2) J_n + (z + 2n + 3/2) (log x / 2)^(2n)

with errors of 1e-10 at eight degrees of freedom, and of rounding from twenty on.

Source: Didonato and Morris (ACM Transactions on Mathematical Software 18, 1992), equations 9
to 9.6, for the last; the others are expansions of the hypergeometric function.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array

SERIES_UP_TO = 8.0  # degrees of freedom
TERMS = 14  # of the sum of J_n
LARGE = 50.0  # z from which on J_0 is an asymptotic series


def log_prob(df: float, u: Array) -> Array:
    """The density's logarithm, by log1p in the tails."""
    constant = _log_gammas(0.5 * df) - 0.5 * math.log(math.pi * df)
    return constant + 0.5 * (df + 1.0) * _shares(df, u)[2]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def log_cdf(df: float, u: Array) -> Array:
    """Log of I / 2 in the lower tail, of 1 - I / 2 in the upper one."""
    half = 0.5 * df
    x, y, log_x = _shares(df, u)
    far = x <= 0.5
    scale = half * log_x + _log_gammas(half) - math.lgamma(0.5)  # log of x^a / B(a, 1/2)
    log_tail = scale + 0.5 * jnp.log(jnp.where(far, y, 1.0))
    log_tail += jnp.log(0.5 / half * _beta_series(half, 0.5, jnp.where(far, x, 0.0)))
    # Probability between 0 and u: by its series, as far as that leaves digits to the rest.
    largest = 0.5 if df <= SERIES_UP_TO else 1.0 / (df + 1.0)
    inner = y <= largest
    if df > SERIES_UP_TO:
        between = ~(inner | far)
        log_sum = _log_between(half, jnp.where(between, -log_x, 0.5))
        log_tail = jnp.where(between, log_sum - math.log(2.0), log_tail)
    tail = jnp.where(u < 0, log_tail, jnp.log1p(-jnp.exp(log_tail)))
    middle = jnp.exp(scale) * jnp.sqrt(y)
    middle = middle * _beta_series(0.5, half, jnp.where(inner, y, 0.0), largest)
    middle = jnp.where(inner, middle, 0.0)
    return jnp.where(inner, jnp.log(0.5 + jnp.sign(u) * middle), tail)


@log_cdf.defjvp
def _log_cdf_jvp(df: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Slope b / B: the derivative of the incomplete beta function is infinite at u = 0."""
    (u,), (change,) = primals, tangents
    value = log_cdf(df, u)
    return value, change * jnp.exp(log_prob(df, u) - value)


def _log_gammas(a: float) -> float:
    """Log of Gamma(a + 1/2) / Gamma(a), also where both are too large to subtract."""
    if a < 1e3:
        return math.lgamma(a + 0.5) - math.lgamma(a)
    return 0.5 * math.log(a - 0.25) + 1.0 / (64.0 * (a - 0.25) ** 2)


def _shares(df: float, u: Array) -> tuple[Array, Array, Array]:
    """x, 1 - x and log x, where u^2 overflows as well."""
    t = u / math.sqrt(df)
    far = jnp.abs(t) > 1
    inside, outside = jnp.where(far, 1.0, t), jnp.where(far, t, 1.0)
    square = jnp.where(far, 1.0 / outside, inside) ** 2
    less, more = square / (1.0 + square), 1.0 / (1.0 + square)
    log_x = -2.0 * jnp.log(jnp.abs(outside)) - jnp.log1p(square)
    return jnp.where(far, less, more), jnp.where(far, more, less), log_x


def _beta_series(a: float, b: float, x: Array, largest: float = 0.5) -> Array:
    """sum_n x^n (a + b)_n / (a + 1)_n = a B(a, b) I_x(a, b) / (x^a (1 - x)^b), x <= largest."""
    ratios, size = [], 1.0
    while size > 0.1 * jnp.finfo(x.dtype).eps:
        ratios.append((a + b + len(ratios)) / (a + 1.0 + len(ratios)))
        size *= largest * ratios[-1]
    value = jnp.ones_like(x)
    for ratio in reversed(ratios):
        value = 1.0 + ratio * x * value
    return value


def _log_between(a: float, length: Array) -> Array:
    """Log of I for -log x = length in (0, log 2]."""
    shift = a - 0.25
    z = shift * length
    log_normal = math.log(2.0) + log_ndtr(-jnp.sqrt(2.0 * z))
    least, most = jnp.minimum(z, LARGE), jnp.maximum(z, LARGE)
    first = jnp.exp(log_normal + least - 0.5 * jnp.log(least / math.pi))
    series = jnp.ones_like(z)
    for n in range(10, 0, -1):
        series = 1.0 - (n - 0.5) / most * series
    first = jnp.where(z < LARGE, first, series / most)
    weights = _weights()
    integral, power, total = first, jnp.ones_like(z), jnp.zeros_like(z)
    for n in range(TERMS - 1):
        turned = (2 * n + 0.5) * (2 * n + 1.5) * integral + (z + 2 * n + 1.5) * power
        integral = turned / (2.0 * shift) / (2.0 * shift)
        total += weights[n + 1] * integral
        power = power * (0.5 * length) ** 2
    constant = _log_gammas(a) - 0.5 * math.log(shift)
    return constant + log_normal + jnp.log1p(total / first)


@functools.cache
def _weights() -> list[float]:
    """p_0.. of the sum of J_n, by the recursion of the source."""
    p = [1.0]
    for n in range(1, TERMS):
        terms = ((0.5 * m - n) * p[n - m] / math.factorial(2 * m + 1) for m in range(1, n))
        p.append(-0.5 / math.factorial(2 * n + 1) + sum(terms) / n)
    return p
