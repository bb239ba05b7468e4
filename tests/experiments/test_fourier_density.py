"""The density experiments at tiny sizes: rows, claims, tables and figures; their targets."""

import jax
import numpy as np
import pytest
import scipy.integrate

from experiments import catalog, commands
from experiments.fourier_density import (
    autoregressive,
    compression,
    fourier_head,
    kl_vs_parameters,
    points,
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
    "autoregressive": [
        *("--sources", "banana", "digits", "--heads", "fourier", "mixture", "--tests", "200"),
        *("--model.order", "2", "--model.components", "2", "--model.hidden", "4"),
        *("--training.steps", "20", "--training.batch_size", "16"),
    ],
    "fourier_head": [
        *("--laws", "beta", "--orders", "3", "12", "--samples", "100", "--hidden", "4"),
        *("--training.steps", "20", "--training.batch_size", "16"),
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
    gentle, steep, priors = record.rows
    assert gentle["bound"] < gentle["rate"] + 40 / np.log(2) * gentle["error"]
    entropy = rate_distortion.source("tut10", 180).entropy()
    shannon = (entropy - 0.5 * np.log(2 * np.pi * np.e * steep["error"])) / np.log(2)
    np.testing.assert_allclose(steep["rate"], shannon, atol=0.01)
    assert all(excess > 0 for excess in priors["excess"])
    assert priors["quantisers"]["bits"][0] > priors["quantisers"]["entropy"][0]


def check_autoregressive(record):
    """Heads of equal sizes; densities of the plane have mass one; digits are not yet learnt."""
    rows = {row["arm"]: row for row in record.rows if "arm" in row}
    assert [rows[f"banana, {name}"]["outputs"] for name in ("fourier", "mixture")] == [8, 6]
    image = np.array(rows["banana, fourier"]["map"])
    assert image.shape == (autoregressive.CELLS,) * 2
    area = (2 * autoregressive.REACH / autoregressive.CELLS) ** 2
    assert 0.9 < image.sum() * area < 1.02
    assert rows["banana, mixture"]["nats"] > points.PLANE["banana"].entropy
    bits = rows["digits, fourier"]["nats"] / (64 * np.log(2))
    assert 2.0 < bits < np.log2(17) + 1.0
    assert record.result["histogram"] == pytest.approx(2.4, abs=0.1)


def check_fourier_head(record):
    """The dense layer and both orders, and probabilities that sum to one."""
    rows = {row["arm"]: row for row in record.rows if row.get("seed") == 0}
    assert list(rows) == ["beta, dense", "beta, 3", "beta, 12"]
    assert rows["beta, 3"]["roughness"] < rows["beta, 3"]["true_roughness"]
    np.testing.assert_allclose(np.sum(rows["beta, 3"]["example"], axis=1), 1.0, atol=1e-3)


CHECKS = {
    "autoregressive": check_autoregressive,
    "fourier_head": check_fourier_head,
    "kl_vs_parameters": check_kl_vs_parameters,
    "real_line": check_real_line,
    "compression": check_compression,
    "rate_distortion": check_rate_distortion,
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", TINY)
def test_a_run_has_rows_table_figure_and_measured_claims(name, tmp_path):
    if name == "compression":
        pytest.importorskip("constriction")  # it has no wheel for Linux on ARM
    record = commands.run(f"fourier_density/{name}", "quick", TINY[name], tmp_path / name)
    assert record.rows and all(np.isfinite(v) for v in record.result.values() if np.isscalar(v))
    assert (record.directory / "figure.png").stat().st_size > 0
    assert (record.directory / "table.md").read_text().startswith("| ")
    for claim in catalog.get(f"fourier_density/{name}").module.CLAIMS:
        measured = claim.measure(record)  # None where a tiny run does not cover it
        assert measured is None or np.isfinite(getattr(measured, "value", measured))
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
    x = np.asarray(points.banana(jax.random.key(0), 200_000), np.float64) - 1.0
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
        ("autoregressive", ["--sources", "nothing"], "expected some of moons"),
        ("autoregressive", ["--model.components", "0"], "components"),
        ("autoregressive", ["--heads", "spline", "spline"], "each once"),
        ("fourier_head", ["--bins", "51"], "even"),
        ("fourier_head", ["--variance", "0"], "variance"),
        ("fourier_head", ["--comparison.seeds", "1"], "seeds"),
        ("rate_distortion", ["--targets", "nothing"], "expected some of tut10"),
        ("rate_distortion", ["--orders", "40"], "nodes"),
        ("rate_distortion", ["--slopes", "1e5"], "slopes"),
        ("rate_distortion", ["--quantisers", "1"], "quantisers"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(name, arguments, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        commands.run(f"fourier_density/{name}", "quick", arguments, tmp_path / name)


@pytest.mark.parametrize("name", points.PLANE)
def test_entropies_of_laws_of_the_plane(name):
    """Where there is a formula: of a histogram with fine cells, which errs little."""
    plane = points.PLANE[name]
    x = np.asarray(plane.draw(jax.random.key(0), 400_000), np.float64)
    assert x.shape == (400_000, 2) and np.isfinite(x).all() and np.abs(x).max() < 25
    if plane.entropy is not None:
        counts, *edges = np.histogram2d(*x.T, bins=160)
        p = counts[counts > 0] / len(x)
        cell = np.prod([np.diff(edge)[0] for edge in edges])
        assert -np.sum(p * np.log(p)) + np.log(cell) == pytest.approx(plane.entropy, abs=0.06)


def test_samples_of_the_checkerboard_are_on_its_squares():
    x = np.asarray(points.PLANE["checkerboard"].draw(jax.random.key(1), 1000))
    assert np.all(np.floor(x).sum(1) % 2 == np.floor(x).sum(1)[0] % 2)
    assert np.abs(x).max() <= 2


@pytest.mark.parametrize("law", fourier_head.LAWS)
def test_masses_of_bins_are_frequencies_of_samples(law):
    """On average over x and y."""
    rows = fourier_head.sample(law, 60_000, 0.01, 3)
    exact = fourier_head.masses(law, rows, 20, 0.01)
    np.testing.assert_allclose(exact.sum(1), 1.0, atol=1e-12)
    hits = np.bincount(fourier_head.bin_of(rows[:, 2], 20), minlength=20)
    np.testing.assert_allclose(hits / len(rows), exact.mean(0), atol=0.005)


def test_roughness_is_zero_for_uniform_probabilities_and_that_of_its_formula():
    uniform = np.full((1, 12), 1 / 12)
    np.testing.assert_allclose(fourier_head.roughness(uniform), 0.0, atol=1e-12)
    p = np.random.default_rng(0).dirichlet(np.ones(12), 3)
    offsets, expected = np.arange(-11, 12), 0.0
    for sigma in range(1, 101):
        g = np.exp(-0.5 * (offsets / sigma) ** 2)
        smooth = sum(w * np.roll(p, o, axis=1) for w, o in zip(g / g.sum(), offsets, strict=True))
        expected += 6 / (np.pi * sigma) ** 2 * np.sqrt(np.sum((p - smooth) ** 2, axis=1))
    np.testing.assert_allclose(fourier_head.roughness(p), expected, rtol=1e-10)
