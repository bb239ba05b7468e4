"""Several processes that train as one: equal to one, and what happens when one fails."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.harness.errors import UsageError
from experiments.harness.hosts import Hosts
from tests.experiments.meshed import ROOT, environment, free_port, launch

STEPS = 8


def start(command, devices=2):
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        env=environment(devices),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """Losses of two layouts; a run that one process, then two, then one bring to its end."""
    common = {"kind": "language", "steps": STEPS}
    moving = {**common, "folder": str(tmp_path / "moving"), "layout": [4, 2, True]}
    whole = {**common, "folder": str(tmp_path / "whole"), "layout": [8, 1, False]}
    expected, begun = launch(8, tmp_path / "one.json", [whole, {**moving, "stop": 2}])
    assert 0 < len(begun["losses"]) < STEPS - 3
    jobs = [{**whole, "folder": str(tmp_path / "data")}, {**moving, "stop": STEPS - 3}]
    divided, middle = launch(4, tmp_path / "two.json", jobs, processes=2)
    assert len(begun["losses"]) < len(middle["losses"]) < STEPS
    ended = launch(1, tmp_path / "end.json", [{**moving, "layout": [1, 1, False]}])[0]
    for found in (divided, ended):
        np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-8)
    rows = [json.loads(line) for line in (tmp_path / "data/metrics.jsonl").read_text().splitlines()]
    assert sorted(row["step"] for row in rows if "loss" in row) == [*range(1, STEPS + 1)]


def pair(folder, port, *more, second=()):
    """The command line on two processes."""
    command = ["experiments", "run", "attention/language_model", "--distributed"]
    command += ["--hosts.coordinator", f"127.0.0.1:{port}", "--hosts.count", "2"]
    command += ["--workdir", str(folder), "--training.steps", "100000"]
    rest = [*more, "--training.log_every", "1"]
    return [
        start([*command, "--hosts.index", str(i), *rest, *(second if i else ())]) for i in (0, 1)
    ]


def wait_for_steps(folder, least=3):
    """Until the metrics hold some steps."""
    path = folder / "metrics.jsonl"
    for _ in range(1200):
        rows = path.read_text().splitlines() if path.exists() else []
        if sum('"gradient_norm"' in row for row in rows) >= least:
            return
        time.sleep(0.25)
    raise AssertionError("expected some steps in five minutes")


def ends(processes, seconds=300):
    return [one.communicate(timeout=seconds)[0] for one in processes]


@pytest.mark.slow
def test_a_signal_to_one_host_saves_on_all(tmp_path):
    folder = tmp_path / "run"
    both = pair(folder, free_port())
    wait_for_steps(folder)
    both[1].send_signal(signal.SIGTERM)
    texts = ends(both)
    assert [one.returncode for one in both] == [75, 75], "\n".join(t[-2000:] for t in texts)
    assert all("work is saved" in text for text in texts)
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [str(max(steps))]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_hung_host_ends_the_run_with_a_message(tmp_path, number):
    folder = tmp_path / "run"
    both = pair(folder, free_port(), "--hosts.patience", "15", "--training.checkpoint_every", "2")
    wait_for_steps(folder, 6)
    both[1].send_signal(number)
    text = both[0].communicate(timeout=300)[0]
    both[1].kill()
    both[1].communicate()
    assert both[0].returncode == 69, text[-2000:]
    lines = [line for line in text.splitlines() if line.startswith("kexue-jax: ")]
    assert len(lines) == 1
    assert re.search(r"process 0 of 2, after step \d+: .* dead or hung .* resumes from", lines[0])
    assert any(path.name.isdigit() for path in (folder / "checkpoints").iterdir())


def test_hosts_that_differ_are_told_so(tmp_path):
    both = pair(tmp_path / "run", free_port(), second=("--training.seed", "7"))
    texts = ends(both)
    assert [one.returncode for one in both] == [1, 1], "\n".join(t[-2000:] for t in texts)
    message = "hosts: expected the same configuration on all, that of process 1 is not that of"
    assert all(message in text for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_process_alone_is_told_so_in_one_line(tmp_path, index):
    """The first one waits in vain, the other does not reach it."""
    command = ["experiments", "run", "attention/language_model", "--distributed"]
    command += ["--hosts.coordinator", f"127.0.0.1:{free_port()}", "--hosts.count", "2"]
    command += ["--hosts.index", str(index), "--hosts.timeout", "3"]
    command += ["--workdir", str(tmp_path / "run")]
    one = start(command)
    text, _ = one.communicate(timeout=120)
    lines = [line for line in text.splitlines() if line.startswith("kexue-jax: ")]
    assert one.returncode == 69, text[-2000:]
    assert len(lines) == 1 and "expected all processes within 3 s" in lines[0]
    assert not (tmp_path / "run").exists()


def test_flags_that_do_not_fit_are_named():
    with pytest.raises(UsageError, match="expected all three, or none"):
        Hosts("127.0.0.1:1")
    with pytest.raises(UsageError, match=r"hosts.index: expected from 0 to count - 1, got 2 of 2"):
        Hosts("127.0.0.1:1", 2, 2)
    with pytest.raises(UsageError, match=r"hosts.timeout, patience: expected at least 1 s"):
        Hosts(timeout=0)
