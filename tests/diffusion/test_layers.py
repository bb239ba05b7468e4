"""The small networks: shapes, what they are told, sizes they serve, and that they learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import layers, losses, process


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


NETWORKS = {
    "mlp": (layers.MLP(16, 2, 3), (4, 4, 1)),
    "conv": (layers.Conv(8, (1, 2), 3), (4, 4, 2)),
    "waves": (layers.MLP(16, 1, None, (2, 3)), (5,)),
}


def random(params, seed=0):
    """Weights that are not zero, the last layer's included."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.3 * jnp.asarray(rng.normal(size=leaf.shape)), params)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", NETWORKS)
def test_predictions_have_the_shape_of_z_and_start_at_zero(name):
    network, shape = NETWORKS[name]
    z, logsnr = draw(3, *shape), jnp.array([-5.0, 0.0, 5.0])
    params = network.init(jax.random.key(0), z, logsnr)
    np.testing.assert_array_equal(network.apply(params, z, logsnr), jnp.zeros_like(z))
    params = random(params)
    y = network.apply(params, z, logsnr)
    assert y.shape == z.shape and np.abs(y).min() > 0
    assert np.abs(network.apply(params, z, logsnr + 1.0) - y).max() > 1e-3
    half = network.apply(params, z.astype(jnp.bfloat16), logsnr)
    assert np.all(np.isfinite(np.asarray(half, float)))


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_classes_are_read_and_none_is_one_of_them(name):
    network, shape = NETWORKS[name]
    z, logsnr = draw(3, *shape), jnp.zeros(3)
    params = random(network.init(jax.random.key(0), z, logsnr, jnp.zeros(3, int)))
    read = functools.partial(network.apply, params, z, logsnr)
    assert np.abs(read(jnp.array([0, 1, 2])) - read(jnp.array([1, 1, 2]))).max() > 1e-3
    np.testing.assert_array_equal(read(), read(jnp.full(3, 3)))


def test_a_network_without_classes_takes_no_condition():
    z, logsnr = draw(3, 5), jnp.zeros(3)
    with pytest.raises(ValueError, match="condition: expected none of a network without classes"):
        layers.MLP(8, 1).init(jax.random.key(0), z, logsnr, jnp.zeros(3, int))


def test_what_networks_are_told_has_the_batch_or_is_a_number():
    network, z = layers.MLP(8, 1, 3), draw(3, 5)
    params = random(network.init(jax.random.key(0), z, jnp.zeros(3)))
    every = network.apply(params, z, jnp.full(3, 0.5), jnp.full(3, 2))
    np.testing.assert_array_equal(network.apply(params, z, 0.5, 2), every)
    with pytest.raises(ValueError, match=r"logsnr: expected shape \[3\], got \[2\]"):
        network.apply(params, z, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"condition: expected shape \[3\], got \[3, 1\]"):
        network.apply(params, z, jnp.zeros(3), jnp.zeros((3, 1), int))
    with pytest.raises(ValueError, match="width: expected a whole number of at least 1, got 0"):
        layers.Context(0).init(jax.random.key(0), 3, 0.0, None, float)


def test_convolutions_serve_every_size_and_place():
    network, _ = NETWORKS["conv"]
    z = draw(1, 12, 12, 2)
    params = random(network.init(jax.random.key(0), draw(1, 4, 4, 2), jnp.zeros(1)))
    y = network.apply(params, z, jnp.zeros(1))
    assert y.shape == z.shape
    moved = network.apply(params, jnp.roll(z, 1, axis=1), jnp.zeros(1))
    inner = np.s_[:, 6:-5, 5:-5]  # out of reach of the border
    np.testing.assert_allclose(moved[inner], jnp.roll(y, 1, axis=1)[inner], atol=1e-4)


def test_octaves_are_waves_of_z():
    z = draw(2, 3)
    wide = layers.octaves(z, (0, 4))
    expected = [z, np.sin(np.pi * z), np.cos(np.pi * z), np.sin(16 * np.pi * z)]
    np.testing.assert_allclose(wide[:, :12], np.concatenate(expected, axis=1), atol=1e-4)
    assert wide.shape == (2, 15)


def test_a_network_learns_the_mean_of_a_normal_law():
    """V of N(0, 1/100) is linear in z; a few hundred steps come near its least error."""
    network = layers.MLP(32, 1)
    params = network.init(jax.random.key(0), jnp.zeros((1, 1)), jnp.zeros(1))

    def loss(params, key):
        a, b, c = jax.random.split(key, 3)
        x, eps = 0.1 * jax.random.normal(a, (256, 1)), jax.random.normal(b, (256, 1))
        lam = jax.random.uniform(c, (256,), minval=-4.0, maxval=4.0)
        output = network.apply(params, process.diffuse(x, eps, lam), lam)
        return jnp.mean(losses.denoising(output, x, eps, lam, "v", space="v"))

    @jax.jit
    def train(params):
        def step(carry, key):
            params, mean = carry
            value, gradient = jax.value_and_grad(loss)(params, key)
            mean = jax.tree.map(lambda m, g: 0.9 * m + g, mean, gradient)
            return (jax.tree.map(lambda p, m: p - 0.02 * m, params, mean), mean), value

        start = (params, jax.tree.map(jnp.zeros_like, params))
        return jax.lax.scan(step, start, jax.random.split(jax.random.key(1), 400))[1]

    values = train(params)
    levels = np.linspace(-4.0, 4.0, 101)
    snr = np.exp(levels)
    # Least error of x is c / (1 + c snr); that of v is (1 + snr) times as much.
    least = np.mean((1 + snr) * 0.01 / (1 + 0.01 * snr))
    assert float(values[:5].mean()) > 4 * least
    assert float(values[-50:].mean()) < 1.2 * least
