"""Who may import whom, and what importing a theory package must not drag in."""

import ast
import subprocess
import sys
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
    "checkpoints.py": {"safetensors"},
}  # imported inside a function; see the test of loading below
ALLOWED = {"jax", "numpy", "scipy", "threadpoolctl", "flax", "jaxtyping", *sys.stdlib_module_names}
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
                assert name.startswith("flax.struct") or shell, f"{path.name} imports {name}"


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


def test_modules_keep_to_the_house_size():
    for folder in (*PRESENT, "experiments", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text().splitlines())
            assert lines <= 400, f"{path.relative_to(ROOT)}: {lines} lines"
