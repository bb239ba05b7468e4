"""What a device needs for every paper preset: one device, and a layout of eight virtual ones.

The largest program of each experiment, compiled for this CPU and not run. Prints a table; with
--output FILE writes it there, and keeps the numbers that the file already has. Some programs take a
quarter of an hour to compile.

python -m benchmarks.paper_memory [--only PATTERN ...] [--output results/scale/paper.md]
"""

import argparse
import fnmatch
import os
import re
import subprocess
import sys
from pathlib import Path

from experiments import catalog

LAYOUT = ("--mesh.data", "4", "--mesh.model", "2", "--mesh.fsdp")
MINUTES = 30  # for one experiment on one layout


def largest(name: str, layout: tuple[str, ...]) -> str:
    """MB at the peak, or why there is no number."""
    command = [sys.executable, "-m", "experiments", "estimate", name, "--preset", "paper", *layout]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8" if layout else "1"}
    try:
        out = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60 * MINUTES
        )
    except subprocess.TimeoutExpired:
        return f"not compiled in {MINUTES} min"
    if out.returncode:
        return out.stderr.strip().splitlines()[-1].removeprefix("kexue-jax: ")
    peaks = re.findall(r"^\|.*?\|.*?\|.*?\| ([\d.]+) \|", out.stdout, re.MULTILINE)
    return f"{max(map(float, peaks)):.0f}" if peaks else "-"


def known(path: Path) -> dict[str, str]:
    """Lines of a table that have both numbers, by experiment."""
    lines = path.read_text().splitlines()[2:] if path.exists() else []
    return {line.split()[1]: line for line in lines if "not compiled" not in line}


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=["*"])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    head = [
        f"| experiment | one device, MB | each of eight ({' '.join(LAYOUT)}), MB |",
        "| --- | --- | --- |",
    ]
    rows = known(options.output) if options.output else {}
    for name in catalog.names():
        wanted = any(fnmatch.fnmatch(name, pattern) for pattern in options.only)
        if not wanted or name in rows or not catalog.get(name).optional("programs"):
            continue
        rows[name] = f"| {name} | {largest(name, ())} | {largest(name, LAYOUT)} |"
        print(rows[name], flush=True)
        if options.output:
            lines = [*head, *(rows[name] for name in sorted(rows))]
            options.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
