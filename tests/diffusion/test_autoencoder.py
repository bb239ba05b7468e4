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


SCALE = latent.Normalisation(jnp.zeros(2), jnp.ones(2))


def loss(x, count, beta=1.0):
    return latent.loss(x, x, latent.posterior(jnp.zeros((count, 2))), beta)


def started(**options):
    return Autoencoder(**options).init(
        jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jax.random.key(1)
    )


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


def test_half_precision_is_widened():
    z = jnp.asarray(300.0 * draw((50, 4, 2)), jnp.float16)
    np.testing.assert_allclose(latent.normalisation(z).deviation, 300.0, rtol=0.1)
    x = jnp.full((1, 4), 200.0, jnp.float16)
    assert float(latent.loss(x, -x, latent.posterior(jnp.zeros((1, 2))))[0]) == 4 * 400.0**2
    constant = jax.jit(latent.normalisation)(jnp.full((100, 7, 3), 0.1))
    assert np.isnan(constant.deviation).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: latent.posterior(jnp.zeros((1, 3))), "moments: expected an even number"),
        (lambda: latent.posterior(jnp.zeros((3, 0))), "moments: expected an even number"),
        (lambda: latent.normalisation(jnp.full((100, 7, 3), 0.1)), "z: expected finite latents"),
        (lambda: SCALE.normalise(jnp.zeros((1, 2, 2, 3))), "z: expected 2 channels"),
        (lambda: SCALE.restore(jnp.zeros((1, 2, 2, 1))), "z: expected 2 channels"),
        (lambda: loss(jnp.zeros((1, 4)), 8), "q: expected as many as x, 1"),
        (lambda: loss(jnp.zeros((2, 4), jnp.uint8), 2), "x: expected floating point"),
        (lambda: loss(jnp.zeros((2, 4)), 2, jnp.zeros((2, 1))), "beta: expected a number or"),
        (lambda: loss(jnp.zeros((2, 4)), 2, -1.0), "beta: expected no negative weight"),
        (lambda: started(channels=0), "channels, multipliers, latent, image: expected"),
        (lambda: started(blocks=-1), "blocks: expected at least 0, got -1"),
        (lambda: started(multipliers=()), "channels, multipliers, latent, image: expected"),
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_is_far_away_changes_nothing(trained):
    """A patch in two surroundings of different sizes, encoded and decoded: no norm looks far."""
    network, params = trained
    f = network.factor
    patch = draw((1, 20 * f, 20 * f, 2))
    small = np.pad(patch, ((0, 0), (4 * f, 4 * f), (4 * f, 4 * f), (0, 0)))
    large = 3.0 * draw((1, 40 * f, 36 * f, 2), 1)
    large[:, 8 * f : 28 * f, 12 * f : 32 * f] = patch
    first, second = (
        network.apply(params, jnp.asarray(a, jnp.float32), method="encode").mean
        for a in (small, large)
    )
    np.testing.assert_allclose(
        first[:, 12:16, 12:16], second[:, 16:20, 20:24], rtol=1e-4, atol=1e-4
    )
    z = draw((1, 20, 20, 3), 2)
    wide = 3.0 * draw((1, 40, 36, 3), 3)
    wide[:, 8:28, 12:32] = z
    ours, theirs = (
        network.apply(params, jnp.asarray(a, jnp.float32), method="decode") for a in (z, wide)
    )
    inside = slice(9 * f, 11 * f)
    np.testing.assert_allclose(
        ours[:, inside, inside],
        theirs[:, 17 * f : 19 * f, 21 * f : 23 * f],
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_posterior_has_to_be_sampled_before_decoding(trained):
    network, params = trained
    q = network.apply(params, jnp.zeros((1, 8, 8, 2)), method="encode")
    with pytest.raises(ValueError, match=r"z: expected latents, got a Posterior; take its mode"):
        network.apply(params, q, method="decode")
    with pytest.raises(ValueError, match="x: expected floating point"):
        network.apply(params, jnp.zeros((1, 8, 8, 2), jnp.uint8), method="encode")


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
