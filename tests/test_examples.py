"""Code that users copy runs: Python blocks of the README and the docs, doctests."""

import doctest
import importlib
import pkgutil
import re
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


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_of_the_pages_run(block):
    exec(compile(block, "page", "exec"), {})


@pytest.mark.parametrize("module", MODULES)
def test_doctests_hold(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_commands_of_the_readme_exist():
    from experiments.__main__ import build

    text = (ROOT / "README.md").read_text()
    known = build().format_help()
    for command in set(re.findall(r"python -m experiments (\w+)", text)):
        assert re.search(rf"^\s+{command}\s", known, re.M), command
