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
    figure, axes = figures.new(columns=2, width=4.2, height=max(2.8, 1.6 + 0.3 * len(arms)))
    axis = axes[0, 0]
    for place, arm in enumerate(arms):
        found = accuracies(record, arm)
        several, first = len(found) > 1, place == 0
        if several:
            axis.plot(found, [place] * len(found), ".", color="#999999", label="seeds" * first)
        label, mean = "mean" if several else "one seed", np.mean(found)
        axis.plot([mean], [place], "D", color=figures.COLORS[0], label=label * first)
        shift = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
        axis.annotate(f"{mean:.1f}", (mean, place), fontsize=8, **shift)
    axis.set_yticks(range(len(arms)), [figures.spelled(arm) for arm in arms])
    axis.set(xlabel="held-out accuracy, %", title=title, ylim=(len(arms) - 0.5, -0.5))
    _draw_curves(axes[0, 1], record)
    if chance is not None:
        look = {"color": "#777777", "linewidth": 1.0, "linestyle": ":"}
        axis.axvline(chance, label="constant answer", **look)
        axes[0, 1].axhline(chance, **look)
    low, high = axis.get_xlim()
    axis.set_xlim(right=min(high, 100.0 + 0.03 * (100.0 - low)))  # a whole marker at 100 %
    figures.legend_below(figure)
    return figure


def _draw_curves(axis: Any, record: Record) -> None:
    """Accuracies by step, a line a seed."""
    for arm, style in zip(by_arm.names(record), figures.styles(), strict=False):
        for number, row in enumerate(r for r in record.rows if r.get("arm") == arm):
            steps, errors = zip(*row["curve"], strict=True)
            look = {**style, "linewidth": 1.1, "markersize": 3.5}
            look["label"] = figures.spelled(arm) * (number == 0)
            axis.plot(steps, 100.0 * (1.0 - np.array(errors)), **look)
    axis.set(xlabel="step", ylabel="held-out accuracy, %", title="in training")


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
