"""Public functions say what they are, the shapes they take, what they raise, and their source."""

import ast
import re
from collections.abc import Iterator

import pytest

from docs.pages.sources import PACKAGES, Definition, Module, modules, source_tag

# Files, names, checks, interfaces: what has no formula to cite.
PLAIN = {
    *("attention.checkpoints", "attention.checks", "attention.generation", "attention.hf_names"),
    *("attention.linear", "attention.partition", "attention.saving", "attention.tensor_files"),
    *("diffusion.diffusers_config", "diffusion.levels", "diffusion.partition"),
    *("fourier_density.checks", "fourier_density.extrema", "fourier_density.host"),
    *("fourier_density.interop", "fourier_density.plotting", "fourier_density.pytrees"),
    *("ssm.checks", "ssm.fourier", "ssm.layers", "ssm.mixer", "ssm.partition", "ssm.signals"),
}
SHAPE = re.compile(r"\[[^\]]*\]|[Ss]calar|shape|number|one (t|x)\b|broadcast")


def public(package: str) -> Iterator[tuple[Module, str, Definition, str]]:
    """Module, name, node, and the docstrings around it, of all public definitions."""
    for module in modules(package):
        around = {"": ast.get_docstring(module.tree) or ""}
        for name, node in module.definitions:
            owner = name.rpartition(".")[0]
            if isinstance(node, ast.ClassDef):
                around[name] = f"{around['']}\n{ast.get_docstring(node) or ''}"
            if not any(part.startswith("_") for part in name.split(".")):
                yield module, name, node, around[owner]


def described(node: Definition) -> str:
    return ast.get_docstring(node) or ""


def arguments(node: Definition) -> list[ast.arg]:
    if isinstance(node, ast.ClassDef):
        return []
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [argument for argument in every if argument.arg not in ("self", "cls")]


def annotated(node: Definition) -> bool:
    return isinstance(node, ast.ClassDef) or (
        node.returns is not None and all(a.annotation is not None for a in arguments(node))
    )


def says_what_it_raises(node: Definition) -> bool:
    """A check says so in its first word."""
    if isinstance(node, ast.ClassDef) or not any(isinstance(n, ast.Raise) for n in ast.walk(node)):
        return True
    return "Raises:" in described(node) or described(node).startswith(("Refuse", "Check", "Raise"))


def says_shapes(node: Definition, around: str) -> bool:
    """In the annotation, its own docstring, or the notation of its class or module."""
    hints = [ast.unparse(a.annotation) for a in arguments(node) if a.annotation]
    silent = any(hint.startswith("Array") for hint in hints)  # unlike Float[Array, "B T d"]
    return not silent or bool(SHAPE.search(described(node) + around))


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_are_complete(package):
    found = list(public(package))
    lacking = {
        "a docstring": [name for _, name, node, _ in found if not described(node)],
        "annotations": [name for _, name, node, _ in found if not annotated(node)],
        "shapes": [name for _, name, node, around in found if not says_shapes(node, around)],
        "what it raises": [name for _, name, node, _ in found if not says_what_it_raises(node)],
        "a source": [
            f"{module.name}.{name}"
            for module, name, node, around in found
            if module.name not in PLAIN
            and not (source_tag(node) or source_tag(module.tree) or "Source:" in around)
        ],
    }
    for what, names in lacking.items():
        allowed = 0.05 * len(found) if what in ("shapes", "a source") else 0  # found by their words
        assert len(names) <= allowed, f"{len(names)} of {len(found)} lack {what}: {names}"


def test_modules_open_with_what_they_are_for():
    for folder in (*PACKAGES, "experiments", "benchmarks", "docs/pages", "tests"):
        for module in modules(folder):
            assert ast.get_docstring(module.tree), module.path


def test_configurations_take_no_more_than_sizes_by_position():
    found = 0
    for package in PACKAGES:
        for _, name, node, _ in public(package):
            if isinstance(node, ast.ClassDef) and name.endswith("Config"):
                fields = [
                    ast.unparse(b.annotation) for b in node.body if isinstance(b, ast.AnnAssign)
                ]
                behind = [place for place, kind in enumerate(fields) if kind.endswith("KW_ONLY")]
                assert behind and behind[0] <= 4, name
                found += 1
    assert found >= 15
