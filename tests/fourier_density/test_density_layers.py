"""Linen shells: densities as parameters, as heads, and over ordered categories."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import fourier

from fourier_density import PeriodicDensity, heads, layers

KEY = jax.random.key(0)


def test_a_density_of_parameters_is_fitted_by_descent():
    exact = PeriodicDensity(np.array([1.0, 0.6j, 0.2]))
    x = exact.sample(seed=KEY, sample_shape=(4000,))
    module = layers.Density(heads.Fourier(2, "circle"), noise=0.1)
    variables = module.init(jax.random.key(1))
    optimizer = optax.adam(3e-2)

    @jax.jit
    def train(variables):
        def step(carry, _):
            variables, state = carry
            gradient = jax.grad(lambda v: -module.apply(v).log_prob(x).mean())(variables)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(variables, updates), state), None

        return jax.lax.scan(step, (variables, optimizer.init(variables)), length=300)[0][0]

    fitted = module.apply(train(variables))
    assert float(exact.kl_divergence(module.apply(variables))) > 0.1
    assert float(exact.kl_divergence(fitted)) < 3e-3


def test_batches_of_densities_are_parameters_of_their_own():
    module = layers.Density(heads.Fourier(3, base="tanh"), (4, 2), noise=0.3)
    variables = module.init(KEY)
    assert variables["params"]["raw"].shape == (4, 2, 10)
    density = module.apply(variables)
    assert density.batch_shape == (4, 2)
    assert len(np.unique(density.log_prob(0.5))) == 8
    start = layers.Density(heads.Fourier(3)).init_with_output(KEY)[0]
    np.testing.assert_allclose(start.prob(0.0), (2 * np.pi) ** -0.5, rtol=1e-6)


def test_a_conditional_density_starts_at_the_base_and_depends_on_features():
    module = layers.ConditionalDensity(heads.Mixture(2), (3,))
    features = jax.random.normal(KEY, (5, 7))
    density, variables = module.init_with_output(KEY, features)
    assert density.batch_shape == (5, 3)
    np.testing.assert_allclose(density.log_prob(0.4), density.log_prob(0.4)[0, 0], rtol=1e-6)
    moved = jax.tree.map(lambda v: v + 0.3 * jax.random.normal(KEY, v.shape), variables)
    assert len(np.unique(module.apply(moved, features).log_prob(0.4))) == 15


def head_parts(order, categories, values="mass", floor=0.0, seed=2):
    head = layers.FourierHead(categories, order, values, floor)
    features = jnp.ones((1, 1))
    a = fourier.random_coefficients(seed, order)
    kernel = np.concatenate([a.real - np.eye(order + 1)[0], a.imag])
    params = {"coefficients": {"kernel": jnp.asarray(kernel)[None], "bias": jnp.zeros(kernel.size)}}
    return a, head.apply({"params": params}, features)[0]


@pytest.mark.sample(2)
@pytest.mark.parametrize("order, categories", [(0, 3), (1, 1), (4, 18), (12, 7), (9, 100)])
def test_probabilities_of_the_fourier_head_are_masses_of_bins(order, categories, x64):
    a, logits = head_parts(order, categories)
    edges = np.linspace(-1, 1, categories + 1)
    expected = [float(fourier.interval(a, lo, hi)) for lo, hi in itertools.pairwise(edges)]
    np.testing.assert_allclose(jnp.exp(logits), expected, atol=1e-13)
    np.testing.assert_allclose(jnp.exp(logits).sum(), 1.0, rtol=1e-13)


def test_at_centres_it_is_the_head_of_the_paper(x64):
    a, logits = head_parts(5, 12, "centre")
    centres = (2 * np.arange(12) + 1) / 12 - 1
    p = fourier.density(a, centres)
    np.testing.assert_allclose(jnp.exp(logits), p / p.sum(), rtol=1e-11)


def test_the_floor_mixes_in_the_uniform_distribution(x64):
    _, plain = head_parts(3, 6)
    _, floored = head_parts(3, 6, floor=0.2)
    np.testing.assert_allclose(jnp.exp(floored), 0.8 * jnp.exp(plain) + 0.2 / 6, rtol=1e-12)


def test_the_fourier_head_starts_nearly_uniform_and_is_trained_by_cross_entropy():
    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.FourierHead(9, 4)(nn.relu(nn.Dense(16)(x)))

    module = Classifier()
    x = jax.random.uniform(KEY, (600, 1), minval=-1.0)
    label = jnp.round(4 + 3.5 * x[:, 0]).astype(int)
    variables = module.init(jax.random.key(1), x)
    assert np.abs(module.apply(variables, x) + np.log(9)).max() < 0.2
    optimizer = optax.adam(2e-2)

    def loss(v):
        logits = module.apply(v, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    @jax.jit
    def train(variables):
        def step(carry, _):
            v, state = carry
            updates, state = optimizer.update(jax.grad(loss)(v), state)
            return (optax.apply_updates(v, updates), state), None

        return jax.lax.scan(step, (variables, optimizer.init(variables)), length=300)[0][0]

    trained = train(variables)
    guess = jnp.argmax(module.apply(trained, x), axis=-1)
    assert float(jnp.mean(jnp.abs(guess - label) <= 1)) > 0.97
    assert float(loss(trained)) < float(loss(variables)) - 0.8


def test_bad_sizes_are_named():
    for wrong in ((0, 1), (3, -1)):
        with pytest.raises(ValueError, match="categories, order, floor"):
            layers.FourierHead(*wrong).init(KEY, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="categories, order, floor"):
        layers.FourierHead(3, 1, floor=1.0).init(KEY, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="values: expected mass or centre"):
        layers.FourierHead(3, 1, "center").init(KEY, jnp.ones((1, 2)))
