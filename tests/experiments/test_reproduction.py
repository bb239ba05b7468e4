"""Reproducing a scale: what runs, in which order, what a second time leaves out, and the sheet."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from experiments import catalog, commands, processes, reproduction, sheet
from experiments.board import Board
from experiments.harness.errors import ExperimentError, UsageError

PAIR = ["fourier_density/mix*", "attention/cache"]


def test_a_scale_has_all_presets_that_begin_with_it():
    jobs = reproduction.plan("cpu", ["*"])
    found = {(job.name, job.preset) for job in jobs}
    assert ("diffusion/upsample", "cpu_32") in found and len(found) == len(jobs)
    assert {name for name, _ in found} == set(catalog.names())
    assert all(preset.startswith("cpu") for _, preset in found)


def test_the_longest_come_first_and_clocks_last(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])  # where the published results lie
    jobs = reproduction.plan("cpu", ["*"])
    published = {job.name: job.expected for job in jobs if job.preset == "cpu"}
    free = [job.expected or published[job.name] for job in jobs if not job.timed]
    assert free == sorted(free, reverse=True)
    quick = [job for job in reproduction.plan("quick", ["*"]) if not job.timed]
    assert all(job.expected is None for job in quick)
    assert [published[job.name] for job in quick] == sorted(
        (published[job.name] for job in quick), reverse=True
    )
    assert jobs[0].expected and jobs[0].expected > 1000
    assert [job.timed for job in jobs] == sorted(job.timed for job in jobs)
    assert {job.name for job in jobs if job.timed} >= {"attention/decoding", "ssm/kernel_cost"}


@pytest.mark.parametrize("preset", ["quik", "cp"])
def test_an_unknown_scale_is_refused(preset):
    with pytest.raises(UsageError, match="nearest"):
        reproduction.plan(preset, ["*"])


def test_runs_report_and_sheet_and_nothing_twice(tmp_path, capsys):
    commands.reproduce("quick", PAIR, tmp_path, 2)
    out, err = capsys.readouterr()
    assert "0 of them finished" in err and "2 of 2 runs finished" in err
    assert err.count(": begins") == 2
    assert "mixtures.tut10.kl_8" in out and "Next:" in out and "judged by larger ones" in out
    assert "(certified population optimum" in (tmp_path / "report.md").read_text()
    with Image.open(tmp_path / "figures.png") as page:
        assert page.width > 2 * sheet.WIDTH
    commands.reproduce("quick", PAIR[1:], tmp_path, 1)
    assert "1 runs, 1 of them finished" in capsys.readouterr().err
    report = (tmp_path / "report.md").read_text()  # of all that is finished at this scale
    assert "mixtures.tut10.kl_8" in report and "cache.groups" in report


@pytest.mark.slow
def test_a_run_of_another_configuration_is_not_taken_for_finished(tmp_path, capsys):
    commands.reproduce("quick", ["attention/cache"], tmp_path, 1)
    jobs = [replace(job, digest="x") for job in reproduction.plan("quick", ["attention/cache"])]
    capsys.readouterr()
    reproduction.reproduce(jobs, tmp_path, 1)
    assert "0 of them finished" in capsys.readouterr().err


@pytest.mark.slow
def test_no_jobs_at_once_are_refused_before_anything_is_done(tmp_path, capsys):
    with pytest.raises(UsageError, match="--jobs: expected at least 1, got 0"):
        commands.reproduce("quick", PAIR, tmp_path / "new", 0)
    assert not (tmp_path / "new").exists() and not capsys.readouterr().out


def test_what_fails_is_named_behind_the_report_of_the_rest(tmp_path, capsys):
    (tmp_path / "attention" / "cache" / "quick").mkdir(parents=True)
    (tmp_path / "attention" / "cache" / "quick" / "foreign.txt").write_text("not a run")
    with pytest.raises(ExperimentError, match=r"failed: attention/cache \[quick\]"):
        commands.reproduce("quick", PAIR, tmp_path, 1)
    out, err = capsys.readouterr()
    assert "FAILED, exit status 1" in err and "mixtures.tut10.kl_8" in out
    assert (
        "expected an empty directory" in (tmp_path / "logs/attention-cache-quick.txt").read_text()
    )


def test_how_a_task_ended_is_said_in_words(tmp_path):
    task = processes.Task("a/b [cpu]", [], tmp_path / "log")
    said = [processes.Event(task, code).outcome for code in (0, 75, 3)]
    assert said == ["done", "stopped (the same command goes on)", "FAILED, exit status 3"]


def test_time_left_counts_what_runs_and_what_waits(tmp_path):
    board = Board({"a/b [cpu]": 100.0, "a/c [cpu]": 100.0}, done=1, at_once=2)
    assert board.state() == "1 of 3 runs finished, about 1 min 40 s left"
    task = processes.Task("a/b [cpu]", [], tmp_path / "log")
    board.told(processes.Event(task))
    board._running["a/b [cpu]"] = (time.monotonic() - 50.0, task.log)
    assert board.state().endswith("about 1 min 15 s left")
    task.log.write_text("first\nstep 3/9 [x]\n")
    assert board._view().row_count == 1
    board.told(processes.Event(task, 0, 60.0))
    assert board.state() == "2 of 3 runs finished, about 0 min 50 s left"
    other = processes.Task("a/c [cpu]", [], tmp_path / "log")
    board.told(processes.Event(other))
    board.told(processes.Event(other, 75, 10.0))
    assert board.state() == "2 of 3 runs finished"  # what was stopped is not


@pytest.mark.skipif(len(processes._shares(2)[0]) == 0, reason="one core, or none to choose")
def test_jobs_have_cores_of_their_own(tmp_path):
    code = "import os, time; time.sleep(0.3); print(*os.sched_getaffinity(0))"
    tasks = [
        processes.Task(str(i), [sys.executable, "-c", code], tmp_path / str(i)) for i in range(4)
    ]
    assert processes.run(tasks, 2, lambda event: None, tmp_path) == []
    cores = [frozenset((tmp_path / str(i)).read_text().split()) for i in range(4)]
    assert len(set(cores)) == 2 and not set.intersection(*map(set, set(cores)))
