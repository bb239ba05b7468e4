"""Layouts of devices against one device: losses, collectives, what a device holds.

Four kinds of training (see `tests/experiments/meshed.py`), each on one device, on three layouts of
eight virtual devices of this CPU, and in two processes of four; in double and in single precision.
Prints a table; with --output DIR writes table.md and layouts.json there.

python -m benchmarks.scale [--steps 50] [--kinds language ...] [--output results/scale]
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("language", "denoiser", "classifier", "distilled")
LAYOUTS = {
    "data 8": (8, 1, False),
    "data 8, fsdp": (8, 1, True),
    "data 4 x model 2, fsdp": (4, 2, True),
    "2 processes, data 4 x model 2": (4, 2, False),
}


def train(kind: str, steps: int, layout: Any, processes: int, double: bool) -> dict[str, Any]:
    """Losses and what the script finds besides."""
    from tests.experiments import meshed  # found from the root, not by this file's path

    devices = (1 if layout is None else 8) // processes
    with tempfile.TemporaryDirectory() as folder:
        job = {"kind": kind, "folder": f"{folder}/run", "steps": steps}
        job |= {} if layout is None else {"layout": layout}
        return meshed.launch(devices, Path(folder, "found.json"), [job], processes, double)[0]


def compare(kind: str, steps: int, double: bool) -> list[dict[str, Any]]:
    """A row a layout."""
    alone = np.array(train(kind, steps, None, 1, double)["losses"])
    rows = []
    for name, layout in LAYOUTS.items():
        found = train(kind, steps, layout, 2 if "processes" in name else 1, double)
        losses = np.array(found.pop("losses"))
        worst = float(np.max(np.abs(losses - alone) / np.maximum(1.0, np.abs(alone))))
        row = {"kind": kind, "layout": name, "steps": len(losses), "double": double}
        rows.append({**row, "difference": worst, **found})
        print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| training | layout | largest difference, double | single | all-gathers | share held |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    single = {(r["kind"], r["layout"]): r["difference"] for r in rows if not r["double"]}
    for row in rows:
        if row["double"]:
            other = single.get((row["kind"], row["layout"]))
            lines.append(
                f"| {row['kind']} | {row['layout']} | {row['difference']:.1e} | "
                f"{'-' if other is None else f'{other:.1e}'} | {row['all-gather']} | "
                f"{row['share']:.4f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = [
        row
        for double in (True, False)
        for kind in options.kinds
        for row in compare(kind, options.steps, double)
    ]
    text = table(rows)
    print(text)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "table.md").write_text(text)
        (options.output / "layouts.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
