"""LegS by cumulative sums and forward substitution, against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from reference import hippo as reference

from ssm import hippo, legs

TOLERANCE = {"float32": 3e-6, "float64": 1e-13}


@pytest.mark.parametrize("n", [1, 2, 17, 256])
def test_products_and_solutions_are_those_of_the_dense_matrix(n, precision):
    A, _ = hippo.transition("legs", n)
    f = np.random.default_rng(n).normal(size=(3, n))
    got = jax.jit(legs.multiply)(jnp.asarray(f, precision))
    rtol = TOLERANCE[precision] * np.abs(f @ A.T).max()
    np.testing.assert_allclose(got, f @ A.T, atol=rtol)
    for h in (1.0, 0.5, 0.1, 1e-3):
        solution = np.linalg.solve(np.eye(n) - h * A, f.T).T
        got = jax.jit(legs.solve)(h, jnp.asarray(f, precision))
        np.testing.assert_allclose(got, solution, atol=TOLERANCE[precision] * np.abs(f).max())


def test_gradients_of_a_solution_are_those_of_the_dense_one(x64):
    n, h = 9, 0.3
    A = jnp.asarray(hippo.transition("legs", n)[0])
    f = jnp.asarray(np.random.default_rng(0).normal(size=n))

    def dense(h, f):
        return jnp.sum(jnp.sin(jnp.linalg.solve(jnp.eye(n) - h * A, f)))

    def ours(h, f):
        return jnp.sum(jnp.sin(legs.solve(h, f)))

    for got, expected in zip(
        jax.jit(jax.grad(ours, (0, 1)))(h, f), jax.jit(jax.grad(dense, (0, 1)))(h, f), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("n", [1, 3, 32])
def test_stretching_is_the_matrix_exponential(n, x64):
    A, _ = hippo.transition("legs", n)
    c = np.random.default_rng(n).normal(size=n)
    for ratio in (0.25, 0.9, 0.999, 1.0):
        got = legs.stretch(jnp.asarray(c), jnp.asarray(ratio))
        expected = scipy.linalg.expm(-A * np.log(ratio)) @ c
        np.testing.assert_allclose(got, expected, atol=1e-11 * np.abs(expected).max())
    assert np.all(legs.stretch(jnp.asarray(c), jnp.asarray(0.0)) == 0)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.99, 1.0])
def test_recent_coefficients_are_integrals_of_the_basis(ratio, x64):
    def u(t):
        return (t > ratio).astype(float)

    points, weights = np.polynomial.legendre.leggauss(40)
    s = ratio + (1 - ratio) * 0.5 * (1 + points)
    expected = (0.5 * (1 - ratio) * weights) @ reference.basis("legs", 12, s)
    np.testing.assert_allclose(legs.recent(12, jnp.asarray(ratio)), expected, atol=5e-14)


def test_forgetting_composes_and_fades_like_one_over_the_time():
    A, _ = hippo.transition("legs", 6)
    expected = scipy.linalg.expm(A * np.log(40 / 3))
    np.testing.assert_allclose(legs.forgetting(6, 3, 40), expected, atol=1e-12)
    product = legs.forgetting(6, 12, 40) @ legs.forgetting(6, 3, 12)
    np.testing.assert_allclose(product, expected, atol=1e-12)
    late, later = (np.abs(legs.forgetting(6, 3, k)).max() for k in (30_000, 300_000))
    np.testing.assert_allclose(np.log10(late / later), 1.0, atol=1e-3)
    with pytest.raises(ValueError, match="m, k: expected 1 <= m <= k, got 5, 4"):
        legs.forgetting(6, 5, 4)
