"""What the benchmarks printed, with where and when."""

import ast
import json
from pathlib import Path
from typing import Any

from docs.pages.sources import ROOT

PATH = Path("docs/performance.md")
FOLDER = ROOT / "results" / "benchmarks"
HEAD = """# Performance

What the scripts below printed when `python -m benchmarks` last ran them. Numbers of one
table come from one process, both sides of a ratio in alternation; ratios carry over to other
machines better than times do. What is behind the numbers:
[speed of training](training_speed.md), [S4](s4.md#measured), [attention](attention_more.md),
[checkpoints](reliability.md). No GPU or TPU has been measured.

"""


def page() -> str:
    """One section a benchmark."""
    lines = [HEAD]
    for path in sorted(FOLDER.glob("*.json")):
        found = json.loads(path.read_text())
        lines += [f"## {path.stem}\n", _summary(path.stem), "", f"    {found['command']}", ""]
        lines += [_where(found), "", _tables(found["output"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _summary(name: str) -> str:
    """The first paragraph of the benchmark's docstring."""
    tree = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text())
    return (ast.get_docstring(tree) or "").partition("\n\n")[0].replace("\n", " ")


def _where(found: dict[str, Any]) -> str:
    versions = found["versions"]
    return (
        f"{found['processor']}, load {found['load']} before, {found['seconds']} s; "
        f"Python {versions['python']}, jax {versions['jax']}."
    )


def _tables(output: str) -> str:
    """Tables need an empty line before them, or they are no tables."""
    lines: list[str] = []
    for line in output.splitlines():
        before = lines[-1] if lines else ""
        if line and before and line.startswith("|") != before.startswith("|"):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)
