"""Ablations of attention: paired arms, tuning, resuming, equal sizes, verdicts, recall, mixers."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention import GroupedConfig, LatentConfig, TiedConfig, TransformerConfig
from experiments import catalog, commands
from experiments.attention import ablation, arms, recall, verdicts, what_makes_mla_good
from experiments.attention.arms import Arm
from experiments.attention.recall import TaskConfig
from experiments.harness import by_arm, comparison, ledger, recorded, seeds, training
from experiments.harness.comparison import Comparison
from experiments.harness.corpora import CorpusConfig
from experiments.harness.errors import ExperimentError, Interrupted, NonFiniteError
from experiments.harness.ledger import Measurement
from experiments.harness.run import Run
from experiments.harness.training import TrainingConfig

TINY = [
    *("--training.steps", "3", "--training.batch_size", "4", "--training.eval_every", "3"),
    *("--training.checkpoint_every", "3"),
]
RATED = TrainingConfig(learning_rate=1e-2)
SMALL = ["--sizes.d_model", "16", "--sizes.context", "8", "--sizes.n_layers", "1", "--windows", "4"]
OPTIONS = {
    "ablation": [*TINY, *SMALL, "--sizes.cache", "16"],
    "what_makes_mla_good": [*TINY, *SMALL, "--sizes.unit", "4"],
    "recall": [*TINY, "--d_model", "16", "--examples", "8"],
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A tiny run of every ablation."""
    folder = tmp_path_factory.mktemp("ablations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEXUE_CACHE_DIR", str(folder / "cache"))
        return {
            name: commands.run(f"attention/{name}", "quick", options, folder / name)
            for name, options in OPTIONS.items()
        }


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_ablations_are_paired_drawn_and_judged(records, name):
    record, module = records[name], catalog.get(f"attention/{name}").module
    names = by_arm.names(record)
    assert len(names) >= 5
    rows = [row for row in record.rows if "arm" in row]
    assert [(row["arm"], row["seed"]) for row in rows] == [(a, s) for a in names for s in (0, 1)]
    assert not (record.directory / "parts").exists()
    assert (record.directory / "figure.png").stat().st_size > 10_000
    table = module.table(record)
    for arm in names:
        assert arm.split(", ")[-1] in table
    assert "inconclusive" in table and "2 paired seeds" in table
    for claim in module.CLAIMS:
        measured = claim.measure(record)
        if isinstance(measured, Measurement):
            assert measured.low <= measured.value <= measured.high
            verdict = ledger.judge(claim, measured, "quick")
            assert verdict in ("matches", "differs", "inconclusive")
    about = module.describe(module.PRESETS["paper"])
    assert "in all" in about["trainings"] and "M tokens" in about["training"]


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_identities_hold_in_the_smallest_run(records, name):
    module = catalog.get(f"attention/{name}").module
    for claim in module.CLAIMS:
        if claim.kind == "identity":
            value = claim.measure(records[name])
            exact = Measurement(value, value, value)
            assert ledger.judge(claim, exact, "quick") == "matches", (claim.id, value)


ARMS = [
    Arm(name, TransformerConfig(16, 1, GroupedConfig(8, 2, groups), d_ff=8))
    for name, groups in (("two", 2), ("one", 1))
]


def quadratic(arm, settings):
    """A problem in one number, whose best rate depends on the arm."""
    curvature = 1.0 if arm.name == "one" else 100.0

    def loss(params, batch, _):
        return curvature * jnp.mean((params["w"] - batch) ** 2) + params["w"] ** 2, {}

    return training.Problem(
        init=lambda key: {"w": jax.random.normal(key)},
        loss=loss,
        batch=lambda step: np.full(4, settings.seed + step, np.float32),
        evaluate=lambda params: {"found": float(params["w"] ** 2)},
    )


SHORT = TrainingConfig(steps=3, batch_size=4, warmup=0, clip=None, eval_every=3)
GRID = Comparison(seeds=2, rates=(1e-3, 1e-1, 1e30))


@dataclasses.dataclass(frozen=True)
class Config:
    training: TrainingConfig = SHORT


def compare(run, how):
    """Rows of both arms."""
    return arms.run_all(ARMS, quadratic, run.config.training, how, "found", run)


@pytest.mark.slow
def test_learning_rates_are_chosen_arm_by_arm_on_other_seeds(tmp_path, monkeypatch):
    numbers, train = [], seeds.train

    def counted(make, settings, some, part, vectorised=None):
        numbers.append((settings.learning_rate, tuple(some)))
        return train(make, settings, some, part, vectorised)

    monkeypatch.setattr(seeds, "train", counted)
    with Run("test/compare", "quick", Config(), tmp_path / "run") as run:
        rows = compare(run, GRID)
        record = recorded.Record(run.directory, run.data, rows)
    tried = [row for row in rows if "tuned" in row]
    assert [(row["tuned"], row["tried"]) for row in tried] == [
        (arm, rate) for arm in ("two", "one") for rate in (1e-3, 1e-1, 1e30)
    ]
    assert {row["mean"] for row in tried if row["tried"] == 1e30} == {None}  # diverged
    for arm in by_arm.names(record):
        means = comparison.tuned(rows, arm)
        assert {row["rate"] for row in rows if row.get("arm") == arm} == {
            min(means, key=means.__getitem__)
        }
    assert {some for rate, some in numbers[:3]} == {(1000,)} and numbers[3][1] == (0, 1)
    rates = {row["arm"]: row["rate"] for row in rows if "arm" in row}
    assert comparison.at_an_end(rows, GRID.rates) == [a for a in rates if rates[a] in (1e-3, 1e30)]
    assert comparison.at_an_end(rows, (1e-3,)) == []  # a single rate has no ends
    assert not (run.directory / "parts").exists()


def test_no_finite_rate_is_an_error(tmp_path):
    words = "two: expected a finite loss at one of the rates"
    run = Run("test/compare", "quick", Config(), tmp_path / "run")
    with run, pytest.raises(NonFiniteError, match=words):
        compare(run, Comparison(seeds=2, rates=(1e29, 1e30)))


def test_divergence_in_the_comparison_names_arm_and_rate(tmp_path):
    run = Run("test/compare", "quick", Config(), tmp_path / "run")
    with run, pytest.raises(NonFiniteError, match=r"two, rate 1e\+30: .* out of comparison.rates"):
        compare(run, Comparison(seeds=2, rates=(1e30,)))
    assert not list((run.directory / "parts").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("vectorised", [True, False])
def test_seeds_at_once_or_apart_are_those_in_turn(tmp_path, vectorised):
    found = []
    for how in (None, vectorised):
        comparison = dataclasses.replace(GRID, vectorised=how)
        with Run("test/compare", "quick", Config(), tmp_path / f"{how}") as run:
            found.append(compare(run, comparison))
    for one, other in zip(*found, strict=True):
        numbers = {name for name, value in one.items() if isinstance(value, float)}
        assert {n: one[n] for n in one.keys() - numbers} == {
            n: other[n] for n in one.keys() - numbers
        }
        assert [other[n] for n in numbers] == pytest.approx([one[n] for n in numbers], rel=1e-5)


@pytest.mark.slow
def test_a_run_that_was_stopped_trains_the_rest_only(tmp_path, monkeypatch):
    trained, train = [], seeds.train

    def counted(make, settings, numbers, part, vectorised=None):
        trained.append(part.directory.name)
        return train(make, settings, numbers, part, vectorised)

    monkeypatch.setattr(seeds, "train", counted)
    with Run("test/compare", "quick", Config(), tmp_path / "whole") as run:
        whole = compare(run, GRID)
    assert len(trained) == len(set(trained)) == 8
    for count in (2, 4):
        trained.clear()
        run = Run("test/compare", "quick", Config(), tmp_path / f"run {count}")

        def check_stop(count=count):
            if len(trained) == count:
                raise Interrupted("stopped")

        monkeypatch.setattr(run, "check_stop", check_stop)
        with run, pytest.raises(Interrupted):
            compare(run, GRID)
        with Run("test/compare", "quick", Config(), tmp_path / f"run {count}") as run:
            assert compare(run, GRID) == whole
        assert len(trained) == len(set(trained)) == 8


def test_another_text_is_refused_on_resume(tmp_path):
    text = tmp_path / "mine.txt"
    data = CorpusConfig(path=str(text))
    for words in ("one text of some length, ", "another text of some length, "):
        text.write_text(words * 200)
        with Run("test/compare", "quick", Config(), tmp_path / "run") as run:
            if words.startswith("one"):
                arms.on_text(data, 8, 4, run)
                continue
            with pytest.raises(ExperimentError, match="text has changed"):
                arms.on_text(data, 8, 4, run)


@pytest.mark.parametrize("preset", ablation.PRESETS)
def test_arms_have_equal_parameters_and_caches(preset):
    config = ablation.PRESETS[preset]
    every = {arm.name: arm for arm in ablation.all_arms(config)}
    sizes = [arms.parameters(arm) for arm in every.values()]
    assert max(sizes) / min(sizes) < 1.005
    for name in config.sizes.equal_caches():
        assert arms.cache_elements(every[name]) == config.sizes.cache
    wide = config.sizes.d_model // config.sizes.n_heads
    by_hand = {"MHA": 2 * config.sizes.d_model, "MQA": 2 * wide, "MLA": 4.5 * wide}
    for name, exact in by_hand.items():
        assert arms.cache_elements(every[name]) == exact


def test_paper_presets_have_the_sizes_they_name():
    for preset, millions in (("paper", 110), ("paper_1b", 870)):
        arm = ablation.all_arms(ablation.PRESETS[preset])[0]
        assert arms.parameters(arm) == pytest.approx(millions * 1e6, rel=0.02)


def test_the_rows_of_the_post_have_its_dimensions():
    every = {
        arm.name: arm for arm in what_makes_mla_good.all_arms(what_makes_mla_good.PRESETS["paper"])
    }
    assert list(every) == list(what_makes_mla_good.POST)
    mixer = every["GQA2-(192+64)-S1"].decoder.mixer
    assert isinstance(mixer, TiedConfig) and (mixer.nope_dim, mixer.rope_dim) == (192, 64)
    mixer = every["MLA-256"].decoder.mixer
    assert isinstance(mixer, LatentConfig)
    assert (mixer.nope_dim, mixer.rope_dim, mixer.value_dim, mixer.latent_dim) == (
        192,
        64,
        256,
        512,
    )
    mixer = every["GQA1-256-PR"].decoder.mixer
    assert isinstance(mixer, GroupedConfig) and (mixer.width, mixer.rotated) == (256, 64)
    assert every["GQA4-(64+64)-S2, twice the heads"].decoder.mixer.n_heads == 32


def record_of(values, post=None):
    """A record with losses by arm."""
    rows = [
        {"step": 10 * place + seed, "arm": arm, "seed": seed, ablation.METRIC: loss}
        for place, (arm, losses) in enumerate(values.items())
        for seed, loss in enumerate(losses)
    ]
    return recorded.Record(None, {"config": {}}, rows)


def test_orderings_are_counted_with_intervals():
    values = {
        "MHA": [2.0, 2.01, 2.02],
        "MLA": [2.0, 3.5, 1.0],
        "GQA2-128": [3.0, 3.01, 3.02],
        "GQA1-256": [4.0, 4.01, 4.02],
    }
    found = what_makes_mla_good.orderings(record_of(values))
    # Three pairs differ by 0.005 in the post, all with GQA2-128; MLA is too scattered.
    assert found == {"as in the post": 1, "against it": 1, "inconclusive": 1}
    rank = what_makes_mla_good.rank_correlation(record_of(values))
    assert rank.low < rank.value < 1


def test_verdicts_follow_the_interval():
    assert verdicts.verdict(Measurement(1.0, 0.1, 2.0)) == "worse"
    assert verdicts.verdict(Measurement(-1.0, -2.0, -0.1)) == "better"
    assert verdicts.verdict(Measurement(0.5, -0.1, 2.0)) == "inconclusive"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: ablation.Config(comparison=Comparison(seeds=1)),
            "comparison.seeds: expected at least 2",
        ),
        (lambda: Comparison(seeds=1001), "comparison.seeds"),
        (lambda: ablation.SizesConfig(n_heads=0), "n_heads: expected a whole number"),
        (lambda: ablation.SizesConfig(cache=-64), "cache: expected a whole number"),
        (lambda: ablation.SizesConfig(d_model=4), "sizes.n_heads: expected a divisor"),
        (lambda: recall.Config(n_heads=0), "n_heads: expected a whole number"),
        (lambda: recall.Config(training=RATED), "training.learning_rate: expected it to be left"),
        (lambda: ablation.Config(training=RATED), "training.learning_rate"),
        (lambda: what_makes_mla_good.Config(training=RATED), "training.learning_rate"),
        (lambda: what_makes_mla_good.Config(rows=("GQA2-128", "MLA", "MLA")), "rows: expected"),
        (lambda: Comparison(tuning_seeds=0), "tuning_seeds"),
        (lambda: Comparison(rates=()), "comparison.rates"),
        (lambda: Comparison(rates=(1e-3, float("nan"))), "comparison.rates"),
        (lambda: ablation.SizesConfig(cache=48), "sizes.cache: expected a multiple of 64"),
        (lambda: ablation.SizesConfig(cache=256), "sizes.cache"),
        (lambda: ablation.SizesConfig(n_kv_heads=4), "n_kv_heads"),
        (lambda: ablation.SizesConfig(context=1), "sizes.context"),
        (lambda: ablation.Config(windows=0), "windows"),
        (lambda: what_makes_mla_good.SizesConfig(unit=6), "sizes.unit"),
        (lambda: what_makes_mla_good.Config(rows=("MHA", "MLA", "GQA1-256")), "rows: expected"),
        (lambda: what_makes_mla_good.Config(rows=("GQA2-128", "MLA", "MLB")), "rows: expected"),
        (lambda: recall.Config(caches=(32, 16)), "caches: expected rising multiples of 16"),
        (lambda: recall.Config(caches=(16, 24)), "caches"),
        (lambda: TaskConfig(pairs=65), r"task\.pairs"),
        (lambda: TaskConfig(length=40), "task.pairs, length"),
        (lambda: TaskConfig(values=1), r"task\.values"),
    ],
)
def test_impossible_configurations_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=re.escape(words) if "[" in words else words):
        make()


def test_an_arm_that_cannot_be_matched_is_named():
    arm = Arm("wide", TransformerConfig(16, 1, GroupedConfig(16, 2), d_ff=4))
    with pytest.raises(ValueError, match="wide: expected fewer than 100 parameters"):
        arms.matched(arm, 100)


@pytest.mark.slow
def test_paper_steps_run_at_reduced_width():
    for module, small in (
        (ablation, {"sizes": ablation.SizesConfig(32, 2, 4, 8, n_kv_heads=2, cache=32)}),
        (what_makes_mla_good, {"sizes": what_makes_mla_good.SizesConfig(32, 2, 4, 8, 8)}),
    ):
        paper = module.PRESETS["paper"]
        data = dataclasses.replace(paper.data, vocabulary=300)
        settings = dataclasses.replace(paper.training, batch_size=8, accumulate=2)
        config = dataclasses.replace(paper, data=data, training=settings, **small)
        program = list(module.programs(config).values())[-1]
        state = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), program.arguments[0])
        batch = jnp.ones(program.arguments[1].shape, jnp.int32)
        step = jax.jit(program.function)
        state, _ = step(state, batch)
        state, metrics = step(state, batch)
        assert np.isfinite(metrics["loss"]) and int(state.step) == 3
