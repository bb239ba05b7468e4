"""Experiments on diffusion: what they record, what they refuse, and the claims on exact laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import catalog, commands
from experiments.diffusion import classifier, denoising, guidance, likelihood, samplers, snr
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import config as configs
from experiments.harness import image_sets, training
from experiments.harness.ledger import judge
from experiments.harness.run import Run

KEY = jax.random.fold_in(jax.random.key(0), 0)
TINY = ["--training.steps", "4", "--training.eval_every", "4", "--training.batch_size", "16"]
TINY += ["--network.width", "8", "--network.depth", "1"]


def verdicts(name, record):
    claims = catalog.get(name).claims
    return {claim.id: judge(claim, claim.measure(record), "quick") for claim in claims}


@pytest.mark.slow
def test_pooling_gains_what_the_law_says(tmp_path):
    record = commands.run("diffusion/snr", "quick", ["--elements", "65536"], tmp_path / "run")
    assert len(record.rows) == 12
    for k in (1, 2, 3):
        slope, error = record.result[f"slope_{k}d"]
        assert abs(slope - k) < 4 * error + 1e-3
    images = {name: np.array(rows) for name, rows in record.result["images"].items()}
    assert {rows.shape for rows in images.values()} == {(6, 8, 8, 1)}
    # The pooled large images are nearer to the small ones with less noise.
    clean = image_sets.load(image_sets.DIGITS).test[:6]
    like = {name: np.corrcoef(rows.ravel(), clean.ravel())[0, 1] for name, rows in images.items()}
    assert like["pooled"] > like["small"] + 0.1 and like["shifted"] > like["small"] + 0.1
    assert (record.directory / "figure.png").stat().st_size > 0


@pytest.mark.slow
def test_samplers_have_their_orders_on_a_mixture(tmp_path):
    options = [*TINY, "--methods", "ddim", "dpmpp_2m", "edm euler", "edm heun"]
    options += ["--calls", "17", "33", "65", "129", "--exact_steps", "512", "--samples", "80"]
    record = commands.run("diffusion/samplers", "quick", options, tmp_path / "run")
    assert len(record.result["mixture"]) == len(record.result["images"]) == 16
    found = verdicts("diffusion/samplers", record)
    assert found["samplers.euler"] == "matches" and found["samplers.better"] == "matches"
    # With so few samples the slope of three points is not sharper than this.
    order = samplers._order(record, "edm heun")
    assert 1.7 < order.value < 2.5
    row = record.result["images"][0]
    assert row["n"] == 80 and row["floor"] < row["ceilings"]["noise"]
    assert np.array(record.result["grid"]).shape == (40, 8, 8, 1)
    assert "| edm heun | 129 |" in (record.directory / "table.md").read_text()


@pytest.mark.slow
def test_bounds_are_those_of_normal_laws(tmp_path):
    options = [*TINY, "--repeats", "100", "--draws", "4"]
    record = commands.run("diffusion/likelihood", "quick", options, tmp_path / "run")
    found = verdicts("diffusion/likelihood", record)
    assert found["likelihood.gap"] == "matches"
    assert found["likelihood.times"] == "matches"
    for row in record.result["laws"]:
        value, half = row["bound"]
        assert abs(value - row["analytic"]) < 3 * half
    bits = record.result["images"]["bits"]
    parts = [bits[name][0] for name in ("prior", "reconstruction", "diffusion")]
    assert bits["total"][0] == pytest.approx(sum(parts), rel=1e-6)
    # A model that knows nothing pays more than independent pixels.
    assert found["likelihood.better"] == "differs"


@pytest.mark.slow
def test_guidance_sharpens_an_exact_law(tmp_path):
    record = commands.run("diffusion/guidance", "quick", TINY, tmp_path / "run")
    found = verdicts("diffusion/guidance", record)
    assert found["guidance.law"] == "matches"
    rows = {(r["scale"], r["limited"]): r for r in record.result["law"]}
    assert rows[0.0, False]["right"] < 0.25 < 0.8 < rows[1.0, False]["right"]
    assert rows[1.0, False] | {"limited": True} == rows[1.0, True]
    assert len(record.result["images"]) == 8 and (record.directory / "figure.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["samplers", "guidance", "likelihood"])
def test_paper_presets_run_two_steps_at_reduced_width(name, tmp_path):
    module = catalog.get(f"diffusion/{name}").module
    small = ["--training.steps", "2", "--training.batch_size", "8", "--network.width", "4"]
    small += ["--network.depth", "2", "--data.name", "digits"]
    small += {
        "samplers": ["--calls", "5", "--samples", "80", "--exact_steps", "8"],
        "guidance": ["--steps", "4", "--samples", "40", "--scales", "0", "1", "2"],
        "likelihood": ["--draws", "2", "--repeats", "4", "--batch", "4"],
    }[name]
    config = configs.parse(module.PRESETS["paper"], small)
    assert config.network.kind == "conv"
    with Run(f"diffusion/{name}", "paper", config, tmp_path / "run") as run:
        assert np.isfinite(module.main(config, run)["validation_v_error"])


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["conv", "unet", "uvit"])
def test_every_kind_of_network_trains(kind, tmp_path):
    options = [*TINY, "--network.kind", kind, "--steps", "3", "--samples", "20"]
    config = configs.parse(guidance.PRESETS["quick"], options)
    images = image_sets.load(image_sets.DIGITS)
    problem = denoising.make_problem(config.network, images, guidance.SCHEDULE, config.training)
    with Run("diffusion/guidance", "quick", config, tmp_path / "run") as run:
        state = training.train(problem, config.training, run)
        last = run.tracker.rows()[-1]["validation_v_error"]
    assert 0 < last < 2
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, problem.init(KEY))
    assert max(jax.tree.leaves(moved)) > 1e-5


@pytest.mark.slow
def test_many_images_are_seen_in_pieces(monkeypatch):
    network = NetworkConfig(width=8, depth=1, classes=3)
    z = jnp.asarray(np.random.default_rng(0).normal(size=(7, 8, 8, 1)), jnp.float32)
    level, label = jnp.linspace(-2.0, 2.0, 7), jnp.arange(7) % 3
    params = denoising.make_init(network, (8, 8, 1))(jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), params)
    whole = denoising.denoiser(network)(params, z, level, label)
    monkeypatch.setattr(denoising, "CHUNK", 3)
    for condition in (label, None):
        pieces = denoising.denoiser(network)(params, z, level, condition)
        assert pieces.shape == z.shape
        assert (np.abs(pieces - whole).max() < 1e-4) == (condition is not None)


@pytest.mark.slow
def test_a_denoiser_learns_and_the_classifier_knows_digits():
    images = image_sets.load(image_sets.DIGITS)
    assert images.train.shape == (1500, 8, 8, 1) and images.train.min() == -1.0
    assert denoising.grey(images.test[:2], 17) == np.round((images.test[:2] + 1) * 8).tolist()
    judge_ = classifier.train()
    assert judge_.accuracy > 0.88
    assert judge_.features(images.test).shape == (297, 32)
    assert judge_.confidence(images.test, images.test_labels).mean() > 0.8
    tiled = denoising.tile(np.zeros((7, 4, 4, 1)), 17, 3)
    assert tiled.shape == (14, 14, 3) and tiled[:, 4].min() == 1.0 and tiled[0, 0, 0] == 0.0
    assert tiled[10:, 5:].min() == 1.0 and tiled[10:, :4].max() == 0.0  # one in the last row


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: snr.Config(dimensions=(4,)), "dimensions: expected some of 1, 2, 3"),
        (lambda: snr.Config(factors=(2,)), "factors: expected at least two"),
        (lambda: snr.Config(images=0), "elements, enlarged, images: expected at least 1"),
        (lambda: samplers.Config(methods=("rk4",)), "methods: expected some of .*'rk4'"),
        (lambda: samplers.Config(calls=(2,)), "calls: expected at least 3"),
        (lambda: samplers.Config(samples=5), "samples, exact_steps: expected at least"),
        (lambda: likelihood.Config(variances=(0.0,)), "variances: expected positive numbers"),
        (lambda: likelihood.Config(batch=3), "draws, batch, repeats: expected at least 2"),
        (lambda: likelihood.Config(logsnr_min=20.0), "logsnr_min, logsnr_max: expected finite"),
        (lambda: guidance.Config(scales=(2.0, 3.0)), "scales: expected at least two, 1 among"),
        (lambda: guidance.Config(interval=(1.0, 0.0)), "interval: expected a lower and a higher"),
        (lambda: guidance.Config(modes=1), "steps, samples, modes: expected at least 2, 20"),
        (
            lambda: guidance.Config(network=NetworkConfig()),
            "network.classes: expected a number of classes",
        ),
        (lambda: NetworkConfig(drop=2.0), "network.width, depth, drop: expected"),
        (
            lambda: NetworkConfig("unet", fourier=(2,)),
            "network.fourier: expected none for unet",
        ),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
