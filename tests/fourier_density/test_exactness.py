"""A million random densities and points: exact, never negative, whatever the scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourier_density import PeriodicDensity, RealLineDensity, ReflectedDensity

POINTS = 350
BATCH = 1000  # densities of each order: 1000 x 350 values


def draw(order, scale):
    """Coefficients of many shapes: flat, decaying, and some with roots on the circle."""
    rng = np.random.default_rng(order)
    a = rng.normal(size=(BATCH, order + 1)) + 1j * rng.normal(size=(BATCH, order + 1))
    a *= np.exp(-rng.uniform(0.0, 1.0, (BATCH, 1)) * np.arange(order + 1))
    root = np.exp(1j * rng.uniform(0.0, 2.0 * np.pi, 100))
    a[:100, 1:] -= root[:, None] * a[:100, :-1].copy()  # times (1 - z root), but for the end
    x = rng.uniform(-1.0, 1.0, (POINTS, BATCH))
    return scale * a, x


def direct(a, x):
    """Density and distribution function by Horner's rule and by Fourier sums, long doubles."""
    order = a.shape[1] - 1
    turn = np.longdouble(np.pi) + np.longdouble(1.2246467991473532e-16)  # pi to 19 digits
    angle = turn * x.astype(np.longdouble)
    z = np.cos(angle) + 1j * np.sin(angle)
    wide = (a / np.abs(a).max(axis=1, keepdims=True)).astype(np.clongdouble)
    total = np.sum(np.abs(wide) ** 2, axis=1)
    A = np.zeros(x.shape, np.clongdouble)
    for k in range(order, -1, -1):
        A = A * z + wide[:, k]
    cdf, power = 0.5 * (x + 1.0).astype(np.longdouble), np.ones_like(z)
    for n in range(1, order + 1):
        c = np.sum(wide[:, n:] * wide[:, : order + 1 - n].conj(), axis=1) / total
        power = power * z
        # The integral from -1 of Re(c exp(i pi n x)).
        cdf = cdf + np.imag(c * (power - (-1.0) ** n)) / (n * turn)
    return np.abs(A) ** 2 / (2.0 * total), cdf


@pytest.mark.sample(1)
@pytest.mark.parametrize("order", [1, 8, 64])
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
def test_a_million_values(order, scale, precision):
    a, x = draw(order, scale)
    if precision == "float32":
        # The densities and points as they are seen: rounded.
        a, x = a.astype(np.complex64), x.astype(np.float32)
    evaluate = jax.jit(
        lambda a, x: [getattr(PeriodicDensity(a), f)(x) for f in ("prob", "log_prob", "cdf")]
    )
    p, log_p, cdf = map(np.asarray, evaluate(jnp.asarray(a), jnp.asarray(x)))
    assert p.shape == x.shape and p.dtype == precision
    assert np.isfinite(p).all() and (p >= 0).all()
    assert not np.isnan(log_p).any() and np.isfinite(log_p[p > 0]).all()
    assert (cdf >= -1e-6).all() and (cdf <= 1 + 1e-6).all()
    exact, exact_cdf = direct(a, x)
    largest = exact.max(axis=0)
    seen = exact > 1e-6 * largest
    if precision == "float64":
        assert np.max(np.abs(p - exact) / largest) < 1e-13
        assert np.max(np.abs(cdf - exact_cdf)) < 1e-13
    assert np.max(np.abs(log_p - np.log(exact))[seen]) < (1e-3 if precision == "float32" else 1e-9)


@pytest.mark.parametrize("order", [60, 900])
def test_the_spread_of_narrow_densities_keeps_its_digits(order):
    k = np.arange(order + 1)
    even = np.exp(-(((k - 0.5 * order) / (0.17 * order)) ** 2))
    a = even * np.exp(-0.3j * np.pi * k)
    x, weights = np.polynomial.legendre.leggauss(2 * order)
    for density, waves in (
        (PeriodicDensity(a), a @ np.exp(1j * np.pi * np.outer(k, x))),
        (ReflectedDensity(even), even @ np.exp(0.5j * np.pi * np.outer(k, x + 1.0))),
    ):
        p = weights * np.abs(waves) ** 2
        mean = np.sum(p * x) / np.sum(p)
        expected = np.sqrt(np.sum(p * (x - mean) ** 2) / np.sum(p))
        assert expected < 4.0 / order
        np.testing.assert_allclose(density.stddev(), expected, rtol=2e-5)
        ratio = density.expectation(lambda x, mean=mean: (x - mean) ** 4) / expected**4
        fourth = np.sum(p * (x - mean) ** 4) / np.sum(p) / expected**4
        # Rounding errors of A, squared, times distances to the fourth: order^4 eps^2 of the ratio.
        np.testing.assert_allclose(ratio, fourth, rtol=2e-4 if order < 100 else 4e-3)


def test_expectations_of_a_batch_are_those_of_its_densities():
    rng = np.random.default_rng(3)
    batch = PeriodicDensity(rng.normal(size=(2, 3, 6)), jnp.full((3,), 0.1))
    together = batch.expectation(lambda x: jnp.exp(x))
    assert together.shape == (2, 3)
    for index in np.ndindex(2, 3):
        one = PeriodicDensity(batch.re[index], 0.1)
        x, weights = np.polynomial.legendre.leggauss(60)
        expected = np.sum(weights * np.exp(x) * np.asarray(one.prob(x), np.float64))
        np.testing.assert_allclose(together[index], expected, rtol=1e-6)


def test_quantiles_of_no_and_all_probability_are_the_ends_at_a_root_too():
    density = PeriodicDensity([1.0, 1.0])  # p(-1) = p(1) = 0
    for count in (3, 5001):
        found = np.asarray(density.quantile(jnp.linspace(0.0, 1.0, count)))
        assert found[0] == -1.0 and found[-1] == 1.0 and (np.diff(found) > 0).all()


@pytest.mark.parametrize("unit", [1e-25, 1e-19, 1.0, 1e20, 1e30])
def test_spreads_on_the_line_in_any_unit(unit):
    density = RealLineDensity([1.0, 0.3], 0.0, unit, base="normal")
    plain = RealLineDensity([1.0, 0.3], 0.0, 1.0, base="normal")
    np.testing.assert_allclose(density.stddev(), unit * float(plain.stddev()), rtol=1e-6)
    np.testing.assert_allclose(plain.variance(), plain.stddev() ** 2, rtol=1e-6)


@pytest.mark.parametrize(("base", "points"), [("tanh", (5, 21, 39)), ("laplace", (9, 44, 80))])
def test_tails_of_a_density_with_a_root_at_its_end(base, points):
    """p(1 - e) = (1 - cos(pi e)) / 2: the mass beyond is e / 2 - sin(pi e) / (2 pi) ~ e^3."""
    density = RealLineDensity([1.0, 1.0], 0.0, 1.0, base)
    reflected = RealLineDensity([1.0, 1.0], 0.0, 1.0, base, boundary="reflect")
    y = np.array(points, float)
    slope = 6.0 if base == "tanh" else 3.0  # of the cube of the base's tail
    tail = np.log(2.0 / (1.0 + np.exp(2.0 * y))) if base == "tanh" else -y  # log e, twice the mass
    exact = np.log(np.pi**2 / 12.0) + 3.0 * tail
    np.testing.assert_allclose(density.log_survival_function(y), exact, rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(density.log_cdf(-y), exact, rtol=1e-5, atol=2e-3)
    bins = density.log_interval_prob(y, y + 0.5)
    np.testing.assert_allclose(bins, exact + np.log1p(-np.exp(-0.5 * slope)), rtol=1e-5, atol=2e-3)
    slopes = jax.vmap(jax.grad(density.log_survival_function))(jnp.asarray(y[1:]))
    np.testing.assert_allclose(slopes, -slope, rtol=1e-5)
    exact = np.log(np.pi**2 / 48.0) + 3.0 * tail  # A(x) = 1 + exp(i pi (1 + x) / 2): half as steep
    np.testing.assert_allclose(reflected.log_survival_function(y), exact, rtol=1e-5, atol=2e-3)


def test_bins_beside_a_root_have_their_masses():
    width = np.array([1e-3, 1e-10, 1e-20, 1e-30])
    found = PeriodicDensity([1.0, -1.0]).log_interval_prob(0.0, width)
    np.testing.assert_allclose(found, np.log(np.pi**2 / 12.0 * width**3), rtol=1e-5)


def test_densities_say_their_floor():
    for kind in (PeriodicDensity, ReflectedDensity):
        np.testing.assert_allclose(kind(np.ones((2, 3)), [0.1, 0.2]).floor, [0.1, 0.2], rtol=1e-6)


def test_complex_points_are_refused():
    for density in (
        PeriodicDensity([1.0, 0.3]),
        ReflectedDensity([1.0, 0.3]),
        RealLineDensity([1.0, 0.3], 0.0, 1.0),
    ):
        for name in ("prob", "log_prob", "cdf", "log_survival_function", "quantile"):
            with pytest.raises(ValueError, match="expected real numbers, got complex64"):
                getattr(density, name)(0.1 + 0.2j)
