"""Slopes where formulas change sides: at the centre of the line, at the ends of the circle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fourier_density import PeriodicDensity, RealLineDensity, ReflectedDensity, transforms

A = np.array([1.0, 0.4 + 0.3j, -0.2j])
EVEN = np.array([1.0, 0.5, 0.2])
BASES = ("tanh", "normal", "laplace", "student_t")
BOUNDARIES = {"periodic": A, "reflect": EVEN}


def line(a, base, boundary, loc=0.3):
    return RealLineDensity(a, loc, 1.7, base, boundary=boundary)


def slope(function, x, step=1e-6):
    return float((function(x + step) - function(x - step)) / (2 * step))


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("base", BASES)
def test_the_density_has_its_slope_at_its_centre(base, boundary, x64):
    a, loc = BOUNDARIES[boundary], 0.3
    density = line(a, base, boundary, loc)
    if base == "laplace":  # a kink: the slope of the upper side
        by_point = float(jax.grad(density.log_prob)(loc + 1e-9))
        by_loc = -by_point
    else:
        by_point = slope(density.log_prob, loc)
        by_loc = slope(lambda m: line(a, base, boundary, m).log_prob(loc), loc)
    np.testing.assert_allclose(jax.grad(density.log_prob)(loc), by_point, rtol=1e-6)
    found = jax.grad(lambda m: line(a, base, boundary, m).log_prob(loc))(loc)
    np.testing.assert_allclose(found, by_loc, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(density.cdf)(loc), density.prob(loc), rtol=1e-9)
    tail = jax.grad(density.survival_function)(loc)
    np.testing.assert_allclose(tail, -density.prob(loc), rtol=1e-9)


@pytest.mark.sample("laplace-reflect", "student_t-periodic")
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("base", BASES)
def test_intervals_and_quantiles_have_their_slopes_at_the_centre(base, boundary, x64):
    density, loc = line(BOUNDARIES[boundary], base, boundary), 0.3
    for ends in ((loc, loc + 1.0), (loc - 1.0, loc)):
        for number, end in enumerate(ends):
            found = jax.grad(density.interval_prob, number)(*ends)
            sign = 1.0 if number else -1.0
            np.testing.assert_allclose(found, sign * density.prob(end), rtol=1e-8)
    level = density.cdf(loc)
    np.testing.assert_allclose(density.quantile(level), loc, atol=1e-9)
    found = jax.grad(density.quantile)(level)
    np.testing.assert_allclose(found, 1.0 / density.prob(loc), rtol=1e-7)


@pytest.mark.sample("laplace")
@pytest.mark.parametrize("base", BASES)
def test_the_median_moves_with_the_coefficients(base, x64):
    def median(im):
        a = jnp.array([1.0, 0.3]) + 1j * jnp.array([0.0, im])
        return RealLineDensity(a, 0.0, 1.0, base).median()

    np.testing.assert_allclose(jax.grad(median)(0.0), slope(median, 0.0, 1e-5), rtol=1e-5)


@pytest.mark.parametrize("base", BASES)
def test_second_derivatives_are_those_of_both_sides(base, x64):
    density = RealLineDensity(np.array([1.0, 0.3 + 0.2j]), 0.0, 1.0, base)
    bend = jax.hessian(density.log_prob)
    nearby = 0.5 * (bend(-1e-7) + bend(1e-7))
    if base != "laplace":
        np.testing.assert_allclose(bend(0.0), nearby, rtol=1e-5)


def test_laplace_at_its_median(x64):
    base = transforms.Laplace()
    one = jax.grad(lambda u: base.log_cdf(jnp.asarray(u)))
    np.testing.assert_allclose([one(0.0), one(1e-12)], 1.0, rtol=1e-9)
    np.testing.assert_allclose(jax.grad(base.quantile)(jnp.asarray(0.5)), 2.0, rtol=1e-12)
    np.testing.assert_array_equal(
        base.quantile(jnp.array([-0.1, 0.0, 0.5, 1.0, 1.1])), [np.nan, -np.inf, 0.0, np.inf, np.nan]
    )


@pytest.mark.parametrize("kind", [PeriodicDensity, ReflectedDensity])
def test_slopes_at_the_ends_are_those_of_the_inside(kind, x64):
    density = kind(A if kind is PeriodicDensity else EVEN)
    for end, level in ((-1.0, 0.0), (1.0, 1.0)):
        p = density.prob(end)
        np.testing.assert_allclose(jax.grad(density.cdf)(end), p, rtol=1e-9)
        np.testing.assert_allclose(jax.grad(density.survival_function)(end), -p, rtol=1e-9)
        np.testing.assert_allclose(jax.grad(density.quantile)(level), 1.0 / p, rtol=1e-7)
    found = jax.grad(density.interval_prob, (0, 1))(-1.0, 1.0)
    np.testing.assert_allclose(found, (-density.prob(-1.0), density.prob(1.0)), rtol=1e-8)
    outside = [float(jax.grad(density.cdf)(x)) for x in (-1.5, 1.5)]
    assert kind is PeriodicDensity or outside == [0.0, 0.0]


def test_empty_intervals_at_infinity_have_no_mass(x64):
    for boundary, a in BOUNDARIES.items():
        density = line(a, "normal", boundary)
        ends = jnp.array([-jnp.inf, jnp.inf, -jnp.inf])
        found = density.interval_prob(ends, jnp.array([-jnp.inf, jnp.inf, jnp.inf]))
        np.testing.assert_allclose(found, [0.0, 0.0, 1.0], atol=1e-12)


@pytest.mark.parametrize(("base", "far"), [("tanh", 48.0), ("normal", 14.0)])
def test_a_root_at_the_other_end_has_no_part_in_the_slope(base, far):
    """Reflected densities whose A vanishes at one end, far out on the other side."""
    density = RealLineDensity(np.array([1.0, -1.0]), 0.0, 1.0, base, boundary="reflect")
    assert np.isfinite(density.log_prob(far))
    found = float(jax.grad(density.log_prob)(far))
    np.testing.assert_allclose(found, -2.0 if base == "tanh" else -far, rtol=1e-2)


class Apart:
    """A normal base far from the centre: the nearer tail is not that of the sign."""

    def __init__(self, at):
        self.at, self.base = at, transforms.Normal()

    def log_prob(self, u):
        return self.base.log_prob(u - self.at)

    def log_cdf(self, u):
        return self.base.log_cdf(u - self.at)

    def log_survival_function(self, u):
        return self.base.log_survival_function(u - self.at)

    def quantile(self, probability):
        return self.at + self.base.quantile(probability)


def test_intervals_of_bases_off_centre(x64):
    lower, upper = jnp.array([-8.0, -9.0, -12.0]), jnp.array([7.9, 8.0, -9.5])
    found = transforms.log_interval(Apart(-10.0), lower, upper, upper - lower)
    exact = transforms.log_interval(transforms.Normal(), lower + 10, upper + 10, upper - lower)
    np.testing.assert_allclose(found, exact, rtol=1e-12)
