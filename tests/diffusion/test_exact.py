"""Laws in closed form against Bayes' rule, numerical derivatives and their own samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import diffusion as reference
from scipy import stats

from diffusion import exact, process

COVARIANCE = np.array([[0.5, 0.2], [0.2, 0.4]])
GAUSSIAN = ([0.3, -0.2], COVARIANCE)
MIXTURE = (
    np.array([0.2, 0.5, 0.3]),
    np.array([[1.0, 0.5], [-0.7, 0.2], [0.1, -1.2]]),
    [0.3, 0.2, 0.4],
)
SPECTRUM = 1.0 / (1.0 + 3.0 * (np.fft.fftfreq(6)[:, None] ** 2 + np.fft.fftfreq(8) ** 2) * 30)


def laws():
    return {
        "gaussian": (exact.gaussian(*GAUSSIAN), (2,)),
        "mixture": (exact.mixture(*MIXTURE), (2,)),
        "field": (exact.Field(jnp.asarray(SPECTRUM, float)), (6, 8, 1)),
    }


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["gaussian", "mixture", "field"])
def test_the_score_is_the_gradient_of_the_log_density(name, x64):
    law, shape = laws()[name]
    z, levels = draw(5, *shape), jnp.linspace(-6.0, 6.0, 5)
    score = exact.denoiser(law, "score")(z, levels)
    gradient = jax.grad(lambda z: jnp.sum(law.log_prob(z, levels)))(z)
    np.testing.assert_allclose(score, gradient, atol=1e-9 * np.abs(score).max())


def test_densities_are_those_of_scipy(x64):
    z, lam = draw(5, 2), 0.7
    alpha, sigma = reference.alpha_sigma(lam)
    spread = alpha**2 * COVARIANCE + sigma**2 * np.eye(2)
    expected = stats.multivariate_normal(alpha * np.array(GAUSSIAN[0]), spread).logpdf(z)
    np.testing.assert_allclose(exact.gaussian(*GAUSSIAN).log_prob(z, lam), expected, rtol=1e-12)
    total = sum(
        w * stats.multivariate_normal(alpha * m, (alpha**2 * d**2 + sigma**2) * np.eye(2)).pdf(z)
        for w, m, d in zip(*MIXTURE, strict=True)
    )
    np.testing.assert_allclose(exact.mixture(*MIXTURE).log_prob(z, lam), np.log(total), rtol=1e-12)
    field = laws()["field"][0]
    z = draw(3, 6, 8, 1)
    one = np.fft.ifftn(SPECTRUM).real  # the covariance of a pixel with the first one
    rows = [np.roll(one, (i, j), (0, 1)).ravel() for i in range(6) for j in range(8)]
    spread = alpha**2 * np.array(rows) + sigma**2 * np.eye(48)
    expected = stats.multivariate_normal(np.zeros(48), spread).logpdf(z.reshape(3, 48))
    np.testing.assert_allclose(field.log_prob(z, lam), expected, rtol=1e-11)


def test_a_mixture_denoises_by_bayes_rule(precision):
    law = exact.mixture(*MIXTURE)
    for lam in (-20.0, -3.0, 0.0, 5.0, 20.0):
        z = draw(4, 2)
        expected = reference.mixture_denoise(
            np.asarray(z, float), lam, MIXTURE[0], MIXTURE[1], np.array(MIXTURE[2])
        )
        bound = 1e-12 if precision == "float64" else 1e-5
        np.testing.assert_allclose(law.denoise(z, lam), expected, atol=bound)


def test_components_one_by_one(x64):
    """Given a component the mean is that of a normal law; -1 stands for no condition."""
    law, z = exact.mixture(*MIXTURE), draw(4, 2)
    given = law.denoise(z, 0.5, jnp.array([0, 1, 2, -1]))
    for row, k in enumerate((0, 1, 2)):
        one = exact.gaussian(MIXTURE[1][k], MIXTURE[2][k] ** 2 * np.eye(2))
        np.testing.assert_allclose(given[row], one.denoise(z, 0.5)[row], atol=1e-13)
    np.testing.assert_allclose(given[3], law.denoise(z, 0.5)[3], atol=1e-13)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["gaussian", "mixture", "field"])
def test_samples_follow_the_law(name):
    """The mean of z given x, and x given z, from samples: E[x (z - E z)] by both."""
    law, shape = laws()[name]
    n, lam = 20_000, 0.5
    x = law.sample(jax.random.key(0), n)
    assert x.shape == (n, *shape)
    z = process.diffuse(x, jax.random.normal(jax.random.key(1), x.shape), lam)
    error = x - law.denoise(z, lam)  # uncorrelated with every function of z
    flat, seen = np.asarray(error).reshape(n, -1), np.asarray(z).reshape(n, -1)
    for probe in (np.ones((n, 1)), seen, np.tanh(3 * seen)):
        product = flat[:, :, None] * probe[:, None, :4]
        deviation = product.std(axis=0) / np.sqrt(n)
        assert np.all(np.abs(product.mean(axis=0)) < 5 * deviation + 1e-6)


def test_the_flow_of_a_normal_law(x64):
    law, z = exact.gaussian(*GAUSSIAN), draw(3, 2)
    there = law.flow(z, -2.0, 3.0)
    np.testing.assert_allclose(law.flow(there, 3.0, -2.0), z, atol=1e-12)
    # d(z / alpha) / ds = eps_hat with s = exp(-lambda / 2)
    lam, step = 0.4, 1e-5

    def y(s):
        here = -2 * np.log(s)
        return law.flow(z, lam, here) / process.alpha_sigma(here)[0]

    s = np.exp(-lam / 2)
    slope = (y(s + step) - y(s - step)) / (2 * step)
    np.testing.assert_allclose(slope, exact.denoiser(law, "eps")(z, lam), atol=1e-8)


def test_a_program_for_one_law_never_serves_another():
    """As many arrays of the same shapes, which `flax.struct` takes for one structure."""
    one, other = exact.gaussian([0.3, 0.7], np.eye(2)), exact.mixture([0.3, 0.7], np.eye(2), [1, 1])
    assert jax.tree.structure(one) != jax.tree.structure(other)
    assert jax.tree.map(jnp.shape, [*one]) == jax.tree.map(jnp.shape, [*other])
    z, compiled = draw(3, 2), jax.jit(lambda law: law.denoise(draw(3, 2), 0.1))
    for law in (one, other, one):
        np.testing.assert_allclose(compiled(law), law.denoise(z, 0.1), rtol=1e-6)


def test_laws_are_pytrees():
    law = exact.ring(4)
    run = jax.jit(lambda law, z: law.denoise(z, 0.1))
    np.testing.assert_allclose(run(law, draw(2, 2)), law.denoise(draw(2, 2), 0.1), atol=1e-6)
    many = jax.vmap(functools.partial(exact.Mixture.denoise, z=draw(2, 2), logsnr=0.1))
    assert many(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), law)).shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: exact.gaussian([0.0], np.eye(2)), r"covariance: expected \[D, D\]"),
        (lambda: exact.gaussian([0.0, 0.0], -np.eye(2)), "covariance: expected no eigenvalue"),
        (lambda: exact.mixture([1.0], [[0.0]], [0.0]), "weights, means, deviations: expected"),
        (lambda: exact.mixture([1.0], [0.0], [1.0]), "weights, means, deviations: expected"),
        (lambda: exact.ring(0), "modes: expected at least 1, got 0"),
        (lambda: exact.denoiser(exact.ring(), "u"), "prediction: expected one of .*'u'"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
