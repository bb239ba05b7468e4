"""What the source says about itself, read without importing it: docstrings, names, calls."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fourier_density", "attention", "diffusion", "ssm")
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """A parsed file.

    Attributes:
        name: dotted.
        path: relative to the root.
        tree: its syntax.
        aliases: dotted name behind every imported name.
    """

    name: str
    path: Path
    tree: ast.Module
    aliases: dict[str, str]

    @property
    def definitions(self) -> Iterator[tuple[str, Definition]]:
        """Functions, classes and methods with their names inside the module."""
        for node in self.tree.body:
            if isinstance(node, Definition):
                yield node.name, node
                if isinstance(node, ast.ClassDef):
                    for inner in node.body:
                        if isinstance(inner, Definition):
                            yield f"{node.name}.{inner.name}", inner


@cache
def parse(path: Path) -> Module:
    """A file below the root."""
    parts = path.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    tree = ast.parse((ROOT / path).read_text())
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                aliases[item.asname or item.name.partition(".")[0]] = (
                    item.name if item.asname else item.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for item in node.names:
                aliases[item.asname or item.name] = f"{node.module}.{item.name}"
    return Module(name, path, tree, aliases)


@cache
def modules(folder: str) -> tuple[Module, ...]:
    """All files below a folder, sorted."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    return tuple(parse(path.relative_to(ROOT)) for path in paths)


def exported(name: str) -> str:
    """The defining place of a name that modules of ours pass on."""
    package, _, last = name.rpartition(".")
    parts = package.split(".")
    if parts[0] not in PACKAGES or len(parts) > 2:
        return name
    file = Path(*parts).with_suffix(".py") if len(parts) > 1 else Path(package) / "__init__.py"
    if not (ROOT / file).is_file():
        return name
    further = parse(file).aliases.get(last, name)
    return name if further == name else exported(further)


def names(node: ast.AST, aliases: dict[str, str]) -> set[str]:
    """Dotted names that a piece of code mentions, imports resolved; also attributes ".x"."""
    found: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            found.add(aliases.get(inner.id, inner.id))
        elif isinstance(inner, ast.Constant):
            if isinstance(inner.value, str) and inner.value.isidentifier():
                found.add(f".{inner.value}")  # a method by name
        elif isinstance(inner, ast.Attribute):
            found.add(f".{inner.attr}")
            chain: list[str] = []
            base: ast.expr = inner
            while isinstance(base, ast.Attribute):
                chain.append(base.attr)
                base = base.value
            if isinstance(base, ast.Name) and base.id in aliases:
                found.add(exported(".".join([aliases[base.id], *reversed(chain)])))
    return {exported(name) for name in found}


def source_tag(node: Definition | ast.Module) -> str | None:
    """The paragraph `Source: ...` of a docstring, on one line."""
    lines = (ast.get_docstring(node) or "").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("Source:")]
    if not starts:
        return None
    paragraph = []
    for line in lines[starts[-1] :]:
        if not line.strip():
            break
        paragraph.append(line.strip())
    return " ".join(paragraph).removeprefix("Source:").strip()
