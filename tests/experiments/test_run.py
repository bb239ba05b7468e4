"""A run's directory: locked while in use, found again after any kill, told plainly otherwise."""

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness import manifest, recorded, tracking
from experiments.harness import run as runs
from experiments.harness.errors import DataError, ExperimentError, UsageError
from experiments.harness.run import Run

ROOT = Path(__file__).resolve().parents[2]
OTHER = """
import sys, dataclasses
from pathlib import Path
from experiments.harness.run import Run
Config = dataclasses.make_dataclass("Config", [], frozen=True)
with Run("test", "quick", Config(), Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Config:
    number: int = 1


def start(directory, config=None):
    return Run("test", "quick", config or Config(), directory)


def test_two_processes_do_not_write_one_directory(tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path / "run")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "open\n"
    before = {p: p.read_bytes() for p in (tmp_path / "run").glob("*.*") if p.is_file()}
    with pytest.raises(ExperimentError, match=rf"in use by process {other.pid} of "):
        start(tmp_path / "run")
    assert {p: p.read_bytes() for p in before} == before
    other.kill()  # the system gives the lock back
    other.communicate()
    with pytest.raises(ExperimentError, match="another configuration"):
        start(tmp_path / "run")


def test_results_and_metrics_may_hold_numbers_and_arrays_of_jax_and_numpy(tmp_path):
    with start(tmp_path / "run") as current:
        current.tracker.log(1, nll=jnp.float32(0.5), count=np.int64(3))
        record = current.finish({"mean": jnp.ones(()), "each": np.array([[1.5, 2.0]], np.float32)})
    assert record.rows == [{"step": 1, "nll": 0.5, "count": 3}]
    assert record.data["result"] == {"mean": 1.0, "each": [[1.5, 2.0]]}
    assert json.loads((tmp_path / "run/run.json").read_text())["result"] == record.data["result"]
    with start(tmp_path / "other") as current:
        with pytest.raises(ExperimentError, match=r"plain JSON types, got \{'a': <object"):
            current.finish({"a": object()})
        with pytest.raises(ExperimentError, match="dict of plain JSON types, got"):
            current.finish(jnp.ones(2))


def test_a_refused_run_keeps_no_lock(tmp_path):
    with start(tmp_path / "run") as current:
        current.finish({})
    for _ in range(2):
        with pytest.raises(ExperimentError, match="number: 1 -> 2"):
            start(tmp_path / "run", Config(2))
    with start(tmp_path / "run") as current, pytest.raises(ExperimentError, match="in use by"):
        start(tmp_path / "run")
    assert current.finished


@pytest.mark.parametrize("kind", [DataError, ExperimentError, UsageError, ValueError])
def test_a_run_refused_at_its_start_leaves_nothing(tmp_path, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "mine").mkdir()
    for folder in (tmp_path / "mine" / "new" / "run", Path("runs/test/quick")):
        with pytest.raises(kind), start(folder):
            raise kind("no such data")
        assert [*tmp_path.rglob("*")] == [tmp_path / "mine"]
        with pytest.raises(UsageError, match="wandb is not installed"):
            Run("test", "quick", Config(), folder, wandb=True)
        assert [*tmp_path.rglob("*")] == [tmp_path / "mine"]


def test_a_run_that_has_something_to_show_is_kept_when_it_is_refused(tmp_path):
    with pytest.raises(DataError), start(tmp_path / "run") as current:
        current.tracker.log(1, loss=1.0)
        raise DataError("gone")
    assert recorded.load(tmp_path / "run").data["status"] == "failed"
    with pytest.raises(DataError), start(tmp_path / "run"):
        raise DataError("still gone")
    with pytest.raises(BrokenPipeError), start(tmp_path / "run"):
        raise BrokenPipeError
    assert recorded.load(tmp_path / "run").data["status"] == "interrupted"
    assert len(recorded.load(tmp_path / "run").rows) == 1


@pytest.mark.parametrize("left", [[], [runs.LOCK], [runs.LOCK, "run.json.tmp"]])
def test_what_a_kill_at_the_start_leaves_is_no_foreign_file(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text("")
    with start(tmp_path) as current:
        assert not current.resumed
    assert recorded.load(tmp_path).data["status"] == "running"


def test_a_kill_loses_no_more_than_a_minute_of_the_time_that_is_recorded(tmp_path):
    """Nothing is written at the end of a process that is killed; the next one adds to what is."""
    run = start(tmp_path / "run")
    run._began -= 100.0
    assert not run.stopping()
    before = json.loads((tmp_path / "run" / "run.json").read_text())
    assert 100.0 <= before["wall_seconds"] < 110.0 and before["status"] == "running"
    run._lock.release()
    with start(tmp_path / "run") as again:
        again.finish({"x": 1.0})
    assert 100.0 <= again.data["wall_seconds"] < 110.0


def test_an_error_is_told_though_the_disk_is_full(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="the cause"), start(tmp_path / "run"):
        monkeypatch.setattr(runs.manifest, "replace", full)
        raise ValueError("the cause")


def test_a_board_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch, capsys):
    with start(tmp_path / "run") as current:
        current.tracker.log(0, value=1.0)

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(current.tracker._board, "add_scalar", full)
        current.tracker.log(1, value=2.0)
        current.tracker.log(2, value=3.0)
        current.finish({})
    assert [row["value"] for row in recorded.load(tmp_path / "run").rows] == [1.0, 2.0, 3.0]
    assert capsys.readouterr().err.count("tensorboard: No space left on device") == 1


def test_a_board_that_cannot_be_opened_ends_no_run(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").touch()  # a file in its place
    tracker = tracking.Tracker(tmp_path / "run")
    tracker.log(0, value=1.0)
    tracker.close()
    assert tracker.rows() == [{"step": 0, "value": 1.0}]
    assert capsys.readouterr().err.count("not written on") == 1


def test_metrics_that_cannot_be_written_name_the_file(tmp_path):
    with start(tmp_path / "run") as current:
        current.tracker.path.mkdir()
        with pytest.raises(OSError, match=r"metrics\.jsonl"):
            current.tracker.log(0, value=1.0)


def test_what_cannot_be_read_is_told_and_left_out(tmp_path, capsys):
    for name, text in (("a", "{}"), ("b", "[" * 10**5), ("c", "no json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    with start(tmp_path / "good") as run:
        run.finish({})
    assert [record.directory.name for record in recorded.find(tmp_path)] == ["good"]
    assert capsys.readouterr().err.count("left out") == 3


def test_handlers_are_given_back_and_other_threads_need_none(tmp_path):
    mine = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with start(tmp_path / "first"):
            assert signal.getsignal(signal.SIGINT) != signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, mine)

    def work():
        with start(tmp_path / "second") as run:
            run.finish({"x": 1})

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()
    assert recorded.load(tmp_path / "second").result == {"x": 1}


def test_the_record_has_the_command_with_what_was_changed_and_the_seed(cli, tmp_path):
    changed = ["--orders", "2", "3", "--samples", "200", "--nodes", "1024", "--seed", "4"]
    cli("run", "fourier_density/mixtures", "--workdir", tmp_path / "run", *changed)
    data = recorded.load(tmp_path / "run").data
    assert data["seed"] == 4
    assert data["command"] == (
        f"python -m experiments run fourier_density/mixtures --preset quick {' '.join(changed)}"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ssm/delay", "ssm/delay"),
        ("my/exp.py", "my/exp"),
        ("../../escaped", "escaped"),
        ("/absolute/mine.py", "absolute/mine"),
        ("a/../b.py", "a/b"),
    ],
)
def test_names_become_paths_below(name, expected):
    assert runs.slug(name).as_posix() == expected


def test_the_time_that_is_left_does_not_count_the_first_step(capsys, monkeypatch):
    clock = iter([0.0, 100.0, 101.0, 103.0])
    monkeypatch.setattr(tracking.time, "monotonic", lambda: next(clock))
    progress = tracking.Progress(10, every=0.0)
    for done in (1, 2, 4):  # the first one has compiled for 100 s
        progress.update(done)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 1/10  "
    assert lines[2].endswith("1.00 steps/s  6 s left")


def test_records_have_a_list_of_numbers_on_a_line_and_text_as_it_is():
    data = {"a": [[1, 2.5], [None, True]], "s": "x [ 1,\n 2 ] y", "e": [], "t": ["a", 1]}
    text = manifest.readable(data)
    assert json.loads(text) == data
    assert "  [1, 2.5],\n" in text and "  [null, true]\n" in text


def test_wandb_is_optional_and_used_when_asked_for(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    arguments = [
        "run",
        "fourier_density/mixtures",
        "--orders",
        "2",
        "3",
        "--samples",
        "200",
        "--nodes",
        "1024",
        "--wandb",
    ]
    code, _, err = cli(*arguments, "--workdir", tmp_path / "a")
    assert code == 2 and "pip install -e '.[wandb]'" in err

    class Fake:
        logged: list = []  # noqa: RUF012
        ids: set = set()  # noqa: RUF012

        def init(self, id, resume, **_):
            self.ids.add((id, resume))
            return self

        def log(self, values, step):
            self.logged.append((step, values))

        def finish(self):
            self.logged.append("finished")

    monkeypatch.setitem(sys.modules, "wandb", Fake())
    code, _, err = cli(*arguments, "--workdir", tmp_path / "b")
    assert code == 0, err
    assert len(Fake.logged) == 5 and Fake.logged[-1] == "finished"
    cli(*arguments, "--workdir", tmp_path / "b")  # goes on with the same one
    cli(*arguments, "--workdir", tmp_path / "c")
    assert len(Fake.ids) == 2 and {resume for _, resume in Fake.ids} == {"allow"}
