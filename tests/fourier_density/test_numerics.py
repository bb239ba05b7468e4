"""The numerical parts that densities are made of, each against mpmath, NumPy or SciPy."""

import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats
from reference import fourier

from fourier_density import (
    angles,
    checks,
    extrema,
    factorisation,
    host,
    layers,
    masses,
    newton,
    quadrature,
    sampling,
    transforms,
)
from fourier_density.density import PeriodicDensity
from fourier_density.transforms import Laplace, Normal, StudentT, Tanh

BASES = {
    "normal": (Normal(), scipy.stats.norm()),
    "tanh": (Tanh(), scipy.stats.logistic(scale=0.5)),
    "laplace": (Laplace(), scipy.stats.laplace()),
    "student": (StudentT(3.0), scipy.stats.t(3.0)),
}


def pair(a):
    return jnp.asarray(a.real), jnp.asarray(a.imag)


@pytest.mark.parametrize("multiple", [1, 7, 1024])
def test_sines_keep_their_digits_at_any_multiple(multiple, precision):
    x = np.random.default_rng(multiple).uniform(-3.0, 3.0, 400).astype(precision)
    with mpmath.workdps(40):
        exact = np.array([float(mpmath.sinpi(multiple * mpmath.mpf(float(v)))) for v in x])
        other = np.array([float(mpmath.cospi(multiple * mpmath.mpf(float(v)))) for v in x])
    bound = {"float32": 2e-7, "float64": 4e-16}[precision]
    points = jnp.asarray(x)
    np.testing.assert_allclose(angles.sinpi(points, multiple), exact, atol=bound, rtol=0)
    cos, sin = angles.unit(points, multiple)
    np.testing.assert_allclose(cos, other, atol=bound, rtol=0)
    np.testing.assert_allclose(sin, exact, atol=bound, rtol=0)


def test_whole_and_half_turns_are_exact():
    x = jnp.array([-2.0, -1.0, 0.0, 1.0, 2.0, 2.0**20])
    np.testing.assert_array_equal(angles.sinpi(x), 0.0)
    np.testing.assert_array_equal(angles.unit(x)[0], [1.0, -1.0, 1.0, -1.0, 1.0, 1.0])
    np.testing.assert_array_equal(angles.sinpi(x[:5] + 0.5), [1.0, -1.0, 1.0, -1.0, 1.0])
    np.testing.assert_array_equal(angles.wrap(jnp.array([-1.0, 1.5, 4.25])), [-1.0, -0.5, 0.25])


def test_maxima_are_those_of_a_fine_grid(x64):
    a = fourier.random_coefficients(3, 6)
    fine = np.linspace(-1.0, 1.0, 200_001)
    heights = fourier.density(a, fine)
    inside = (heights[1:-1] > heights[:-2]) & (heights[1:-1] > heights[2:])
    exact = fine[1:-1][inside]

    def slope(x):
        total = jnp.zeros_like(x)
        for n, g in enumerate(fourier.gamma(a)[1:], 1):
            turn = jnp.pi * n * x
            total = total - jnp.pi * n * (g.real * jnp.sin(turn) + g.imag * jnp.cos(turn))
        return total

    edges = jnp.linspace(-1.0, 1.0, 97)
    found = np.asarray(extrema.maxima(slope, edges, 12))
    assert found.shape == (12,)
    assert np.isnan(found[len(exact) :]).all()
    np.testing.assert_allclose(found[: len(exact)], exact, atol=2e-5)
    np.testing.assert_allclose(slope(jnp.asarray(found[: len(exact)])), 0.0, atol=1e-11)
    assert np.isnan(extrema.maxima(slope, edges[:2], 12)).sum() >= 11  # room for more than cells


def test_a_maximum_moves_with_its_parameters(x64):
    edges = jnp.linspace(-1.0, 1.0, 33)

    def place(shift):
        return extrema.maxima(lambda x: jnp.sin(jnp.pi * (shift - x)), edges, 1)[0]

    np.testing.assert_allclose(place(0.3), 0.3, atol=1e-14)
    np.testing.assert_allclose(jax.grad(place)(0.3), 1.0, atol=1e-12)


def test_factors_of_moments_give_the_moments_back(x64):
    a = fourier.random_coefficients(5, 9, (3,))
    gamma = np.stack([fourier.gamma(row)[1:] for row in a])
    re, im = factorisation.factor_of_moments(*pair(gamma))
    for row, wanted in zip(np.asarray(re) + 1j * np.asarray(im), gamma, strict=True):
        c = fourier.autocorrelation(row)
        np.testing.assert_allclose(c[0], 1.0, atol=1e-13)
        np.testing.assert_allclose(c[1:], wanted, atol=1e-13)
        assert np.abs(np.roots(row[::-1])).min() > 1 - 1e-9


def test_exact_factors_refuse_what_has_lost_its_digits(x64):
    simple = np.array([0.4 - 0.1j])
    double = np.convolve([1.0, 1.0], [1.0, 1.0]).astype(complex)  # a double root at z = -1
    moments = fourier.gamma(double)[1:]
    assert np.isfinite(factorisation.factor_of_moments(*pair(simple), exact=True)[0]).all()
    assert np.isfinite(factorisation.factor_of_moments(*pair(moments))[0]).all()
    assert np.isnan(factorisation.factor_of_moments(*pair(moments), exact=True)[0]).all()
    negative = np.array([1.5 + 0j])  # 1 + 3 cos is negative somewhere
    assert np.isnan(factorisation.factor_of_moments(*pair(negative))[0]).all()


@pytest.mark.parametrize("order", [0, 20])
def test_quadrature_over_a_tail_is_exact_for_logarithms_and_powers(order, x64):
    delta, weights, last = quadrature.halves(order, jnp.dtype("float64"))
    delta, weights = np.asarray(delta), np.asarray(weights)
    assert last == quadrature.NODES
    np.testing.assert_allclose(weights.sum(), 0.5, atol=1e-14)
    for power in (-0.3, 0.5, 1.0, 3.0):
        exact = 0.5 ** (power + 1.0) / (power + 1.0)
        np.testing.assert_allclose(weights @ delta**power, exact, rtol=1e-12)
    exact = 0.5 * (np.log(0.5) - 1.0)  # of log(delta) from 0 to 1/2
    np.testing.assert_allclose(weights @ np.log(delta), exact, rtol=1e-13)
    for wave in range(order + 1):  # waves of the density that multiplies the base
        exact = np.sinc(wave) * 0.5 if wave else 0.5
        np.testing.assert_allclose(weights @ np.cos(2 * np.pi * wave * delta), exact, atol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 17, 18, 30, 100, 1000])
def test_nodes_of_the_interval_integrate_waves_times_smooth_functions(order, x64):
    x, weights = quadrature.interval(order, jnp.dtype("float64"))
    assert len(x) <= 2.3 * order + 90 and float(jnp.abs(x).max()) < 1.0
    for k in {order, max(order - 1, 0), order // 2}:
        found = weights @ (x**2 * jnp.exp(1j * jnp.pi * k * x))
        exact = 4.0 * (-1) ** k / (k * np.pi) ** 2 if k else 2.0 / 3.0  # by parts
        np.testing.assert_allclose(found, exact, atol=1e-13)


@pytest.mark.parametrize("half", [1e-9, 1e-3, 0.2, 1.0])
def test_averages_of_intervals_are_those_of_quadrature(half, x64):
    a = np.convolve([1.0, 1.0], fourier.random_coefficients(1, 3))  # empty at 1
    density = PeriodicDensity(a)
    for middle in (0.0, 0.4, 1.0 - 1e-6):
        place = jnp.asarray(middle), jnp.asarray(half)
        found = masses.log_average(pair(fourier.gamma(a)[1:]), *place, density.log_prob)
        nodes, weights = np.polynomial.legendre.leggauss(60)
        points = middle + half * nodes
        wave = np.exp(1j * np.pi * points[:, None] * np.arange(len(a))) @ a
        exact = weights @ np.abs(wave) ** 2 / (2.0 * np.sum(np.abs(a) ** 2))
        np.testing.assert_allclose(jnp.exp(found), exact, rtol=1e-8)


def test_the_smaller_of_two_logarithms_decides(x64):
    mass = np.array([1e-30, 1e-3, 0.4, 0.9, 1 - 1e-9])
    found = masses.smaller_log(jnp.log(mass), jnp.log1p(-mass))
    np.testing.assert_allclose(found, np.log(mass), rtol=1e-12)
    spoiled = masses.smaller_log(jnp.log(mass[3:]) + 1e-4, jnp.log1p(-mass[3:]))
    np.testing.assert_allclose(spoiled, np.log(mass[3:]), rtol=1e-12)  # the rest is asked


@pytest.mark.parametrize("how", ["table", "points"])
def test_inverses_of_distribution_functions_are_those_of_brentq(how, precision):
    a = fourier.random_coefficients(11, 5)
    density = PeriodicDensity(jnp.asarray(a, "complex64" if precision == "float32" else None))
    u = np.array([0.0, 1e-4, 0.2, 0.5, 0.77, 1.0]).astype(precision)
    if how == "table":
        found = sampling.invert(jnp.asarray(u), density.cdf, density.prob, sampling.cells(5))
    else:
        found = sampling.solve(jnp.asarray(u), density.cdf, density.prob)
    exact = [
        scipy.optimize.brentq(lambda x, v=v: fourier.cdf(a, x) - float(v), -1.0, 1.0, xtol=1e-14)
        for v in u[1:-1]
    ]
    bound = {"float32": 3e-5, "float64": 1e-11}[precision]
    np.testing.assert_allclose(found, [-1.0, *exact, 1.0], atol=bound)


def test_tables_have_cells_enough_for_every_wave():
    assert [sampling.cells(n) for n in (0, 127, 128, 1000)] == [4096, 4096, 8192, 32768]


def test_newtons_method_stays_in_its_bracket(x64):
    goals = jnp.array([-9.0, -1e-3, 0.0, 0.5, 7.0])

    def cube(x):  # its slope vanishes at the root of 0
        return x**3 - goals, 3.0 * x**2

    def wrong(x):  # slopes that mislead, as rounding may make them
        return jnp.arctan(50.0 * x) - jnp.arctan(50.0 * goals), jnp.full_like(x, 1e-3)

    ends = -10.0 * jnp.ones(5), 10.0 * jnp.ones(5)
    roots = newton.solve(cube, *ends)
    np.testing.assert_allclose(roots, np.cbrt(goals), atol=1e-5)
    np.testing.assert_allclose(roots**3, goals, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(newton.solve(wrong, *ends), goals, atol=1e-9)


@pytest.mark.parametrize("name", BASES)
def test_bases_agree_with_scipy_far_into_their_tails(name, x64):
    base, law = BASES[name]
    u = jnp.array([-30.0, -5.0, -0.1, 0.0, 0.4, 3.0, 25.0])
    np.testing.assert_allclose(base.log_prob(u), law.logpdf(u), rtol=1e-12)
    np.testing.assert_allclose(base.log_cdf(u), law.logcdf(u), rtol=1e-9)
    np.testing.assert_allclose(base.log_survival_function(u), law.logsf(u), rtol=1e-9)
    levels = jnp.array([1e-12, 0.01, 0.5, 0.7, 1 - 1e-9])
    np.testing.assert_allclose(base.quantile(levels), law.ppf(levels), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(
        transforms.solve(base, levels), base.quantile(levels), rtol=1e-7, atol=1e-9
    )
    slope = jax.vmap(jax.grad(lambda p: transforms.solve(base, p)))(levels)
    np.testing.assert_allclose(slope, 1.0 / law.pdf(law.ppf(levels)), rtol=1e-6)


@pytest.mark.parametrize("name", BASES)
def test_solved_quantiles_have_ends_and_nothing_beyond(name):
    found = transforms.solve(BASES[name][0], jnp.array([-0.1, 0.0, 1.0, 1.1]))
    np.testing.assert_array_equal(found, [np.nan, -np.inf, np.inf, np.nan])


@pytest.mark.parametrize("name", BASES)
def test_masses_of_intervals_keep_their_digits(name, x64):
    base, law = BASES[name]
    lower = np.array([-20.0, -2.0, -1e-8, 0.3, 15.0, -np.inf, 4.0])
    upper = np.array([-19.0, -2.0 + 1e-7, 1e-8, 2.0, 15.0 + 1e-9, -3.0, np.inf])
    width = np.where(np.isfinite(lower + upper), upper - lower, 1.0)
    found = transforms.log_interval(base, *map(jnp.asarray, (lower, upper, width)))
    for value, low, high in zip(found, lower, upper, strict=True):
        if np.isinf(low):
            exact = law.logcdf(high)
        elif np.isinf(high):
            exact = law.logsf(low)
        else:
            nodes, weights = np.polynomial.legendre.leggauss(60)
            middle, half = 0.5 * (low + high), 0.5 * (high - low)
            terms = law.logpdf(middle + half * nodes)
            exact = np.log(half) + scipy.special.logsumexp(terms, b=weights)
        tolerance = 1e-6 if high - low < 1e-6 else 1e-10  # of the difference of the ends
        np.testing.assert_allclose(value, exact, rtol=tolerance)


def test_tails_at_infinity_have_no_slope(x64):
    def below(u):
        return transforms.log_tails(Normal(), u)[0]

    assert [float(below(jnp.asarray(u))) for u in (-jnp.inf, jnp.inf)] == [-np.inf, 0.0]
    assert float(jax.grad(below)(jnp.asarray(jnp.inf))) == 0.0
    np.testing.assert_allclose(jax.grad(below)(jnp.asarray(0.0)), np.sqrt(2 / np.pi), rtol=1e-12)


@pytest.mark.parametrize("bins", [1, 3, 16])
def test_masses_of_equal_bins_are_integrals(bins, x64):
    a = fourier.random_coefficients(8, 4)
    found = np.asarray(layers.bin_masses(*pair(a), bins))
    edges = np.linspace(-1.0, 1.0, bins + 1)
    exact = [float(fourier.interval(a, low, high)) for low, high in itertools.pairwise(edges)]
    np.testing.assert_allclose(found, exact, atol=1e-13)
    np.testing.assert_allclose(found.sum(), 1.0, atol=1e-13)


def test_heads_start_with_kernels_of_the_size_they_are_given():
    head = layers.FourierHead(8, 3, init_scale=0.05)
    kernel = head.init(jax.random.key(0), jnp.ones((1, 4096)))["params"]["coefficients"]["kernel"]
    assert kernel.shape == (4096, 2 * 4)
    np.testing.assert_allclose(np.std(kernel), 0.05 / np.sqrt(4096), rtol=0.02)


def test_the_host_computes_in_float64_whatever_is_in_use():
    density = PeriodicDensity(jnp.asarray(fourier.random_coefficients(2, 3), "complex64"))
    found = host.in_float64("cdf", density, np.float32(0.25))
    assert found.dtype == np.float64 and density.re.dtype == jnp.float32
    a = np.asarray(density.re, float) + 1j * np.asarray(density.im, float)
    np.testing.assert_allclose(found, fourier.cdf(a, 0.25), atol=1e-13)
    assert not jax.config.jax_enable_x64


def test_shapes_of_parameters_and_points_join_or_are_refused():
    assert checks.joint_shape((3, 1), loc=jnp.ones(2), scale=1.0) == (3, 2)
    with pytest.raises(ValueError, match=r"scale: expected .* the batch \(3,\), got \(2,\)"):
        checks.joint_shape((3,), loc=jnp.ones(3), scale=jnp.ones(2))
