"""Several runs in one table and one figure."""

import os
import sys
from pathlib import Path
from typing import Any

from experiments.harness import config as configs
from experiments.harness import figures, recorded
from experiments.harness.errors import UsageError
from experiments.harness.run import Record

ABSENT = "absent"


def compare(directories: list[Path], output: Path) -> None:
    """One table and one figure of several runs; a folder that holds runs stands for all of them."""
    every = [record for directory in directories for record in _records(directory)]
    records = [record for record in every if record.result or record.rows]
    for record in every:
        if record not in records:
            print(f"note: {record.directory}: left out, it has no numbers yet", file=sys.stderr)
    if not records:
        raise UsageError(f"{directories[0]}: expected runs with numbers, found none")
    kinds = list(dict.fromkeys(record.data["experiment"] for record in records))
    if len(kinds) > 1:
        said = "runs of different experiments, of which what all have is shown"
        print(f"note: {said}: {', '.join(kinds)}", file=sys.stderr)
    fields = [_fields(record) for record in records]
    every = _names(fields, shared=len(kinds) > 1)
    changed = [name for name in every if len({str(flat.get(name, ABSENT)) for flat in fields}) > 1]
    numbers = [
        {k: v for k, v in record.result.items() if isinstance(v, int | float)} for record in records
    ]
    measured = _names(numbers, shared=len(kinds) > 1)
    header = ["run", *changed, *measured]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for record, flat, found in zip(records, fields, numbers, strict=True):
        cells = [str(record.directory), *(str(flat.get(name, ABSENT)) for name in changed)]
        cells += [f"{found[name]:.6g}" if name in found else ABSENT for name in measured]
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))
    shared = _names(numbers, shared=True)
    if not shared and not _series(records):
        print("\nno figure: the runs have no numbers in common")
        return
    figures.render(lambda: _curves(records, shared), output)
    print(f"\nfigure: {output}")


def _names(rows: list[dict[str, Any]], *, shared: bool) -> list[str]:
    """The names of any row, in their order; or only those of all rows."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if not shared or all(name in row for row in rows)]


def _fields(record: Record) -> dict[str, Any]:
    """Of its configuration; without the name of data where a path is read in its place."""
    flat = configs.flatten(record.config)
    return {k: v for k, v in flat.items() if k != "data.name" or not flat.get("data.path")}


def _records(directory: Path) -> list[Record]:
    below = [] if (directory / "run.json").exists() else recorded.find(directory)
    return below or [recorded.load(directory)]


def _series(records: list[Record]) -> list[str]:
    """Numbers that rows of all runs have."""
    series = [
        {k for row in r.rows for k, v in row.items() if k != "step" and isinstance(v, int | float)}
        for r in records
    ]
    return sorted(set.intersection(*series) - {"steps_per_second"})


def _labels(folders: list[Path]) -> list[str]:
    """Folders below the one that holds them all."""
    whole = [folder.resolve() for folder in folders]
    common = os.path.commonpath([folder.parent for folder in whole])
    return [folder.relative_to(common).as_posix() for folder in whole]


def _curves(records: list[Record], scalars: list[str]):
    """Shared series against the step; without any, the shared scalars as points."""
    shared = _series(records)[:4]
    figure, axes = figures.new(columns=max(len(shared), 1))
    labels = _labels([record.directory for record in records])
    for axis, name in zip(axes[0], shared, strict=False):
        for record, label, style in zip(records, labels, figures.styles(), strict=False):
            points = [(row["step"], row[name]) for row in record.rows if name in row]
            style = {**style, "marker": None} if len(points) > 30 else style
            axis.plot(*zip(*points, strict=True), label=label, **style)
        axis.set(xlabel="step", ylabel=name.replace("_", " "))
        axis.xaxis.get_major_locator().set_params(integer=True)
    if not shared:
        for record, label, style in zip(records, labels, figures.styles(), strict=False):
            values = [record.result[name] for name in scalars]
            style = {**style, "linestyle": "none"}
            axes[0, 0].plot(scalars, values, label=label, **style)
    figures.legend_below(figure, columns=min(len(shared) or 1, 3))
    return figure
