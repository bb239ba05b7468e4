"""Who may import whom, what importing a theory package must not drag in, and sizes of the tree."""

import ast
import io
import re
import statistics
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
THEORY = ("fourier_density", "attention", "ssm", "diffusion")
PRESENT = [name for name in THEORY if (ROOT / name).is_dir()]
LAZY = {
    "plotting.py": {"matplotlib"},
    "coding.py": {"constriction"},
    "interop.py": {"numpyro"},
    "diffusers_unet.py": {"safetensors"},
    "tensor_files.py": {"safetensors"},
    "saving.py": {"safetensors"},
}  # imported inside a function; see the test of loading below
ALLOWED = {"jax", "numpy", "scipy", "threadpoolctl", "flax", "jaxtyping", *sys.stdlib_module_names}
NO_CODE = {
    getattr(tokenize, name)
    for name in ("COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER")
}
SHELLS = ("layers", "stack", "unet", "uvit", "autoencoder")  # may import flax.linen and flax.core


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", PRESENT)
def test_theory_packages_import_only_themselves_and_the_core_libraries(package):
    for path in (ROOT / package).rglob("*.py"):
        for name in imported(path):
            top = name.split(".")[0]
            assert top in ALLOWED | {package} | LAZY.get(path.name, set()), (
                f"{path.name} imports {name}"
            )
            assert not name.startswith(("jax._src", "jax.core")), f"{path.name} imports {name}"
            if name.startswith("flax"):
                shell = name.startswith(("flax.linen", "flax.core")) and path.stem in SHELLS
                assert name.startswith(("flax.struct", "flax.errors")) or shell, (
                    f"{path.name} imports {name}"
                )


@pytest.mark.parametrize("package", PRESENT)
def test_nothing_below_imports_experiments(package):
    for path in (ROOT / package).rglob("*.py"):
        assert not any(name.split(".")[0] == "experiments" for name in imported(path)), path


@pytest.mark.parametrize("package", PRESENT)
def test_importing_a_theory_package_loads_no_training_library(package):
    heavy = ("optax", "orbax", "tensorflow_datasets", "matplotlib", "tyro")
    code = f"import sys, {package}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("package", PRESENT)
def test_importing_a_theory_package_takes_about_as_long_as_importing_jax(package):
    """Of processor time in one process, where both meet the same load: measured 0.1 to 0.75."""
    clock = "time.process_time()"
    code = f"import time; a = {clock}; import jax; b = {clock}; import {package}; c = {clock}"
    command = [sys.executable, "-c", f"{code}; print((c - b) / (b - a))"]
    runs = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2))
    assert min(float(run.stdout) for run in runs) < 1.25


def test_modules_and_functions_keep_to_the_house_size():
    """Docstrings are not counted in functions, where they say the most."""
    sizes = []
    for folder in (*PRESENT, "experiments", "benchmarks", "docs", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            assert len(text.splitlines()) <= 400, path
            sizes += [len(text.splitlines())] * (folder in (*PRESENT, "experiments"))
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    first = node.body[0]
                    told = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
                    assert node.end_lineno - node.lineno + 1 - told <= 60, (path, node.name)
    assert statistics.median(sizes) <= 150


def lines_of_code(path):
    """Lines with code, without docstrings, comments and blank ones."""
    text, lines = path.read_text(), set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(
            node
        ):
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_the_packages_have_as_many_lines_of_tests_as_of_code():
    code, tests = (
        sum(lines_of_code(path) for name in names for path in (ROOT / name).rglob("*.py"))
        for names in (PRESENT, [f"tests/{name}" for name in (*PRESENT, "reference")])
    )
    assert tests >= code


def test_the_picture_of_the_architecture_shows_the_modules_and_imports_there_are():
    """Of the tree: every module of the theory packages; of the layers: no import upwards."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    tree, layers = re.findall(r"```text\n(.*?)```", page, re.DOTALL)[:2]
    parts = re.split(r"^(\w+/)(?:<package>/)?$", tree, flags=re.MULTILINE)
    for package in PRESENT:
        told = set(re.findall(r"\w+", parts[parts.index(f"{package}/") + 1]))
        there = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
        assert there <= told, f"{package}: not in the tree of docs/architecture.md: {there - told}"
    ranks = {
        name: len(line) - len(line.lstrip())
        for line in layers.splitlines()
        for name in ("tests", "experiments", *PRESENT, "jax", "numpy", "flax", "scipy")
        if re.search(rf"\b{name}\b", line)
    }
    assert ranks["tests"] < ranks["experiments"] < ranks["ssm"] < ranks["jax"]
    for package in ("experiments", *PRESENT):
        for path in (ROOT / package).rglob("*.py"):
            for name in imported(path):
                top = name.split(".")[0]
                if top in ranks and top != package:
                    assert ranks[top] > ranks[package], f"{path} imports {name}"
