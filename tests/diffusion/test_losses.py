"""Weights against their integrals, losses against loops, times of a batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import diffusion as reference
from scipy.integrate import quad

from diffusion import losses, pooling, process, schedules, times

KINDS = ("x", "eps", "v", "score", "F")
LEVELS = np.linspace(-9.0, 9.0, 7)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighting", ["uniform", "elbo", "edm", "min_snr", "sigmoid"])
def test_a_loss_is_the_same_whatever_the_network_predicts(kind, weighting, x64):
    x, eps, off, levels = draw(7, 3), draw(7, 3, seed=1), draw(7, 3, seed=2), jnp.asarray(LEVELS)
    schedule = schedules.cosine()
    loss = functools.partial(losses.denoising, weighting=weighting, schedule=schedule)
    z = process.diffuse(x, eps, levels)
    first = loss(eps + off, x, eps, levels, "eps")
    output = process.convert(eps + off, z, levels, "eps", kind)
    np.testing.assert_allclose(loss(output, x, eps, levels, kind), first, rtol=1e-9)
    assert first.shape == (7,)


def test_weights_are_the_published_ones(x64):
    snr = np.exp(LEVELS)
    np.testing.assert_allclose(losses.weight("uniform", LEVELS), 1.0)
    np.testing.assert_allclose(losses.weight("uniform", LEVELS, "v", space="v"), 1.0)
    np.testing.assert_allclose(losses.weight("uniform", LEVELS, "x"), snr, rtol=1e-12)
    np.testing.assert_allclose(losses.weight("uniform", LEVELS, "v"), snr / (1 + snr), rtol=1e-12)
    least = np.minimum(snr, 5.0)
    np.testing.assert_allclose(losses.weight("min_snr", LEVELS), least / snr, rtol=1e-12)
    np.testing.assert_allclose(losses.weight("min_snr", LEVELS, "v"), least / (snr + 1), rtol=1e-12)
    np.testing.assert_allclose(losses.weight("min_snr", LEVELS, "x"), least, rtol=1e-12)
    s2 = 1 / snr
    np.testing.assert_allclose(
        losses.weight("edm", LEVELS, "x"), (s2 + 0.25) / (s2 * 0.25), rtol=1e-12
    )
    np.testing.assert_allclose(losses.weight("edm", LEVELS, "F"), 1.0, rtol=1e-12)
    schedule = schedules.cosine()
    rate = 1 / schedule.density(LEVELS)
    sigmoid = losses.weight("sigmoid", LEVELS, schedule=schedule, bias=-3.0)
    np.testing.assert_allclose(sigmoid, rate / (1 + np.exp(3.0 + LEVELS)), rtol=1e-12)


@pytest.mark.sample(1)
@pytest.mark.parametrize("weighting", ["elbo", "edm", "sigmoid"])
def test_the_mean_over_any_schedule_is_one_integral(weighting, x64):
    """E over t of weight times an error that depends on log-SNR does not depend on the schedule."""

    def error(lam):
        return np.exp(-0.5 * (lam - 1.0) ** 2)

    means = []
    for schedule in (schedules.edm(), schedules.cosine(-17.0, 17.0), schedules.linear(-9.0, 13.0)):

        def integrand(t, schedule=schedule):
            lam = schedule(t)
            return float(losses.weight(weighting, lam, schedule=schedule)) * error(float(lam))

        means.append(quad(integrand, 0, 1, epsabs=1e-9, limit=400)[0])
    np.testing.assert_allclose(means[1:], means[0], rtol=1e-5)
    if weighting == "elbo":
        assert means[0] == pytest.approx(0.5 * np.sqrt(2 * np.pi), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_the_definitions(kind, precision):
    x, eps = draw(7, 3), draw(7, 3, seed=1)
    expected = [
        reference.parts(*map(np.asarray, row[:2]), float(row[2]), kind)
        for row in zip(x, eps, LEVELS, strict=True)
    ]
    bound = 1e-11 if precision == "float64" else 2e-5
    result = losses.target(jnp.asarray(x), jnp.asarray(eps), jnp.asarray(LEVELS), kind)
    scale = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(result / scale, expected / scale, atol=bound)


@pytest.mark.parametrize("resolutions", [(8,), (4, 8), (1, 2, 4, 8)])
def test_several_scales_against_loops(resolutions, precision):
    eps, guess = draw(2, 8, 8, 3), draw(2, 8, 8, 3, seed=1)
    expected = np.zeros(2)
    for r in resolutions:
        pooled = reference.pool(np.asarray(eps - guess, np.float64), 8 // r)
        expected += (pooled**2).mean(axis=(1, 2, 3)) / r
    bound = 1e-13 if precision == "float64" else 2e-6
    result = losses.multi_scale(
        jnp.asarray(eps, precision), jnp.asarray(guess, precision), resolutions
    )
    np.testing.assert_allclose(result, expected, rtol=bound)


@pytest.mark.parametrize("space", [(6,), (6, 4), (4, 2, 6)])
def test_pooling_undoes_enlarging(space):
    x = draw(2, *space, 3)
    np.testing.assert_allclose(pooling.average(pooling.nearest(x, 2), 2), x, rtol=1e-6)
    assert pooling.nearest(x, 3).shape == (2, *(3 * n for n in space), 3)
    with pytest.raises(ValueError, match="factor: expected a divisor of the sizes"):
        pooling.average(x, 5)
    with pytest.raises(ValueError, match="factor: expected at least 1, got 0"):
        pooling.nearest(x, 0)


@pytest.mark.parametrize("draw_times", [times.independent, times.low_discrepancy, times.antithetic])
def test_times_are_uniform_one_by_one(draw_times):
    keys = jax.random.split(jax.random.key(0), 500)
    t = np.asarray(jax.vmap(lambda key: draw_times(key, 8))(keys))
    assert t.shape == (500, 8) and t.min() >= 0 and t.max() < 1
    for place in t.T:  # Kolmogorov-Smirnov at 1e-4 for 500 draws
        gap = np.abs(np.sort(place) - (np.arange(500) + 0.5) / 500).max()
        assert gap < 2.3 / np.sqrt(500)


def test_even_times_cover_and_pairs_mirror():
    t = times.low_discrepancy(jax.random.key(1), 16)
    np.testing.assert_array_equal(np.sort(np.floor(np.asarray(t) * 16)), np.arange(16))
    pairs = times.antithetic(jax.random.key(1), 16)
    np.testing.assert_allclose(pairs[:8] + pairs[8:], 1.0, atol=1e-6)
    assert np.any(np.diff(t) < 0)  # in random order


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.weight("snr", LEVELS), "weighting: expected one of .*'snr'"),
        (lambda: losses.weight("elbo", LEVELS), "schedule: expected the one of logsnr for the"),
        (lambda: losses.weight("elbo", LEVELS, "w"), "prediction: expected one of .*'w'"),
        (
            lambda: losses.squared_error(jnp.ones((2, 3)), jnp.ones((2, 4))),
            r"prediction: expected the shape \(2, 4\), got \(2, 3\)",
        ),
        (
            lambda: losses.multi_scale(jnp.ones((1, 8, 4, 1)), jnp.ones((1, 8, 4, 1)), (4,)),
            "eps: expected square images",
        ),
        (
            lambda: losses.multi_scale(jnp.ones((1, 8, 8, 1)), jnp.ones((1, 8, 8, 1)), (3,)),
            "resolutions: expected divisors of 8",
        ),
        (
            lambda: losses.multi_scale(jnp.ones((1, 8, 8, 1)), jnp.ones((1, 8, 8, 2)), (4,)),
            "eps_hat: expected the shape",
        ),
        (lambda: times.antithetic(jax.random.key(0), 3), "batch: expected an even number"),
        (
            lambda: times.independent(jax.random.key(0), 0),
            "batch: expected a whole number",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
