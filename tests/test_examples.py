"""Code that users copy runs: Python blocks of the README and the docs, doctests."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    """Python blocks of a page; those of a tutorial are one program."""
    found = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    return ["\n".join(found)] if page.name.startswith("tutorial") else found


BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page))
]
PACKAGES = ("fourier_density", "attention", "ssm", "diffusion")
MODULES = [
    info.name
    for package in PACKAGES
    for info in pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
]


SCRIPTS = [
    path
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
    if path.stem != "timing" and not path.stem.startswith("torch_")  # those need PyTorch
]


@pytest.mark.sample(3)
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_of_the_pages_run(block):
    exec(compile(block, "page", "exec"), {})


@pytest.mark.parametrize("module", MODULES)
def test_doctests_hold(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


STARTED = """
import contextlib, io, runpy, sys
from pathlib import Path
first = list(sys.path)
for script in sys.argv[1:]:
    sys.argv, sys.path = [script, "--help"], [str(Path(script).parent), *first[1:]]
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]
    said = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
        runpy.run_path(script, run_name="__main__")
    print(script, "usage" in said.getvalue())
"""


@pytest.mark.slow
def test_benchmarks_start():
    """From the root, by their path: their folder must not hide the packages. In one process."""
    command = [sys.executable, "-c", STARTED, *map(str, SCRIPTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{script} True" for script in SCRIPTS]


def test_commands_of_the_readme_exist():
    from experiments.arguments import build

    text = (ROOT / "README.md").read_text()
    known = build().format_help()
    for command in set(re.findall(r"python -m experiments (\w+)", text)):
        assert re.search(rf"^\s+{command}\s", known, re.M), command
