"""What classification runs show: accuracies by model, their figure, table and measures."""

from typing import Any

import numpy as np

from experiments.harness import by_arm, figures
from experiments.harness.run import Record
from experiments.harness.training import TrainingConfig

QUICK = TrainingConfig(
    steps=200, batch_size=32, warmup=20, weight_decay=0.05, eval_every=50, checkpoint_every=200
)


def accuracies(record: Record, arm: str) -> list[float]:
    """Held-out, in percent, by seed."""
    return [100.0 * (1.0 - error) for error in by_arm.values(record, arm, "error")]


def mean(record: Record, arm: str) -> float | None:
    """Over seeds; None if the run has no such model."""
    found = accuracies(record, arm)
    return float(np.mean(found)) if found else None


def worst(record: Record, arm: str) -> float | None:
    """Of the seeds; None if the run has no such model."""
    return min(accuracies(record, arm), default=None)


def draw(record: Record, title: str, chance: float | None = None):
    """Seeds of every model as dots, and their means; accuracies in training; a line at chance."""
    arms = by_arm.names(record)
    figure, axes = figures.new(columns=2, width=4.2, height=max(2.6, 1.3 + 0.3 * len(arms)))
    axis = axes[0, 0]
    for place, arm in enumerate(arms):
        found = accuracies(record, arm)
        axis.plot(found, [place] * len(found), ".", color="#999999")
        axis.plot([np.mean(found)], [place], "D", color=figures.COLORS[0])
    if chance is not None:
        axis.axvline(chance, color="#999999", linewidth=0.8)
    axis.set_yticks(range(len(arms)), arms)
    axis.set(xlabel="held-out accuracy, %", title=title, ylim=(len(arms) - 0.5, -0.5))
    axis.set_xlim(right=min(axis.get_xlim()[1], 100.6))  # a whole marker at 100 %
    _draw_curves(axes[0, 1], record, chance)
    return figure


def _draw_curves(axis: Any, record: Record, chance: float | None) -> None:
    """Accuracies by step, a line a seed."""
    for arm, style in zip(by_arm.names(record), figures.styles(), strict=False):
        for number, row in enumerate(r for r in record.rows if r.get("arm") == arm):
            steps, errors = zip(*row["curve"], strict=True)
            label = arm if number == 0 else None
            axis.plot(steps, 100.0 * (1.0 - np.array(errors)), label=label, **style)
    if chance is not None:
        axis.axhline(chance, color="#999999", linewidth=0.8)
    axis.set(xlabel="step", ylabel="held-out accuracy, %")
    axis.legend(fontsize=7)


def table(record: Record, title: str) -> str:
    """Accuracies, rates and sizes, by model."""
    lines = [
        f"| {title} | held-out accuracy, % | range over seeds | nats | rate | parameters |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for arm in by_arm.names(record):
        found, rows = accuracies(record, arm), [r for r in record.rows if r.get("arm") == arm]
        nats = np.mean([row["loss"] for row in rows])
        lines.append(
            f"| {arm} | {np.mean(found):.2f} | {min(found):.2f} to {max(found):.2f} | {nats:.3f} "
            f"| {rows[0]['rate']:g} | {rows[0]['parameters']:,} |"
        )
    ends = ", ".join(record.result["rates_at_an_end"]) or "none"
    count = record.result["seeds"]
    said = "1 seed" if count == 1 else f"{count} paired seeds"
    if len(record.config["comparison"]["rates"]) > 1:
        said += "; learning rates were chosen on the same held-out examples, with another seed"
    return "\n".join([*lines, "", f"{said}. Learning rates at an end of their grid: {ends}.", ""])
