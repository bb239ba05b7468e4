"""The density experiments at tiny sizes: rows, claims, tables and figures; their targets."""

import jax
import numpy as np
import pytest
import scipy.integrate

from experiments import catalog, commands
from experiments.fourier_density import (
    compression,
    kl_vs_parameters,
    rate_distortion,
    real_line,
)
from experiments.fourier_density.measures import divergence
from experiments.fourier_density.targets import (
    LINE_TARGETS,
    TARGETS,
    line_quadrature,
)
from experiments.harness.errors import UsageError

TINY = {
    "kl_vs_parameters": [
        *("--targets", "tut10", "--orders", "2", "4", "--components", "2", "--corrections", "1"),
        *("--correction_order", "2", "--samples", "500", "--steps", "20", "--batch", "16"),
    ],
    "real_line": [
        *("--targets", "faithful2", "--bases", "tanh", "mixture", "reflect"),
        *("--order", "3", "--samples", "400"),
    ],
    "accuracy": ["--orders", "2", "5", "--points", "200"],
    "compression": [
        *("--hidden", "4", "--order", "2", "--widths", "2", "--tests", "400"),
        *("--weights", "4", "--training.steps", "30", "--training.batch_size", "32"),
    ],
    "rate_distortion": [
        *("--orders", "8", "--slopes", "40", "640", "--quantisers", "16"),
        *("--nodes", "180", "--iterations", "400", "--descent", "100"),
    ],
    "sampling": ["--order", "3", "--cells", "64", "256", "--samples", "1000"],
}


def check_kl_vs_parameters(record):
    """Divergences fall with the order; parameters are counted."""
    rows = [r for r in record.rows if r["target"] == "tut10"]
    kl = {(r["method"], r["parameters"]): r["kl"] for r in rows}
    assert kl["fourier", 8] < kl["fourier", 4]
    others = {("mixture", 5), ("descent", 5), ("corrected", 6), ("deep", 43), ("kernel", 500)}
    assert others < set(kl)
    assert min(kl.values()) > 0
    share = kl_vs_parameters.CLAIMS[0].measure(record)
    assert share.value == float(min(kl["fourier", 4], kl["fourier", 8]) < kl["deep", 43])


def check_real_line(record):
    """Without the base "chosen" there is nothing to compare with the mixture."""
    assert real_line.CLAIMS[0].measure(record) is None
    assert record.result["faithful2_reflect_kl"] > 0


def check_compression(record):
    """No stream of points can be shorter than Shannon's bound at its own error."""
    rows = [row for row in record.rows if "arm" in row]
    assert [row["prior"] for row in rows] == ["fourier", "deep", "logistic"]
    for row in rows:
        assert row["cost"] == pytest.approx(row["rate"] + 4 * row["distortion"], rel=1e-5)
        assert row["coded"] > compression.shannon(row["distortion"])
        assert 0 < row["coded"] - row["rate"] < 2.5  # 400 points bear a frame of some 100 bytes


def check_rate_distortion(record):
    """At steep slopes this mixture meets Shannon's bound; priors of low order need more."""
    best, priors = record.rows
    entropy = rate_distortion.source("tut10", 180).entropy()
    shannon = (entropy - 0.5 * np.log(2 * np.pi * np.e * best["errors"][1])) / np.log(2)
    np.testing.assert_allclose(best["rates"][1], shannon, atol=0.01)
    assert all(excess > 0 for excess in priors["excess"])
    assert min(np.subtract(priors["rates"], best["rates"])) > -0.05
    assert priors["quantisers"]["bits"][0] > priors["quantisers"]["entropy"][0]


CHECKS = {
    "kl_vs_parameters": check_kl_vs_parameters,
    "real_line": check_real_line,
    "compression": check_compression,
    "rate_distortion": check_rate_distortion,
}


@pytest.mark.parametrize("name", TINY)
def test_a_run_has_rows_table_figure_and_measured_claims(name, tmp_path):
    record = commands.run(f"fourier_density/{name}", "quick", TINY[name], tmp_path / name)
    assert record.rows and all(np.isfinite(v) for v in record.result.values() if np.isscalar(v))
    assert (record.directory / "figure.png").stat().st_size > 0
    assert (record.directory / "table.md").read_text().startswith("| ")
    for claim in catalog.get(f"fourier_density/{name}").module.CLAIMS:
        measured = claim.measure(record)  # None where a tiny run does not cover it
        assert measured is None or np.isfinite(measured.value)
    CHECKS.get(name, lambda _: None)(record)


@pytest.mark.parametrize("name", TARGETS)
def test_circle_targets_have_mass_one_and_the_density_of_their_distribution(name):
    target = TARGETS[name]
    x, w = target.quadrature(128)
    np.testing.assert_allclose(np.sum(w * target.prob(x)), 1.0, atol=1e-9)
    below = scipy.integrate.quad(
        lambda t: target.prob(np.array(t)), -1, 0.25, points=(-0.5, -0.4, 0.1), limit=500
    )[0]
    np.testing.assert_allclose(target.cdf(np.array(0.25)), below, atol=1e-7)
    sample = target.sample(np.random.default_rng(0), 4000)
    levels = np.sort(target.cdf(sample))
    ranks = (np.arange(sample.size) + 0.5) / sample.size
    assert np.max(np.abs(levels - ranks)) < 1.95 / np.sqrt(sample.size)


@pytest.mark.parametrize("name", LINE_TARGETS)
def test_line_targets_have_mass_one_and_samples_of_their_distribution(name):
    target = LINE_TARGETS[name]
    y, w = line_quadrature()
    np.testing.assert_allclose(np.sum(w * target.prob(y)), 1.0, atol=1e-8)
    sample = target.sample(np.random.default_rng(0), 4000)
    levels = np.sort(target.cdf(sample))
    assert np.max(np.abs(levels - (np.arange(4000) + 0.5) / 4000)) < 1.95 / np.sqrt(4000)


def test_divergence_of_two_normals_is_the_textbook_value():
    y, w = line_quadrature()
    p = np.exp(-0.5 * y**2) / np.sqrt(2 * np.pi)
    log_q = -0.5 * ((y - 1.0) / 2.0) ** 2 - np.log(2.0 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(divergence(p, log_q, w), np.log(2) + 2 / 8 - 0.5, atol=1e-9)


def test_points_of_the_banana_have_the_moments_of_its_normal_distribution():
    """Turned back they are [z1, z2 - 0.1 z1^2], z ~ N(0, diag(9, 1/4))."""
    x = np.asarray(compression.banana(jax.random.key(0), 200_000), np.float64) - 1.0
    c, s = np.cos(np.deg2rad(240)), np.sin(np.deg2rad(240))
    z = x @ np.array([[c, -s], [s, c]])
    z[:, 1] += 0.1 * z[:, 0] ** 2
    np.testing.assert_allclose(np.cov(z.T), np.diag([9.0, 0.25]), atol=0.06)


def test_blahut_arimoto_finds_the_rate_of_a_normal_source():
    x = np.linspace(-1, 1, 256, endpoint=False)
    p = np.exp(-0.5 * (x / 0.2) ** 2)
    source = rate_distortion.Source(x, p / p.sum())
    prior, bound = rate_distortion.blahut_arimoto(source, 100.0, 3000)
    rate, error = rate_distortion.rate_and_error(source, 100.0, prior)
    np.testing.assert_allclose(error, 1 / 200, rtol=1e-3)
    np.testing.assert_allclose(rate, 0.5 * np.log2(0.2**2 / error), atol=1e-3)
    assert 0 <= rate + 100.0 * error / np.log(2) - bound < 2e-3


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("compression", ["--weights", "0"], "weights"),
        ("compression", ["--order", "0"], "order"),
        ("compression", ["--hidden", "0"], "hidden"),
        ("rate_distortion", ["--targets", "nothing"], "expected some of tut10"),
        ("rate_distortion", ["--orders", "40"], "nodes"),
        ("rate_distortion", ["--slopes", "1e5"], "slopes"),
        ("rate_distortion", ["--quantisers", "1"], "quantisers"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(name, arguments, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        commands.run(f"fourier_density/{name}", "quick", arguments, tmp_path / name)
