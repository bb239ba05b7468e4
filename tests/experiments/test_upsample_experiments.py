"""Upsample guidance in experiments: the exact field against matrices, and its claims."""

import numpy as np
import pytest

from experiments import catalog, commands
from experiments.diffusion import arms, upsample, upsample_exact
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import config as configs
from tests.reference import diffusion as reference

ENDS = (-8.0, 8.0)
SMALL = ["--size", "24", "--factor", "3", "--steps", "12", "--decay", "1.5"]
SMALL += ["--logsnr_min", "-8", "--logsnr_max", "8", "--cuts", "0.5"]
SMALL += ["--strengths", "0.5", "1.0", "1.3"]


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


def test_every_way_of_enlarging_is_measured(tmp_path):
    record = commands.run("diffusion/upsample", "quick", TINY, tmp_path / "run")
    names = arms.names(record)
    assert names[:3] == ["nearest of real", "nearest of small", "naive"] and len(names) == 8
    assert len(record.rows) == 2 * 8 and (record.directory / "figure.png").exists()
    grids = {row["arm"]: np.array(row["grid"]) for row in record.rows if row["seed"] == 0}
    enlarged = grids["nearest of small"]
    np.testing.assert_array_equal(enlarged[:, ::2, ::2], enlarged[:, 1::2, 1::2])
    assert not np.array_equal(grids["w = 1"][:, ::2], grids["w = 1"][:, 1::2])
    assert not np.array_equal(grids["w = 1"], grids["naive"])
    for claim in catalog.get("diffusion/upsample").claims:
        measured = claim.measure(record)
        assert measured.low <= measured.value <= measured.high
    record = commands.run("diffusion/upsample", "quick", TINY, tmp_path / "run")  # again: nothing
    assert len(record.rows) == 2 * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 1}, "small, factor, seeds: expected at least 2"),
        ({"strengths": (0.5,)}, "strengths: expected 1 among them"),
        ({"cut": 0.0}, "cut, samples, steps: expected in"),
        ({"network": NetworkConfig()}, "network: expected one without classes that takes images"),
    ],
)
def test_impossible_settings_of_enlarging_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        upsample.Config(**options)
