"""What records may not do or keep: run files that they name, paths of the machine."""

import json
from pathlib import Path

import pytest

from experiments import private, trained
from experiments.harness.errors import ExperimentError


def record(folder, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    data = {"experiment": "mine.py", "preset": "quick", "config": {}, "status": "done"}
    (folder / "run.json").write_text(json.dumps({**data, "config_hash": "x", **fields}))
    return folder


def test_opening_a_run_executes_no_file_that_only_its_record_names(cli, tmp_path):
    Path("mine.py").write_text("from pathlib import Path\nPath('executed').touch()\n")
    folder = record(tmp_path / "run")
    code, _, err = cli("generate", "--checkpoint", folder, "--prompt", "a")
    assert code == 2 and "a run of 'mine.py', which is none of this package" in err
    with pytest.raises(ExperimentError, match=r"give its file, which is then executed"):
        trained.load(folder)
    assert not Path("executed").exists()
    with pytest.raises(ExperimentError, match="lacks Config"):
        trained.load(folder, file="mine.py")
    assert Path("executed").exists()


def test_published_records_hold_no_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/jos\u00e9")
    monkeypatch.setenv("TFDS_DATA_DIR", "/data/sets")
    here = str(Path.cwd())
    folder = record(
        tmp_path / "run",
        command=f"run a/b --data.path /mnt/private/images --workdir {here}/runs/x",
        config={"data": {"path": "/mnt/private/images", "data_dir": "/data/sets"}, "a": "1 /2"},
        result={"sample": "see /usr/lib/x and /home/jos\u00e9/notes", "n": [1, "b/c"]},
        home="/home/jos\u00e9",
        other="/home/jos\u00e9s/x",
        url="https://kexue.fm/archives/10007",
    )
    found = json.loads(private.redacted(folder / "run.json"))
    assert found["command"] == "run a/b --data.path .../images --workdir ./runs/x"
    assert found["config"] == {
        "data": {"path": ".../images", "data_dir": "$TFDS_DATA_DIR"},
        "a": "1 /2",
    }
    assert found["result"] == {"sample": "see /usr/lib/x and ~/notes", "n": [1, "b/c"]}
    assert (found["home"], found["other"]) == ("~", ".../x")
    assert found["url"] == "https://kexue.fm/archives/10007"
    monkeypatch.setenv("HOME", "/")
    again = json.loads(private.redacted(folder / "run.json"))
    assert again["experiment"] == "mine.py" and again["command"] == found["command"]


def test_rows_and_tables_keep_what_is_no_known_folder(tmp_path):
    here = str(Path.cwd())
    rows, table = tmp_path / "metrics.jsonl", tmp_path / "table.md"
    rows.write_text(json.dumps({"step": 1, "file": f"{here}/a", "loss": 0.1}) + "\n")
    table.write_text(f"| a / b | {here}/c | /usr/x |\n")
    assert json.loads(private.redacted(rows)) == {"step": 1, "file": "./a", "loss": 0.1}
    assert private.redacted(table) == "| a / b | ./c | /usr/x |\n"
