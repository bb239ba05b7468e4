"""The command line: every subcommand, and bad input as one line without a traceback."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from experiments import catalog
from experiments.__main__ import main
from experiments.arguments import build
from experiments.harness.recorded import load

QUICK = ["--orders", "2", "3", "--samples", "200", "--nodes", "1024"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run, made once."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    assert main(["run", "fourier_density/mixtures", "--workdir", str(directory), *QUICK]) == 0
    return directory


@pytest.fixture
def mixtures(finished, tmp_path):
    """A copy of it, for one test to change."""
    return shutil.copytree(finished, tmp_path / "mixtures")


def test_list_names_every_experiment_with_its_presets(cli):
    code, out, _ = cli("list", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [row["name"] for row in rows] == catalog.names()
    for row in rows:
        assert row["presets"][:3] == ["quick", "cpu", "paper"]
        assert all(name.startswith(("cpu_", "paper_")) for name in row["presets"][3:])
    assert all(name in cli("list")[1] for name in catalog.names())


def test_run_writes_every_promised_file(mixtures):
    for name in ("run.json", "metrics.jsonl", "table.md", "figure.png"):
        assert (mixtures / name).stat().st_size > 0
    data = load(mixtures).data
    assert data["status"] == "done" and data["config"]["orders"] == [2, 3]
    for field in ("config_hash", "versions", "devices", "wall_seconds", "peak_memory_bytes"):
        assert data[field]


def test_a_finished_run_is_not_repeated(cli, mixtures):
    before = (mixtures / "metrics.jsonl").read_text()
    code, _, err = cli("run", "fourier_density/mixtures", "--workdir", mixtures, *QUICK)
    assert code == 0 and "already complete" in err
    assert (mixtures / "metrics.jsonl").read_text() == before


def test_figures_are_redrawn_with_identical_bytes(cli, mixtures):
    first = (mixtures / "figure.png").read_bytes()
    (mixtures / "figure.png").unlink()
    code, _, _ = cli("figures", "--workdir", mixtures)
    assert code == 0
    assert (mixtures / "figure.png").read_bytes() == first


def test_report_rows_have_every_field_and_a_verdict(cli, mixtures):
    code, out, _ = cli("report", "--json", "--workdir", mixtures)
    rows = json.loads(out)
    assert code == 0 and rows
    fields = "id experiment kind statement paper source ours interval tolerance scale seeds verdict"
    verdicts = {"matches", "differs", "inconclusive", "not comparable at this scale"}
    for row in rows:
        assert [*row] == [*fields.split(), "command", "run"]
        assert row["verdict"] in verdicts
    assert len({row["id"] for row in rows}) == len(rows)
    assert "| claim |" in cli("report", "--workdir", mixtures)[1]
    assert cli("report", "--brief", "--workdir", mixtures)[1].startswith("| | claims | matches |")


def test_compare_shows_what_differs(cli, mixtures, tmp_path):
    other = tmp_path / "other"
    cli("run", "fourier_density/mixtures", "--workdir", other, *QUICK, "--seed", "1")
    code, out, err = cli("compare", mixtures, other, "--output", tmp_path / "both.png")
    assert code == 0, err
    assert "seed" in out and str(other) in out
    assert (tmp_path / "both.png").stat().st_size > 0
    again = cli("compare", tmp_path, "--output", tmp_path / "both.png")[1]
    assert again == out  # all runs below a folder
    cli("new", "mine")
    cli("run", "mine.py", "--workdir", tmp_path / "third", "--darts", "50")
    code, out, err = cli("compare", other, tmp_path / "third", "--output", tmp_path / "no.png")
    assert code == 0 and "no figure: the runs have no numbers in common" in out
    assert "note: runs of different experiments, of which what all have is shown" in err
    assert str(other) in out and "darts" not in out and "| pi" not in out
    assert not (tmp_path / "no.png").exists()


def test_a_note_is_told_once():
    code = (
        "import warnings\nfrom experiments.__main__ import quieten\nquieten()\n"
        "for text in ('one', 'two', 'one'):\n    warnings.warn(text)\n    warnings.warn(text)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "note: one\nnote: two\n"


def test_publish_copies_the_small_outcome_without_private_paths(cli, mixtures, tmp_path):
    data = json.loads((mixtures / "run.json").read_text())
    data["command"] = f"run --workdir {tmp_path}/x"
    (mixtures / "run.json").write_text(json.dumps(data))
    code, _, err = cli("publish", mixtures, "--results", tmp_path / "published")
    target = tmp_path / "published" / "fourier_density" / "mixtures" / "quick"
    assert code == 0, err
    assert sorted(p.name for p in target.iterdir()) == [
        *("figure.png", "metrics.jsonl", "run.json", "table.md")
    ]
    assert str(tmp_path) not in (target / "run.json").read_text()
    (mixtures / "figure.png").write_bytes(b" " * 2**21)
    code, _, err = cli("publish", mixtures, "--results", tmp_path / "other")
    assert code == 1 and "expected at most 1 MiB to publish, got 2.0; pictures" in err
    assert not (tmp_path / "other").exists()


def test_a_new_experiment_runs_from_its_file(cli, tmp_path):
    code, _, err = cli("new", "my/question")
    assert code == 0, err
    assert (tmp_path / "my" / "question.py").exists()
    code, out, err = cli("run", "my/question.py", "--darts", "500")
    assert code == 0, err
    assert "pi" in out
    code, _, err = cli("new", "my/question")
    assert code == 1 and "exists" in err
    (folder,) = (tmp_path / "runs" / "my" / "question").iterdir()
    before = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text("".join(before.splitlines(keepends=True)[:4]))
    record = json.loads((folder / "run.json").read_text())
    cut = record | {"status": "interrupted", "result": None}
    (folder / "run.json").write_text(json.dumps(cut))
    assert cli("run", "my/question.py", "--darts", "500")[0] == 0  # goes on where it was cut off
    assert (folder / "metrics.jsonl").read_text() == before
    assert json.loads((folder / "run.json").read_text())["result"] == record["result"]


def test_names_that_hide_a_package_or_are_no_module_are_refused(cli, tmp_path):
    for name, message in (
        ("attention/mine", "find attention/ here in place of the package"),
        ("attention", "another name or a folder, such as my/attention.py: Python would find"),
        ("./jax.py", "the file here in place of the module jax"),
        ("my/bad name", "expected the name of a module"),
        ("my/class", "expected the name of a module"),
    ):
        code, _, err = cli("new", name)
        assert code == 2 and message in err, name
    assert not (tmp_path / "attention").exists()
    (tmp_path / "diffusion").mkdir()
    (tmp_path / "diffusion" / "__init__.py").touch()  # as in a clone of this project
    code, _, err = cli("new", "diffusion/train")
    assert code == 2 and "outside diffusion/, such as experiments/diffusion/train" in err
    assert "kexue-jax new my/none" in cli("run", "my/none.py")[2]


def test_a_changed_run_does_not_replace_what_is_published(cli, mixtures, tmp_path):
    code, _, err = cli("publish", mixtures)
    assert code == 1 and "expected a run of the preset quick as it is" in err
    cli("new", "own/publish")
    for darts in ("60", "70"):
        cli("run", "own/publish.py", "--darts", darts, "--workdir", tmp_path / darts)
    assert cli("publish", tmp_path / "60", "--results", tmp_path / "out")[0] == 0
    assert cli("publish", tmp_path / "60", "--results", tmp_path / "out")[0] == 0  # once more
    code, _, err = cli("publish", tmp_path / "70", "--results", tmp_path / "out")
    assert code == 1 and "there are others: darts: 60 -> 70; remove it" in err


BROKEN = """

def broken(record):
    return record.result["x"]


CLAIMS = (Claim("claims.x", "x", "y", broken, paper=1.0),)
"""


def test_a_claim_that_cannot_measure_is_named(cli, tmp_path):
    cli("new", "own/claims")
    assert cli("run", "own/claims.py", "--darts", "200")[0] == 0
    file = tmp_path / "own" / "claims.py"
    file.write_text(file.read_text() + BROKEN)
    code, _, err = cli("report", "own/claims.py")
    assert code == 1 and "own/claims.py: claim claims.x cannot measure" in err and "'x'" in err


def test_a_file_imports_from_beside_it_and_its_edits_are_noticed(cli, tmp_path):
    file = tmp_path / "own" / "question.py"
    cli("new", "own/question")
    (file.parent / "beside_it.py").write_text("DARTS = 300\n")
    plain = file.read_text()
    default = next(line for line in plain.splitlines() if line.strip().startswith("darts: int"))
    edited = default.partition("=")[0] + "= DARTS"
    before, found, behind = plain.partition("from dataclasses")
    file.write_text(f"{before}from beside_it import DARTS\n{found}{behind}")
    code, _, err = cli("run", "own/question.py")
    assert code == 0 and "has changed" not in err, err
    file.write_text(file.read_text() + "\n# another line\n")
    code, _, err = cli("run", "own/question.py")
    assert code == 0 and "own/question.py has changed since the run in" in err, err
    assert "already complete" in err
    file.write_text(file.read_text().replace(default, edited))
    code, _, err = cli("run", "own/question.py")  # another default: a folder of its own
    assert code == 0 and "already complete" not in err and "has changed" not in err, err
    found = sorted(path.name for path in (tmp_path / "runs" / "own" / "question").iterdir())
    assert len(found) == 2 and found[0] == "quick" and found[1].startswith("quick-")
    os.chdir(file.parent)
    code, _, err = cli("sweep", "../own/question.py", "--seed", "0:2")
    assert code == 0, err
    assert (file.parent / "runs" / "own" / "question" / "sweep-quick").is_dir()
    file.write_text(file.read_text() + "\n# a last line\n")
    code, _, err = cli("sweep", "../own/question.py", "--seed", "0:2")
    assert code == 0 and "has changed since 2 of these cells were run" in err, err


def test_estimate_counts_memory_and_arithmetic(cli):
    code, out, _ = cli("estimate", "fourier_density/mixtures", "--preset", "quick")
    assert code == 0 and "log_prob" in out


def test_costs_of_a_decoder_are_printed_and_changed_by_fields(cli):
    arguments = ("--decoder.n_layers", "2", "--context", "1024", "--dtype", "float32")
    code, out, _ = cli("costs", "mla", *arguments, "--decoder.mixer.latent_dim", "256")
    assert code == 0
    rows = dict(line[2:-2].split(" | ") for line in out.splitlines()[2:])
    assert rows["cache of a token, elements a layer"] == str(256 + 64)
    assert rows["cache of a token, bytes"] == str(2 * 320 * 4)
    assert rows["cache of 1 x 1024 tokens, GiB"] == f"{1024 * 2 * 320 * 4 / 2**30:.3f}"
    heads = 2 * 2 * 32 * (2 * 256 + 64) * 1024  # 2 layers, absorbed
    assert rows["GFLOP, a token behind 1023, attention"] == f"{heads / 1e9:.6g}"
    assert rows["kernel of a prompt here"] == "xla"
    assert "GPU" in rows["kernel cudnn, why not"]
    assert "elements a layer | 8192 |" in cli("costs", "mha")[1]
    assert "| parameters | 15706484224 |" in cli("costs", "deepseek_v2_lite")[1]  # 15.7B
    assert cli("costs", "--context", "512") == cli("costs", "gqa", "--context=512")
    code, _, error = cli("costs", "flash")
    assert code != 0
    assert "expected one of mha, gqa, mqa, mla, deepseek_v2_lite, got 'flash'" in error
    code, _, error = cli("costs", "gqa", "--context", "0")
    assert code != 0
    assert "context: expected at least 1, got 0" in error


def test_doctor_shows_devices_versions_and_data(cli):
    code, out, _ = cli("doctor")
    assert code == 0
    assert "cpu" in out and "jax" in out and "tiny_shakespeare" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["runn"], 2, "no command 'runn'; nearest: run"),
        (["run"], 2, "name"),
        (["run", "fourier_density/mixture"], 2, "nearest: fourier_density/mixtures"),
        (["run", "mixtures"], 2, "nearest: fourier_density/mixtures"),
        (["run", "qqq"], 2, "no experiment 'qqq' (all: "),
        (["run", "fourier_density/mixtures", "--preset", "quik"], 2, "nearest: quick"),
        (["run", "fourier_density/mixtures", "--sample", "3"], 2, "nearest: --samples"),
        (["run", "fourier_density/mixtures", "--orders", "0"], 2, "orders: expected integers >= 1"),
        (["run", "fourier_density/mixtures", "--targets", "x"], 2, "targets: expected some of"),
        (["run", "missing.py"], 2, "no experiment file missing.py"),
        (["run", "--samples", "9", "mine.py"], 2, "the name before it: run NAME --samples"),
        (["run", "fourier_density/mixtures", "--orders", "1,2"], 2, "values with spaces between"),
        (["reproduce", "--only", "nothing*"], 2, "'nothing*' matches no experiment (all: "),
        (["report", "--jsn"], 2, "unknown argument '--jsn' of report; nearest: --json"),
        (["compare", "nowhere"], 1, "a run directory with run.json, there is no such folder"),
        (["publish", "nowhere"], 1, "expected a run directory with run.json"),
        (["figures", "--workdir", "nowhere"], 1, "expected finished runs, found none"),
        (["run", "attention/language_model", "--data.path", "no.txt"], 1, "readable text file"),
        (
            ["run", "attention/language_model", "--data.name", "tiny_shakespeare"],
            1,
            "data set 'tiny_shakespeare' not found (no folder given); give --data.data_dir",
        ),
    ],
)
def test_bad_input_is_one_line_with_the_right_code(cli, monkeypatch, arguments, code, words):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    got, _, err = cli(*arguments)
    assert got == code
    assert words in err
    assert err.count("\n") == 1 and "Traceback" not in err


def test_without_a_command_the_help_is_shown(cli):
    code, out, err = cli()
    assert code == 2 and not out and "reproduce" in err and "list the experiments" in err


def test_debug_shows_the_traceback(cli):
    assert "Traceback" in cli("--debug", "run", "nothing/here")[2]


def test_foreign_and_differing_directories_are_refused(cli, mixtures, tmp_path):
    code, _, err = cli(
        *("run", "fourier_density/mixtures", "--workdir", mixtures, *QUICK, "--seed", "7")
    )
    assert code == 1 and "seed: 0 -> 7" in err and err.count("\n") == 1
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    code, _, err = cli("run", "fourier_density/mixtures", "--workdir", foreign)
    assert code == 1 and "other files" in err
    assert [p.name for p in foreign.iterdir()] == ["thesis.tex"]
    (mixtures / "run.json").write_text("{")
    code, _, err = cli("run", "fourier_density/mixtures", "--workdir", mixtures, *QUICK)
    assert code == 1 and "readable JSON" in err


def test_an_unwritable_directory_is_refused(cli, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    code, _, err = cli("run", "fourier_density/mixtures", "--workdir", blocker / "run")
    assert code == 1 and "expected a writable directory" in err
    if os.geteuid():  # root may write anywhere
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        assert cli("run", "fourier_density/mixtures", "--workdir", closed / "run")[0] == 1


def test_no_code_that_only_a_record_names_is_executed(cli, mixtures, tmp_path):
    """Neither by the report nor by figures; and publish writes below its folder."""
    data = json.loads((mixtures / "run.json").read_text())
    (tmp_path / "mine.py").write_text("from pathlib import Path\nPath('executed').touch()\n")
    (mixtures / "run.json").write_text(json.dumps({**data, "experiment": "mine.py"}))
    for command in (["report"], ["figures"]):
        _, _, err = cli(*command, "--workdir", mixtures)
        assert "mine.py are left out" in err
    assert not (tmp_path / "executed").exists()
    data |= {"experiment": "../../escaped", "preset": "../../quick"}
    (mixtures / "run.json").write_text(json.dumps(data))
    code, _, err = cli("publish", mixtures, "--results", tmp_path / "below" / "results")
    assert code == 0, err
    assert (tmp_path / "below" / "results" / "escaped" / "quick" / "run.json").exists()


def test_files_that_are_named_are_in_the_report(cli, tmp_path):
    cli("new", "mine")
    cli("run", "mine.py", "--darts", "500")
    for file in ("mine.py", "mine", tmp_path / "mine.py"):  # alone, and measured
        (row,) = json.loads(cli("report", file, "--json")[1])
        assert row["id"] == "mine.pi" and row["experiment"] == "mine.py" and row["ours"] > 0
    assert "no experiment file none.py" in cli("report", "none.py")[2]
    code, _, message = cli("report", "--workdir", "none")
    assert code == 2 and "--workdir none: expected a directory, found none" in message
    code, out, _ = cli("figures", "mine.py")
    assert code == 0 and out.startswith("runs/mine/")
    file = tmp_path / "mine.py"  # another program now, of other fields
    file.write_text(file.read_text().replace("darts", "arrows"))
    (row,) = json.loads(cli("report", file, "--json")[1])
    assert row["scale"].endswith("quick, changed, older code")
    cli("run", "mine.py", "--arrows", "400")
    (row,) = json.loads(cli("report", file, "--json")[1])
    assert row["scale"].endswith("quick, changed")


@pytest.mark.parametrize("command", ["run", "sweep", "estimate"])
def test_help_lists_the_fields_of_the_configuration(cli, command):
    code, out, _ = cli(command, "fourier_density/mixtures", "--help")
    assert code == 0 and "--preset" in out and "--orders" in out and "--samples" in out
    code, out, _ = cli(command, "-h")
    assert code == 0 and "--preset" in out and "--orders" not in out and "NAME --help" in out


def test_help_of_other_commands(cli):
    assert "--context" in cli("costs", "--help")[1]
    code, out, _ = cli("report", "--help")
    assert code == 0 and "--brief" in out
    assert cli("run", "ssm/dela", "--help")[0] == 2


def test_an_interrupt_outside_a_run_is_a_line(cli, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog, "names", interrupted)
    code, _, err = cli("list")
    assert code == 130 and err == "kexue-jax: interrupted\n"


def test_every_option_says_what_it_does():
    parser = build()
    (commands,) = [action for action in parser._actions if action.dest == "command"]
    for name, command in commands.choices.items():
        for action in command._actions:
            assert action.help or action.choices, f"{name} {action.dest}"
