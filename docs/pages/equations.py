"""The index from equations to functions to the tests that check them.

Every public function, method or class whose docstring has a paragraph `Source:` is an entry. A
test checks it if it mentions it, itself or by helpers and fixtures of its file; or if it mentions
a function of the package that leads to it, which the index then names.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from docs.pages.sources import PACKAGES, Module, modules, names, source_tag

PATH = Path("docs/equations.md")
COMPARISONS = {"abs", "allclose", "approx", "array_equal", "isclose"} | {
    f"assert_{rest}"
    for rest in ("allclose", "array_equal", "array_less", "trees_all_close", "trees_all_equal")
}
OTHERS = {"mpmath", "reference", "scipy", "tests"}  # roots of independent references
HEAD = """---
hide: [navigation, toc]
---

# Equations

From an equation to the function that computes it, and on to a test that checks it: {count}
entries, collected from the `Source:` paragraphs of docstrings. The numbers of the posts' equations
were counted in their texts. The test is found by name: it mentions the function, or the function
behind "via" that leads to it; one that compares numbers is preferred, then one with a reference.

"""


@dataclass(frozen=True)
class Entry:
    """An equation in code.

    Attributes:
        name: dotted, of the function.
        source: paper or post, and place.
        tests: "path::test" of what checks it, best first.
        via: the function through which they do; empty if they name it themselves.
    """

    name: str
    source: str
    tests: tuple[str, ...]
    via: str


def tagged() -> Iterator[tuple[Module, str, str]]:
    """Module, name inside it and tag of every public definition that has one."""
    for package in PACKAGES:
        for module in modules(package):
            for name, node in module.definitions:
                tag = source_tag(node)
                if tag and not any(part.startswith("_") for part in name.split(".")):
                    yield module, name, tag


@cache
def entries() -> tuple[Entry, ...]:
    """All of them, in the order of the packages."""
    found = []
    for module, name, tag in tagged():
        target = f"{module.name}.{name}"
        tests, via = _checked(target)
        found.append(Entry(target, tag, tests, via))
    return tuple(found)


def page() -> str:
    """The index as Markdown."""
    lines = [HEAD.format(count=len(entries()))]
    for package in PACKAGES:
        lines += [f"## {package}\n", "| equation | function | test |", "| --- | --- | --- |"]
        for entry in entries():
            if entry.name.startswith(f"{package}."):
                test = entry.tests[0].replace("::", " :: ") if entry.tests else "none"
                via = f" via `{entry.via.removeprefix(package + '.')}`" if entry.via else ""
                cells = [_escaped(entry.source), f"[`{entry.name}`][{entry.name}]"]
                lines.append(f"| {' | '.join([*cells, f'`{test}`{via}'])} |")
        lines.append("")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("https://kexue.fm/archives/", "archives/")


def _checked(target: str) -> tuple[tuple[str, ...], str]:
    """Tests that mention a function, or the nearest of its callers; and that caller."""
    seen, edge = {target}, [target]
    while edge:
        for name in edge:
            if tests := _mentioning(name):
                return tests, "" if name == target else name
        callers = {caller for name in edge for caller in _callers(target)[name]} - seen
        seen |= callers
        edge = sorted(callers)
    return (), ""


def _mentioning(name: str) -> tuple[str, ...]:
    """Tests that mention a name; a method by its last part, beside what makes its class.

    First those that compare numbers, and with independent references.
    """
    package, module, *inside = name.split(".")
    found = {}
    for test, mentioned in _tests(package).items():
        owner = f"{package}.{module}.{inside[0]}" in mentioned
        here = owner or any(other.startswith(f"{package}.") for other in mentioned)
        if name in mentioned or (len(inside) == 2 and here and f".{inside[1]}" in mentioned):
            file, _, function = test.partition("::")
            compares = any(one.rpartition(".")[2] in COMPARISONS for one in mentioned)
            of_errors = any(word in function for word in ("refused", "bad_", "named", "error"))
            of_errors |= "pytest.raises" in mentioned and not compares
            near = Path(file).stem.startswith(f"test_{module}")
            beside = any(one.partition(".")[0] in OTHERS for one in mentioned)
            found[test] = (of_errors, not owner, not near, not compares, not beside)
    return tuple(sorted(found, key=lambda test: found[test]))  # then as they stand in the file


@cache
def _tests(package: str) -> dict[str, set[str]]:
    """What every test of a package mentions, by "path::test"."""
    found = {}
    for module in modules("tests"):
        if module.path.parts[1] not in (package, "experiments", module.path.name):
            continue
        local = {name: node for name, node in module.definitions if "." not in name}
        constants = {
            target.id: node
            for node in module.tree.body
            if isinstance(node, ast.Assign)
            for assigned in node.targets
            for target in ast.walk(assigned)
            if isinstance(target, ast.Name)
        }
        pieces = {**constants, **local}
        mentioned = {name: names(node, module.aliases) for name, node in pieces.items()}
        arguments = {
            name: {argument.arg for argument in node.args.args}
            for name, node in local.items()
            if isinstance(node, ast.FunctionDef)
        }
        for name in local:
            if name.startswith("test_"):
                found[f"{module.path.as_posix()}::{name}"] = _closure(name, mentioned, arguments)
    return found


def _closure(
    start: str, mentioned: dict[str, set[str]], arguments: dict[str, set[str]]
) -> set[str]:
    """All that a test mentions, with the helpers, constants and fixtures of its file."""
    seen, edge, found = {start}, [start], set()
    while edge:
        piece = edge.pop()
        found |= mentioned[piece]
        further = ((mentioned[piece] | arguments.get(piece, set())) & set(mentioned)) - seen
        seen |= further
        edge += further
    return found


@cache
def _call_graph(package: str) -> dict[str, set[str]]:
    """Callers of every function of a package."""
    graph: dict[str, set[str]] = defaultdict(set)
    for module in modules(package):
        own = {name for name, _ in module.definitions}
        for name, node in module.definitions:
            for called in names(node, module.aliases):
                inside = f"{module.name}.{called}" if called in own else called
                if inside.startswith(f"{package}."):
                    graph[inside].add(f"{module.name}.{name}")
                elif called.startswith("."):
                    for method in (other for other in own if other.endswith(called)):
                        graph[f"{module.name}.{method}"].add(f"{module.name}.{name}")
    return graph


def _callers(target: str) -> dict[str, set[str]]:
    return _call_graph(target.partition(".")[0])
