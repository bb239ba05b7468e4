"""The density experiments at tiny sizes: rows, claims, tables and figures; their targets."""

import numpy as np
import pytest
import scipy.integrate

from experiments import catalog, commands
from experiments.fourier_density import kl_vs_parameters, real_line
from experiments.fourier_density.measures import divergence
from experiments.fourier_density.targets import (
    LINE_TARGETS,
    TARGETS,
    line_quadrature,
)

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


CHECKS = {"kl_vs_parameters": check_kl_vs_parameters, "real_line": check_real_line}


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
