"""Finds experiments: modules below this package, and files of the user's own."""

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.harness.errors import OWN, UsageError, nearest, place
from experiments.harness.ledger import Claim
from experiments.names import names

PRESETS = ("quick", "cpu", "paper")


@dataclass(frozen=True)
class Experiment:
    """One experiment file.

    Attributes:
        name: "<package>/<experiment>", or the path of a user's file.
        module: what it defines: Config, PRESETS, main; optionally CLAIMS, draw, table,
            programs, describe, look (at the data, for a dry run), trained_networks (see
            `experiments.trained`), and TIMED where it measures times.
        code: digest of a user's file.
    """

    name: str
    module: ModuleType
    code: str | None = None

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.module.__doc__ or "").strip().splitlines()[0]

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What the experiment checks."""
        return tuple(getattr(self.module, "CLAIMS", ()))

    def optional(self, name: str) -> Callable[..., Any] | None:
        """An optional function of the module."""
        return getattr(self.module, name, None)

    def preset(self, name: str) -> Any:
        """The configuration of a preset.

        Raises:
            UsageError: there is none of that name.
        """
        presets = self.module.PRESETS
        if name not in presets:
            raise UsageError(
                f"--preset: {self.name} has {', '.join(presets)}, got {name!r}"
                f"{nearest(name, presets)}"
            )
        return presets[name]


def get(name: str) -> Experiment:
    """An experiment by name, or by the path of a file.

    Raises:
        UsageError: no such experiment, or a file that is not one.
    """
    if name in names():
        return Experiment(name, importlib.import_module("experiments." + name.replace("/", ".")))
    path = Path(name)
    if path.name and (path.suffix == ".py" or path.with_suffix(".py").is_file()):
        return _load_file(path.with_suffix(".py"))
    raise UsageError(f"no experiment {name!r}{nearest(name, names())} (all: kexue-jax list)")


def _load_file(path: Path) -> Experiment:
    if not path.is_file():
        name = path.with_suffix("").as_posix()
        raise UsageError(
            f"no experiment file {path} in {Path.cwd()}; make one with: kexue-jax new {name}"
        )
    spec = importlib.util.spec_from_file_location(f"{OWN}{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where docstrings and dataclasses look for their source
    if (folder := str(path.parent.resolve())) not in sys.path:
        sys.path.append(folder)  # its imports from beside it; last, so that they hide nothing
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise UsageError(f"{path}: {type(error).__name__}: {error}{place(error)}") from error
    missing = [name for name in ("Config", "PRESETS", "main") if not hasattr(module, name)]
    if missing:
        raise UsageError(f"{path}: expected an experiment, but it lacks {', '.join(missing)}")
    presets = module.PRESETS
    if not isinstance(presets, dict) or not presets:
        raise UsageError(f"{path}: PRESETS: expected a dict of configurations by name")
    for preset, config in presets.items():
        if not isinstance(config, module.Config) or not dataclasses.is_dataclass(config):
            raise UsageError(f"{path}: PRESETS[{preset!r}]: expected a Config, a dataclass")
    if not callable(module.main) or len(inspect.signature(module.main).parameters) != 2:
        raise UsageError(f"{path}: main: expected a function of (config, run)")
    return Experiment(path.as_posix(), module, hashlib.sha256(path.read_bytes()).hexdigest())
