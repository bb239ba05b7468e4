"""Distillation of normal laws: where the loss drives them, and the guard that knows it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import distillation


def normal_gradient(theta, tau, sigma, alpha, naive=False):
    """By the public loss, for normal laws in many dimensions, where its weight is one number."""
    key = jax.random.split(jax.random.key(0))
    z, noise = (jax.random.normal(k, (64, 4096)) for k in key)
    levels = jnp.full(64, sigma)

    def law(deviation):
        return lambda y, s: y * deviation**2 / (deviation**2 + sigma**2)

    def mean(t):
        arguments = (t * z, law(tau), law(theta), levels, noise)
        if naive:
            return jnp.mean(distillation.naive_loss(*arguments))
        return jnp.mean(distillation.generator_loss(*arguments, alpha))

    return float(jax.grad(mean)(theta))


@pytest.mark.parametrize(("alpha", "sigma"), [(1.2, 0.0), (1.5, 0.0), (1.5, 1.0), (2.0, 0.5)])
@pytest.mark.filterwarnings("ignore:alpha")
def test_wider_laws_than_the_threshold_run_away(alpha, sigma):
    sigma = max(sigma, 0.05)
    least = distillation.threshold(alpha, sigma)
    assert normal_gradient(0.98 * least, 1.0, sigma, alpha) > 0  # descent makes it narrower
    assert normal_gradient(1.02 * least, 1.0, sigma, alpha) < 0
    assert distillation.gaussian_gradient(0.98 * least, 1.0, sigma, alpha) > 0
    assert distillation.gaussian_gradient(1.02 * least, 1.0, sigma, alpha) < 0


def test_closed_forms_of_normal_laws():
    for alpha in (0.0, 0.5, 1.0):
        assert distillation.threshold(alpha) == np.inf
        for theta in (0.2, 0.9):
            assert normal_gradient(theta, 1.0, 0.7, alpha) < 0
        for theta in (1.1, 5.0, 50.0):
            assert normal_gradient(theta, 1.0, 0.7, alpha) > 0
    for theta in (0.2, 0.9, 1.1, 5.0):  # L1 alone makes every law narrower
        assert normal_gradient(theta, 1.0, 0.7, 0.0, naive=True) > 0
    np.testing.assert_allclose(distillation.threshold(1.5), 3**0.5)
    np.testing.assert_allclose(distillation.threshold(2.0, 0.5, 2.0), (0.25 + 8.0) ** 0.5)


@pytest.mark.parametrize(
    ("share", "alpha", "message"),
    [
        (1.0, 1.2, None),
        (0.3, 1.0, None),
        (1.9, 1.5, None),
        (2.1, 1.2, "alpha = 1.2 normal laws run away from 2.45 times the teacher's width on at"),
        (2.1, 1.5, "diverged: generated arrays are 2.1 times as wide"),
        (3.1, 0.5, "as wide as the teacher's; lower the learning rates, or let the fake"),
        (float("nan"), 1.0, "diverged: generated arrays are not finite"),
        (float("inf"), 1.0, "diverged: generated arrays are not finite"),
        (0.2, 1.0, "collapsed: generated arrays are 0.2 times as wide"),
    ],
)
def test_the_guard_says_what_is_wrong(share, alpha, message):
    found = distillation.diagnose(0.7 * share, 0.7, alpha)
    assert (found is None) == (message is None)
    assert message is None or message in found


def test_the_guard_names_the_loss_that_collapses():
    assert "alone makes every law narrower" in distillation.diagnose(0.1, 0.7, naive=True)
    assert "alone" not in distillation.diagnose(0.1, 0.7)
    assert "alpha" not in distillation.diagnose(7.0, 0.7, 1.5, naive=True)


@pytest.mark.filterwarnings("ignore:alpha")
@pytest.mark.parametrize("alpha", [1.2, 1.5])
def test_over_all_levels_only_much_wider_laws_run_away(alpha):
    """The mean of the public loss over the levels of training, in many dimensions."""
    levels = distillation.generator_sigma((jnp.arange(500) + 0.5) / 500, 0.8, 0.02)
    least = distillation.threshold(alpha, np.asarray(levels))
    assert least > 2.5 * distillation.threshold(alpha)
    key = jax.random.split(jax.random.key(0))
    z, noise = (jax.random.normal(k, (500, 1024)) for k in key)

    def law(deviation):
        square = deviation**2
        return lambda y, s: y * (square / (square + s**2))[:, None]

    @jax.jit
    def slope(theta):
        fake = law(jax.lax.stop_gradient(theta))
        return jax.grad(
            lambda t: jnp.mean(
                distillation.generator_loss(t * z, law(1.0), fake, levels, noise, alpha)
            )
        )(theta)

    assert slope(0.95 * least) > 0 > slope(1.05 * least)
    assert slope(1.1 * distillation.threshold(alpha)) > 0  # although fine levels say otherwise


@pytest.mark.slow
def test_gradient_of_normal_laws_is_the_closed_form(x64):
    """By quadrature, without the weight."""
    nodes, weight = np.polynomial.hermite_e.hermegauss(12)
    z, n = (jnp.asarray(a.ravel()[:, None]) for a in np.meshgrid(nodes, nodes))
    w = jnp.asarray(np.outer(weight, weight).ravel() / weight.sum() ** 2)
    for theta, tau, sigma, alpha in (
        (0.5, 1.0, 0.7, 0.0),
        (2.0, 1.0, 0.3, 1.2),
        (1.5, 0.4, 2.0, 1),
    ):

        def law(deviation, sigma=sigma):
            return lambda y, s: y * deviation**2 / (deviation**2 + sigma**2)

        def mean(t, theta=theta, tau=tau, sigma=sigma, alpha=alpha, law=law):
            x, levels = t * z, jnp.full(len(z), sigma)
            each = distillation.generator_loss(x, law(tau), law(theta), levels, n, alpha)
            f = law(tau)(x + sigma * n, levels)
            return jnp.sum(w * each * jax.lax.stop_gradient(jnp.abs(x - f))[:, 0])

        expected = distillation.gaussian_gradient(theta, tau, sigma, alpha)
        np.testing.assert_allclose(jax.grad(mean)(theta), expected, rtol=1e-10)
