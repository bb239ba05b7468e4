"""Latent spaces: divergence, loss, normalisation; the autoencoder's shapes and neighbourhoods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from diffusion import latent
from diffusion.autoencoder import Autoencoder


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_divergence_is_the_integral(x64):
    mean, log_variance = draw((2, 1, 2, 1)), draw((2, 1, 2, 1), 1)
    q = latent.Posterior(jnp.asarray(mean), jnp.asarray(log_variance))

    def each(m, v):
        law, prior = stats.norm(m, np.exp(0.5 * v)), stats.norm()
        ends = (m - 12 * np.exp(0.5 * v), m + 12 * np.exp(0.5 * v))
        return integrate.quad(
            lambda z: law.pdf(z) * (law.logpdf(z) - prior.logpdf(z)), *ends, epsabs=1e-12
        )[0]

    expected = [
        sum(each(m, v) for m, v in zip(a.ravel(), b.ravel(), strict=True))
        for a, b in zip(mean, log_variance, strict=True)
    ]
    np.testing.assert_allclose(q.kl_divergence(), expected, rtol=1e-9)
    standard = latent.Posterior(jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    assert float(standard.kl_divergence()[0]) == 0.0


def test_samples_have_the_moments_of_the_posterior():
    mean, log_variance = jnp.array([[0.5, -2.0]]), jnp.array([[-1.0, 0.7]])
    count = 40_000
    q = latent.Posterior(jnp.repeat(mean, count, 0), jnp.repeat(log_variance, count, 0))
    z = np.asarray(q.sample(jax.random.key(0)), np.float64)
    deviation = np.exp(0.5 * np.asarray(log_variance[0]))
    assert np.all(np.abs(z.mean(0) - np.asarray(mean[0])) < 4 * deviation / count**0.5)
    assert np.all(np.abs(z.var(0) / deviation**2 - 1) < 4 * (2 / count) ** 0.5)
    np.testing.assert_array_equal(q.mode(), q.mean)


def test_loss_is_the_evidence_bound_of_gaussian_pixels(x64):
    x, x_hat = draw((2, 3, 3, 1)), draw((2, 3, 3, 1), 1)
    q = latent.posterior(jnp.asarray(draw((2, 1, 1, 4), 2)))
    beta = 0.3
    likelihood = stats.norm(x_hat, np.sqrt(beta / 2)).logpdf(x).sum((1, 2, 3))
    bound = likelihood - np.asarray(q.kl_divergence())
    constant = 9 / 2 * np.log(np.pi * beta)  # 0.5 log(2 pi variance) a pixel
    found = latent.loss(jnp.asarray(x), jnp.asarray(x_hat), q, beta)
    np.testing.assert_allclose(found, -beta * (bound + constant), rtol=1e-12)


def test_moments_are_split_and_bounded():
    q = latent.posterior(jnp.array([[1.0, 2.0, -100.0, 100.0]]))
    np.testing.assert_array_equal(q.mean, [[1.0, 2.0]])
    np.testing.assert_array_equal(q.log_variance, [latent.LOG_VARIANCE])


def test_normalised_latents_have_unit_deviation(x64):
    z = 3.0 * draw((50, 4, 4, 2)) * np.array([1.0, 0.01]) + np.array([5.0, -1.0])
    scale = latent.normalisation(jnp.asarray(z))
    unit = np.asarray(scale.normalise(jnp.asarray(z)))
    np.testing.assert_allclose(unit.mean((0, 1, 2)), 0.0, atol=1e-10)
    np.testing.assert_allclose(unit.std((0, 1, 2)), 1.0, rtol=1e-12)
    np.testing.assert_allclose(scale.restore(jnp.asarray(unit)), z, rtol=1e-12)
    leaves = jax.tree.leaves(jax.vmap(latent.normalisation)(jnp.asarray(z)[None]))
    np.testing.assert_allclose(leaves[1][0], scale.deviation, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: latent.posterior(jnp.zeros((1, 3))), "moments: expected an even number"),
        (lambda: latent.normalisation(jnp.ones((5, 2))), "z: expected finite latents"),
        (lambda: latent.normalisation(jnp.full((5, 2), jnp.nan)), "z: expected finite latents"),
        (
            lambda: latent.loss(
                jnp.zeros((1, 4, 4, 1)),
                jnp.zeros((1, 4, 2, 1)),
                latent.posterior(jnp.zeros((1, 1, 1, 2))),
            ),
            "x_hat: expected the shape of x",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.fixture(scope="module", params=[(1, 2), (1, 1, 2)], ids=["f=2", "f=4"])
def trained(request):
    """An autoencoder with weights that are zero nowhere."""
    network = Autoencoder(4, request.param, 1, 3, 2)
    x = jnp.zeros((1, 8, 8, 2))
    params = network.init(jax.random.key(0), x, jax.random.key(1))
    keys = iter(jax.random.split(jax.random.key(2), 200))
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), params)
    return network, params


def test_the_same_weights_serve_every_size(trained):
    network, params = trained
    f = network.factor
    for height, width in ((8, 8), (16, 12)):
        x = jnp.asarray(draw((2, height, width, 2)), jnp.float32)
        x_hat, q = network.apply(params, x, jax.random.key(3))
        assert x_hat.shape == x.shape and q.mean.shape == (2, height // f, width // f, 3)
        assert q.log_variance.shape == q.mean.shape
        again = network.apply(params, q.sample(jax.random.key(3)), method="decode")
        np.testing.assert_allclose(x_hat, again, rtol=1e-5, atol=1e-5)
        encoded = network.apply(params, x, method="encode")
        np.testing.assert_allclose(encoded.mean, q.mean, rtol=1e-5, atol=1e-5)


def test_latents_of_a_moved_image_are_moved_latents(trained):
    """Inside, far from the zeros around the image: no norm or position knows the size."""
    network, params = trained
    f = network.factor
    x = np.zeros((1, 24 * f, 24 * f, 2), np.float32)
    x[:, 10 * f : 14 * f, 10 * f : 14 * f] = draw((1, 4 * f, 4 * f, 2))
    first, second = (
        network.apply(params, jnp.asarray(a), method="encode").mean
        for a in (x, np.roll(x, 2 * f, axis=2))
    )
    inside = slice(7, 17)
    np.testing.assert_allclose(
        second[:, inside, 9:19], first[:, inside, 7:17], rtol=1e-4, atol=1e-4
    )
    assert float(jnp.abs(first[:, inside, 9:19] - first[:, inside, 7:17]).max()) > 0.1


@pytest.mark.parametrize(
    ("shape", "method", "message"),
    [
        ((1, 9, 8, 2), "encode", "x: expected \\[B, H, W, 2\\] with sides of"),
        ((1, 8, 8, 1), "encode", "x: expected \\[B, H, W, 2\\] with sides of"),
        ((1, 2, 2, 4), "decode", "z: expected \\[B, h, w, 3\\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(trained, shape, method, message):
    network, params = trained
    with pytest.raises(ValueError, match=message):
        network.apply(params, jnp.zeros(shape), method=method)
