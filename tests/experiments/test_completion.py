"""Completion in a shell: commands, names of experiments, presets, and fields of configurations."""

import os
import subprocess
import sys

import pytest

CODE = "import sys\nfrom experiments import __main__ as m\n"
QUICK = f"{CODE}try:\n    m.main()\nfinally:\n    assert 'jax' not in sys.modules"


def complete(line, tmp_path, code=QUICK):
    """What may stand at the end of a line, as the code in a shell asks."""
    output = tmp_path / "found"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(output),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, check=True)
    return {word.strip() for word in output.read_text().splitlines()}


@pytest.mark.parametrize(
    ("line", "found", "others"),
    [
        ("kexue-jax rep", {"report", "reproduce"}, set()),
        ("kexue-jax run ssm/d", {"ssm/delay", "ssm/discretisation", "ssm/documents"}, set()),
        ("kexue-jax cite attention/c", {"attention/cache", "attention/conversion"}, set()),
        ("kexue-jax run ssm/delay --preset ", {"quick", "cpu", "paper"}, set()),
        ("kexue-jax reproduce --jo", {"--jobs"}, set()),
        ("kexue-jax estimate --mesh.", {"--mesh.data", "--mesh.model"}, {"--mesh.fsdp"}),
    ],
)
def test_words_are_completed(line, found, others, tmp_path):
    assert found <= complete(line, tmp_path) <= found | others


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("kexue-jax run ssm/delay --training.le", {"--training.learning-rate"}),
        ("kexue-jax sweep ssm/delay --preset cpu --training.ste", {"--training.steps"}),
    ],
)
def test_fields_of_the_configuration_are_completed(line, found, tmp_path):
    assert complete(line, tmp_path, f"{CODE}m.main()") == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_code_for_a_shell_names_the_program(cli, shell):
    code, out, _ = cli("completion", shell)
    assert code == 0 and "kexue-jax" in out and "_ARGCOMPLETE" in out


def test_other_shells_are_refused(cli):
    code, _, err = cli("completion", "ksh")
    assert code == 2 and "bash" in err
