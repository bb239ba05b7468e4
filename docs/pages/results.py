"""What the published runs say: their claims and their figures."""

from functools import cache
from pathlib import Path
from typing import Any

from docs.pages.sources import ROOT
from experiments import report
from experiments.harness import recorded
from experiments.harness.recorded import Record
from experiments.names import RESULTS


@cache
def records() -> tuple[Record, ...]:
    """All published runs."""
    found = recorded.find(ROOT / RESULTS)
    return tuple(record for record in found if record.data["experiment"] in report.catalog.names())


@cache
def claims() -> tuple[dict[str, Any], ...]:
    """Every claim against them."""
    return tuple(report.rows(records()))


def picture(record: Record) -> Path | None:
    """Its figure, relative to the root."""
    path = record.directory / "figure.png"
    return path.relative_to(ROOT) if path.exists() else None


def cell(text: str) -> str:
    """For a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
