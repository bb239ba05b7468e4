"""Baselines against scikit-learn, quadrature and their own distribution functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.mixture import GaussianMixture

from fourier_density import baselines, deep_factorized


@pytest.fixture(scope="module")
def sample():
    """2000 points of two well separated normals."""
    rng = np.random.default_rng(0)
    low = rng.random(2000) < 0.3
    return np.where(low, rng.normal(-2.0, 0.3, 2000), rng.normal(1.0, 0.6, 2000))


def test_em_reaches_the_likelihood_of_scikit_learn(sample):
    ours = baselines.mixture_by_em(sample, 2)
    theirs = GaussianMixture(2, tol=1e-8, max_iter=1000, random_state=0).fit(sample[:, None])
    with jax.enable_x64(True):
        reached = float(jnp.mean(jax.jit(ours.log_prob)(sample)))
    np.testing.assert_allclose(reached, theirs.score(sample[:, None]), atol=1e-6, rtol=0)
    np.testing.assert_allclose(np.sort(ours.means), np.sort(theirs.means_.ravel()), atol=1e-3)


def test_em_refuses_more_components_than_samples():
    with pytest.raises(ValueError, match=r"components: expected 1 to 3 .*got 4"):
        baselines.mixture_by_em(np.arange(3.0), 4)


def test_mixture_parameters_are_those_of_scipy(x64):
    parameters = baselines.init_mixture(jnp.asarray(np.linspace(-1.0, 1.0, 41)), 3)
    x = np.array([-0.7, 0.0, 0.4])
    expected = np.mean(
        [
            scipy.stats.norm.pdf(x, mean, np.exp(scale))
            for mean, scale in zip(parameters.means, parameters.log_scales, strict=True)
        ],
        axis=0,
    )
    np.testing.assert_allclose(jnp.exp(parameters.log_prob(jnp.asarray(x))), expected, rtol=1e-12)


def test_deep_factorized_density_is_the_derivative_of_its_distribution(x64):
    model = deep_factorized.init_deep_factorized(jax.random.key(0), scale=2.0)
    model = dataclasses.replace(model, factors=[f + 0.3 for f in model.factors])
    assert model.parameters == 43  # the size the literature quotes for widths (3, 3, 3)
    x = np.linspace(-60.0, 60.0, 4001)
    p = np.exp(np.asarray(jax.jit(model.log_prob)(x)))
    cdf = np.asarray(jax.jit(model.cdf)(x))
    np.testing.assert_allclose(np.gradient(cdf, x)[1:-1], p[1:-1], atol=1e-4)
    np.testing.assert_allclose(np.trapezoid(p, x), 1.0, atol=1e-5)
    assert np.all(np.diff(cdf) >= 0)


def test_correction_lowers_the_loss_of_its_mixture(sample):
    corrected = baselines.mixture_with_correction(sample, 1, 6)
    alone = baselines.mixture_by_em(sample, 1)
    with jax.enable_x64(True):
        loss = -float(jnp.mean(jax.jit(alone.log_prob)(sample)))
    assert corrected.train_nll < loss - 0.2  # one normal cannot have two peaks
    assert corrected.certificate < 1e-4
    assert float(corrected.density.loc) == 0.0 and float(corrected.density.scale) == 1.0
