"""What the benchmarks printed, with where and when."""

import ast
import json
from pathlib import Path
from typing import Any

from docs.pages.sources import ROOT

PATH = Path("docs/performance.md")
FOLDER, GPU = ROOT / "results" / "benchmarks", ROOT / "results" / "gpu"
HEAD = """# Performance

What the scripts below printed when `python -m benchmarks` last ran them. Numbers of one
table come from one process, both sides of a ratio in alternation; ratios carry over to other
machines better than times do. What is behind the numbers:
[speed of training](training_speed.md), [S4](s4.md#measured), [attention](attention_more.md),
[checkpoints](reliability.md).

What was measured on a GPU comes [last](#on-a-gpu); no TPU has been measured.

"""
ON_GPU = """# On a GPU

Some minutes of one NVIDIA H200: three commands, as far as the time went.

"""


def page() -> str:
    """One section a benchmark."""
    lines = [HEAD, *_sections(FOLDER), ON_GPU, *_sections(GPU)]
    return "\n".join(lines).rstrip() + "\n"


def _sections(folder: Path) -> list[str]:
    lines = []
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        about = found.get("about") or _summary(path.stem)
        title = path.stem + (" on a GPU" if folder == GPU else "")
        lines += [f"## {title}\n", about, "", f"    {found['command']}", ""]
        lines += [_where(found), "", _tables(found["output"]), ""]
    return lines


def _summary(name: str) -> str:
    """The first paragraph of the benchmark's docstring."""
    tree = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text())
    return (ast.get_docstring(tree) or "").partition("\n\n")[0].replace("\n", " ")


def _where(found: dict[str, Any]) -> str:
    versions = found["versions"]
    parts = [found["processor"]]
    if "load" in found:
        parts.append(f"load {found['load']} before, {found['seconds']} s")
    return f"{', '.join(parts)}; Python {versions['python']}, jax {versions['jax']}."


def _tables(output: str) -> str:
    """Tables need an empty line before them, or they are no tables."""
    lines: list[str] = []
    for line in output.splitlines():
        before = lines[-1] if lines else ""
        if line and before and line.startswith("|") != before.startswith("|"):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)
