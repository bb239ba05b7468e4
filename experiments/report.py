"""Claims against results, and their summary."""

import functools
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import catalog
from experiments.harness import config as configs
from experiments.harness import ledger, recorded
from experiments.harness import run as runs
from experiments.harness.errors import ExperimentError, UsageError, place
from experiments.harness.run import Record
from experiments.names import RESULTS, RUNS

SCALES = {name: rank for rank, name in enumerate(catalog.PRESETS)}


def records(root: Path) -> list[Record]:
    """Runs below `root`, then the published ones.

    Raises:
        UsageError: `root` is a file, or none at all and not the folder that runs go to.
    """
    if root.exists() and not root.is_dir():
        raise UsageError(f"--workdir {root}: expected a directory, got a file")
    if not root.exists() and root != RUNS:
        raise UsageError(f"--workdir {root}: expected a directory, found none")
    mine = recorded.find(root)
    return mine if root.resolve() == RESULTS.resolve() else mine + recorded.find(RESULTS)


def finished(root: Path) -> list[Record]:
    """Those of `records` that came to their end."""
    return [record for record in records(root) if record.data.get("status") == "done"]


def known(found: Sequence[Record], files: Sequence[Path]) -> list[Record]:
    """Those of this package's experiments, and of the files given: no other code is executed.

    A record can name any file; what its claims and figures are is for that file to say, and only
    somebody who trusts it may run it.

    Raises:
        UsageError: a file that does not exist or is no experiment.
    """
    for file in files:
        catalog.get(file.as_posix())
    ours, mine = set(catalog.names()), {file.with_suffix(".py").resolve() for file in files}
    kept, left = [], set()
    for record in found:
        name = record.data["experiment"]
        if name in ours or Path(name).resolve() in mine:
            kept.append(record)
        else:
            left.add(name)
    for name in [] if files else sorted(left):
        print(f"note: runs of {name} are left out; to include them, name the file", file=sys.stderr)
    return kept


def names_of(files: Sequence[Path], found: Sequence[Record]) -> list[str]:
    """What files of experiments are called: as the record of a run of theirs says, if any."""
    recorded = {Path(name).resolve(): name for name in (r.data["experiment"] for r in found)}
    paths = (file.with_suffix(".py") for file in files)
    return [recorded.get(path.resolve(), catalog.get(path.as_posix()).name) for path in paths]


def rows(found: Sequence[Record], only: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Claims, each against a run that covers it; of all experiments, or of some.

    Of several runs one is chosen by these criteria, in order: the largest preset; a user's file as
    it is now, not an older version; the preset as it is now, not changed settings; a run of its
    own, not a cell of a sweep; the user's run, not a published one.
    """
    known = catalog.names()
    extra = {record.data["experiment"] for record in found} - set(known)
    table: list[dict[str, Any]] = []
    for name in [*sorted(extra), *known] if only is None else only:
        mine = [record for record in found if record.data["experiment"] == name]
        experiment = catalog.get(name)
        mine.sort(key=functools.partial(_order, experiment))
        for claim in experiment.claims:
            claim = _named(experiment, claim)
            covering = (record for record in mine if claim.measure(record) is not None)
            best = next(covering, mine[0] if mine else None)
            command = runs.command(name, "quick" if best is None else best.data["preset"])
            row = ledger.row(name, claim, best, command)
            if best is not None and changed(experiment, best):
                row["scale"] = f"{row['scale']}, changed"
            if best is not None and older(experiment, best):
                row["scale"] = f"{row['scale']}, older code"
            if best is not None and recorded.of_sweep(best.directory):
                row["scale"] = f"{row['scale']}, one of a sweep"
            table.append({**row, "run": best and best.directory.as_posix()})
    return table


def _named(experiment: catalog.Experiment, claim: ledger.Claim) -> ledger.Claim:
    """The claim, whose errors say where they come from."""

    def measure(record: Record) -> Any:
        try:
            return claim.measure(record)
        except Exception as error:
            raise ExperimentError(
                f"{experiment.name}: claim {claim.id} cannot measure {record.directory}: "
                f"{type(error).__name__}: {error}{place(error)}"
            ) from error

    return replace(claim, measure=measure)


def _order(experiment: catalog.Experiment, record: Record) -> tuple[int | bool, ...]:
    scale = -_scale(record.data["preset"])
    published = record.directory.resolve().is_relative_to(RESULTS.resolve())
    of_sweep = recorded.of_sweep(record.directory)
    return scale, older(experiment, record), changed(experiment, record), of_sweep, published


def older(experiment: catalog.Experiment, record: Record) -> bool:
    """Whether a run of a user's file began when the file was another one."""
    return record.data.get("begun", {}).get("code", experiment.code) != experiment.code


def changed(experiment: catalog.Experiment, record: Record) -> bool:
    """Whether a run's configuration is another than that of its preset, as it is now."""
    try:
        config = configs.from_dict(experiment.module.Config, record.config)
        return config != experiment.preset(record.data["preset"])
    except (ExperimentError, ValueError, TypeError):
        return True


def summary(table: Sequence[dict[str, Any]]) -> str:
    """How many claims have which verdict, by package, as a Markdown table."""
    verdicts = ledger.VERDICTS
    packages = list(dict.fromkeys(row["experiment"].partition("/")[0] for row in table))
    lines = [f"| | claims | {' | '.join(verdicts)} |", f"|{' --- |' * (len(verdicts) + 2)}"]
    for package in [*filter(None, packages), ""]:  # "" stands for all; so do absolute paths
        mine = [row for row in table if row["experiment"].startswith(package)]
        count = Counter(row["verdict"] for row in mine)
        cells = [str(count[verdict]) for verdict in verdicts]
        lines.append(f"| {package or 'all'} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _scale(preset: str) -> int:
    """Rank of a preset: "paper_256" is as large as "paper"."""
    return SCALES.get(preset.partition("_")[0], -1)
