"""Sweeps: grids of fields, cells that are not run twice, tables of means."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import commands, processes, sweeps
from experiments import report as reports
from experiments.harness import recorded
from experiments.harness.errors import ExperimentError, UsageError

ROOT = Path(__file__).resolve().parents[2]
FAST = ("--training.steps", "3", "--windows", "2", "--new_bytes", "2", "--model.context", "16")
NAME = "attention/language_model"
MINE = '''"""Adds."""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Part:
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Config:
    """Numbers."""
    number: int = 1
    scale: float = 1.0
    kind: str = "a"
    part: Part = dataclasses.field(default_factory=Part)


PRESETS = {"quick": Config(), "cpu": Config(), "paper": Config()}


def main(config, run):
    if config.number == 13:
        raise ValueError("thirteen")
    value = config.number * config.scale + config.part.seed
    return {"value": value, "inner": {"half": value / 2}, "kind": config.kind, "good": True}
'''


@pytest.fixture
def adds(tmp_path):
    path = tmp_path / "adds.py"
    path.write_text(MINE)
    return str(path)


def test_fields_with_several_values_make_a_grid(adds):
    sweep = sweeps.parse(adds, "quick", ["--kind", "a,b", "--seed", "0:3", "--scale=2.5"])
    assert sweep.axes == {"kind": ("a", "b"), "part.seed": ("0", "1", "2")}
    assert sweep.fixed == ("--scale", "2.5")
    assert len(sweep.cells) == 6
    assert sweep.cells[1].values == {"kind": "a", "part.seed": "1"}
    assert sweep.cells[1].directory == "kind=a,part.seed=1"
    again = sweeps.parse(adds, "quick", ["--kind", "a,", "--seed", "1,1,2", "--number", "3:4"])
    assert again.axes == {"part.seed": ("1", "2")}  # what is repeated is no further run
    assert again.fixed == ("--kind", "a", "--number", "3")
    switch = sweeps.parse("attention/language_model", "quick", ["--model.rope", "true,false"])
    assert [cell.values for cell in switch.cells] == [{"model.rope": v} for v in ("true", "false")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a field with several values"),
        (["--scale", "2"], "expected a field with several values"),
        (["--sed", "0:3"], "--sed: no such field; nearest"),
        (["--seed", "0:99999999999"], "sweep: expected at most 10000 runs, got 99999999999"),
        (["--seed", "0:999", "--number", "0:999"], "expected at most 10000 runs, got 998001"),
        (["--number", "1,x"], "number"),
        (["--number", "3:3"], "expected a:b with a < b, got 3:3"),
        (["--number", "1,2", "--number", "3"], "--number: expected once"),
        (["1,2"], "expected --FIELD before '1,2'"),
    ],
)
def test_what_is_no_grid_is_refused(adds, arguments, message):
    with pytest.raises(UsageError, match=message):
        sweeps.parse(adds, "quick", arguments)


def test_short_names_have_to_be_clear():
    with pytest.raises(UsageError, match=r"--steps: no such field"):
        sweeps.parse("fourier_density/sampling", "quick", ["--steps", "1,2"])
    with pytest.raises(UsageError, match=r"--name: expected one of --"):
        sweeps._field("name", ["a.name", "b.name"])


@pytest.mark.slow
def test_cells_are_run_once_and_joined(cli, adds, tmp_path):
    arguments = [adds, "--workdir", tmp_path / "sweep", "--number", "1,2", "--seed", "0:3"]
    code, out, _ = cli("sweep", *arguments, "--jobs", "2")
    assert code == 0 and "6 cells, 0 of them finished" in out
    assert "| 2 | value | 3 | 0.515862 to 5.48414 | 3 |" in out  # 3 +- 4.3027 / sqrt(3)
    assert "| 1 | inner.half | 1 |" in out and "good" not in out
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "sweep").rglob("run.json")}
    assert len(times) == 6
    code, out, _ = cli("sweep", *arguments[:-1], "0:4")
    assert code == 0 and "8 cells, 6 of them finished" in out
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in times.items())
    code, out, _ = cli("report", "--workdir", tmp_path)
    assert code == 0 and "adds.py, quick: 8 of 8 cells" in out
    assert json.loads(cli("report", "--workdir", tmp_path, "--json")[1]) is not None


def test_failed_cells_are_named_and_the_others_run(cli, adds, tmp_path):
    code, out, err = cli("sweep", adds, "--workdir", tmp_path / "sweep", "--number", "13,2")
    assert code == 1 and "| 2 | value | 2 | - | 1 |" in out
    assert "failed: number=13 (exit status 1)" in err
    assert "thirteen" in (tmp_path / "sweep" / "logs" / "number=13.txt").read_text()


def test_a_finished_cell_of_another_default_is_not_taken_for_this_one(cli, adds, tmp_path):
    arguments = ("sweep", adds, "--workdir", tmp_path / "sweep", "--number", "2,3")
    assert cli(*arguments)[0] == 0
    Path(adds).write_text(MINE.replace("scale: float = 1.0", "scale: float = 2.0"))
    code, out, err = cli(*arguments)
    assert "2 cells, 0 of them finished" in out
    assert code == 1 and "number=2" in err
    assert "scale: 1.0 -> 2.0" in (tmp_path / "sweep" / "logs" / "number=2.txt").read_text()


@pytest.mark.slow
def test_other_sweeps_and_files_are_refused(cli, adds, tmp_path):
    assert cli("sweep", adds, "--workdir", tmp_path / "sweep", "--number", "1,2")[0] == 0
    code, _, err = cli(
        "sweep", adds, "--workdir", tmp_path / "sweep", "--number", "1,2", "--scale", "3"
    )
    assert code == 1 and "holds another sweep, fixed: nothing -> --scale 3; give another" in err
    code, _, err = cli("publish", tmp_path / "sweep")
    assert code == 1 and "a sweep; publish one of its cells" in err
    code, _, err = cli("sweep", adds, "--workdir", tmp_path, "--number", "1,2")
    assert code == 1 and "expected an empty directory or a sweep's" in err
    assert cli("sweep", adds, "--number", "1,2", "--jobs", "0")[0] == 2
    code, _, err = cli("sweep", adds, "--number", "1,2", "--submit", "a=1")
    assert code == 2 and "expected --cluster beside it" in err


@pytest.mark.slow
def test_a_cluster_runs_cells_through_submitit(adds, tmp_path):
    """Its executor for processes of this machine has the interface of that for SLURM.

    In a process of its own: submitit changes standard streams.
    """

    def cli(*arguments):
        command = [sys.executable, "-m", "experiments", *map(str, arguments)]
        out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return out.returncode, out.stdout, out.stderr

    arguments = ["sweep", adds, "--workdir", tmp_path / "sweep", "--number", "1,2,13"]
    code, out, err = cli(*arguments, "--cluster", "local", "--submit", "timeout_min=5")
    assert code == 1 and "| 2 | value | 2 |" in out, err
    assert "failed: number=13 (job" in err
    code, _, err = cli(*arguments, "--cluster", "nowhere")
    assert code == 2 and "--cluster nowhere" in err
    code, _, err = cli(*arguments, "--cluster", "local", "--submit", "time")
    assert code == 2 and "expected KEY=VALUE, got 'time'" in err


@pytest.mark.slow
def test_a_signal_saves_the_running_cell_and_the_same_command_goes_on(tmp_path):
    folder = tmp_path / "sweep"
    command = [sys.executable, "-m", "experiments", "sweep", NAME, *FAST, "--seed", "0:2"]
    command += ["--workdir", str(folder)]
    slow = [part if part != "3" else "60000" for part in command]
    one = subprocess.Popen(slow, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    metrics = folder / "training.seed=0" / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and '"gradient_norm"' in metrics.read_text():
            break
        time.sleep(0.2)
    os.kill(one.pid, signal.SIGTERM)
    _, errors = one.communicate(timeout=120)
    assert one.returncode == 75 and "the same command resumes it" in errors
    run = json.loads((folder / "training.seed=0" / "run.json").read_text())
    assert run["status"] == "interrupted"
    assert not (folder / "training.seed=1").exists()


def test_a_record_of_a_sweep_can_be_read_again(adds, tmp_path):
    sweep = sweeps.parse(adds, "quick", ["--number", "1,2"])
    sweeps._remember(sweep, tmp_path / "new")
    assert sweeps.found(tmp_path) == [tmp_path / "new"]
    assert "0 of 2 cells" in sweeps.table(tmp_path / "new")
    with pytest.raises(ExperimentError, match="another sweep"):
        sweeps._remember(sweeps.parse(adds, "cpu", ["--number", "1,2"]), tmp_path / "new")


def test_a_task_that_cannot_begin_keeps_no_other_waiting(tmp_path):
    """One share of the cores, and the first task has a log that cannot be opened."""
    tasks = [
        processes.Task("lost", [sys.executable, "-c", ""], tmp_path / ("x" * 300)),
        processes.Task("good", [sys.executable, "-c", ""], tmp_path / "log"),
        processes.Task("absent", [str(tmp_path / "absent")], tmp_path / "log"),
        processes.Task("bad", [sys.executable, "-c", "exit(3)"], tmp_path / "log"),
    ]
    failed = processes.run(tasks, 1, lambda event: None, tmp_path)
    assert failed == [
        "lost (File name too long)",
        "absent (No such file or directory)",
        "bad (exit status 3)",
    ]


def test_more_values_join_a_sweep_and_other_fields_do_not(adds, tmp_path):
    root = tmp_path / "sweep"
    for values in ("1,2", "2,3"):
        sweeps._remember(sweeps.parse(adds, "quick", ["--number", values]), root)
    assert json.loads((root / recorded.SWEEP).read_text())["axes"] == {"number": ["1", "2", "3"]}
    with pytest.raises(ExperimentError, match="holds a sweep over number; give another --workdir"):
        sweeps._remember(sweeps.parse(adds, "quick", ["--scale", "1,2"]), root)


def test_a_damaged_record_of_a_sweep_is_named_and_stops_no_report(adds, tmp_path, capsys):
    sweep = sweeps.parse(adds, "quick", ["--number", "1,2"])
    sweeps._remember(sweep, tmp_path / "good")
    whole = (tmp_path / "good" / recorded.SWEEP).read_text()
    for name, text in (("empty", ""), ("torn", whole[:-9]), ("other", "{}"), ("list", "[1]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / recorded.SWEEP).write_text(text)
        with pytest.raises(ExperimentError, match=f"{name}/sweep.json: expected the record of a"):
            sweeps._remember(sweep, tmp_path / name)
    assert sweeps.found(tmp_path) == sweeps.found(tmp_path, [Path(adds)]) == [tmp_path / "good"]
    assert not sweeps.found(tmp_path, [Path("other.py")])
    assert capsys.readouterr().err.count("note: left out: ") == 12


def test_a_claim_is_held_against_a_run_of_its_own_before_a_cell_of_a_sweep(adds, tmp_path):
    claims = """
from experiments.harness import ledger
CLAIMS = (ledger.Claim("adds.value", "a sum", "nowhere", lambda r: r.result["value"], 9.0),)
"""
    Path(adds).write_text(MINE + claims)
    root = tmp_path / "sweep"
    sweeps._remember(sweeps.parse(adds, "quick", ["--number", "3,5"]), root)
    for number in (3, 5):
        commands.run(adds, "quick", ["--number", str(number)], root / f"number={number}")
    (row,) = reports.rows(recorded.find(root), [adds])
    assert row["scale"] == "quick, changed, one of a sweep" and row["ours"] == 3
    commands.run(adds, "quick", ["--number", "7"], tmp_path / "z")  # behind the cells by name
    (row,) = reports.rows(recorded.find(tmp_path), [adds])
    assert row["scale"] == "quick, changed" and row["run"].endswith("/z") and row["ours"] == 7
