"""The public names of the packages with their signatures, a line each: a change of them shows."""

import ast
from collections.abc import Iterator
from pathlib import Path

from docs.pages.sources import PACKAGES, Definition, Module, modules

PATH = Path("docs/api.txt")
HEAD = """\
# Public names and signatures, written by `make pages`. A line that changes or goes is a change of
# the interface: say so in CHANGELOG.md.
"""


def page() -> str:
    """All of them, sorted within each package."""
    return HEAD + "\n".join(line for package in PACKAGES for line in _package(package)) + "\n"


def _package(package: str) -> Iterator[str]:
    for module in modules(package):
        names = _exported(module)
        if names:
            yield f"{module.name}: {', '.join(sorted(names))}"
        if module.name == package:
            continue
        public = {
            name: node
            for name, node in module.definitions
            if not any(part.startswith("_") for part in name.split("."))
        }
        for name in sorted(public):
            yield f"{module.name}.{name}{_signature(public[name])}"


def _exported(module: Module) -> list[str]:
    """What it lists in `__all__`, some of it defined elsewhere."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def _signature(node: Definition) -> str:
    """Arguments and what is returned; of a class its bases and annotated fields."""
    if not isinstance(node, ast.ClassDef):
        marks = [ast.unparse(mark) for mark in node.decorator_list]
        if marks and marks[0].endswith("property"):
            return f" -> {_hint(node.returns)}"
        return f"({ast.unparse(node.args)}) -> {_hint(node.returns)}"
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    fields = [
        inner
        for inner in node.body
        if isinstance(inner, ast.AnnAssign) and not ast.unparse(inner.target).startswith("_")
    ]
    made = [
        inner.args
        for inner in node.body
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__"
    ]
    inside = [ast.unparse(field) for field in fields] or [ast.unparse(each) for each in made]
    return f"{f'({bases})' if bases else ''}: {'; '.join(inside)}".rstrip(": ")


def _hint(node: ast.expr | None) -> str:
    return ast.unparse(node) if node else "?"
