"""Dry runs: everything that a run would do is said, its data looked at, nothing written."""

import json
from pathlib import Path

import pytest
from PIL import Image

EXPERIMENT = '''"""Has data."""

from dataclasses import dataclass

from experiments.harness.corpora import CorpusConfig
from experiments.harness.datasets import TextConfig
from experiments.harness.image_sets import ImageConfig


@dataclass(frozen=True)
class Training:
    batch_size: int = 2


@dataclass(frozen=True)
class Config:
    data: ImageConfig = ImageConfig()
    training: Training = Training()
    seed: int = 0


PRESETS = {"quick": Config()}


def main(config, run):
    return {"seed": config.seed}
'''


@pytest.fixture
def counts(tmp_path):
    (tmp_path / "counts.py").write_text(EXPERIMENT)
    return "counts.py"


def dry(cli, name, *arguments):
    return cli("run", name, *arguments, "--dry-run")


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("ImageConfig", "1500 + 297 images, 8 x 8 x 1, 10 classes"),
        ("TextConfig", "bytes, sha256"),
        ("CorpusConfig", "pydoc"),
    ],
)
def test_the_data_are_looked_at_and_nothing_is_written(cli, counts, tmp_path, kind, found):
    other = EXPERIMENT.replace("data: ImageConfig = ImageConfig", f"data: {kind} = {kind}")
    Path(counts).write_text(other)
    code, out, _ = dry(cli, counts)
    assert code == 0 and "GiB free" in out and "nothing was run" in out
    assert found in next(line for line in out.splitlines() if line.startswith("found: "))
    assert not (tmp_path / "runs").exists()


def test_what_the_run_would_refuse_is_said_behind_the_plan(cli, counts, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for number, size in enumerate((8, 8, 8, 9)):
        Image.new("L", (size, size)).save(tmp_path / "images" / f"{number}.png")
    folder = ("--data.path", tmp_path / "images")
    code, out, err = dry(cli, counts, *folder)
    assert code == 1 and "(new)" in out and "names no programs" not in out
    assert "expected 8 x 8 pixels like 0.png, got 9 x 9" in err
    assert not (tmp_path / "runs").exists()
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    assert "1.png: expected a readable image" in dry(cli, counts, *folder)[2]
    code, out, err = dry(cli, counts, "--training.batch_size", "1501")
    assert code == 1 and "batch_size: expected at most the 1500 examples to train on" in err
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert "data set 'mnist' not found" in dry(cli, counts, "--data.name", "mnist")[2]


def test_a_plan_says_what_has_become_of_the_run(cli, counts, tmp_path):
    folder = tmp_path / "run"
    assert cli("run", counts, "--workdir", folder)[0] == 0
    assert "(complete)" in dry(cli, counts, "--workdir", folder)[1]
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    assert "(resumes)" in dry(cli, counts, "--workdir", folder)[1]
    code, out, err = dry(cli, counts, "--workdir", folder, "--seed", "5")
    assert code == 1 and "nothing was run" in out and "another configuration (seed: 0 -> 5)" in err
    assert "(refused)" in out
    (tmp_path / "empty").mkdir()
    folders = ("--workdir", folder, "--data.path", tmp_path / "empty")
    err = dry(cli, counts, *folders)[2]  # both are told
    assert "another configuration" in err and "empty: expected image files" in err


def test_a_plan_refuses_what_the_run_would_refuse(cli, counts, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "note.txt").write_text("mine")
    file = other / "note.txt" / "run"
    for command in (("run", counts), ("sweep", counts, "--seed", "0:2")):
        for folder, words in ((other, "got one with other files"), (file, "writable directory")):
            code, out, planned = cli(*command, "--workdir", folder, "--dry-run")
            assert code == 1 and words in planned and "(new)" not in out
            assert cli(*command, "--workdir", folder)[2] == planned
    assert [entry.name for entry in other.iterdir()] == ["note.txt"]


def test_a_plan_sees_data_that_do_not_fit_the_network(cli, tmp_path):
    command = ("run", "diffusion/train", "--network.classes", "5", "--workdir", tmp_path / "run")
    code, out, planned = cli(*command, "--dry-run")
    assert code == 2 and "got 5 for images of 10 classes" in planned and "compiled" not in out
    assert cli(*command)[2] == planned


def test_a_plan_sees_data_that_changed_since_the_run_began(cli, counts, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(8):
        Image.new("L", (8, 8)).save(tmp_path / "images" / f"{number}.png")
    options = (counts, "--data.path", tmp_path / "images", "--workdir", tmp_path / "run")
    assert cli("run", *options)[0] == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    assert dry(cli, *options)[0] == 0
    Image.new("L", (8, 8)).save(tmp_path / "images" / "new.png")
    code, _, planned = dry(cli, *options)
    assert code == 1 and "its data has changed since the run began" in planned
    assert cli("run", *options)[2] == planned


@pytest.mark.parametrize("name", ["sequential_images", "listops", "documents", "speech"])
def test_experiments_with_data_of_their_own_look_at_them(name):
    from experiments import catalog, planning

    experiment = catalog.get(f"ssm/{name}")
    found = planning._look(experiment, experiment.preset("quick"))
    expected = {"listops": "200 held-out", "sequential_images": "1500 + 297 images"}
    assert expected.get(name, "500 held-out examples") in found


def test_documents_are_known_by_their_contents(tmp_path, monkeypatch):
    from pydoc_data import topics

    from experiments import planning
    from experiments.ssm import documents

    config = documents.PRESETS["quick"]
    known = planning.data_of(config)
    assert known is not None and known == planning.data_of(documents.CPU)
    monkeypatch.setitem(topics.topics, "assert", "another text")
    assert planning.data_of(config) not in (None, known)
    config = documents.Config("retrieval", documents.DocumentsConfig(path=str(tmp_path)))
    known = planning.data_of(config)
    (tmp_path / "new_aan_pairs.train.tsv").write_text("a")
    assert planning.data_of(config) not in (None, known)


def test_a_dry_sweep_lists_its_runs(cli, counts, tmp_path):
    code, out, _ = cli("sweep", counts, "--seed", "0:2", "--dry-run")
    assert code == 0 and "seed=0  (new)\nseed=1  (new)\n2 cells" in out
    assert not (tmp_path / "runs").exists()


def test_a_result_that_is_not_finite_is_told(cli, counts):
    text = EXPERIMENT.replace('{"seed": config.seed}', '{"seed": 1, "loss": float("nan")}')
    Path(counts).write_text(text)
    code, out, err = cli("run", counts)
    assert code == 0 and "loss nan" in out and err.count("is not finite") == 1
    assert "loss of the result is not finite" in err


@pytest.mark.parametrize("kind", ["ValueError", "KeyError", "ExperimentError", "UserWarning"])
def test_what_a_file_says_in_many_lines_is_told_in_one(cli, counts, kind):
    head = "from experiments.harness.errors import ExperimentError\n\n\ndef main"
    text = EXPERIMENT.replace("def main", head)
    text = text.replace(
        "    return", f'    raise {kind}("first\\n  second\\n\\nthird")\n    return'
    )
    Path(counts).write_text(text)
    code, _, err = cli("run", counts)
    assert code == 1 and err.count("\n") == 1 and "first" in err and "third" in err
    Path(counts).write_text(f'raise {kind}("first\\nsecond")' if kind[0] != "E" else "1 +\n")
    code, _, err = cli("run", counts)
    assert code == 2 and err.count("\n") == 1
