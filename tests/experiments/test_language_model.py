"""The language-model experiment from the command line: results, claims, signals, bad data."""

import itertools
import json
import math
import os
import signal
import time

import numpy as np
import pytest
from tiny_model import TINY_LM

from experiments.attention import held_out, language_model
from experiments.harness import datasets
from experiments.harness.recorded import load


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One tiny finished run."""
    from experiments.__main__ import main

    directory = tmp_path_factory.mktemp("lm") / "run"
    assert main(["run", *TINY_LM, "--workdir", str(directory)]) == 0
    return load(directory)


def test_a_run_does_not_go_on_with_another_text(cli, tmp_path):
    """Whichever experiment reads it: what it reads is remembered in front of `main`."""
    text, code = tmp_path / "my.txt", tmp_path / "reads.py"
    text.write_text("to be or not to be, " * 100)
    code.write_text(
        '"""Reads a text."""\nfrom dataclasses import dataclass\n'
        "from experiments.harness.datasets import TextConfig\n@dataclass(frozen=True)\n"
        "class Config:\n    data: TextConfig = TextConfig()\nPRESETS = {'quick': Config()}\n"
        "def main(config, run):\n    raise KeyboardInterrupt\n"
    )
    command = ("run", code, "--data.path", text, "--workdir", tmp_path / "run")
    assert cli(*command)[0] != 0
    assert "changed" not in cli(*command)[2]
    text.write_text(text.read_text() + "more")
    status, _, err = cli(*command)
    assert status == 1 and "its data has changed since the run began; give another" in err
    code.write_text(code.read_text().replace("raise KeyboardInterrupt", "return {'n': 1.0}"))
    done = (*command[:-1], tmp_path / "done")
    assert cli(*done)[0] == 0
    assert "have changed" not in cli(*done)[2]
    text.write_text(text.read_text() + "still more")
    assert "already complete" in cli(*done)[2] and "its data have changed since" in cli(*done)[2]
    text.unlink()
    assert cli(*done)[0] == 0


def test_a_run_learns_and_reports_everything(trained):
    rows, result = trained.rows, trained.result
    validation = [r["validation_bits_per_byte"] for r in rows if "validation_bits_per_byte" in r]
    assert [r["step"] for r in rows if "validation_bits_per_byte" in r] == [0, 4, 8, 12]
    assert validation[0] == pytest.approx(8, abs=0.3)
    assert validation[-1] < validation[0]
    assert result["validation_bits_per_byte"] == pytest.approx(validation[-1])
    assert result["tokens_per_second"] > 0 and len(result["data"]["sha256"]) == 64
    assert (trained.directory / "figure.png").exists()
    assert "Generated text" in (trained.directory / "table.md").read_text()
    assert any((trained.directory / "tensorboard").iterdir())


def test_identities_hold_at_any_size(trained):
    claims = {claim.id.split(".")[1]: claim for claim in language_model.CLAIMS}
    assert claims["cached_decoding"].measure(trained) == 1.0
    assert claims["cache_size"].measure(trained) == 1.0
    assert trained.result["cache_elements"] == 2 * 1 * 8
    assert claims["nanogpt"].measure(trained) is None  # not on tiny Shakespeare


@pytest.mark.slow
def test_latent_attention_is_another_value_of_one_field(tmp_path):
    from experiments.__main__ import main

    directory = tmp_path / "run"
    assert main(["run", *TINY_LM, "--model.mixer", "mla", "--workdir", str(directory)]) == 0
    record = load(directory)
    claims = {claim.id.split(".")[1]: claim for claim in language_model.CLAIMS}
    assert claims["cached_decoding"].measure(record) == 1.0
    assert claims["cache_size"].measure(record) == 1.0
    model = record.config["model"]
    width = model["d_model"] // model["n_heads"]
    assert record.result["cache_elements"] == 4 * width + width // 2


def test_bigram_reference_against_counting_by_hand():
    train = np.frombuffer(b"ababac" * 200, np.uint8)
    text = datasets.Text(train, np.frombuffer(b"abc", np.uint8), "t", "")
    pairs = list(itertools.pairwise(train))
    expected = 0.0
    for first, second in ((97, 98), (98, 99)):
        seen = sum(a == first for a, _ in pairs)
        expected -= math.log2((pairs.count((first, second)) + 1) / (seen + 256)) / 2
    assert language_model.bigram_bits(text) == pytest.approx(expected, rel=1e-12)


def test_validation_is_the_mean_over_windows_whatever_the_batch():
    windows = np.arange(7 * 5).reshape(7, 5)
    values = {
        size: held_out.evaluate(None, windows, size, lambda _, w: w.mean(1)) for size in (1, 3, 8)
    }
    for result in values.values():
        assert result["validation_bits_per_byte"] == pytest.approx(windows.mean())
        assert result["validation_standard_error"] == pytest.approx(
            windows.mean(1).std() / math.sqrt(7)
        )


@pytest.mark.parametrize(("length", "asked", "count"), [(81, 9, 8), (81, 5, 5), (12, 9, 2)])
def test_validation_windows_predict_no_token_twice(length, asked, count, capsys):
    """Two at least: a mean of one would have no error."""
    text = datasets.Text(np.arange(9), np.arange(length), "t", "")
    found = held_out.windows(text, 11, asked)
    assert found.shape == (count, 11)
    predicted = found[:, 1:].ravel()
    assert len(set(predicted)) == len(predicted) or length < 21
    assert ("9 were asked for" in capsys.readouterr().out) == (count < asked)


def test_sigterm_saves_and_exits_75_then_the_same_command_finishes(cli, tmp_path, monkeypatch):
    crops = datasets.crops

    def interrupting(values, batch, length, seed, step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return crops(values, batch, length, seed, step)

    monkeypatch.setattr(datasets, "crops", interrupting)
    directory = tmp_path / "run"
    code, _, err = cli("run", *TINY_LM, "--workdir", directory)
    assert code == 75 and "the same command resumes it" in err and "Traceback" not in err
    assert load(directory).data["status"] == "interrupted"
    assert (directory / "checkpoints" / "7").is_dir()
    monkeypatch.setattr(datasets, "crops", crops)
    code, _, err = cli("run", *TINY_LM, "--workdir", directory)
    assert code == 0, err
    assert [r["step"] for r in load(directory).rows if "loss" in r] == list(range(1, 13))


def test_a_second_signal_aborts_at_once(spawn, tmp_path):
    directory = tmp_path / "run"
    process = spawn(*("run", *TINY_LM, "--workdir", str(directory), "--training.steps", "1000000"))
    rows = directory / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (rows.exists() and rows.read_text().count("\n") > 3):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGSTOP)  # both arrive before it can finish the step
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(60) in (128 + signal.SIGINT, 128 + signal.SIGTERM)


def test_dry_run_describes_data_and_size(cli, tmp_path):
    code, out, err = cli("run", *TINY_LM, "--dry-run", "--workdir", tmp_path / "none")
    assert code == 0, err
    for words in ("pydoc", "sha256", "parameters", "checkpoint", "training step", "GiB free"):
        assert words in out
    config = json.loads(out[: out.index("\n}") + 2])
    assert config["model"]["d_model"] == 16
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data.path", "short.txt"], 1, "at least 1000 bytes, got 5"),
        (["--model.context", "2000", "--data.path", "long.txt"], 1, "validation bytes"),
        (["--prompt", ""], 2, "prompt"),
        (["--training.learning_rate", "nan"], 2, "learning_rate"),
    ],
)
def test_bad_data_and_values_are_one_line(cli, tmp_path, arguments, code, words):
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "long.txt").write_text("x" * 3000)
    got, _, err = cli("run", *TINY_LM, *arguments)
    assert got == code and words in err
    assert err.strip().count("\n") == 0 and "Traceback" not in err
