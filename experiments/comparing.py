"""Several runs in one table and one figure."""

from pathlib import Path

from experiments.harness import config as configs
from experiments.harness import figures
from experiments.harness import run as runs
from experiments.harness.run import Record


def compare(directories: list[Path], output: Path) -> None:
    """One table and one figure of several runs; a folder that holds runs stands for all of them."""
    records = [record for directory in directories for record in _records(directory)]
    first = configs.flatten(records[0].config)
    changed = sorted(
        {
            name
            for record in records[1:]
            for name, value in configs.flatten(record.config).items()
            if first.get(name, "absent") != value
        }
    )
    scalars = [k for k, v in records[0].result.items() if isinstance(v, int | float)]
    shared = [k for k in scalars if all(k in record.result for record in records)]
    header = ["run", *changed, *shared]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for record in records:
        flat = configs.flatten(record.config)
        cells = [str(record.directory), *(str(flat.get(name, "absent")) for name in changed)]
        cells += [f"{record.result[name]:.6g}" for name in shared]
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))
    figures.render(lambda: _curves(records, shared), output)
    print(f"\nfigure: {output}")


def _records(directory: Path) -> list[Record]:
    below = [] if (directory / "run.json").exists() else runs.find(directory)
    return below or [runs.load(directory)]


def _curves(records: list[Record], scalars: list[str]):
    """Shared series against the step; without any, the shared scalars as points."""
    series = [
        {k for row in r.rows for k, v in row.items() if k != "step" and isinstance(v, int | float)}
        for r in records
    ]
    shared = sorted(set.intersection(*series) - {"steps_per_second"})[:4]
    figure, axes = figures.new(columns=max(len(shared), 1))
    for axis, name in zip(axes[0], shared, strict=False):
        for record, style in zip(records, figures.styles(), strict=False):
            points = [(row["step"], row[name]) for row in record.rows if name in row]
            style = {**style, "marker": None} if len(points) > 30 else style
            axis.plot(*zip(*points, strict=True), label=str(record.directory), **style)
        axis.set(xlabel="step", ylabel=name.replace("_", " "))
    if not shared:
        for record, style in zip(records, figures.styles(), strict=False):
            values = [record.result[name] for name in scalars]
            style = {**style, "linestyle": "none"}
            axes[0, 0].plot(scalars, values, label=str(record.directory), **style)
    figures.legend_below(figure, columns=min(len(shared) or 1, 3))
    return figure
