"""The variational bound against laws whose terms are integrals, and its variance."""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import diffusion as reference
from scipy import stats
from scipy.integrate import quad

from diffusion import exact, likelihood, schedules


def analytic(variance, low, high, steps=None, schedule=None):
    """Mean bound for data N(0, variance) and a perfect denoiser, a number a dimension."""

    def error(lam):  # E (eps - eps_hat)^2 = e^lam E (x - x_hat)^2
        snr = math.exp(lam)
        return snr * variance / (1 + snr * variance)

    a2 = reference.alpha_sigma(low)[0] ** 2
    s2 = reference.alpha_sigma(low)[1] ** 2
    prior = 0.5 * (a2 * variance + s2 - 1 - math.log(s2))
    reconstruction = 0.5 * (math.log(2 * math.pi) + 1 - high)
    if steps is None:
        return prior + reconstruction + 0.5 * quad(error, low, high, epsabs=1e-12)[0]
    total = 0.0
    for i in range(1, steps + 1):
        t, s = (float(schedule(j / steps)) for j in (i, i - 1))
        total += 0.5 * math.expm1(s - t) * error(t)
    return prior + reconstruction + total


def test_the_bound_of_a_normal_law_is_its_entropy_and_a_small_gap():
    """The integral is that of the I-MMSE relation: entropy, up to what the ends cut off."""
    for variance in (0.2, 1.0, 3.0):
        entropy = 0.5 * math.log(2 * math.pi * math.e * variance)
        assert analytic(variance, -15.0, 15.0) == pytest.approx(entropy, abs=1e-4)


@pytest.mark.sample(1)
@pytest.mark.parametrize("steps", [None, 8, 100])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_mean_of_the_bound_is_analytic(steps, prediction, x64):
    variance, n = 0.5, 200_000
    law = exact.gaussian([0.0], [[variance]])
    schedule = schedules.cosine(-15.0, 15.0)
    x = law.sample(jax.random.key(0), n)
    run = functools.partial(
        likelihood.bound, denoiser=exact.denoiser(law, prediction), schedule=schedule
    )
    terms = jax.jit(lambda key, x: run(key, x=x, prediction=prediction, steps=steps))(
        jax.random.key(1), x
    )
    assert terms.total.shape == (n,)
    # Random x enters prior and noise; what is left of the variance sets the error.
    total = np.asarray(terms.total)
    expected = analytic(variance, -15.0, 15.0, steps, schedule)
    assert abs(total.mean() - expected) < 5 * total.std() / np.sqrt(n) + 1e-4


def test_the_bound_equals_the_analytic_one_to_four_digits(x64):
    """Without sampling noise: even times, and the mean over noise and data in closed form."""
    variance, count = 0.7, 400_001
    schedule = schedules.cosine(-15.0, 15.0)
    law = exact.gaussian([0.0], [[variance]])
    t = (jnp.arange(count) + 0.5) / count
    lam = schedule(t)
    predict = exact.denoiser(law, "eps")
    alpha, sigma = (np.asarray(part) for part in likelihood.process.alpha_sigma(lam))
    # eps_hat is linear in z: its error for unit x and for unit eps are all that is needed.
    of_x = np.asarray(predict(jnp.asarray(alpha)[:, None], lam))[:, 0]
    of_eps = 1 - np.asarray(predict(jnp.asarray(sigma)[:, None], lam))[:, 0]
    error = of_x**2 * variance + of_eps**2
    diffusion = float(np.mean(-0.5 * np.asarray(schedule.slope(t)) * error))
    ends = schedule.ends
    unit = jnp.full((1, 1), math.sqrt(variance))
    total = diffusion + float(likelihood.prior(unit, ends[0])[0])
    total += float(likelihood.reconstruction(jax.random.key(0), unit, ends[1])[0])
    assert total == pytest.approx(analytic(variance, -15.0, 15.0), abs=1e-4)
    assert total == pytest.approx(0.5 * math.log(2 * math.pi * math.e * variance), abs=1e-4)


def test_even_times_and_pairs_reduce_the_variance():
    """Of the mean over a batch, for VDM's linear schedule, more than threefold.

    What is left is the variance over the noise.
    """
    law = exact.gaussian(np.zeros(16), 0.5 * np.eye(16))
    x = law.sample(jax.random.key(0), 64)
    schedule, keys = schedules.linear(-15.0, 15.0), jax.random.split(jax.random.key(1), 400)

    def means(name):
        one = lambda key: jnp.mean(  # noqa: E731
            likelihood.bound(key, exact.denoiser(law, "v"), x, schedule, times_from=name).diffusion
        )
        return np.asarray(jax.jit(jax.vmap(one))(keys))

    independent, even, mirrored = map(means, likelihood.SAMPLERS)
    for values in (even, mirrored):
        assert independent.var() > 3 * values.var()
        assert abs(values.mean() - independent.mean()) < 5 * independent.std() / np.sqrt(400)


def test_discrete_data_are_bounded_by_their_entropy():
    """Bits of uniform data in 4 bins cannot be fewer than 2, and are close to it."""
    bins = jnp.array([-1.0, -1 / 3, 1 / 3, 1.0])
    x = bins[jax.random.randint(jax.random.key(0), (4000, 1), 0, 4)]
    law = exact.mixture(np.full(4, 0.25), bins[:, None], np.full(4, 1e-3))
    schedule = schedules.cosine(-15.0, 12.0)
    terms = jax.jit(
        lambda key: likelihood.bound(key, exact.denoiser(law, "v"), x, schedule, bins=bins)
    )(jax.random.key(1))
    bits = np.asarray(likelihood.bits_per_dim(terms.total, x))
    assert abs(bits.mean() - 2.0) < 4 * bits.std() / np.sqrt(len(bits)) + 0.01
    np.testing.assert_allclose(terms.reconstruction, 0.0, atol=1e-5)


def test_reconstruction_of_coarse_levels_is_a_softmax(x64):
    """Against the integral over the noise, for two bins."""
    bins, lam = jnp.array([0.0, 1.0]), 0.5
    s = math.exp(-lam / 2)

    def integrand(n):
        y = s * n
        a, b = stats.norm.logpdf(y, 0, s), stats.norm.logpdf(y, 1, s)
        return -stats.norm.pdf(n) * (a - np.logaddexp(a, b))

    expected = quad(integrand, -10, 10)[0]
    draws = likelihood.reconstruction(jax.random.key(0), jnp.zeros((100_000, 1)), lam, bins)
    draws = np.asarray(draws)
    assert abs(draws.mean() - expected) < 5 * draws.std() / np.sqrt(len(draws))


@pytest.mark.parametrize("count", [2, 256, 1024])
def test_values_between_bins_are_refused_however_many_there_are(count):
    bins = jnp.linspace(-1.0, 1.0, count)
    likelihood.reconstruction(jax.random.key(0), bins[None], 12.0, bins)
    with pytest.raises(ValueError, match="bins: expected the values that x takes"):
        likelihood.reconstruction(jax.random.key(0), bins[None] + 1.0 / (count - 1), 12.0, bins)


def test_the_prior_is_a_divergence(precision):
    for lam in (-15.0, -3.0, 1.0):
        a, s = reference.alpha_sigma(lam)
        x = np.array([[0.5, -1.0, 2.0]])
        expected = np.sum(0.5 * (s**2 + (a * x) ** 2 - 1 - 2 * math.log(s)))
        bound = 1e-9 if precision == "float64" else 1e-4
        np.testing.assert_allclose(likelihood.prior(jnp.asarray(x), lam), expected, rtol=bound)


def test_bad_input_is_refused_by_name():
    x, schedule = jnp.ones((2, 3)), schedules.cosine()
    run = functools.partial(likelihood.bound, jax.random.key(0), lambda z, lam: z, x, schedule)
    with pytest.raises(ValueError, match=r"prediction: expected one of .*'u'"):
        run("u")
    with pytest.raises(ValueError, match=r"times_from: expected one of .*'even'"):
        run(times_from="even")
    with pytest.raises(ValueError, match="steps: expected a whole number of at least 1, got 0"):
        run(steps=0)
    with pytest.raises(ValueError, match="key: expected a random key first, got function"):
        inspect.unwrap(likelihood.bound)(lambda z, lam: z, x, schedule, jax.random.key(0))


def test_every_prediction_has_the_same_bound_whatever_the_deviation_of_the_data(x64):
    law, schedule = exact.gaussian([0.0], [[1.0]]), schedules.linear(-10.0, 10.0)
    x = law.sample(jax.random.key(0), 500)

    def bound(prediction, sigma_data):
        denoise = exact.denoiser(law, prediction, sigma_data)
        made = likelihood.bound(
            jax.random.key(1), denoise, x, schedule, prediction, sigma_data=sigma_data
        )
        return made.total

    for prediction, sigma_data in (("v", 0.5), ("F", 0.5), ("F", 1.0), ("D", 2.0)):
        np.testing.assert_allclose(bound(prediction, sigma_data), bound("eps", 0.5), rtol=1e-9)
    plain = inspect.unwrap(likelihood.bound)
    with pytest.raises(ValueError, match="schedule: expected a noise schedule, got ArrayImpl"):
        plain(jax.random.key(1), exact.denoiser(law), x, jnp.linspace(1.0, 0.0, 9), "x")
