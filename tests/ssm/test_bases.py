"""Sums over the bases, by recurrences, against SciPy's functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import hippo as reference

from ssm import hippo, online

POINTS = np.linspace(0.0, 1.0, 9)


@pytest.mark.parametrize("n", [1, 2, 7, 129])
@pytest.mark.parametrize("measure", hippo.MEASURES)
def test_sums_equal_products_with_the_basis(measure, n, precision):
    if measure in hippo.FOURIER:
        n += 1 - n % 2
    shape = {"alpha": 0.5, "beta": 0.3} if measure == "glagt" else {}
    c = np.random.default_rng(n).normal(size=(2, 3, n)) / (1 + np.arange(n))
    options = {"laguerre": (0.5, 0.3)} if shape else {}
    got = online.reconstruct(c.astype(precision), measure, POINTS, **options)
    assert got.shape == (2, 3, 9) and got.dtype == precision
    expected = c @ reference.basis(measure, n, POINTS, **shape).T
    atol = 2e-5 if precision == "float32" else 1e-12
    np.testing.assert_allclose(got, expected, atol=atol * np.abs(expected).max())


@pytest.mark.parametrize("measure", hippo.MEASURES)
def test_points_that_rounding_moves_past_the_newest_are_the_newest(measure):
    c = np.random.default_rng(0).normal(size=5).astype("float32")
    options = {"laguerre": (0.5, 0.3)} if measure == "glagt" else {}
    at, past = online.reconstruct(c, measure, np.array([1.0, 1.0 + 5e-7]), **options)
    np.testing.assert_allclose(past, at, atol=1e-4)


@pytest.mark.parametrize("measure", ["legs", "lagt", "fout"])
def test_points_of_any_shape_inside_transformations(measure, x64):
    c = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)))
    points = jnp.asarray(POINTS[:6].reshape(2, 3))
    whole = jax.jit(lambda c, s: online.reconstruct(c, measure, s))(c, points)
    assert whole.shape == (4, 2, 3)
    single = jax.vmap(lambda c: online.reconstruct(c, measure, points[1, 2]))(c)
    np.testing.assert_allclose(whole[:, 1, 2], single, atol=1e-13)
    slope = jax.grad(lambda c: online.reconstruct(c, measure, points).sum())(c[0])
    basis = reference.basis(measure, 5, np.ravel(points)).sum(0)
    np.testing.assert_allclose(slope, basis, atol=1e-12)


def test_laguerre_functions_reach_beyond_the_window(x64):
    c = np.random.default_rng(0).normal(size=6)
    s = np.array([-20.0, -3.0, 0.5])
    expected = reference.basis("lagt", 6, s) @ c
    np.testing.assert_allclose(online.reconstruct(c, "lagt", s), expected, atol=1e-12)


def test_a_state_of_impossible_size_is_refused():
    with pytest.raises(ValueError, match=r"n: fout .*odd, got 4"):
        online.reconstruct(np.ones(4), "fout", 0.5)
    with pytest.raises(ValueError, match="measure: expected one of"):
        online.reconstruct(np.ones(4), "legq", 0.5)
