"""Quantiles and samples of `PeriodicDensity`: inversion, distribution and gradients."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from calls import call
from reference import fourier

from fourier_density import PeriodicDensity

A = fourier.random_coefficients(1, 5)
LEVELS = np.array([0.0, 1e-6, 0.01, 0.2, 0.5, 0.77, 0.999, 1.0])
COEFFICIENTS = {
    "uniform": np.ones(1),
    "random": A,
    "order 13": fourier.random_coefficients(2, 13),
    "peaked, 32 roots": np.ones(33),
    "flat ends": np.array([1.0, 4.0, 6.0, 4.0, 1.0]),  # p = O((1 - |x|)^8) at both ends
}


@functools.partial(jax.jit, static_argnames="shape")
def draw(density, seed, shape=()):
    """Samples, compiled."""
    return density.sample(seed=jax.random.key(seed), sample_shape=shape)


def reference_quantile(a, u, floor=0.0):
    return scipy.optimize.brentq(
        lambda x: fourier.cdf(a, x, floor) - u, -1.0, 1.0, xtol=1e-15, rtol=1e-15
    )


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", COEFFICIENTS)
def test_quantile_inverts_the_cdf(name, precision):
    a = COEFFICIENTS[name]
    x = np.asarray(call(PeriodicDensity(a), "quantile", LEVELS), np.float64)
    assert np.all((x >= -1) & (x <= 1))
    # Single precision: rounding of x (6e-8) times the largest density (at most 17), and of
    # the sum over N terms in the distribution function.
    tolerance = {"float32": 4e-6, "float64": 1e-12}[precision]
    reached = [fourier.cdf(a, point) for point in x]
    np.testing.assert_allclose(reached, LEVELS, atol=tolerance, rtol=0)


def test_quantile_equals_a_root_finder_on_the_quadrature(x64):
    density = PeriodicDensity(A, 0.1)
    u = LEVELS[2:-1]
    expected = [reference_quantile(A, level, 0.1) for level in u]
    np.testing.assert_allclose(call(density, "quantile", u), expected, atol=1e-12, rtol=0)


def test_quantile_of_the_end_points_is_the_support(x64):
    np.testing.assert_allclose(
        call(PeriodicDensity(A), "quantile", [0.0, 1.0]), [-1, 1], atol=1e-12
    )


def test_quantile_is_nan_outside_the_unit_interval():
    x = call(PeriodicDensity(A), "quantile", np.array([-0.1, 1.1, np.nan, np.inf, 0.5]))
    np.testing.assert_array_equal(jnp.isnan(x), [True, True, True, True, False])


def test_gradient_of_the_quantile_equals_finite_differences(x64):
    u, step = 0.3, 1e-4  # central differences of values good to 1e-14: error about 1e-8
    by_u = jax.jit(jax.grad(PeriodicDensity(A).quantile))(u)
    expected = (reference_quantile(A, u + step) - reference_quantile(A, u - step)) / (2 * step)
    np.testing.assert_allclose(by_u, expected, atol=1e-6, rtol=0)

    gradient = jax.jit(jax.grad(lambda d: d.quantile(u)))(PeriodicDensity(A, 0.1))
    for direction, part in ((1.0, gradient.re), (1j, gradient.im)):
        for k in range(A.size):
            shift = np.zeros(A.size, complex)
            shift[k] = step * direction
            ends = [reference_quantile(A + sign * shift, u, 0.1) for sign in (1, -1)]
            np.testing.assert_allclose(part[k], (ends[0] - ends[1]) / (2 * step), atol=1e-6)
    ends = [reference_quantile(A, u, 0.1 + sign * step) for sign in (1, -1)]
    np.testing.assert_allclose(gradient.floor, (ends[0] - ends[1]) / (2 * step), atol=1e-6)


def test_samples_follow_the_distribution_and_not_its_mirror_image():
    x = np.asarray(draw(PeriodicDensity(A, 0.1), 0, shape=(4000,)))
    grid = np.linspace(-1.0, 1.0, 2**12 + 1)
    p = fourier.density(A, grid, 0.1)
    table = np.concatenate([[0.0], np.cumsum(0.5 * (p[1:] + p[:-1]) * np.diff(grid))])

    def test(points):
        return scipy.stats.kstest(points, lambda t: np.interp(t, grid, table)).pvalue

    assert test(x) > 1e-3
    assert test(-x) < 1e-9


def test_a_seed_reproduces_its_samples_and_another_does_not():
    density = PeriodicDensity(A)
    first, same, other = (draw(density, seed, shape=(8,)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert jnp.all(first != other)


def test_numbers_stand_for_keys_and_shapes_as_in_distrax():
    density = PeriodicDensity(A)
    x = density.sample(seed=3, sample_shape=8)
    np.testing.assert_allclose(x, draw(density, 3, shape=(8,)), atol=2e-6, rtol=0)
    sample = inspect.unwrap(PeriodicDensity.sample)
    with pytest.raises(ValueError, match="seed: expected a random key"):
        sample(density, seed="3")
    for wrong in ((2.5,), (-3,), "a"):
        with pytest.raises(ValueError, match="sample_shape: expected whole numbers"):
            sample(density, seed=3, sample_shape=wrong)


@pytest.mark.parametrize("sample_shape", [(), (4,), (2, 3)])
def test_sample_shape_precedes_the_batch_shape(sample_shape):
    batch = PeriodicDensity(fourier.random_coefficients(4, 2, (3, 2)))
    both = jax.jit(
        lambda d: d.sample_and_log_prob(seed=jax.random.key(1), sample_shape=sample_shape)
    )
    x, log_prob = both(batch)
    assert x.shape == log_prob.shape == (*sample_shape, 3, 2)
    # Compiled together or apart: a few roundings of order one.
    np.testing.assert_allclose(x, draw(batch, 1, shape=sample_shape), atol=2e-6, rtol=0)
    np.testing.assert_allclose(
        np.exp(log_prob), np.exp(call(batch, "log_prob", x)), atol=2e-6, rtol=0
    )


def test_members_of_a_batch_get_their_own_samples():
    batch = PeriodicDensity(np.ones((3, 2)))  # equal densities, independent draws
    x = draw(batch, 1)
    assert len(np.unique(x)) == 3


def test_a_batch_of_floors_broadcasts_the_samples():
    density = PeriodicDensity(A, np.array([0.0, 0.5, 0.9]))
    assert density.batch_shape == (3,)
    assert draw(density, 0, shape=(2,)).shape == (2, 3)


def test_reparameterised_gradient_equals_finite_differences(x64):
    seed, step = jax.random.key(5), 1e-5

    @jax.jit
    def loss(re):
        density = PeriodicDensity(jax.lax.complex(re, jnp.asarray(A.imag)))
        return jnp.mean(jnp.sin(3.0 * density.sample(seed=seed, sample_shape=(16,))))

    re = jnp.asarray(A.real)
    direction = jnp.linspace(-1.0, 1.0, re.size)
    numeric = (loss(re + step * direction) - loss(re - step * direction)) / (2 * step)
    exact = jax.grad(loss)(re) @ direction
    assert abs(exact) > 1e-3
    np.testing.assert_allclose(exact, numeric, atol=1e-7, rtol=0)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["random", "peaked, 32 roots", "flat ends"])
def test_quantiles_from_the_table_invert_the_cdf(name, precision):
    """Enough levels to share a table: |P(x) - u| <= 5e-7 in single precision."""
    a = COEFFICIENTS[name]
    u = np.concatenate([[0.0, 1.0], np.random.default_rng(0).uniform(size=2000)]).astype(precision)
    x = np.asarray(call(PeriodicDensity(a), "quantile", u), np.float64)
    assert np.all((x >= -1) & (x <= 1))
    g = fourier.gamma(a)
    n = np.arange(1, len(g))
    waves = np.exp(1j * np.pi * np.outer(x, n)) - (-1.0) ** n
    reached = 0.5 * (x + 1.0) + (waves @ (g[1:] / (1j * np.pi * n))).real
    # The density of the peaked case reaches 17, where a rounding of x alone is 5e-7.
    tolerance = {"float32": 1.5e-6 if "peaked" in name else 5e-7, "float64": 1e-13}[precision]
    np.testing.assert_allclose(reached, u, atol=tolerance, rtol=0)
