"""`ReflectedDensity` against quadrature of its cosine series, and the reflected line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from calls import call
from reference import fourier

from fourier_density import RealLineDensity, ReflectedDensity

A = np.array([1.0, -0.7, 0.4, 0.3])
FLOOR = 0.1
X = np.array([-1.0, -0.6, 0.0, 0.35, 0.999, 1.0])
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}


def prob(x):
    """1/2 + sum_n gamma_n cos(pi n (x + 1) / 2), the sum of the cosines written out."""
    g = fourier.gamma(A, FLOOR).real
    waves = (g[n] * np.cos(0.5 * np.pi * n * (np.asarray(x) + 1.0)) for n in range(1, len(A)))
    return 0.5 + sum(waves)


def expectation(function, start=-1.0, end=1.0):
    return scipy.integrate.quad(lambda x: function(x) * prob(x), start, end, epsabs=1e-13)[0]


EXPECTED = {
    "mean": lambda: expectation(lambda x: x),
    "variance": lambda: expectation(lambda x: x**2) - expectation(lambda x: x) ** 2,
    "entropy": lambda: -expectation(lambda x: np.log(prob(x))),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_expectations_equal_quadrature(name, precision):
    value = call(ReflectedDensity(A, FLOOR), name)
    assert value.dtype == precision
    np.testing.assert_allclose(value, EXPECTED[name](), atol=TOLERANCE[precision], rtol=0)


def test_values_equal_the_cosine_series(precision):
    density = ReflectedDensity(A, FLOOR)
    tolerance = {"atol": TOLERANCE[precision], "rtol": 0}
    below = [expectation(lambda x: 1.0, end=x) for x in X]
    np.testing.assert_allclose(call(density, "prob", X), prob(X), **tolerance)
    np.testing.assert_allclose(call(density, "cdf", X), below, **tolerance)
    np.testing.assert_allclose(
        call(density, "survival_function", X), 1 - np.array(below), **tolerance
    )
    np.testing.assert_allclose(call(density, "log_prob", X), np.log(prob(X)), **tolerance)
    inside = expectation(lambda x: 1.0, -0.6, 0.35)
    np.testing.assert_allclose(call(density, "interval_prob", -0.6, 0.35), inside, **tolerance)
    n = np.arange(1, len(A))
    moments = [expectation(lambda x, k=k: np.cos(0.5 * np.pi * k * (x + 1.0))) for k in n]
    np.testing.assert_allclose(call(density, "moments"), moments, **tolerance)


def test_tails_keep_their_digits():
    """A(t) = 1 - cos-like double root at x = -1: P(X <= x) is of order (x + 1)^3."""
    density = ReflectedDensity([1.0, -1.0])
    x = np.float32(-0.998)
    t = 0.5 * (float(x) + 1.0)
    expected = np.log(t - np.sin(np.pi * t) / np.pi)
    np.testing.assert_allclose(call(density, "log_cdf", x), expected, rtol=1e-5)
    mirrored = ReflectedDensity([1.0, 1.0])
    np.testing.assert_allclose(call(mirrored, "log_survival_function", -x), expected, rtol=1e-5)


@pytest.mark.parametrize("width", [1e-7, 1e-6, 1e-5, 1e-3])
def test_narrow_bins_keep_their_digits(width):
    """In single precision, of the bin as it is stored; 1e-9 from 0 as well."""
    density = ReflectedDensity(A, FLOOR)
    lower = np.array([-1.0, -0.7, -1e-4, 1e-9, 1e-4, 0.3, 0.9, 1.0 - 2 * width], np.float32)
    upper = (lower + np.float32(width)).astype(np.float32)
    size, middle = upper - lower.astype(float), 0.5 * (lower.astype(float) + upper)
    found = call(density, "log_interval_prob", lower, upper)
    np.testing.assert_allclose(np.exp(found), size * prob(middle), rtol=2e-5)
    slope = jax.grad(lambda a: ReflectedDensity(a).log_interval_prob(lower[3], upper[3]))
    assert np.isfinite(slope(jnp.array([1.0, 0.3]))).all()
    assert np.isnan(call(density, "log_interval_prob", 3.0, 2.0))


@pytest.mark.parametrize("distance", [1e-3, 1e-5, 1e-7])
def test_both_ends_keep_their_digits_next_to_a_root(distance):
    """P of the part beyond t of a density 1 - cos(pi t): pi^2 t^3 / 6 for small t."""
    x = np.float32(1.0 - distance)
    t = 0.5 * (1.0 - float(x))
    expected = np.log(np.pi**2 * t**3 / 6)
    found = call(ReflectedDensity([1.0, 1.0]), "log_survival_function", x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(
        call(ReflectedDensity([1.0, -1.0]), "log_cdf", -x), expected, rtol=1e-6
    )


def test_characteristic_function_equals_quadrature(x64):
    t = np.array([-3.0, 0.0, 0.5 * np.pi, 7.0])
    expected = [
        expectation(lambda x, s=s: np.cos(s * x)) + 1j * expectation(lambda x, s=s: np.sin(s * x))
        for s in t
    ]
    value = call(ReflectedDensity(A, FLOOR), "characteristic_function", t)
    np.testing.assert_allclose(value, expected, atol=1e-12, rtol=0)


def test_quantiles_samples_and_regulariser(x64):
    density = ReflectedDensity(A, FLOOR)
    u = np.array([0.0, 0.01, 0.5, 0.9, 1.0])
    np.testing.assert_allclose(call(density, "cdf", call(density, "quantile", u)), u, atol=1e-12)
    assert jnp.all(jnp.isnan(call(density, "quantile", np.array([-0.1, 1.1]))))
    x = jax.jit(lambda d: d.sample(seed=jax.random.key(0), sample_shape=(4000,)))(density)
    levels = np.sort(np.asarray(call(density, "cdf", x)))
    assert np.max(np.abs(levels - (np.arange(4000) + 0.5) / 4000)) < 1.63 / np.sqrt(4000)
    slope = lambda x: (prob(x + 1e-6) - prob(x - 1e-6)) / 2e-6  # noqa: E731
    roughness = scipy.integrate.quad(lambda x: slope(x) ** 2, -1 + 1e-6, 1 - 1e-6)[0]
    np.testing.assert_allclose(call(density, "regulariser"), roughness, rtol=1e-5)


def test_ends_are_modes_and_modes_are_maxima(x64):
    modes = np.asarray(call(ReflectedDensity(A, FLOOR), "modes"))
    grid = np.linspace(-1, 1, 2**16 + 1)
    p = np.concatenate([[-1.0], prob(grid), [-1.0]])
    peaks = grid[(p[1:-1] > p[:-2]) & (p[1:-1] >= p[2:])]
    found = modes[~np.isnan(modes)]
    np.testing.assert_allclose(found, peaks, atol=1e-4)
    highest = peaks[np.argmax(prob(peaks))]
    np.testing.assert_allclose(call(ReflectedDensity(A, FLOOR), "mode"), highest, atol=1e-4)
    np.testing.assert_array_equal(call(ReflectedDensity([1.0, 0.5]), "modes"), [-1.0])
    np.testing.assert_array_equal(call(ReflectedDensity([1.0, -0.5]), "modes"), [1.0])


def test_nothing_lies_outside_and_complex_coefficients_are_refused():
    density = ReflectedDensity(A)
    np.testing.assert_array_equal(call(density, "prob", np.array([-1.1, 1.1])), 0.0)
    np.testing.assert_array_equal(call(density, "cdf", np.array([-1.1, 1.1])), [0.0, 1.0])
    with pytest.raises(ValueError, match="coefficients: expected real values"):
        ReflectedDensity(np.array([1.0, 1j]))
    assert repr(density) == "ReflectedDensity(order=3, batch_shape=())"


def test_the_divergence_is_that_of_the_even_densities(x64):
    other = np.array([1.0, 0.2])
    value = call(ReflectedDensity(A, FLOOR), "kl_divergence", ReflectedDensity(other, FLOOR))
    expected = fourier.expected_log(A, A, FLOOR, FLOOR) - fourier.expected_log(
        A, other, FLOOR, FLOOR
    )
    np.testing.assert_allclose(value, expected, atol=1e-11, rtol=0)


@pytest.mark.slow
def test_line_with_reflected_ends(x64):
    """Each tail has a factor of its own; values against p(v) b(u) and against quadrature."""
    density = RealLineDensity(A, 0.5, 2.0, "normal", FLOOR, boundary="reflect")
    y = np.array([-6.0, -1.0, 0.5, 2.0, 8.0])
    u = (y - 0.5) / 2.0
    base = np.exp(-0.5 * u**2) / np.sqrt(2 * np.pi)
    v = scipy.special.erf(u / np.sqrt(2))
    expected = 2.0 * prob(v) * base / 2.0
    np.testing.assert_allclose(call(density, "prob", y), expected, rtol=1e-12)
    below = [expectation(lambda x: 1.0, end=point) for point in v]
    np.testing.assert_allclose(call(density, "cdf", y), below, atol=1e-12)
    np.testing.assert_allclose(
        call(density, "interval_prob", y[:-1], y[1:]), np.diff(below), atol=1e-12
    )
    np.testing.assert_allclose(call(density, "quantile", np.array(below)[1:4]), y[1:4], atol=1e-9)
    assert isinstance(density.circle, ReflectedDensity)
    factor = call(density, "log_prob", 60.5) - call(density, "log_prob", -59.5)
    np.testing.assert_allclose(factor, np.log(prob(1.0) / prob(-1.0)), rtol=1e-9)


def test_nan_is_not_outside():
    density = ReflectedDensity([1.0, 0.5])
    values = density.prob(jnp.array([np.nan, -2.0, 2.0, 0.5]))
    assert np.isnan(values[0]) and np.all(values[1:3] == 0) and values[3] > 0


@pytest.mark.parametrize("order", [16, 20, 34])
def test_a_mode_at_an_end_is_not_lost_in_rounding(order):
    """All coefficients equal: the highest peak stands exactly at the lower end."""
    found = call(ReflectedDensity(np.ones(order + 1)), "modes")
    assert found[0] == -1.0


@pytest.mark.parametrize("a", [[1.0, -3.0, 3.0, -1.0], [1.0, -2.0, 1.0]])
def test_quantiles_at_the_ends_are_the_ends(a):
    """The density has a root at -1 there, of high order."""
    density = ReflectedDensity(np.array(a))
    np.testing.assert_array_equal(call(density, "quantile", np.array([0.0, 1.0])), [-1.0, 1.0])


def test_the_logarithm_at_nan_is_nan():
    assert jnp.isnan(call(ReflectedDensity(A), "log_prob", jnp.nan))
