"""Seeds that are trained together: the same as one by one, resumed exactly."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from attention import GroupedConfig, TransformerConfig
from experiments.attention import next_token
from experiments.harness import by_arm, datasets, seeds, training
from experiments.harness.errors import ExperimentError, Interrupted, NonFiniteError
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig

DECODER = TransformerConfig(256, 2, GroupedConfig(16, 2), d_ff=16)
SETTINGS = TrainingConfig(
    steps=6, batch_size=4, warmup=2, ema=0.5, eval_every=3, checkpoint_every=3, log_every=1
)
BYTES = np.frombuffer(b"the quick brown fox jumps over the lazy dog. " * 40, np.uint8)
TEXT = datasets.Text(BYTES[:1500], BYTES[1500:], "fox", "none")


def make(settings):
    return next_token.make_problem(DECODER, 8, settings, 6, TEXT)


@dataclasses.dataclass(frozen=True)
class Config:
    training: TrainingConfig = SETTINGS


@pytest.fixture
def run(tmp_path):
    with Run("test/seeds", "quick", Config(), tmp_path / "run") as current:
        yield current


@pytest.mark.slow
@pytest.mark.parametrize("vectorised", [False, True, None])
def test_together_is_one_by_one(run, vectorised):
    part = run.part("both")
    found, weights = seeds.train(make, SETTINGS, (3, 7), part, vectorised)
    for seed, row in zip((3, 7), found, strict=True):
        mine = dataclasses.replace(SETTINGS, seed=seed)
        params = training.averaged(training.train(make(mine), mine, run.part(f"alone {seed}")))
        alone = make(mine).evaluate(params)
        if seed == 3:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), weights, params)
        assert row == pytest.approx(alone, rel=2e-6, abs=1e-6)  # of values near 8
    rows = part.tracker.rows()
    assert [row["seeds"] for row in rows if "seeds" in row] == [[3, 7]] * 3
    last = [row for row in rows if "seeds" in row][-1]
    assert last["validation_bits_per_byte"] == [r["validation_bits_per_byte"] for r in found]
    assert len([row for row in rows if "loss" in row]) == 6


def test_hosts_read_their_rows_of_all_seeds():
    def problem(seed, part=True):
        def batch(step, rows=slice(None)):
            return {"x": (100 * seed + 10 * step + np.arange(6))[rows]}

        made = dataclasses.replace(make(SETTINGS), batch=batch)
        return dataclasses.replace(made, part=batch if part else None)

    stacked = seeds._stacked([problem(3), problem(7)], (3, 7))
    whole, rows = stacked.batch(2)["x"], stacked.part(2, slice(1, 4))["x"]
    assert whole.shape == (6, 2)
    np.testing.assert_array_equal(rows, whole[1:4])
    assert seeds._stacked([problem(3, False)], (3,)).part is None


@pytest.mark.slow
def test_another_order_of_seeds_changes_nothing(run):
    one, _ = seeds.train(make, SETTINGS, (3, 7), run.part("one"))
    two, _ = seeds.train(make, SETTINGS, (7, 3), run.part("two"))
    assert one == two[::-1]


@pytest.mark.slow
def test_an_interrupted_part_goes_on_exactly(run):
    whole, _ = seeds.train(make, SETTINGS, (1, 2), run.part("whole"))

    class Stopped:
        """A part that a signal stops at its third step."""

        def __init__(self, part):
            self.part, self.asked = part, 0

        def __getattr__(self, name):
            return getattr(self.part, name)

        def stopping(self):
            self.asked += 1
            return self.asked > 2

        def check_stop(self):
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        seeds.train(make, SETTINGS, (1, 2), Stopped(run.part("again")))
    steps = [row["step"] for row in run.part("again").tracker.rows() if "loss" in row]
    assert 0 < steps[-1] < 6
    assert seeds.train(make, SETTINGS, (1, 2), run.part("again"))[0] == whole


def test_divergence_of_one_seed_is_named(run):
    def poisoned(settings):
        problem = make(settings)
        bad = settings.seed == 2

        def batch(step):
            return problem.batch(step) + 1000 * bad  # outside the vocabulary: NaN

        return dataclasses.replace(problem, batch=batch)

    with pytest.raises(NonFiniteError, match="step 1"):
        seeds.train(poisoned, SETTINGS, (1, 2), run.part("bad"))


def test_a_part_removes_itself_and_keeps_the_run(run):
    part = run.part("gone")
    seeds.train(make, SETTINGS, (1,), part)
    assert (part.directory / "checkpoints").is_dir()
    part.remove()
    assert not part.directory.exists()
    assert json.loads((run.directory / "run.json").read_text())["status"] == "running"


def test_parts_belong_to_the_configuration_of_their_run(run, tmp_path):
    seeds.train(make, SETTINGS, (1,), run.part("mine"))
    other = dataclasses.replace(Config(), training=dataclasses.replace(SETTINGS, steps=7))
    run.config = other
    with pytest.raises(ExperimentError, match="expected configuration"):
        seeds.train(make, SETTINGS, (1,), run.part("mine"))


def test_batches_are_divided_among_devices_by_their_first_axis():
    batch = seeds._stacked([make(SETTINGS)] * 3, (0, 1, 2)).batch(0)
    assert batch.shape == (4, 3, 9)


def test_a_torn_row_costs_itself_alone(run):
    run.tracker.log(0, arm="a", seed=0)
    with run.tracker.path.open("a") as file:
        file.write('{"step": 1, "arm": "a", "se')  # a process killed while it wrote
    run.tracker.log(1, arm="b", seed=0)
    run.tracker.log(2, arm="b", seed=1)
    assert [(row["arm"], row["seed"]) for row in run.tracker.rows()] == [
        ("a", 0),
        ("b", 0),
        ("b", 1),
    ]


def test_rows_are_paired_by_seed(run):
    rows = [
        {"step": i, "arm": arm, "seed": seed, "loss": loss}
        for i, (arm, seed, loss) in enumerate(
            [("a", 1, 5.0), ("a", 0, 3.0), ("b", 0, 2.0), ("b", 1, 4.0), ("c", 0, 1.0), ("c", 2, 1)]
        )
    ]
    record = Record(run.directory, run.data, rows)
    found = by_arm.difference(record, "a", "b", "loss")
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    assert by_arm.difference(record, "a", "c", "loss") is None  # other seeds
    assert by_arm.ratio(record, "a", "missing", "loss") is None
