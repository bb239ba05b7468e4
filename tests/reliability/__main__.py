"""All campaigns of faults, one table: python -m tests.reliability [--only NAME ...] [--output DIR].

With --output the table and all cases that went wrong are written there; a campaign that is not
asked for keeps its row. The exit status is 1 if anything went wrong.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tests.reliability import data, faults, inputs, kills, storage, topology
from tests.reliability.subject import Outcome

CAMPAIGNS: dict[str, Callable[[Path], Outcome]] = {
    "kills": lambda folder: kills.campaign(folder, 200),
    "corruptions": lambda folder: faults.corruptions(folder, 30),
    "disk": lambda folder: storage.full(folder, 20),
    "storage": lambda folder: storage.broken(folder, 10),
    "signals": lambda folder: faults.signals(folder, [*range(50)]),
    "finite": lambda folder: faults.not_finite(folder, [0, 6, 7, 20, 49]),
    "topology": lambda folder: topology.campaign(folder, 8),
    "writers": lambda folder: faults.writers(folder, 8),
    "inputs": inputs.campaign,
    "data": lambda folder: data.campaign(folder, 100),
}


def table(found: dict[str, dict]) -> str:
    """Markdown."""
    lines = [
        "| fault | cases | what has to hold | wrong | notes |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in CAMPAIGNS:
        if name in found:
            row = found[name]
            cells = (row["name"], row["cases"], row["must"], len(row["wrong"]), row["notes"])
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[*CAMPAIGNS], choices=[*CAMPAIGNS])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found: dict[str, dict] = {}
    record = options.output / "campaigns.json" if options.output else None
    if record is not None and record.exists():
        found = json.loads(record.read_text())
    for name in options.only:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
            outcome = CAMPAIGNS[name](Path(folder))
        minutes = (time.monotonic() - began) / 60
        found[name] = {**asdict(outcome), "minutes": round(minutes, 1)}
        print(f"{name}: {outcome.cases} cases, {len(outcome.wrong)} wrong", flush=True)
        for line in outcome.wrong[:20]:
            print(f"  {line}", flush=True)
        if record is not None:
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps(found, indent=1) + "\n")
            (options.output / "table.md").write_text(table(found))
    print(table(found))
    return int(any(found[name]["wrong"] for name in options.only))


if __name__ == "__main__":
    sys.exit(main())
