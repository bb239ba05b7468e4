"""A small part of every campaign; `make reliability` runs them whole."""

import pytest

from tests.reliability import data, faults, inputs, kills, storage, subject, topology


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Caches and relative paths below the test's own folder."""
    monkeypatch.setenv("KEXUE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subject, "STEPS", 40)


def holds(outcome, least):
    assert not outcome.wrong, "\n".join(outcome.wrong)
    assert outcome.cases >= least


def test_damaged_checkpoints_are_set_aside(tmp_path):
    holds(faults.corruptions(tmp_path, 2, seed=1), 80)


def test_damaged_data_sets_are_refused_or_read_as_they_were(tmp_path):
    holds(data.campaign(tmp_path, 8), 50)


@pytest.mark.slow
def test_bad_input_is_refused_by_name(tmp_path):
    holds(inputs.campaign(tmp_path, every=8), 500)


@pytest.mark.slow
def test_nan_anywhere_ends_a_run_and_is_never_saved(tmp_path):
    holds(faults.not_finite(tmp_path, [6]), 5)


@pytest.mark.slow
def test_a_signal_in_any_step_loses_nothing(tmp_path):
    holds(faults.signals(tmp_path, [0, 6, 49]), 3)


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(tmp_path):
    holds(kills.campaign(tmp_path, 4, seed=1), 4)


@pytest.mark.slow
def test_one_of_several_writers_goes_on(tmp_path):
    holds(faults.writers(tmp_path, 3), 3)


@pytest.mark.slow
def test_storage_that_vanishes_loses_nothing(tmp_path):
    holds(storage.broken(tmp_path, 1), 1)


@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path):
    if not storage.possible(tmp_path / "may"):
        pytest.skip("mounting is not permitted; test_checkpoint has saves without room")
    holds(storage.full(tmp_path, 2), 2)


@pytest.mark.slow
def test_a_run_is_resumed_elsewhere(tmp_path):
    holds(topology.campaign(tmp_path, 4, ["2 devices"]), 3)
