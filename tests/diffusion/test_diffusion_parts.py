"""What diffusion models are made of, part by part, against NumPy, SciPy and scikit-learn."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from sklearn.neighbors import NearestNeighbors

from diffusion import edm, layers, metrics, pooling, schedule, schedules, times, wavelet


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("rule", [times.independent, times.low_discrepancy, times.antithetic])
def test_times_of_every_place_are_uniform(rule):
    drawn = jax.vmap(lambda key: rule(key, 8))(jax.random.split(jax.random.key(0), 1000))
    drawn = np.asarray(drawn, float)
    assert drawn.min() >= 0.0 and drawn.max() < 1.0
    for place in drawn.T:
        assert scipy.stats.kstest(place, "uniform").pvalue > 1e-4
    plain = np.random.default_rng(0).random((1000, 8))
    wave, odd = (
        np.var(function(drawn).mean(axis=1)) / np.var(function(plain).mean(axis=1))
        for function in (lambda t: np.cos(2 * np.pi * t), lambda t: (2 * t - 1) ** 3)
    )
    exact = {"independent": (1.0, 1.0), "low_discrepancy": (0.0, 0.28), "antithetic": (2.0, 0.0)}
    np.testing.assert_allclose((wave, odd), exact[rule.__name__], rtol=0.25, atol=1e-9)


@pytest.mark.parametrize("space", [(6,), (6, 12), (6, 3, 9)])
def test_cells_are_averaged_and_repeated_as_loops_do(space, x64):
    x = draw(2, *space, 3)
    down, up = pooling.average(jnp.asarray(x), 3), pooling.nearest(jnp.asarray(x), 2)
    for place in np.ndindex(*(size // 3 for size in space)):
        cell = tuple(slice(3 * i, 3 * i + 3) for i in place)
        exact = x[(slice(None), *cell)].mean(axis=tuple(range(1, x.ndim - 1)))
        np.testing.assert_allclose(down[(slice(None), *place)], exact, atol=1e-13)
    for place in np.ndindex(*(2 * size for size in space)):
        half = tuple(i // 2 for i in place)
        np.testing.assert_array_equal(up[(slice(None), *place)], x[(slice(None), *half)])


def test_pooling_divides_the_variance_of_noise_by_the_cell():
    noise = jax.random.normal(jax.random.key(0), (64, 32, 32, 1))
    np.testing.assert_allclose(np.var(pooling.average(noise, 4)), 1 / 16, rtol=0.05)


@pytest.mark.parametrize("levels", [1, 2])
def test_wavelets_keep_constants_in_the_low_band_alone(levels, x64):
    y = wavelet.forward(jnp.full((1, 8, 8, 2), 3.0), levels)
    assert y.shape == (1, 8 // 2**levels, 8 // 2**levels, 2 * 4**levels)
    np.testing.assert_allclose(y[..., :2], 3.0 * 2**levels, rtol=1e-12)
    np.testing.assert_allclose(y[..., 2:], 0.0, atol=1e-12)
    ramp = jnp.broadcast_to(jnp.arange(8.0)[:, None, None], (8, 8, 1))[None]
    high = wavelet.forward(ramp)[..., 2:]
    np.testing.assert_allclose(high[:, :-1], 0.0, atol=1e-12)  # straight lines, but for the end


@pytest.mark.parametrize("name", ["cosine", "linear", "vp_sde", "edm"])
def test_the_numerical_inverse_is_the_closed_form(name, x64):
    made = getattr(schedules, name)()
    t = jnp.linspace(0.05, 0.95, 7)
    logsnr = made(t)
    np.testing.assert_allclose(schedule.Schedule.time(made, logsnr), t, atol=1e-10)
    np.testing.assert_allclose(made.inverse(logsnr), t, atol=1e-10)
    by_slope = schedule.Schedule.rate(made, logsnr)
    np.testing.assert_allclose(made.density(logsnr), by_slope, rtol=1e-7)
    low, high = (float(end) for end in made.ends)
    total, _ = scipy.integrate.quad(lambda v: float(made.density(v)), low, high, limit=200)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    assert float(made.density(low - 1.0)) == float(made.density(high + 1.0)) == 0.0


def test_levels_of_edm_are_a_cut_normal_law(x64):
    made = edm.LogNormal(-1.0, 0.9, 0.01, 20.0)
    low, high = made.cuts
    law = scipy.stats.truncnorm(low, high, loc=-1.0, scale=0.9)
    t = np.linspace(0.0, 1.0, 9)
    np.testing.assert_allclose(-0.5 * made(jnp.asarray(t)), law.ppf(t), rtol=1e-10)


def test_scalings_make_unit_inputs_and_targets(x64):
    """What table 1 of EDM is made for: c_in y and the target of F have variance 1."""
    rng, sigma_data = np.random.default_rng(0), 0.7
    x, noise = sigma_data * rng.normal(size=400_000), rng.normal(size=400_000)
    for sigma in (0.01, 0.5, 30.0):
        c = edm.scalings(sigma, sigma_data)
        y = x + sigma * noise
        np.testing.assert_allclose(np.var(float(c.inside) * y), 1.0, rtol=0.01)
        target = (x - float(c.skip) * y) / float(c.out)
        np.testing.assert_allclose(np.var(target), 1.0, rtol=0.01)
        np.testing.assert_allclose(float(c.weight) * float(c.out) ** 2, 1.0, rtol=1e-12)
        assert float(c.noise) == pytest.approx(math.log(sigma) / 4)


def test_the_best_linear_network_denoises_gaussian_data(x64):
    """F = 0 is the ideal denoiser of normal data of the deviation that is said."""
    denoise = edm.precondition(lambda y, noise: jnp.zeros_like(y), 0.7)
    y = jnp.asarray(draw(3, 2, 2))
    for sigma in (0.1, 2.0):
        shrunk = 0.49 / (0.49 + sigma**2) * y
        np.testing.assert_allclose(denoise(y, sigma), shrunk, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 4])
def test_precision_recall_density_and_coverage_by_neighbours(k):
    fake, real = draw(40, 3), draw(50, 3, seed=1) + 0.5
    radius = {}
    for name, rows in (("fake", fake), ("real", real)):
        nearest = NearestNeighbors(n_neighbors=k + 1).fit(rows)
        radius[name] = nearest.kneighbors(rows)[0][:, -1]
    found = metrics.prdc(fake, real, k)
    inside = [[np.linalg.norm(f - r) <= d for f in fake] for r, d in zip(real, radius["real"])]  # noqa: B905
    other = [[np.linalg.norm(f - r) <= d for r in real] for f, d in zip(fake, radius["fake"])]  # noqa: B905
    inside, other = np.array(inside), np.array(other)
    assert found.precision == pytest.approx(inside.any(axis=0).mean())
    assert found.recall == pytest.approx(other.any(axis=0).mean())
    assert found.density == pytest.approx(inside.sum() / (k * len(fake)))
    assert found.coverage == pytest.approx(inside.any(axis=1).mean())


def test_blocks_of_networks_are_modulated_by_what_they_are_told():
    network = layers.MLP(width=16, depth=1, classes=3)
    z = jnp.asarray(draw(4, 5), "float32")
    params = network.init(jax.random.key(0), z, 0.0, 1)
    moved = lambda leaf: leaf + 0.2 * draw(*leaf.shape, seed=leaf.size)  # noqa: E731
    params = jax.tree.map(moved, params)  # its last layer starts at zero
    plain = network.apply(params, z, jnp.zeros(4), jnp.ones(4, int))
    for logsnr, label in ((3.0, 1), (0.0, 2)):
        other = network.apply(params, z, jnp.full(4, logsnr), jnp.full(4, label))
        assert float(jnp.abs(other - plain).max()) > 1e-3
    one = network.apply(params, z[2:3], jnp.zeros(1), jnp.ones(1, int))
    np.testing.assert_allclose(plain[2:3], one, rtol=1e-4, atol=1e-5)  # examples do not mix


def test_whole_numbers_are_told_from_others():
    for good in (1, np.int64(3), np.uint8(1)):
        schedule.whole("n", good)
    for bad in (0, True, 1.0, "1", None, math.nan, np.float32(2)):
        with pytest.raises(ValueError, match="n: expected a whole number of at least 1, got"):
            schedule.whole("n", bad)


def test_ends_of_ranges_are_met_but_for_rounding():
    exact = schedule.within("t", np.float32(1.0 + 1e-6), 0.0, 1.0)
    assert exact.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"t: expected values in \[0, 1\], got 1\.001"):
        schedule.within("t", [0.5, 1.001], 0.0, 1.0)
    found = jax.jit(lambda t: schedule.within("t", t, 0.0, 1.0))(jnp.array([0.5, 1.5, jnp.nan]))
    np.testing.assert_array_equal(np.isnan(found), [False, True, True])
    assert schedule.within("t", 1, 0, 1).dtype == jnp.result_type(float)


def test_classes_that_a_network_does_not_know_are_no_numbers():
    network = layers.MLP(width=4, depth=1, classes=3)
    z, logsnr, classes = jnp.ones((4, 2)), jnp.zeros(4), jnp.array([0, 3, 4, -1])  # 3 is none
    params = network.init(jax.random.key(0), z, logsnr, classes)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # the last layer starts at zero
    bad = np.isnan(network.apply(params, z, logsnr, classes)).any(axis=1)
    assert bad.tolist() == [False, False, True, True]
