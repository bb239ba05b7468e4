"""What paired differences of losses say: verdicts, tables, panels and claims."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.harness import by_arm, figures
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record


def verdict(found: Measurement) -> str:
    """What an interval of a difference of losses says."""
    if found.low > 0:
        return "worse"
    return "better" if found.high < 0 else "inconclusive"


def table(
    record: Record, arms: Sequence[str], baseline: str, metric: str, headline: str
) -> list[str]:
    """Lines of a Markdown table: means, and differences from a baseline with 95 % intervals."""
    lines = [
        f"| {headline} | parameters | cache | rate | {metric.replace('_', ' ')} "
        f"| minus {baseline} | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm in arms:
        row = next(row for row in record.rows if row.get("arm") == arm)
        cells = [arm, f"{row['parameters']:,}", f"{row['cache']}", f"{row['rate']:g}"]
        cells += [f"{np.mean(by_arm.values(record, arm, metric)):.4f}"]
        found = by_arm.difference(record, arm, baseline, metric)
        if arm == baseline or found is None:
            cells += ["-", "-"]
        else:
            cells += [f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]", verdict(found)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw_differences(
    axis: Any, record: Record, arms: Sequence[str], baseline: str, metric: str
) -> None:
    """Differences from a baseline: seeds as dots, means with their 95 % intervals."""
    ours = np.array(by_arm.values(record, baseline, metric))
    for place, arm in enumerate(arms):
        each = np.array(by_arm.values(record, arm, metric)) - ours
        found = by_arm.difference(record, arm, baseline, metric)
        axis.plot(each, [place] * len(each), ".", color="#aaaaaa", label="seeds" * (place == 0))
        if arm == baseline or found is None:
            continue
        known = verdict(found) != "inconclusive"
        label = f"mean, 95 % interval {'without' if known else 'with'} 0"
        axis.errorbar(
            [found.value],
            [place],
            xerr=[[found.value - found.low], [found.high - found.value]],
            color=figures.COLORS[0] if known else "#666666",
            marker="D" if known else "o",
            markerfacecolor=None if known else "white",
            capsize=3,
            label=label * (label not in axis.get_legend_handles_labels()[1]),
        )
    axis.axvline(0, color="#777777", linewidth=1)
    rows = {row["arm"]: row["cache"] for row in record.rows if "arm" in row}
    axis.set_yticks(range(len(arms)), [f"{figures.spelled(arm)} ({rows[arm]})" for arm in arms])
    axis.set(xlabel=f"{metric.replace('_', ' ')}, minus {baseline} (below 0: better)")
    axis.locator_params(axis="x", nbins=5)
    axis.set_ylim(len(arms) - 0.5, -0.5)


def ordering(
    name: str, statement: str, above: str, below: str, *, source: str, metric: str
) -> Claim:
    """The claim that a metric of the first arm exceeds that of the second, by paired seeds."""
    return Claim(
        id=name,
        statement=f"{statement}: {metric.replace('_', ' ')} of {above} minus that of {below}, > 0",
        source=source,
        measure=lambda record: by_arm.difference(record, above, below, metric),
        paper=0.0,
        kind="ordering",
    )
