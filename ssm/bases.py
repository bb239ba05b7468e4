"""The bases of the HiPPO measures: sums evaluated by Clenshaw's recurrence.

Notation
    s    position in the window or history: 0 the oldest point, 1 the newest
    age  1 - s, in units of the window; the Laguerre measures reach back to any age
    g_n  the basis; a state c stands for the signal sum_n c_n g_n

    legs, legt   sqrt(2n + 1) P_n(2s - 1)
    lmu          P_n(2 age - 1)
    lagt         exp(-age / 2) L_n(age)
    glagt        age^alpha exp(-(1 - beta)/2 age) L_n^(alpha)(age) / l_n
    fout         1, sqrt(2) cos(2 pi k age), sqrt(2) sin(2 pi k age), k = 1, 2, ...
    fous         the same functions of s
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.special import gammaln

from ssm import hippo, signals


def clenshaw(coefficients: Array, slope: Array, level: Array, drop: Array, x: Array) -> Array:
    """sum_n c_n f_n(x) for f_0 = 1, f_{n+1} = (slope_n x + level_n) f_n - drop_n f_{n-1}.

    Args:
        coefficients: [..., N].
        slope, level, drop: [N] of the recurrence.
        x: points [...points].

    Returns:
        [..., ...points].

    Source: Clenshaw's recurrence for sums over functions with a three-term recurrence.
    """
    batch = coefficients.shape[:-1]
    c = jnp.moveaxis(coefficients, -1, 0).reshape(-1, *batch, *(1,) * x.ndim)
    after = jnp.append(drop[1:], 0.0)  # drop_{n+1}

    def body(carry: tuple[Array, Array], term: tuple[Array, ...]):
        first, second = carry
        c_n, slope_n, level_n, after_n = term
        return (c_n + (slope_n * x + level_n) * first - after_n * second, first), None

    zero = jnp.zeros((*batch, *x.shape), jnp.result_type(c, x))
    (total, _), _ = jax.lax.scan(body, (zero, zero), (c, slope, level, after), reverse=True)
    return total


@functools.partial(jax.jit, static_argnames=("measure", "alpha", "beta"))
def evaluate(
    coefficients: Array, measure: str, points: Array, *, alpha: float = 0.0, beta: float = 1.0
) -> Array:
    """Evaluate the signal sum_n c_n g_n that a state represents.

    Args:
        coefficients: states [..., N].
        measure: one of `hippo.MEASURES`.
        points: positions s, [...points]; 1 is the newest point.
        alpha, beta: of "glagt".

    Returns:
        [..., ...points].

    Source: https://kexue.fm/archives/10114, equations 7 and 23, in the units of this module;
    arXiv 2008.07669, appendices D.1 to D.3 (Legendre, Laguerre).
    """
    coefficients = signals.real(coefficients)
    n = coefficients.shape[-1]
    hippo.check(measure, n)
    k = np.arange(n, dtype=float)
    dtype = coefficients.dtype
    age = 1.0 - points

    def run(c: Array, slope: np.ndarray, level: np.ndarray, drop: np.ndarray, x: Array) -> Array:
        terms = [jnp.asarray(part, dtype) for part in (slope, level, drop)]
        return clenshaw(c, terms[0], terms[1], terms[2], x)

    if measure in ("legs", "legt", "lmu"):
        scale = 1.0 if measure == "lmu" else jnp.asarray(np.sqrt(2.0 * k + 1.0), dtype)
        x = (2.0 * age if measure == "lmu" else 2.0 * points) - 1.0
        return run(scale * coefficients, (2 * k + 1) / (k + 1), 0.0 * k, k / (k + 1), x)
    if measure in ("lagt", "glagt"):
        alpha, beta = (alpha, beta) if measure == "glagt" else (0.0, 0.0)
        norm = np.exp(0.5 * (gammaln(k + alpha + 1.0) - gammaln(k + 1.0)))
        level, drop = (2 * k + 1 + alpha) / (k + 1), (k + alpha) / (k + 1)
        total = run(coefficients / jnp.asarray(norm, dtype), -1.0 / (k + 1), level, drop, age)
        weight = jnp.exp(-0.5 * (1.0 - beta) * age)
        return total * weight * (jnp.maximum(age, 0.0) ** alpha if alpha else 1.0)
    return _fourier(coefficients, points if measure == "fous" else age)


def _fourier(coefficients: Array, x: Array) -> Array:
    """c_0 + sqrt(2) sum_k (c_{2k-1} cos(2 pi k x) + c_{2k} sin(2 pi k x)) as Re of a series in z.

    The recurrence is Horner's, with z = exp(2 pi i x) as a pair of reals.
    """
    turn = 2.0 * jnp.pi * (x - jnp.round(x))
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    batch = coefficients.shape[:-1]
    pairs = jnp.moveaxis(coefficients[..., 1:], -1, 0).reshape(-1, 2, *batch, *(1,) * x.ndim)

    def body(value: tuple[Array, Array], pair: Array):
        re, im = value[0] + pair[0], value[1] - pair[1]
        return (re * cos - im * sin, re * sin + im * cos), None

    zero = jnp.zeros((*batch, *x.shape), jnp.result_type(coefficients, x))
    (waves, _), _ = jax.lax.scan(body, (zero, zero), pairs, reverse=True)
    constant = coefficients[..., 0].reshape(*batch, *(1,) * x.ndim)
    return constant + jnp.sqrt(2.0).astype(zero.dtype) * waves
