"""Names of the experiments of this package, found without importing them, and of folders."""

import importlib.util
import pkgutil
from pathlib import Path

import experiments

RUNS = Path("runs")  # where runs go
RESULTS = Path("results")  # what is published


def names() -> list[str]:
    """All experiments of this package, sorted."""
    found = []
    for info in pkgutil.walk_packages(experiments.__path__, "experiments."):
        parts = info.name.split(".")[1:]
        if len(parts) == 2 and parts[0] != "harness" and not info.ispkg:
            spec = importlib.util.find_spec(info.name)
            source = Path(spec.origin).read_text() if spec and spec.origin else ""
            if "\nPRESETS" in source:
                found.append("/".join(parts))
    return sorted(found)
