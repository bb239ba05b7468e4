"""MkDocs hook: the API reference, a page a module, and the published figures beside the pages."""

import ast
import re
from typing import Any

from mkdocs.structure.files import File, Files

from docs.pages.sources import PACKAGES, ROOT, modules


def on_config(config: Any) -> Any:
    """The reference's place in the navigation: a section a package."""
    sections = [{package: _pages(package)} for package in PACKAGES]
    config.nav = [*config.nav, {"API": sections}]
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add what is made."""
    for package in PACKAGES:
        for name, text in _texts(package):
            files.append(File.generated(config, f"api/{name}.md", content=text))
    for picture in sorted((ROOT / "results").rglob("figure.png")):
        place = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, place, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Pages are read in the repository too: there results lie one folder up."""
    if page.file.src_uri.startswith("api/"):
        return markdown
    return re.sub(r"\]\(\.\./(results/[^)]*\.png)\)", r"](\1)", markdown)


def _public(package: str) -> list[str]:
    """Modules in order, the package itself first."""
    return [module.name for module in modules(package) if "._" not in module.name]


def _pages(package: str) -> list[dict[str, str]]:
    titles = {name: name.partition(".")[2] or f"{package} (overview)" for name in _public(package)}
    return [{titles[name]: f"api/{name}.md"} for name in _public(package)]


def _texts(package: str) -> list[tuple[str, str]]:
    pages = []
    for name in _public(package):
        if name != package:
            pages.append((name, f"::: {name}\n    options:\n      heading_level: 1\n"))
    return [(package, _overview(package)), *pages]


def _overview(package: str) -> str:
    """The package's own words, and a line a module."""
    found = {module.name: module for module in modules(package)}
    text = ast.get_docstring(found[package].tree) or ""
    lines = [f"# {package}\n", _prose(text), "", "| module | |", "| --- | --- |"]
    for name in _public(package):
        if name != package:
            first = (ast.get_docstring(found[name].tree) or "").partition("\n")[0]
            lines.append(f"| [{name}]({name}.md) | {first.replace('|', '&#124;')} |")
    exported = ", ".join(f"`{name}`" for name in _exports(found[package].tree))
    lines += ["", f"`import {package}` gives: {exported}.", ""]
    return "\n".join(lines)


def _prose(text: str) -> str:
    return text.partition("Source:")[0].strip()


def _exports(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []
