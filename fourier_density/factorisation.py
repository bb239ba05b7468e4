"""Spectral factors and cepstra of non-negative trigonometric polynomials.

Notation
    c      autocorrelation c_0..c_N with c_0 + 2 Re sum_{n>=1} c_n z^n >= 0, shape [..., N+1]
    b      its minimum-phase factor: autocorrelation c, no root inside the unit disc, b_0 > 0
    kappa  cepstrum kappa_1..: log|B(x)|^2 = 2 log b_0 + 2 Re sum_m kappa_m z^m

Source: Fejer and Riesz for existence; Wilson, "Factorization of the covariance generating
function of a pure moving average process" (SIAM J. Numer. Anal. 6, 1969) for the iteration,
which converges from every minimum-phase start.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fourier_density import series

Pair = series.Pair
Solve = Callable[[Array, Array], Array]
MAX_ITERATIONS = 64


def spectral_factor(re: Array, im: Array) -> Pair:
    """Minimum-phase b with autocorrelation c (Fejer-Riesz), by Wilson's iteration.

    Newton's method on the quadratic equations sum_k b_{k+n} conj(b_k) = c_n: quadratic
    convergence when all roots are away from the circle, linear (to half the digits) when one is
    on it. Derivatives are implicit, of any order.

    Args:
        re, im: parts of c, [..., N+1].

    Returns:
        Parts of b, [..., N+1]; NaN where the polynomial of c takes negative values. If only down
        to about minus the root of a rounding error, b may be the factor of a nearby polynomial.

    Source: Fejer and Riesz; Wilson (SIAM J. Numer. Anal. 6, 1969).
    """
    return _factors(re, im, exact=False)


def factor_of_moments(re: Array, im: Array, *, exact: bool = False) -> Pair:
    """The factor of 1 + 2 Re sum_n gamma_n z^n, given gamma_1..gamma_N in parts [..., N].

    Args:
        exact: also NaN where some digits are missing, next to multiple roots on the circle.
    """
    pad = [(0, 0)] * (re.ndim - 1) + [(1, 0)]
    return _factors(jnp.pad(re, pad, constant_values=1.0), jnp.pad(im, pad), exact)


def settled(dtype: Any) -> float:
    """Largest residual of the autocorrelation of a factor with all its digits."""
    return 4.0 * float(jnp.finfo(dtype).eps)


def _factors(re: Array, im: Array, exact: bool) -> Pair:
    """Few systems of many equations are LAPACK's; see `_eliminate` for the others."""
    few = math.prod(re.shape[:-1]) < 64 and re.shape[-1] > 16
    solve = jnp.linalg.solve if few else _eliminate
    factor = functools.partial(_factor, exact=exact, solve=solve)
    return jnp.vectorize(factor, signature="(n),(n)->(n),(n)")(re, im)


def _factor(re: Array, im: Array, exact: bool, solve: Solve) -> Pair:
    size = re.shape[0]
    scale = jax.lax.stop_gradient(re[0])
    c = jnp.concatenate([re, im]) / scale
    target = jax.lax.stop_gradient(c)
    enough = settled(re.dtype)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        iteration, _, error = carry
        return (iteration < MAX_ITERATIONS) & (error > enough)

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        iteration, b, _ = carry
        b = _newton(b, target, solve)
        return iteration + 1, b, jnp.max(jnp.abs(_correlate(b) - target))

    start = jnp.zeros_like(target).at[0].set(1.0)
    _, b, error = jax.lax.while_loop(
        unfinished, step, (jnp.zeros((), jnp.int32), start, jnp.ones((), re.dtype))
    )
    # Where there is no factor the step is taken elsewhere: a NaN would enter all gradients.
    good = error <= enough ** (1.0 if exact else 0.5)
    b, c = jax.lax.stop_gradient(jnp.where(good, b, start)), jnp.where(good, c, start)
    after = _last_step(solve, b, c)
    if exact:  # a small residual does not show that b has only half its digits: its step does
        good &= jnp.max(jnp.abs(after - b)) <= 16.0 * enough
    b = jnp.where(good, after, jnp.nan) * jnp.sqrt(scale)
    return b[:size], b[size:]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _last_step(solve: Solve, b: Array, c: Array) -> Array:
    """A Newton step from a factor b, as a function of c the factor itself, whose slope it has."""
    return _newton(b, c, solve)


@_last_step.defjvp
def _last_step_jvp(solve: Solve, primals: Any, tangents: Any) -> tuple[Array, Array]:
    b, c = primals
    after = _last_step(solve, b, c)
    return after, jax.jvp(lambda c: _newton(after, c, solve), (c,), (tangents[1],))[1]


def _correlate(b: Array) -> Array:
    return jnp.concatenate(series.autocorrelation(*jnp.split(b, 2)))


def _newton(b: Array, c: Array, solve: Solve) -> Array:
    """Solve J(b) b' = c + autocorrelation(b); the imaginary part of b_0 is held at zero."""
    re, im = jnp.split(b, 2)
    size = re.shape[0]
    n, m = np.arange(size)[:, None], np.arange(size)[None, :]
    ahead, behind = np.where(m + n < size, m + n, 0), np.where(m >= n, m - n, 0)
    inside_h, inside_t = (m + n < size).astype(re.dtype), (m >= n).astype(re.dtype)
    h_re, h_im = re[ahead] * inside_h, im[ahead] * inside_h
    t_re, t_im = re[behind] * inside_t, -im[behind] * inside_t
    jacobian = jnp.block([[t_re + h_re, h_im - t_im], [t_im + h_im, t_re - h_re]])
    # The equation of Im c_0 is empty; it makes room for the choice of phase.
    jacobian = jacobian.at[size].set(0.0).at[size, size].set(1.0)
    right = (c + _correlate(b)).at[size].set(0.0)
    return solve(jacobian, right)


def _eliminate(matrix: Array, right: Array) -> Array:
    """Solution of matrix x = right by Gauss-Jordan elimination with partial pivoting.

    Two independent solves of large batches by LAPACK in one program can wait for each other for
    ever (jaxlib 0.10.2 on few cores), and two divergences are two of them.
    """

    def solution(matrix: Array, right: Array) -> Array:
        size = right.shape[0]
        index = jnp.arange(size)

        def column(k: Array, rows: Array) -> Array:
            sizes = jnp.where(index >= k, jnp.abs(rows[:, k]), -1.0)
            best = index == jnp.argmax(sizes)
            pivot = jnp.sum(jnp.where(best[:, None], rows, 0.0), axis=0)
            rows = jnp.where(best[:, None], rows[k], rows)
            pivot = pivot / pivot[k]
            return jnp.where((index == k)[:, None], pivot, rows - rows[:, k, None] * pivot)

        rows = jnp.concatenate([matrix, right[:, None]], axis=1)
        return jax.lax.fori_loop(0, size, column, rows)[:, -1]

    return jax.lax.custom_linear_solve(
        lambda x: matrix @ x,
        right,
        lambda _, y: solution(matrix, y),
        lambda _, y: solution(matrix.T, y),
    )


@functools.partial(jax.jit, static_argnums=2)
def cepstrum(re: Array, im: Array, count: int) -> Pair:
    """kappa_1..kappa_count of a minimum-phase b.

    From B' = B (log B)': m kappa_m = m q_m - sum_{j<m} j kappa_j q_{m-j} with q = b / b_0.

    Args:
        re, im: parts of b, [..., N+1], with b_0 real.
        count: terms wanted, beyond N too.

    Source: Newton's identities between coefficients and power sums of the roots.
    """
    size = max(count + 1, re.shape[-1])
    padding = [(0, 0)] * (re.ndim - 1) + [(0, size - re.shape[-1])]
    q_re, q_im = (jnp.pad(part / re[..., :1], padding) for part in (re, im))
    index = jnp.arange(size)

    def step(terms: Pair, m: Array) -> tuple[Pair, None]:
        used = (index >= 1) & (index < m)
        back = jnp.where(used, m - index, 0)
        r = jnp.where(used, jnp.take(q_re, back, axis=-1), 0.0)
        s = jnp.where(used, jnp.take(q_im, back, axis=-1), 0.0)
        t, u = terms  # j kappa_j
        real = m * q_re[..., m] - jnp.sum(t * r - u * s, axis=-1)
        imaginary = m * q_im[..., m] - jnp.sum(t * s + u * r, axis=-1)
        return (t.at[..., m].set(real), u.at[..., m].set(imaginary)), None

    zero = jnp.zeros_like(q_re)
    (t, u), _ = jax.lax.scan(step, (zero, zero), jnp.arange(1, count + 1))
    m = jnp.arange(1, count + 1)
    return t[..., 1 : count + 1] / m, u[..., 1 : count + 1] / m
