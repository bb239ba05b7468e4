"""Upsample guidance: its definition, the theorem on averages, ranges, nesting, bad input."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, layers, pooling, process, samplers, schedules, unet, uvit
from diffusion.upsampling import upsample
from tests.reference import diffusion as reference

SPACES = {1: (12,), 2: (12, 12), 3: (12, 12, 12)}


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def local(xp):
    """A denoiser of eps of neighbouring elements, for arrays of any size, in NumPy or JAX."""

    def eps(z, logsnr):
        level = xp.reshape(xp.asarray(logsnr), (-1,) + (1,) * (z.ndim - 1))
        near = sum(
            xp.roll(z, 1, axis) - 0.3 * xp.roll(z, -1, axis) for axis in range(1, z.ndim - 1)
        )
        return xp.tanh(0.7 * z + 0.2 * near) * (1 + 0.1 * xp.sin(level)) + 0.05 * level

    return eps


def said_as(prediction):
    """The same denoiser, saying x, eps or v."""
    eps = local(jnp)
    return lambda z, logsnr: process.convert(eps(z, logsnr), z, logsnr, "eps", prediction)


def axes_of(k):
    return tuple(range(1, k + 1))


@pytest.mark.sample(2)
@pytest.mark.parametrize("prediction", ["eps", "x", "v"])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("factor", [2, 3])
def test_every_form_is_the_definition(prediction, k, factor, x64):
    z = draw((2, *SPACES[k], 2))
    for logsnr in (-3.0, 0.4, 5.0):
        for w in (0.5, 1.0, 1.2):
            guided = upsample(said_as(prediction), factor, w, prediction, axes_of(k))
            value = guided(jnp.asarray(z), jnp.full(2, logsnr))
            expected = reference.upsample_eps(local(np), z, logsnr, factor, w)
            found = process.convert(value, jnp.asarray(z), logsnr, prediction, "eps")
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("prediction", "wide"), [("eps", True), ("x", True), ("v", True), ("v", False)]
)
@pytest.mark.parametrize(("k", "factor"), [(k, m) for k in (1, 2, 3) for m in (2, 3, 4)])
def test_averages_of_large_samples_are_small_samples(prediction, k, factor, wide):
    """The theorem: D z / sqrt(P) is the trajectory of the small array, through the sampler."""
    with jax.enable_x64(wide):
        n, space = factor**k, SPACES[k]
        z = jnp.asarray(draw((2, *space, 1)), float)
        logsnrs = schedules.cosine(-6.0, 6.0)(jnp.linspace(1.0, 0.0, 9))
        denoiser = said_as(prediction)
        guided = upsample(denoiser, factor, 1.0, prediction, axes_of(k))
        x, path = samplers.sample(guided, z, logsnrs, "ddim", prediction, trajectory=True)

        def small(z, logsnr):
            alpha, sigma = process.alpha_sigma(logsnr)
            return pooling.average(z, factor) / jnp.sqrt(alpha**2 + sigma**2 / n)

        start = small(z, logsnrs[0])
        low, low_path = samplers.sample(
            denoiser, start, logsnrs + np.log(n), "ddim", prediction, trajectory=True
        )
        bound = 1e-10 if wide else 1e-4
        np.testing.assert_allclose(pooling.average(x, factor), low, atol=bound)
        for level, point, expected in zip(logsnrs[:-1], path[:-1], low_path[:-1], strict=True):
            np.testing.assert_allclose(small(point, level), expected, atol=bound)


@pytest.mark.parametrize(
    ("options", "close"),
    [
        ({}, True),
        ({"strength": 0.9}, False),
        ({"match_time": False}, False),
        ({"match_power": False}, False),
    ],
)
def test_the_theorem_needs_both_corrections_and_full_strength(options, close, x64):
    z = jnp.asarray(draw((1, 12, 12, 1)))
    logsnrs = schedules.cosine(-6.0, 6.0)(jnp.linspace(1.0, 0.0, 9))
    guided = upsample(said_as("v"), 2, **options)
    x = samplers.sample(guided, z, logsnrs, "ddim", "v")
    alpha, sigma = process.alpha_sigma(logsnrs[0])
    start = pooling.average(z, 2) / jnp.sqrt(alpha**2 + sigma**2 / 4)
    low = samplers.sample(said_as("v"), start, logsnrs + np.log(4), "ddim", "v")
    assert bool(np.abs(pooling.average(x, 2) - low).max() < 1e-10) == close


def test_no_strength_or_no_factor_changes_nothing():
    z, level = jnp.asarray(draw((2, 4, 4, 1)), jnp.float32), jnp.zeros(2)
    denoiser = said_as("v")
    assert upsample(denoiser, 1) is denoiser
    np.testing.assert_array_equal(upsample(denoiser, 2, 0.0)(z, level), denoiser(z, level))


def test_strengths_and_ranges_act_example_by_example():
    z, denoiser = jnp.asarray(draw((4, 4, 4, 1)), jnp.float32), said_as("v")
    level = jnp.array([-4.0, -1.0, 2.0, 5.0])
    off, on = denoiser(z, level), upsample(denoiser, 2)(z, level)
    cases = (
        ({"interval": (-2.0, 3.0)}, [False, True, True, False]),
        ({"interval": (-np.inf, -1.0)}, [True, True, False, False]),
        ({"trained": (-6.0, 3.0)}, [True, True, False, False]),  # 2 + log 4 is above 3
        ({"strength": jnp.array([0.0, 1.0, 0.0, 1.0])}, [False, True, False, True]),
    )
    for options, expected in cases:
        found = upsample(denoiser, 2, **options)(z, level)
        for i, guided in enumerate(expected):
            np.testing.assert_allclose(found[i], (on if guided else off)[i], atol=1e-6)
    on = upsample(denoiser, 2, match_time=False)(z, level)  # small arrays at the same levels
    found = upsample(denoiser, 2, match_time=False, trained=(-6.0, 3.0))(z, level)
    np.testing.assert_allclose(found, jnp.concatenate([on[:3], off[3:]]), atol=1e-6)
    assert np.abs(on - off).min(axis=(1, 2, 3)).max() > 1e-3


def test_levels_outside_the_trained_range_are_never_shown():
    seen = []

    def denoiser(z, logsnr):
        jax.debug.callback(lambda level: seen.append((z.shape[1], level)), logsnr)
        return z

    upsample(denoiser, 2, trained=(-6.0, 3.0))(jnp.zeros((2, 4, 4, 1)), jnp.array([0.0, 2.9]))
    jax.effects_barrier()
    small = np.concatenate([level for size, level in seen if size == 2])
    np.testing.assert_allclose(small, [np.log(4.0), 3.0], rtol=1e-6)


def test_nothing_small_is_computed_where_guidance_is_off():
    calls = []

    def denoiser(z, logsnr):
        jax.debug.callback(lambda: calls.append(z.shape[1]))
        return z

    guided = jax.jit(upsample(denoiser, 2, interval=(-1.0, 1.0)))
    for level, expected in ((0.0, [2, 4]), (3.0, [4])):
        calls.clear()
        jax.block_until_ready(guided(jnp.zeros((2, 4, 4, 1)), jnp.full(2, level)))
        jax.effects_barrier()
        assert sorted(calls) == expected


def test_it_nests_with_classifier_free_guidance(x64):
    def denoiser(z, logsnr, condition):
        shift = jnp.where(condition < 0, 0.0, 0.3 * condition)[:, None, None, None]
        return local(jnp)(z, logsnr) + shift * jnp.roll(z, 1, 1)

    z, level, label = jnp.asarray(draw((2, 6, 6, 1))), jnp.full(2, 0.5), jnp.array([1, 2])
    outside = guidance.classifier_free(guidance.upsample(denoiser, 2, 1.1, "eps"), 2.0, -1)
    inside = guidance.upsample(guidance.classifier_free(denoiser, 2.0, -1), 2, 1.1, "eps")
    np.testing.assert_allclose(outside(z, level, label), inside(z, level, label), atol=1e-12)


@pytest.mark.slow
def test_discrete_models_are_read_between_their_steps(x64):
    table = schedules.linear_beta(50)

    def network(z, i):
        return local(jnp)(z, table.logsnr(i / 49.0))  # what a network of steps i knows

    denoiser = table.denoiser(network)
    z = jnp.asarray(draw((3, 6, 6, 1)))
    level = jnp.asarray([table.ends[0], 1.234, table.ends[1]])
    np.testing.assert_allclose(denoiser(z, level), local(jnp)(z, level), atol=1e-10)
    beyond = denoiser(z, jnp.full(3, 99.0))
    np.testing.assert_allclose(beyond, local(jnp)(z, jnp.full(3, table.ends[1])), atol=1e-10)
    guided = upsample(denoiser, 2, 1.0, "eps", trained=table.ends)
    expected = reference.upsample_eps(local(np), np.asarray(z), 1.234, 2, 1.0)
    np.testing.assert_allclose(guided(z, jnp.full(3, 1.234)), expected, atol=1e-10)
    top = jnp.full(3, table.ends[1] - 0.1)
    np.testing.assert_array_equal(guided(z, top), denoiser(z, top))


@pytest.mark.parametrize(
    "network", [unet.UNet(8), uvit.UViT(8), layers.MLP(8), layers.Conv(8, (1,))]
)
def test_networks_bound_to_a_size_are_warned_of(network):
    denoiser = functools.partial(network.apply, {})
    if isinstance(network, layers.Conv):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            upsample(denoiser, 2)
        return
    reasons = {uvit.UViT: "positions are learnt", layers.MLP: "a weight for every place"}
    reason = reasons.get(type(network), "group norms")
    with pytest.warns(UserWarning, match=f"may fail there.*{reason}"):
        upsample(denoiser, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: upsample(said_as("v"), 0), "factor: expected a whole number"),
        (lambda: upsample(said_as("v"), 2, 1.0, "score"), "prediction: expected one of"),
        (lambda: upsample(said_as("v"), 2, "v"), "strength: expected a number, got 'v'"),
        (lambda: upsample(said_as("v"), 2, interval=(1.0, 1.0)), "interval: expected a lower"),
        (lambda: upsample(said_as("v"), 2, trained=(1.0, 0.0)), "trained: expected a lower"),
        (lambda: upsample(said_as("v"), 2, trained=(0.0, 1.0)), "trained: expected log-SNR to"),
        (lambda: run((1, 5, 4, 1)), "z: expected sizes that are multiples of 2"),
        (lambda: run((1, 4, 1)), r"spatial_axes: expected \(1,\)"),
        (lambda: run((2, 4, 4, 1), strength=jnp.ones(3)), "strength: expected a number or"),
        (lambda: run((2, 4, 4, 1), strength=jnp.nan), "strength: expected finite numbers, got nan"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def run(shape, **options):
    upsample(said_as("v"), 2, **options)(jnp.zeros(shape), jnp.zeros(shape[0]))
