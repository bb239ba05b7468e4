"""What is published is what the code of today makes of the recorded numbers."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import catalog, commands
from experiments.harness import recorded

RESULTS = Path(__file__).parents[2] / "results"
RUNS = sorted(
    path.parent.relative_to(RESULTS).as_posix()
    for path in RESULTS.rglob("run.json")
    if "/".join(path.relative_to(RESULTS).parts[:2]) in catalog.names()
)


def test_every_experiment_is_published():
    assert {"/".join(Path(run).parts[:2]) for run in RUNS} == set(catalog.names())


@pytest.mark.parametrize("name", RUNS)
def test_table_and_figure_follow_from_the_published_numbers(name, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for part in ("run.json", "metrics.jsonl"):
        if (RESULTS / name / part).exists():
            shutil.copy(RESULTS / name / part, folder)
    record = recorded.load(folder)
    commands.present(catalog.get(record.data["experiment"]), record)
    assert (folder / "table.md").read_text() == (RESULTS / name / "table.md").read_text()
    pictures = [np.asarray(Image.open(f / "figure.png"), float) for f in (folder, RESULTS / name)]
    assert pictures[0].shape == pictures[1].shape
    change = np.abs(pictures[0] - pictures[1])  # of 255: other versions draw a hair off
    assert change.mean() < 0.5
    assert (change.max(-1) > 64).mean() < 1e-4  # a line across one panel is more
