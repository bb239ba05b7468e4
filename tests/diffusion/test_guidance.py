"""Classifier-free guidance against its formula and an exact law, its interval, nesting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import exact, guidance, samplers, schedules


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


def network(z, logsnr, condition):
    return z * condition[:, None] + logsnr[:, None]


def test_the_formula_and_its_names(x64):
    z, logsnr, condition = draw(4, 3), jnp.linspace(-2.0, 2.0, 4), jnp.arange(1.0, 5.0)
    with_ = network(z, logsnr, condition)
    without = network(z, logsnr, jnp.full(4, 7.0))
    for scale in (0.0, 1.0, 3.5):
        guided = guidance.classifier_free(network, scale, 7.0)(z, logsnr, condition)
        np.testing.assert_allclose(guided, without + scale * (with_ - without), atol=1e-13)
    np.testing.assert_allclose(
        guidance.classifier_free(network, 1.0, 7.0)(z, logsnr, condition), with_, atol=1e-13
    )
    # Others write (1 + w) conditional - w unconditional.
    w = 0.7
    ours = guidance.classifier_free(network, 1 + w, 7.0)(z, logsnr, condition)
    np.testing.assert_allclose(ours, (1 + w) * with_ - w * without, atol=1e-13)


def test_outside_the_interval_the_prediction_is_conditional(x64):
    z, logsnr, condition = draw(4, 3), jnp.array([-3.0, -1.0, 1.0, 3.0]), jnp.arange(1.0, 5.0)
    plain = network(z, logsnr, condition)
    strong = guidance.classifier_free(network, 4.0, 7.0)(z, logsnr, condition)
    limited = guidance.classifier_free(network, 4.0, 7.0, (-2.0, 2.0))(z, logsnr, condition)
    np.testing.assert_allclose(limited[jnp.array([0, 3])], plain[jnp.array([0, 3])], atol=1e-13)
    np.testing.assert_allclose(limited[1:3], strong[1:3], atol=1e-13)


def test_guidances_nest_and_conditions_may_be_trees(x64):
    def tree_network(z, logsnr, condition):
        return z * condition["a"][:, None] + condition["b"]

    z, logsnr = draw(2, 3), jnp.zeros(2)
    condition = {"a": jnp.array([1.0, 2.0]), "b": draw(2, 3, seed=1)}
    none = {"a": 0.0, "b": jnp.zeros(3)}
    once = guidance.classifier_free(tree_network, 2.0, none)
    np.testing.assert_allclose(
        once(z, logsnr, condition), 2 * tree_network(z, logsnr, condition), atol=1e-13
    )
    twice = guidance.classifier_free(once, 1.5, none)
    np.testing.assert_allclose(
        twice(z, logsnr, condition), 3 * tree_network(z, logsnr, condition), atol=1e-13
    )


def test_the_guided_score_of_a_mixture(x64):
    """score(z) + scale (score(z | k) - score(z)), of exact densities."""
    law, lam, scale = exact.ring(3, deviation=0.3), 0.3, 2.5
    z, k = draw(5, 2), jnp.array([0, 1, 2, 0, 1])
    denoise = exact.denoiser(law, "score")
    guided = guidance.classifier_free(denoise, scale, -1)(z, jnp.full(5, lam), k)

    def log_tilted(z):
        logits, _, _ = law._terms(z, lam)
        own = jnp.take_along_axis(logits, k[:, None], axis=1)[:, 0]
        return jnp.sum((1 - scale) * jax.nn.logsumexp(logits, axis=1) + scale * own)

    np.testing.assert_allclose(guided, jax.grad(log_tilted)(z), atol=1e-11)


def test_guided_samples_gather_at_their_component():
    law, k = exact.ring(8, deviation=0.25), jnp.zeros(500, int)
    z = jax.random.normal(jax.random.key(0), (500, 2))
    lams = schedules.cosine(-8.0, 8.0)(jnp.linspace(1, 0, 33))
    spread = []
    for scale in (0.0, 1.0, 3.0):
        guided = guidance.classifier_free(exact.denoiser(law, "v"), scale, -1)
        x = samplers.sample(guided, z, lams, condition=k)
        spread.append(float(jnp.mean(jnp.abs(jnp.arctan2(x[:, 1], x[:, 0])))))
    # All round the circle; a component of its own width; narrower than that.
    assert spread[0] > 1.3 and 0.15 < spread[1] < 0.3 and spread[2] < 0.7 * spread[1]


def test_bad_input_is_refused_by_name():
    with pytest.raises(ValueError, match="unconditional: expected the condition"):
        guidance.classifier_free(network, 2.0, None)
    with pytest.raises(ValueError, match="interval: expected a lower and a higher log-SNR"):
        guidance.classifier_free(network, 2.0, 0, (1.0, 1.0))
    for kind, none in ((jnp.uint8, 256), (jnp.uint8, -1), (jnp.int8, 200), (jnp.int32, 0.5)):
        with pytest.raises(ValueError, match=r"unconditional: expected what u?int\d+ conditions"):
            guided = guidance.classifier_free(network, 2.0, none)
            guided(draw(2, 3), jnp.zeros(2), jnp.zeros(2, kind))
    with pytest.raises(ValueError, match="condition: expected one to guide by, got None"):
        guidance.classifier_free(network, 2.0, 0)(draw(2, 3), jnp.zeros(2), None)
