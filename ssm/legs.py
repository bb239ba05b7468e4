"""The scaled Legendre system (LegS) by its structure: O(N) operations for a step.

Notation
    c     state [..., N]
    r     r_n = sqrt(2n + 1)
    A     A_nk = -r_n r_k for k < n, -(n + 1) for k = n
    k     number of samples read
    h     a number: the weight of A in an implicit step

Source: https://kexue.fm/archives/10137 (efficient computation, long-tailed memory); arXiv
2008.07669, sections 3.3 and appendix E.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def roots(n: int, dtype: jnp.dtype) -> Array:
    """r_n = sqrt(2n + 1), which is B as well."""
    return jnp.sqrt(2.0 * jnp.arange(n, dtype=dtype) + 1.0)


def multiply(c: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """A c: (A c)_n = n c_n - r_n sum_{k <= n} r_k c_k, a cumulative sum.

    Source: https://kexue.fm/archives/10137, equation 22.
    """
    n = jnp.arange(c.shape[-1], dtype=c.dtype)
    r = roots(c.shape[-1], c.dtype)
    return n * c - r * jnp.cumsum(r * c, axis=-1)


def solve(h: Array | float, f: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """(I - h A)^{-1} f by forward substitution.

    With S_n = sum_{k < n} r_k x_k, row n reads (1 + (n + 1) h) x_n + h r_n S_n = f_n, so

        S_{n+1} = ((1 - n h) S_n + r_n f_n) / (1 + (n + 1) h)

    is a recurrence of scalars.

    Source: https://kexue.fm/archives/10137, equations 23 to 25; its S_n is S_{n+1} here.
    """
    n = jnp.arange(f.shape[-1], dtype=f.dtype)
    r, left = roots(f.shape[-1], f.dtype), 1.0 + (n + 1.0) * h
    keep, add = jnp.broadcast_arrays((1.0 - n * h) / left, r * f / left)
    before = _exclusive(keep, add)
    return (f - h * r * before) / left


def _exclusive(keep: Array, add: Array) -> Array:
    """S_n of S_{n+1} = keep_n S_n + add_n, S_0 = 0, along the last axis."""

    def combine(first: tuple[Array, Array], second: tuple[Array, Array]):
        return first[0] * second[0], first[1] * second[0] + second[1]

    _, total = jax.lax.associative_scan(combine, (keep, add), axis=-1)
    return jnp.concatenate([jnp.zeros_like(total[..., :1]), total[..., :-1]], axis=-1)


def legendre(n: int, s: Array) -> Array:
    """r_m P_m(2s - 1) for m < n, [n, ...].

    Source: Bonnet's recurrence for Legendre polynomials.
    """
    x = 2.0 * s - 1.0

    def body(carry: tuple[Array, Array], m: Array):
        older, old = carry
        new = ((2.0 * m + 1.0) * x * old - m * older) / (m + 1.0)
        return (old, new), old

    start = (jnp.zeros_like(x), jnp.ones_like(x))
    _, values = jax.lax.scan(body, start, jnp.arange(n, dtype=x.dtype))
    return roots(n, x.dtype).reshape(n, *(1,) * x.ndim) * values


def stretch(c: Float[Array, " n"], ratio: Array) -> Float[Array, " n"]:
    """ratio^(-A) c: the coefficients when the history becomes 1/ratio times as long.

    What c stands for moves to [0, ratio] and zero follows. Projecting that again is a
    Gauss-Legendre quadrature with N nodes, exact for the polynomials it meets.

    Source: derived from https://kexue.fm/archives/10137, equation 18, with the meaning of the
    coefficients.
    """
    nodes, weights = _gauss(c.shape[-1], c.dtype)
    values = legendre(c.shape[-1], nodes).T @ c
    return legendre(c.shape[-1], ratio * nodes) @ (ratio * weights * values)


def recent(n: int, ratio: Array) -> Float[Array, " n"]:
    """Coefficients of a signal that is 0 up to the share `ratio` of the history, then 1.

    int_ratio^1 r_n P_n(2s - 1) ds in closed form by P_n = (P_{n+1} - P_{n-1})' / (2n + 1).

    Source: derived from https://kexue.fm/archives/10114, equation 17, for the second term of
    https://kexue.fm/archives/10137, equation 16.
    """
    r = roots(n + 1, ratio.dtype)
    P = legendre(n + 1, ratio) / r
    inner = (P[: n - 1] - P[2:]) / (2.0 * r[1:n])
    return jnp.concatenate([1.0 - ratio[None], inner])


def _gauss(n: int, dtype: jnp.dtype) -> tuple[Array, Array]:
    points, weights = np.polynomial.legendre.leggauss(n)
    return jnp.asarray(0.5 * (1.0 + points), dtype), jnp.asarray(0.5 * weights, dtype)


def read(k: Array, c: Float[Array, " n"], u: Array) -> Float[Array, " n"]:
    """The state after the k-th sample, if the signal is constant from sample to sample: exact.

    stretch(c, q) + recent(N, q) u with q = (k - 1)/k.

    Source: https://kexue.fm/archives/10137, equation 16, without a matrix exponential; its
    x_{k+1} is the k-th state here.
    """
    ratio = (k - 1.0) / k
    return stretch(c, ratio) + recent(c.shape[-1], ratio) * u


def forgetting(n: int, m: int, k: int) -> Float[np.ndarray, "n n"]:
    """exp(A ln(k / m)): what becomes of the state after sample m by sample k, in float64.

    Its entries are polynomials of m/k without constant term: memory fades like 1/k, not
    exponentially.

    Raises:
        ValueError: unless 1 <= m <= k.

    Source: https://kexue.fm/archives/10137, equations 18 and 20.
    """
    if not 1 <= m <= k:
        raise ValueError(f"m, k: expected 1 <= m <= k, got {m}, {k}")
    with jax.enable_x64(True):
        ratio = jnp.asarray(m / k)
        return np.asarray(jax.vmap(lambda c: stretch(c, ratio), out_axes=1)(jnp.eye(n)))
