"""Fixtures of the harness tests: caches and working directory in temporary folders."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Every test writes below its own folder."""
    monkeypatch.setenv("KEXUE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli(capsys):
    """Call the command line: (exit code, standard output, standard error)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = 0
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def spawn():
    """Start the command line as a process of its own; killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **environment: str) -> subprocess.Popen:
            process = subprocess.Popen(
                [sys.executable, "-m", "experiments", *arguments],
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.kill)
            return process

        yield start
