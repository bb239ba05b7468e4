"""Discretised systems against the ODE's solution, other libraries and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.signal

from ssm import discretize, hippo

A, B = hippo.transition("legt", 5)
SINGULAR = np.array([[0.0, 1.0], [0.0, 0.0]])  # a double integrator


@pytest.mark.parametrize("method", ["forward", "backward", "bilinear", "gbt", "zoh"])
def test_against_scipy(method):
    """SciPy discretises the same formulas; its input is the one of the step."""
    name = {"forward": "euler", "backward": "backward_diff"}.get(method, method)
    alpha = 0.3 if method == "gbt" else None
    system = (A, B[:, None], np.eye(5), np.zeros((5, 1)))
    expected = scipy.signal.cont2discrete(system, 0.1, name, alpha)
    got = discretize.discretize(A, B, 0.1, method, alpha)
    for value, exact in zip(got, (expected[0], expected[1][:, 0]), strict=True):
        np.testing.assert_allclose(value, exact, atol=1e-13)
        assert value.dtype == np.float64 and isinstance(value, np.ndarray)


def test_hold_is_exact_for_a_singular_matrix():
    A_bar, B_bar = discretize.discretize(SINGULAR, np.array([0.0, 1.0]), 0.5, "zoh")
    np.testing.assert_allclose(A_bar, [[1.0, 0.5], [0.0, 1.0]], atol=1e-16)
    np.testing.assert_allclose(B_bar, [0.125, 0.5], atol=1e-16)


@pytest.mark.parametrize("method", discretize.METHODS)
def test_jax_arrays_give_the_same_and_gradients(method, x64):
    alpha = 0.25 if method == "gbt" else None
    expected = discretize.discretize(A, B[:, None], 0.1, method, alpha)

    @jax.jit
    def both(A, B, dt):
        return discretize.discretize(A, B, dt, method, alpha)

    got = both(jnp.asarray(A), jnp.asarray(B)[:, None], jnp.asarray(0.1))
    for value, exact in zip(got, expected, strict=True):
        np.testing.assert_allclose(value, exact, atol=1e-13)

    def total(dt):
        return sum(jnp.sum(jnp.sin(part)) for part in both(jnp.asarray(A), jnp.asarray(B), dt))

    step = 1e-5
    slope = (total(0.1 + step) - total(0.1 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(total)(0.1), slope, rtol=1e-7)


@pytest.mark.parametrize("method", discretize.METHODS)
def test_diagonal_systems_are_dense_ones(method, x64):
    alpha = 0.75 if method == "gbt" else None
    Lambda = np.array([-1.0 + 2.0j, -0.5j, 0.0, -1e-9])
    inputs = np.array([1.0, 2.0j, -1.0, 0.5])
    expected = discretize.discretize(np.diag(Lambda), inputs, 0.2, method, alpha)
    got = discretize.discretize_diagonal(Lambda, inputs, 0.2, method, alpha)
    np.testing.assert_allclose(got[0], np.diag(expected[0]), atol=1e-14)
    np.testing.assert_allclose(got[1], expected[1], atol=1e-14)


def test_phi_keeps_its_digits_near_zero_in_value_and_slope(precision):
    import mpmath

    points = [0.0, 1e-12, -1e-5, 1e-3, -0.4, 0.49, 0.51, -3.0, -80.0]
    with mpmath.workdps(40):
        exact = [float(mpmath.expm1(z) / z) if z else 1.0 for z in map(mpmath.mpf, points)]
        slopes = [
            float(mpmath.diff(lambda v: mpmath.hyp1f1(1, 2, v), z)) for z in map(mpmath.mpf, points)
        ]
    rtol = 4e-7 if precision == "float32" else 2e-15
    z = jnp.asarray(points, precision)
    np.testing.assert_allclose(discretize.phi(z), exact, rtol=rtol)
    np.testing.assert_allclose(jax.vmap(jax.grad(discretize.phi))(z), slopes, rtol=10 * rtol)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "euler"}, r"method: expected one of forward, .*got 'euler'"),
        ({"method": "gbt"}, r"alpha: gbt needs a number in \[0, 1\], got None"),
        ({"method": "gbt", "alpha": 1.5}, r"alpha: gbt needs a number in \[0, 1\], got 1.5"),
        ({"method": "zoh", "alpha": 0.5}, r"alpha: only for the method gbt, got 0.5 for zoh"),
        ({"dt": 0.0}, r"dt: expected a positive number, got 0.0"),
        ({"dt": np.nan}, r"dt: expected a positive number, got nan"),
        ({"A": np.ones((2, 3))}, r"A: expected a square matrix, got shape \(2, 3\)"),
        ({"B": np.ones(4)}, r"B: expected 5 rows, got shape \(4,\)"),
        ({"A": 2.0 * np.eye(5), "dt": 1.0}, r"dt: I - 0.5 dt A is singular at dt = 1.0"),
    ],
)
def test_bad_input(change, message):
    arguments = {"A": A, "B": B, "dt": 0.1, "method": "bilinear", **change}
    with pytest.raises(ValueError, match=message):
        discretize.discretize(**arguments)
