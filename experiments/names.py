"""Names of the experiments of this package, found without importing them."""

import importlib.util
import pkgutil
from pathlib import Path

import experiments


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
