"""Values, moments and gradients of `PeriodicDensity` against quadrature and explicit sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import call
from hypothesis import given
from hypothesis import strategies as st
from reference import fourier
from scipy.special import comb

from fourier_density import PeriodicDensity

# Rounding of Horner's rule at order 13, relative to the largest density (at most 7).
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
GRID = np.linspace(-1.0, 1.0, 101)
CASES = [(0, 0.0), (1, 0.0), (5, 0.2), (13, 0.0)]  # order, floor


def case(order, floor):
    a = fourier.random_coefficients(order, order)
    return a, PeriodicDensity(a, floor)


@pytest.mark.parametrize(("order", "floor"), CASES)
def test_prob_equals_the_coefficient_sum(order, floor, precision):
    a, density = case(order, floor)
    p = call(density, "prob", GRID)
    assert p.dtype == precision
    np.testing.assert_allclose(
        p, fourier.density(a, GRID, floor), atol=TOLERANCE[precision], rtol=0
    )


@pytest.mark.parametrize(("order", "floor"), CASES)
def test_log_prob_equals_the_logarithm_of_the_coefficient_sum(order, floor, precision):
    a, density = case(order, floor)
    expected = fourier.density(a, GRID, floor)
    x = GRID[expected > 0.1]  # so that the relative error is at most ten absolute ones
    np.testing.assert_allclose(
        call(density, "log_prob", x),
        np.log(fourier.density(a, x, floor)),
        atol=10 * TOLERANCE[precision],
        rtol=0,
    )


def test_density_of_a_hand_computed_example_leans_to_the_left(x64):
    """A = 1 + (i/2) z gives |A|^2 = 5/4 - sin(pi x): the mass is where x < 0."""
    density = PeriodicDensity([1.0, 0.5j])
    expected = (1.25 - np.sin(np.pi * GRID)) / 2.5
    np.testing.assert_allclose(call(density, "prob", GRID), expected, atol=1e-14, rtol=0)
    assert call(density, "mean") < -0.1


def test_conjugate_coefficients_give_the_mirrored_density(x64):
    a, density = case(5, 0.2)
    mirrored = PeriodicDensity(a.conj(), 0.2)
    expected = fourier.density(a, -GRID, 0.2)
    np.testing.assert_allclose(call(mirrored, "prob", GRID), expected, atol=1e-12, rtol=0)
    np.testing.assert_allclose(call(density.mirror(), "prob", GRID), expected, atol=1e-12, rtol=0)
    assert np.max(np.abs(call(density, "prob", GRID) - expected)) > 0.1


@pytest.mark.parametrize(("order", "floor"), CASES)
def test_density_integrates_to_one(order, floor, precision):
    _, density = case(order, floor)
    # The trapezoidal rule on more than N nodes of the circle is exact.
    total = 2.0 * jnp.mean(density.prob(fourier.nodes(32)))
    np.testing.assert_allclose(total, 1.0, atol=TOLERANCE[precision], rtol=0)


def test_density_has_period_two(x64):
    _, density = case(13, 0.0)
    np.testing.assert_allclose(
        call(density, "prob", GRID + 4.0), call(density, "prob", GRID), atol=1e-12, rtol=0
    )


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-18, 1.0, 1e18]))
def test_density_is_non_negative_and_free_of_the_scale(seed, scale):
    a = fourier.random_coefficients(seed, 16)
    x = np.random.default_rng(seed).uniform(-1, 1, 256)
    p = call(PeriodicDensity(scale * a), "prob", x)
    assert p.dtype == "float32"
    assert jnp.all(p >= 0)
    # Order 16: the bound of TOLERANCE for a density of at most 8.5.
    np.testing.assert_allclose(p, fourier.density(a, x), atol=3e-5, rtol=0)


@pytest.mark.parametrize("order", [8, 32])
def test_density_with_a_root_of_high_order_stays_non_negative(order):
    """(1 + z)^N: summing 1/2 + sum Re gamma z^n in float32 goes negative on a third of it."""
    density = PeriodicDensity(comb(order, np.arange(order + 1)))
    p = density.prob(np.linspace(-1, 1, 2001))
    assert jnp.all(p >= 0)
    assert jnp.all(jnp.isfinite(p))


def test_phase_of_the_coefficients_does_not_matter(x64):
    a, density = case(5, 0.0)
    turned = PeriodicDensity(a * np.exp(0.7j))
    np.testing.assert_allclose(
        call(turned, "prob", GRID), call(density, "prob", GRID), atol=1e-13, rtol=0
    )


@pytest.mark.parametrize(("order", "floor"), CASES)
def test_cdf_equals_quadrature(order, floor, precision):
    a, density = case(order, floor)
    x = np.linspace(-1.2, 1.2, 13)
    expected = [fourier.cdf(a, point, floor) for point in x]
    np.testing.assert_allclose(call(density, "cdf", x), expected, atol=TOLERANCE[precision], rtol=0)


def test_cdf_equals_quadrature_in_thirty_digits(x64):
    a, density = case(13, 0.0)
    for x in (-0.97, -0.2, 0.55, 1.0):
        assert abs(float(call(density, "cdf", x)) - fourier.cdf_mpmath(a, x)) < 1e-13


def test_cdf_is_zero_below_and_one_above_the_support(precision):
    _, density = case(13, 0.0)
    np.testing.assert_array_equal(call(density, "cdf", np.array([-1.0, -1.5, -7.0])), 0.0)
    np.testing.assert_allclose(
        call(density, "cdf", [1.0, 1.5, 7.0]), 1.0, atol=TOLERANCE[precision]
    )


def test_survival_function_and_log_cdf_equal_quadrature(precision):
    a, density = case(5, 0.2)
    x = np.linspace(-0.8, 0.8, 9)
    expected = np.array([fourier.cdf(a, point, 0.2) for point in x])
    tolerance = {"atol": TOLERANCE[precision], "rtol": 0}
    np.testing.assert_allclose(call(density, "survival_function", x), 1.0 - expected, **tolerance)
    # d log P = dP / P with P > 0.01 here.
    assert expected.min() > 0.01
    np.testing.assert_allclose(
        call(density, "log_cdf", x), np.log(expected), atol=100 * TOLERANCE[precision], rtol=0
    )


def test_derivative_of_the_cdf_is_the_density(x64):
    a, density = case(13, 0.0)
    x = jnp.linspace(-0.9, 0.9, 7)
    slope = jax.jit(jax.vmap(jax.grad(density.cdf)))(x)
    np.testing.assert_allclose(slope, fourier.density(a, x), atol=1e-12, rtol=0)


@pytest.mark.sample(3)
@pytest.mark.parametrize(("order", "floor"), CASES)
def test_moments_mean_and_variance_equal_quadrature(order, floor, precision):
    a, density = case(order, floor)
    tolerance = {"atol": TOLERANCE[precision], "rtol": 0}
    expected = [
        fourier.expectation(lambda x, n=n: np.exp(-1j * np.pi * n * x), a, floor)
        for n in range(1, order + 1)
    ]
    np.testing.assert_allclose(call(density, "moments"), expected, **tolerance)
    mean = fourier.expectation(lambda x: x, a, floor)
    square = fourier.expectation(lambda x: x**2, a, floor)
    np.testing.assert_allclose(call(density, "mean"), mean, **tolerance)
    np.testing.assert_allclose(call(density, "variance"), square - mean**2, **tolerance)


@pytest.mark.parametrize(("order", "floor"), CASES)
def test_regulariser_equals_the_integrated_squared_slope(order, floor, precision):
    a, density = case(order, floor)
    rtol = {"float32": 2e-5, "float64": 1e-12}[precision]
    expected = fourier.roughness(a, floor)
    np.testing.assert_allclose(call(density, "regulariser"), expected, rtol=rtol, atol=1e-15)
    scaled = PeriodicDensity(1e-3 * a, floor)  # shrinking must not lower it
    np.testing.assert_allclose(call(scaled, "regulariser"), expected, rtol=rtol, atol=1e-15)


def test_floor_mixes_with_the_uniform_density(x64):
    a, density = case(5, 0.0)
    mixed = PeriodicDensity(a, 0.25)
    expected = 0.75 * call(density, "prob", GRID) + 0.125
    np.testing.assert_allclose(call(mixed, "prob", GRID), expected, atol=1e-14, rtol=0)


def test_floor_keeps_log_prob_and_its_gradient_alive_at_a_root():
    def log_prob(coefficients, floor):
        return call(PeriodicDensity(coefficients, floor), "log_prob", 0.0)

    root = jnp.array([1.0, -1.0])  # A(0) = 0 exactly
    assert log_prob(root, 0.0) == -jnp.inf
    np.testing.assert_allclose(log_prob(root, 0.01), np.log(0.005), rtol=1e-6)
    assert jnp.all(jnp.isfinite(jax.grad(log_prob)(root, 0.01)))


def finite_difference(function, argument, step=1e-5):
    """Central differences, entry by entry; the error is about step^2 and 1e-16 / step."""
    gradient = np.empty(np.shape(argument))
    for index in np.ndindex(gradient.shape):
        shift = np.zeros(gradient.shape)
        shift[index] = step
        gradient[index] = (function(argument + shift) - function(argument - shift)) / (2 * step)
    return gradient


def test_gradients_of_log_prob_equal_finite_differences(x64):
    a, density = case(5, 0.2)
    x = 0.3
    gradient = jax.jit(jax.grad(lambda d: d.log_prob(x)))(density)

    def log_density(re, im, floor, x):
        return np.log(fourier.density(re + 1j * im, x, floor))

    by_re = finite_difference(lambda re: log_density(re, a.imag, 0.2, x), a.real)
    by_im = finite_difference(lambda im: log_density(a.real, im, 0.2, x), a.imag)
    by_floor = finite_difference(lambda floor: log_density(a.real, a.imag, floor, x), 0.2)
    by_x = finite_difference(lambda x: log_density(a.real, a.imag, 0.2, x), x)
    np.testing.assert_allclose(gradient.re, by_re, atol=1e-8, rtol=0)
    np.testing.assert_allclose(gradient.im, by_im, atol=1e-8, rtol=0)
    np.testing.assert_allclose(gradient.floor, by_floor, atol=1e-8, rtol=0)
    np.testing.assert_allclose(jax.grad(density.log_prob)(x), by_x, atol=1e-8, rtol=0)


def test_gradient_is_orthogonal_to_scale_and_phase(x64):
    a, density = case(13, 0.0)
    gradient = jax.jit(jax.grad(lambda d: d.log_prob(0.3)))(density)
    along = complex(jnp.sum((gradient.re - 1j * gradient.im) * a))
    assert abs(along) < 1e-12
    assert jnp.linalg.norm(gradient.re) > 0.1
