"""What records may not do or keep: run files that they name, paths of the machine."""

import json
import shlex
import signal
from pathlib import Path

import pytest

from experiments import private, trained
from experiments.harness import machine, manifest, tracking
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
    assert code == 1 and "a run of 'mine.py', which is none of this package" in err
    with pytest.raises(ExperimentError, match=r"give its file, which is then executed"):
        trained.load(folder)
    assert not Path("executed").exists()
    with pytest.raises(ExperimentError, match="lacks Config"):
        trained.load(folder, file="mine.py")
    assert Path("executed").exists()


@pytest.mark.parametrize("line", ["    hits = done[-1]", "PRESETS = {", "    pi, error = record"])
def test_an_error_in_ones_own_file_is_told_with_its_line(cli, line):
    cli("new", "mine")
    lines = Path("mine.py").read_text().splitlines()
    (at,) = (n for n, text in enumerate(lines) if text.startswith(line))
    indent = line[: len(line) - len(line.lstrip())]
    Path("mine.py").write_text("\n".join([*lines[:at], f"{indent}1 / 0", *lines[at:]]))
    cli("run", "mine.py", "--darts", "10")
    _, _, err = cli(*(("report",) if "record" in line else ("run",)), "mine.py")
    assert f"ZeroDivisionError: division by zero (mine.py, line {at + 1})" in err
    assert err.count("\n") == 1


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


def test_paths_with_spaces_are_paths_as_a_whole(tmp_path):
    path = "/mnt/Jane Doe/secret (old), project/text.txt"
    folder = record(tmp_path / "run", command=shlex.join(["run", "--data.path", path]), path=path)
    found = json.loads(private.redacted(folder / "run.json"))
    assert found["command"] == "run --data.path '.../text.txt'" and found["path"] == ".../text.txt"


def test_a_published_run_is_not_published_over_itself(cli, tmp_path, monkeypatch):
    cli("new", "mine")
    cli("run", "mine.py", "--darts", "50")
    (folder,) = Path("runs/mine").iterdir()
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 5, "pi"')  # torn by a kill
    results = tmp_path / "results"
    for _ in range(2):  # the second time over the first
        code, _, err = cli("publish", folder, "--results", results)
        assert code == 0, err
    target = results / "mine" / "quick"
    before = {file: file.read_bytes() for file in target.iterdir()}
    lines = (target / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == tracking.read_rows(folder / "metrics.jsonl")
    code, _, err = cli("publish", target, "--results", results)
    assert code == 1 and "this is what is published" in err
    assert {file: file.read_bytes() for file in target.iterdir()} == before

    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(manifest, "replace", full)
    code, _, err = cli("publish", folder, "--results", results)
    assert code == 1 and "No space left on device" in err
    assert {file: file.read_bytes() for file in target.iterdir()} == before


def test_rows_and_tables_keep_what_is_no_known_folder(tmp_path):
    here = str(Path.cwd())
    rows, table = tmp_path / "metrics.jsonl", tmp_path / "table.md"
    rows.write_text(json.dumps({"step": 1, "file": f"{here}/a", "loss": 0.1}) + "\n")
    table.write_text(f"| a / b | {here}/c | /usr/x |\n")
    assert json.loads(private.redacted(rows)) == {"step": 1, "file": "./a", "loss": 0.1}
    assert private.redacted(table) == "| a / b | ./c | /usr/x |\n"


def test_what_was_published_before_does_not_stay(cli, tmp_path):
    cli("new", "mine")
    cli("run", "mine.py", "--darts", "50")
    (folder,) = Path("runs/mine").iterdir()
    target = tmp_path / "results" / "mine" / "quick"
    target.mkdir(parents=True)
    (target / "figure.png").write_bytes(b"old")
    (target / "notes.md").write_text("mine")
    (folder / "figure.png").unlink(missing_ok=True)
    code, _, err = cli("publish", folder, "--results", tmp_path / "results")
    assert code == 0, err
    assert not (target / "figure.png").exists() and (target / "notes.md").exists()


def test_hidden_files_are_no_part_of_data_and_torn_rows_are_left_out(tmp_path):
    (tmp_path / "images" / ".thumbs").mkdir(parents=True)
    (tmp_path / "images" / "a.png").write_bytes(b"1")
    before = manifest.listed(tmp_path / "images")
    (tmp_path / "images" / ".thumbs" / "b.png").write_bytes(b"2")
    assert manifest.listed(tmp_path / "images") == before
    (tmp_path / "images" / "c.png").write_bytes(b"3")
    assert manifest.listed(tmp_path / "images") != before
    (tmp_path / "metrics.jsonl").write_bytes(b'{"a": 1}\n\xff\xfe\n[1]\n{"b"')
    assert tracking.read_rows(tmp_path / "metrics.jsonl") == [{"a": 1}]


def test_a_terminal_that_closes_stops_a_run_unless_that_is_ignored():
    assert machine.hangup() == [signal.SIGHUP]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert machine.hangup() == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_links_in_a_run_lead_nowhere(cli, tmp_path):
    """A folder of somebody else's: files of ours are neither written over nor copied."""
    run, mine = tmp_path / "runs" / "theirs", tmp_path / "mine"
    options = ("--orders", "2", "--samples", "200", "--nodes", "1024")
    assert cli("run", "fourier_density/mixtures", "--workdir", run, *options)[0] == 0
    mine.write_text("mine")
    for name in ("table.md", "figure.png", "table.md.tmp"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(mine)
    assert cli("figures", "--workdir", tmp_path / "runs")[0] == 0
    assert mine.read_text() == "mine" and not (run / "table.md").is_symlink()
    (run / "table.md").unlink()
    (run / "table.md").symlink_to(mine)
    code, _, err = cli("publish", run, "--results", tmp_path / "elsewhere")
    assert code == 1 and "table.md: expected a file, got a link" in err
