"""Ablations on images: arms that share their seeds, resuming, intervals of pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import catalog, commands
from experiments.diffusion import arms
from experiments.diffusion.networks import NetworkConfig
from experiments.diffusion.noise import NoiseConfig
from experiments.harness import config as configs
from experiments.harness import image_sets, ledger, paired
from experiments.harness.training import TrainingConfig

SHORT = TrainingConfig(steps=2, batch_size=8, weight_decay=0.0, ema=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["schedule_shift", "multi_scale", "architecture"])
def test_ablations_are_paired_and_resume(name, tmp_path, monkeypatch):
    tiny = ["--training.steps", "2", "--training.batch_size", "8", "--training.ema", "0.5"]
    tiny += ["--measuring.samples", "40", "--measuring.steps", "2"]
    tiny += ["--network.width", "4", "--network.depth", "1"]
    config = configs.parse(catalog.get(f"diffusion/{name}").module.PRESETS["quick"], tiny)
    made = catalog.get(f"diffusion/{name}").module.all_arms(config)
    seen = []
    fit = arms.Trainer.__call__
    monkeypatch.setattr(
        arms.Trainer,
        "__call__",
        lambda self, seed: seen.append((self.arm.name, seed)) or fit(self, seed),
    )
    record = commands.run(f"diffusion/{name}", "quick", tiny, tmp_path / "run")
    assert seen == [(arm.name, seed) for arm in made for seed in (0, 1)]
    assert (record.directory / "figure.png").exists()
    for row in record.rows:
        assert row["frechet"] > 0 and row["coarse"] > 0 and row["ms"] > 0
    module = catalog.get(f"diffusion/{name}").module
    for claim in module.CLAIMS:
        measured = claim.measure(record)
        assert measured is None or measured.low <= measured.value <= measured.high
        assert ledger.judge(claim, measured, "quick") in ("matches", "differs", "inconclusive")
    assert module.table(record).count("\n") >= len(made) + 2


@pytest.mark.slow
def test_arms_share_what_a_seed_gives():
    network = NetworkConfig(width=8, depth=1)
    same = [
        arms.Trainer(arms.Arm(name, image_sets.DIGITS, network, noise), SHORT)
        for name, noise in (("a", NoiseConfig()), ("b", NoiseConfig("shifted", base=8)))
    ]
    (first, _), (second, _), (other, _) = same[0](0), same[1](0), same[0](1)
    equal = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), first, second)
    assert all(jax.tree.leaves(equal))  # a shift from 8 to 8 pixels is none
    unequal = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), first, other)
    assert not all(jax.tree.leaves(unequal))


def test_intervals_of_pairs_are_students():
    rng = np.random.default_rng(0)
    b = rng.lognormal(size=8)
    a = b * np.exp(0.5 + 0.1 * rng.normal(size=8))
    from scipy import stats

    expected = stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.95)
    found = paired.ratio(list(a), list(b))
    np.testing.assert_allclose([found.low, found.high], np.exp(expected), rtol=1e-10)
    np.testing.assert_allclose(found.value, stats.gmean(a / b), rtol=1e-12)
    with pytest.raises(ValueError, match="as many on both sides"):
        paired.difference([1.0], [2.0])
    with pytest.raises(ValueError, match="expected positive numbers"):
        paired.ratio([1.0, 0.0], [1.0, 2.0])
