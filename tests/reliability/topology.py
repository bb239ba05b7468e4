"""A run resumed from each of its steps on other numbers of devices and processes."""

import shutil
from pathlib import Path

import numpy as np

from tests.experiments import meshed
from tests.reliability.subject import Outcome

# Devices of a process, processes, and the layout.
PLACES = {
    "1 device": (1, 1, (1, 1, False)),
    "2 devices": (2, 1, (1, 2, False)),
    "4 devices": (4, 1, (2, 2, True)),
    "8 devices": (8, 1, (8, 1, True)),
    "2 processes of 4": (4, 2, (4, 2, False)),
}


def campaign(folder: Path, steps: int, places: list[str] | None = None) -> Outcome:
    """A language model, begun on eight devices and stopped in every step but the last."""
    outcome = Outcome("resume elsewhere", "losses in double precision equal to 1e-8")
    common = {"kind": "language", "steps": steps, "layout": (4, 2, True)}
    begun = [folder / f"stopped{step}" for step in range(steps - 1)]
    jobs = [{**common, "folder": str(path), "stop": step} for step, path in enumerate(begun)]
    whole = {**common, "folder": str(folder / "whole")}
    expected = meshed.launch(8, folder / "begun.json", [whole, *jobs])[0]["losses"]
    for place in places or PLACES:
        devices, processes, layout = PLACES[place]
        copies = [folder / place / path.name for path in begun]
        for path, copy in zip(begun, copies, strict=True):
            shutil.copytree(path, copy)
        jobs = [{**common, "folder": str(copy), "layout": layout} for copy in copies]
        found = meshed.launch(devices, folder / f"{place}.json", jobs, processes)
        for step, one in enumerate(found):
            good = len(one["losses"]) == steps and np.allclose(one["losses"], expected, 1e-8)
            outcome.check(good, f"{place}, stopped in step {step}")
        print(f"{place}: {len(found)} resumed", flush=True)
    outcome.notes = ", ".join(places or PLACES)
    return outcome
