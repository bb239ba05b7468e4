"""Bits of bins, noise and soft rounding, against the formulas of the papers in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from fourier_density import (
    PeriodicDensity,
    RealLineDensity,
    deep_factorized,
    entropy_model,
)

RTOL = {"float32": 2e-5, "float64": 1e-11}
LOGISTIC = {"loc": 0.3, "scale": 1.4}  # v = tanh(u): a logistic distribution of half the scale


def logistic():
    return RealLineDensity(np.ones(1), **LOGISTIC)


def test_bits_are_those_of_a_logistic_distribution(precision):
    values = np.array([-60.0, -3.0, 0.0, 0.3, 7.0, 50.0])
    exact = stats.logistic(loc=0.3, scale=0.7)
    left = np.where(values < 0.3, values, 0.6 - values)  # the symmetric bin, in the lower tail
    expected = -np.log2(exact.cdf(left + 0.5) - exact.cdf(left - 0.5))
    found = jax.jit(entropy_model.bits)(logistic(), values)
    assert found.dtype == precision
    np.testing.assert_allclose(found, expected, rtol=RTOL[precision])


@pytest.mark.parametrize("step", [0.25, 2.0])
def test_the_bin_is_the_density_of_the_noisy_value(step, x64):
    a = np.array([1.0, 0.4 - 0.2j, 0.1j])
    density = RealLineDensity(a, **LOGISTIC, base="normal")
    values = np.array([-2.0, 0.1, 1.7])
    expected = [
        integrate.quad(lambda y: float(density.prob(y)), v - step / 2, v + step / 2, epsabs=1e-13)[
            0
        ]
        for v in values
    ]
    found = jnp.exp(entropy_model.log_bin_prob(density, values, step=step))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_bins_of_the_whole_line_add_up_to_one(x64):
    k = np.arange(-60, 61)
    for alpha in (None, 0.005, 3.0, 40.0):
        mass = jnp.exp(entropy_model.log_bin_prob(logistic(), k + 0.2, alpha=alpha))
        np.testing.assert_allclose(jnp.sum(mass), 1.0, rtol=1e-12)


def soft(y, alpha):
    """Soft rounding of Agustsson and Theis, in NumPy."""
    r = y - np.floor(y) - 0.5
    return np.floor(y) + 0.5 + np.tanh(alpha * r) / (2.0 * np.tanh(alpha / 2.0))


@pytest.mark.parametrize("alpha", [0.05, 1.0, 7.0, 25.0])
def test_soft_rounding_and_its_inverse(alpha, x64):
    y = np.linspace(-2.3, 2.4, 95)
    found = entropy_model.soft_round(jnp.asarray(y), alpha)
    np.testing.assert_allclose(found, soft(y, alpha), atol=1e-13)
    back = entropy_model.soft_round_inverse(found, alpha)
    np.testing.assert_allclose(back, y, atol=1e-6 if alpha > 20 else 1e-9)


def test_soft_rounding_goes_from_the_identity_to_rounding(precision):
    y = jnp.asarray(np.array([-1.4, -0.2, 0.3, 2.6], precision))
    np.testing.assert_array_equal(entropy_model.soft_round(y, 0.0), y)
    np.testing.assert_array_equal(entropy_model.soft_round_inverse(y, 0.0), y)
    np.testing.assert_allclose(entropy_model.soft_round(y, 1e3), np.round(y), atol=1e-6)
    np.testing.assert_allclose(entropy_model.soft_round(y, 0.011), y, atol=2e-6)
    slope = jax.vmap(jax.grad(entropy_model.soft_round), (0, None))(y, 5.0)
    assert np.all(np.isfinite(slope)) and np.all(slope > 0)
    for alpha in (0.0, 5.0, 1e3):
        for point in (0.0, 0.5, 1.0):
            slope = jax.grad(entropy_model.soft_round_inverse)(jnp.asarray(point), alpha)
            assert np.isfinite(slope)


def test_the_mass_after_soft_rounding_is_that_of_its_density(x64):
    """Density of s(y) + u at v: the integral of p(y) where s(y) is within 1/2 of v."""
    alpha, density = 4.0, logistic()
    for v in (-1.3, 0.0, 0.45):
        inside = lambda y: float(density.prob(y)) * (abs(soft(y, alpha) - v) <= 0.5)  # noqa: B023, E731
        ends = [
            float(entropy_model.soft_round_inverse(jnp.asarray(v + s), alpha)) for s in (-0.5, 0.5)
        ]
        expected = integrate.quad(inside, v - 3, v + 3, points=ends, epsabs=1e-12)[0]
        found = jnp.exp(entropy_model.log_bin_prob(density, v, alpha=alpha))
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_mean_given_a_noisy_value(x64):
    """By sampling a flat density: E[y | s(y) + u = v]."""
    alpha, v = 5.0, 0.3
    y = np.linspace(-2, 3, 400_001)
    among = y[np.abs(soft(y, alpha) - v) <= 0.5]
    found = entropy_model.soft_round_mean(jnp.asarray(v), alpha)
    np.testing.assert_allclose(found, among.mean(), atol=1e-5)


def test_noise_is_uniform_and_centred():
    y = jnp.full(20_000, 0.7)
    noise = np.asarray(entropy_model.add_noise(jax.random.key(0), y, step=0.5) - y)
    assert stats.kstest(noise, stats.uniform(-0.25, 0.5).cdf).pvalue > 1e-3
    softly = entropy_model.add_noise(jax.random.key(0), y, step=0.5, alpha=6.0) - y
    shift = 0.5 * soft(0.7 / 0.5, 6.0) - 0.7
    np.testing.assert_allclose(softly - noise, shift, atol=1e-6)


def test_values_are_quantised_around_the_offset():
    y = jnp.array([-0.6, 0.0, 0.24, 0.26, 0.9])
    found = entropy_model.quantise(y, step=0.5, offset=0.1)
    np.testing.assert_allclose(found, [-0.4, 0.1, 0.1, 0.1, 1.1], atol=1e-6)


def test_widths_and_sharpnesses_that_are_none_are_refused():
    y, density = jnp.zeros(2), PeriodicDensity([1.0, 0.5])
    for step in (0.0, -1.0, np.nan, np.inf):
        for call in (
            lambda step: entropy_model.bits(density, y, step=step),
            lambda step: entropy_model.add_noise(jax.random.key(0), y, step=step),
            lambda step: entropy_model.quantise(y, step=step),
        ):
            with pytest.raises(ValueError, match=f"step: expected a positive width .* {step}"):
                call(step)
    for function in (entropy_model.soft_round, entropy_model.soft_round_inverse):
        with pytest.raises(ValueError, match="alpha: expected a sharpness of at least 0, got -1"):
            function(y, -1.0)
    assert jax.jit(entropy_model.soft_round)(y, 2.0).shape == (2,)  # traced


def test_gradients_reach_values_and_parameters(x64):
    def loss(loc, v):
        density = RealLineDensity(np.array([1.0, 0.3]), loc, 1.0)
        return entropy_model.bits(density, v, alpha=3.0)

    for argnum, at in ((0, 0.2), (1, 0.7)):
        arguments = [0.2, 0.7]
        found = jax.grad(loss, argnum)(*arguments)
        ends = []
        for h in (-1e-5, 1e-5):
            arguments[argnum] = at + h
            ends.append(float(loss(*arguments)))
        np.testing.assert_allclose(found, (ends[1] - ends[0]) / 2e-5, rtol=1e-6)


def test_masses_of_the_deep_factorized_model(precision):
    model = deep_factorized.init_deep_factorized(jax.random.key(1), (3, 3), scale=2.0)
    lower = jnp.asarray(np.array([-300.0, -2.0, 0.1, 200.0], precision))
    upper = lower + 1.0
    found = model.log_interval_prob(lower, upper)
    f, g = (np.asarray(model.logit(end), np.float64) for end in (lower, upper))
    far = np.where(f + g > 0, -g, f), np.where(f + g > 0, -f, g)
    expected = np.log(special.expit(far[1]) - special.expit(far[0]))
    np.testing.assert_allclose(found, expected, rtol=1e-4 if precision == "float32" else 1e-9)


def test_angles_have_bins_across_the_end(x64):
    density = PeriodicDensity([1.0, 0.5j])
    middles = -1.0 + np.arange(8) / 4  # the first reaches over the end of [-1, 1)
    mass = jnp.exp(entropy_model.log_bin_prob(density, middles, step=0.25))
    np.testing.assert_allclose(jnp.sum(mass), 1.0, rtol=1e-13)
