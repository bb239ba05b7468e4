"""Upsample guidance in experiments: the exact field against matrices, pixels, latents."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import latent as latents
from diffusion import process
from experiments import catalog, commands
from experiments.diffusion import enlarging, first_stage, latent, upsample, upsample_exact
from experiments.diffusion.first_stage import AutoencoderConfig
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import by_arm, image_sets
from experiments.harness import config as configs
from tests.reference import diffusion as reference

ENDS = (-8.0, 8.0)
SMALL = ["--size", "24", "--factor", "3", "--steps", "12", "--decay", "1.5"]
SMALL += ["--logsnr_min", "-8", "--logsnr_max", "8", "--cuts", "0.5"]
SMALL += ["--strengths", "0.5", "1.0", "1.3"]


@pytest.mark.slow
def test_every_distance_is_that_of_matrices(tmp_path):
    record = commands.run("diffusion/upsample_exact", "quick", SMALL, tmp_path / "run")
    result = record.result

    def expected(**options):
        return reference.field_distances(24, 3, 1.5, 12, ENDS, **options)

    for w, value in zip((0.5, 1.0, 1.3), result["strengths"], strict=True):
        np.testing.assert_allclose(value, expected(strength=w)[0], rtol=1e-6)
    np.testing.assert_allclose(result["naive"], expected(strength=0.0)[0], rtol=1e-6)
    np.testing.assert_allclose(result["averages"], expected()[1], rtol=1e-6)
    np.testing.assert_allclose(result["cuts"][0], expected(eta=0.5)[0], rtol=1e-6)
    for name, options in (
        ("no time", {"time": False}),
        ("no power", {"power": False}),
        ("neither", {"time": False, "power": False}),
    ):
        np.testing.assert_allclose(result["ablations"][name], expected(**options)[0], rtol=1e-6)
    assert (record.directory / "figure.png").exists()


@pytest.mark.sample(1)
@pytest.mark.parametrize("dimensions", ["1", "2"])
def test_guidance_beats_both_alternatives(dimensions, tmp_path):
    options = ["--dimensions", dimensions, "--strengths", "0.5", "1.0", "1.5", "--cuts", "0.5"]
    options += ["--size", "32" if dimensions == "1" else "8", "--steps", "60"]
    record = commands.run("diffusion/upsample_exact", "quick", options, tmp_path / "run")
    result = record.result
    assert result["perfect"] < result["strengths"][1] < min(result["naive"], result["nearest"])
    claims = {claim.id: claim for claim in catalog.get("diffusion/upsample_exact").claims}
    assert claims["upsample_exact.strength"].measure(record) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 1}, "size, factor: expected a multiple"),
        ({"size": 33}, "size, factor: expected a multiple"),
        ({"dimensions": 3}, "dimensions, decay, steps: expected 1 or 2"),
        ({"strengths": (0.5, 2.0, 3.0)}, "strengths: expected at least 3, 1 among them"),
        ({"cuts": (1.0,)}, "cuts: expected shares between 0 and 1"),
        ({"logsnr_min": 20.0}, "logsnr_min, logsnr_max"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        upsample_exact.Config(**options)
    configs.parse(upsample_exact.PRESETS["quick"], SMALL)


TINY = ["--training.steps", "2", "--training.batch_size", "8", "--training.ema", "0.5"]
TINY += ["--samples", "24", "--steps", "4", "--network.width", "4", "--network.depth", "1"]


def ratio(record, above, below, metric):
    """Geometric mean over seeds, from the rows."""
    logs = [
        np.mean([np.log(row[metric]) for row in record.rows if row["arm"] == arm])
        for arm in (above, below)
    ]
    return np.exp(logs[0] - logs[1])


@pytest.mark.slow
def test_every_way_of_enlarging_is_measured(tmp_path):
    record = commands.run("diffusion/upsample", "quick", TINY, tmp_path / "run")
    names = by_arm.names(record)
    assert names[:3] == ["nearest of real", "nearest of small", "naive"] and len(names) == 8
    assert len(record.rows) == 2 * 8 and (record.directory / "figure.png").exists()
    grids = {row["arm"]: np.array(row["grid"]) for row in record.rows if row["seed"] == 0}
    enlarged = grids["nearest of small"]
    np.testing.assert_array_equal(enlarged[:, ::2, ::2], enlarged[:, 1::2, 1::2])
    assert not np.array_equal(grids["w = 1"][:, ::2], grids["w = 1"][:, 1::2])
    assert not np.array_equal(grids["w = 1"], grids["naive"])
    claims = {claim.id: claim for claim in catalog.get("diffusion/upsample").claims}
    assert claims["upsample.naive_w2"].measure(record).value == pytest.approx(
        ratio(record, "naive", "w = 1", "sliced_w2")
    )
    assert claims["upsample.power"].measure(record).value == pytest.approx(
        ratio(record, "w = 1, no power", "w = 1", "frechet")
    )
    record = commands.run("diffusion/upsample", "quick", TINY, tmp_path / "run")  # again: nothing
    assert len(record.rows) == 2 * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 1}, "small, factor, seeds: expected at least 2"),
        ({"strengths": (0.5,)}, "strengths: expected 1 among them"),
        ({"cut": 0.0}, "cut: expected in"),
        ({"network": NetworkConfig()}, "network: expected one without classes that takes images"),
    ],
)
def test_impossible_settings_of_enlarging_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        upsample.Config(**options)


def test_guidance_in_v_is_that_in_eps_and_ends_where_it_should():
    def network(params, z, logsnr):
        return params * jnp.tanh(z + jnp.roll(z, 1, 1))

    z, logsnr = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.array([-1.0, 2.0])
    settings = {"strength": 1.3, "interval": (-np.inf, 1.0)}
    found = enlarging.guided(network, 2, None, settings)(0.7, z, logsnr)
    expected = upsample_v(lambda z, logsnr: network(0.7, z, logsnr), z, logsnr, 1.3)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], network(0.7, z, logsnr)[1], rtol=1e-4, atol=1e-5)


def upsample_v(denoiser, z, logsnr, w):
    """By the definition in eps, in NumPy."""

    def eps(z, logsnr):
        z, logsnr = jnp.asarray(z), jnp.full(len(z), logsnr)
        return np.asarray(process.convert(denoiser(z, logsnr), z, logsnr, "v", "eps"))

    each = [
        reference.upsample_eps(eps, np.asarray(z[i : i + 1]), float(logsnr[i]), 2, w)
        for i in range(len(z))
    ]
    value = jnp.asarray(np.concatenate(each), jnp.float32)
    return process.convert(value, z, logsnr, "eps", "v")


LATENT = ["--first.steps", "2", "--first.batch_size", "8", "--network.width", "4"]
LATENT += ["--training.steps", "2", "--training.batch_size", "8", "--training.ema", "0.5"]
LATENT += ["--samples", "24", "--steps", "4", "--autoencoder.channels", "4"]


@pytest.mark.slow
def test_latent_diffusion_is_measured_at_both_sizes(tmp_path):
    record = commands.run("diffusion/latent", "quick", LATENT, tmp_path / "run")
    names = by_arm.names(record)
    assert names[:4] == [
        f"latent, {n}" for n in ("nearest of small", "naive", "eta = 0.6", "eta = 1")
    ]
    assert names[4:] == [f"pixel, {n}" for n in ("nearest of small", "naive", "eta = 1")]
    assert len(record.rows) == 2 * 7 and (record.directory / "figure.png").exists()
    grids = {row["arm"]: np.array(row["grid"]) for row in record.rows if row["seed"] == 0}
    assert all(grid.shape == (8, 16, 16, 1) for grid in grids.values())
    assert not np.array_equal(grids["latent, eta = 1"], grids["latent, eta = 0.6"])
    result = record.result
    assert result["commutation"] > 0 and set(result["small"]) == set(result["large"])
    claims = {claim.id: claim for claim in catalog.get("diffusion/latent").claims}
    assert claims["latent.cut"].measure(record).value == pytest.approx(
        ratio(record, "latent, eta = 1", "latent, eta = 0.6", "frechet")
    )
    record = commands.run("diffusion/latent", "quick", LATENT, tmp_path / "run")  # again: nothing
    assert len(record.rows) == 2 * 7


def test_diffusion_of_pixels_has_the_operations_of_both_stages():
    config = configs.parse(latent.PRESETS["quick"], ["--first.steps", "500"])
    programs = latent.programs(config)
    cost = {name: latent._operations(p) * p.calls for name, p in programs.items()}
    both = cost["autoencoder step"] + cost["encoding"] + cost["latent step"]
    one = cost["pixel step"] / programs["pixel step"].calls
    assert abs(cost["pixel step"] - both) <= 0.5 * one
    assert programs["autoencoder step"].calls == 500


@pytest.mark.slow
def test_the_first_stage_learns_and_its_latents_are_normalised():
    data = dataclasses.replace(image_sets.DIGITS, size=8)
    images = image_sets.load(data)
    config = AutoencoderConfig(8, blocks=0, latent=2)
    settings = latent.PRESETS["quick"].first
    stage = first_stage.train(config, images, settings)
    real = images.test[:50]
    through = stage.decode(stage.encode(real))
    assert np.mean((real - through) ** 2) < 0.5 * np.mean((real - real.mean(0)) ** 2)
    z = stage.latents(dataclasses.replace(images, source=lambda chosen: 1 / 0, count=10**6))
    assert z.batch(np.arange(3))["x"].shape == (3, 4, 4, 2) and z.count == 1500
    assert z.train.shape == (1500, 4, 4, 2) and z.test.shape == (297, 4, 4, 2)
    np.testing.assert_allclose(z.train.std(), 1.0, rtol=1e-4)
    one = stage.network.apply(stage.params, jnp.asarray(real[:1]), method="encode")
    assert isinstance(one, latents.Posterior)
    expected = stage.normalisation.normalise(one.mode())
    np.testing.assert_allclose(stage.encode(real)[:1], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 1}, "small, factor, seeds: expected at least 2"),
        ({"small": 9}, "small: expected a multiple of 2, pixels a side of a latent"),
        ({"etas": (0.5,)}, "etas: expected shares that rise"),
        ({"etas": (0.8, 0.6, 1.0)}, "etas: expected shares that rise"),
        ({"samples": 3}, "samples, steps: expected at least 20 and 2"),
        ({"network": NetworkConfig()}, "network: expected one without classes that takes images"),
    ],
)
def test_impossible_settings_of_latent_diffusion_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        latent.Config(**options)
    with pytest.raises(ValueError, match=r"autoencoder.multipliers, beta: expected at least two"):
        AutoencoderConfig(multipliers=(1,))
    with pytest.raises(ValueError, match=r"autoencoder.channels, latent"):
        AutoencoderConfig(latent=0)
