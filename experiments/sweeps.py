"""Runs of one experiment over a grid of fields, each resumable, on this machine or a cluster."""

import itertools
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import catalog, processes
from experiments.harness import config as configs
from experiments.harness import manifest, paired, recorded
from experiments.harness.errors import ExperimentError, UsageError, in_line
from experiments.harness.recorded import SWEEP

MOST = 10_000  # runs of a sweep


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        values: by field, as they stand on the command line.
        directory: of the run, below that of the sweep.
    """

    values: dict[str, str]
    directory: str

    @property
    def arguments(self) -> list[str]:
        """Of the command line."""
        return [part for field, value in self.values.items() for part in (f"--{field}", value)]


@dataclass(frozen=True)
class Sweep:
    """What a sweep runs.

    Attributes:
        experiment, preset: of all cells.
        fixed: further arguments of all cells.
        axes: values by field; every combination is a cell.
    """

    experiment: str
    preset: str
    fixed: tuple[str, ...]
    axes: dict[str, tuple[str, ...]]

    @property
    def cells(self) -> list[Cell]:
        """All combinations, the last field varies fastest."""
        found = []
        for values in itertools.product(*self.axes.values()):
            chosen = dict(zip(self.axes, values, strict=True))
            name = ",".join(f"{field}={value}" for field, value in chosen.items())
            found.append(Cell(chosen, name.replace("/", "-") or "run"))
        return found

    def command(self, cell: Cell, root: Path) -> list[str]:
        """That runs or resumes a cell."""
        start = [sys.executable, "-P", "-m", "experiments", "run", self.experiment]
        where = ["--preset", self.preset, "--workdir", str(root / cell.directory)]
        return [*start, *where, *self.fixed, *cell.arguments]


def parse(name: str, preset: str, arguments: Sequence[str]) -> Sweep:
    """A sweep from arguments like `--model.mixer mla,gqa --seed 0:5 --training.steps 100`.

    Commas separate values, `a:b` counts from a to b - 1; a field with one value is fixed. The last
    part of a field's dotted name is enough if no other field ends in it.

    Raises:
        UsageError: unknown fields, impossible values, nothing to vary, too many runs.
    """
    experiment = catalog.get(name)
    default = experiment.preset(preset)
    fields = [*configs.flatten(configs.to_dict(default))]
    fixed: list[str] = []
    axes: dict[str, tuple[str, ...]] = {}
    for flag, values in _grouped(arguments):
        field = _field(flag, fields)
        choices = [*dict.fromkeys(_choices(values[0]))] if len(values) == 1 else []
        if field in axes or f"--{field}" in fixed:
            raise UsageError(f"--{field}: expected once, got it twice")
        if len(choices) > 1:
            axes[field] = tuple(choices)
        else:
            fixed += [f"--{field}", *(choices or values)]
    if not axes:
        raise UsageError(
            "sweep: expected a field with several values, such as --model.mixer mla,gqa or "
            "--seed 0:5"
        )
    _check_count(math.prod(map(len, axes.values())))
    sweep = Sweep(experiment.name, preset, tuple(fixed), axes)
    for cell in sweep.cells:
        configs.parse(default, [*fixed, *cell.arguments])
    return sweep


def _grouped(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    groups: list[tuple[str, list[str]]] = []
    for argument in arguments:
        if argument.startswith("--"):
            flag, given, value = argument[2:].partition("=")
            groups.append((flag, [value] if given else []))
        elif groups:
            groups[-1][1].append(argument)
        else:
            raise UsageError(f"sweep: expected --FIELD before {argument!r}")
    return groups


def _field(flag: str, fields: Sequence[str]) -> str:
    name = flag.replace("-", "_")
    ending = [field for field in fields if field.endswith(f".{name}")]
    if name in fields or len(ending) != 1:
        if len(ending) > 1 and name not in fields:
            raise UsageError(f"--{flag}: expected one of --{', --'.join(ending)}")
        return flag  # known, a switch, or refused by name when it is parsed
    return ending[0]


def _check_count(count: int) -> None:
    if count > MOST:
        raise UsageError(f"sweep: expected at most {MOST} runs, got {count}")


def _choices(text: str) -> list[str]:
    first, colon, last = text.partition(":")
    if colon and first.lstrip("-").isdigit() and last.lstrip("-").isdigit():
        numbers = range(int(first), int(last))
        if not numbers:
            raise UsageError(f"sweep: expected a:b with a < b, got {text}")
        _check_count(len(numbers))
        return [str(number) for number in numbers]
    return [part for part in text.split(",") if part]


def run(sweep: Sweep, root: Path, jobs: int, cluster: str | None, options: Sequence[str]) -> None:
    """Run all cells that are not finished, then write and print the table.

    Args:
        jobs: at once.
        cluster: of submitit, such as "slurm"; None takes processes of this machine.
        options: KEY=VALUE of submitit's executor, such as `slurm_partition=gpu`.

    Raises:
        ExperimentError: cells that failed, or a directory of another sweep.
        Interrupted: a signal; cells have saved their work.
    """
    processes.check_jobs(jobs)
    if options and cluster is None:
        raise UsageError("--submit: expected --cluster beside it")
    _remember(sweep, root)
    default = catalog.get(sweep.experiment).preset(sweep.preset)

    def finished(cell: Cell) -> bool:  # not with another default: the run says what differs then
        config = configs.parse(default, [*sweep.fixed, *cell.arguments])
        return recorded.done(root / cell.directory, configs.digest(config))

    left = [cell for cell in sweep.cells if not finished(cell)]
    _note_code(sweep, root, [cell for cell in sweep.cells if cell not in left])
    done = len(sweep.cells) - len(left)
    print(f"{len(sweep.cells)} cells, {done} of them finished; {root}", flush=True)
    (root / "logs").mkdir(exist_ok=True)
    run_all = _local if cluster is None else _submitted
    failed = run_all(sweep, left, root, jobs, cluster, options)
    text = table(root)
    (root / "table.md").write_text(text)
    print(text, end="")
    if failed:
        raise ExperimentError(
            f"failed: {'; '.join(failed)}; see {root / 'logs'}; the same command goes on"
        )


def show(sweep: Sweep, root: Path) -> None:
    """Print the cells and what has become of them; nothing is run or written."""
    _continued(sweep, root)
    for cell in sweep.cells:
        state = recorded.state(recorded.begun(root / cell.directory))
        print(f"{cell.directory}  ({state})")
    print(f"{len(sweep.cells)} cells below {root}; nothing was run or written")


def _words(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else " ".join(value) or "nothing"


def _continued(sweep: Sweep, root: Path) -> Sweep:
    """The sweep of a directory with the values of another one added; refused if they differ."""
    known = _recorded(root) if (root / SWEEP).exists() else None
    if known is None:
        recorded.check_free(root, SWEEP)
        return sweep
    for name in ("experiment", "preset", "fixed"):
        there, now = getattr(known, name), getattr(sweep, name)
        if there != now:
            raise ExperimentError(
                f"{root}: holds another sweep, {name}: {_words(there)} -> {_words(now)}; give "
                "another --workdir"
            )
    if [*known.axes] != [*sweep.axes]:
        fields = ", ".join(known.axes)
        raise ExperimentError(f"{root}: holds a sweep over {fields}; give another --workdir")
    axes = {f: list(dict.fromkeys([*known.axes[f], *sweep.axes[f]])) for f in sweep.axes}
    return replace(sweep, axes=axes)


def _remember(sweep: Sweep, root: Path) -> None:
    data = asdict(_continued(sweep, root))
    try:
        root.mkdir(parents=True, exist_ok=True)
        manifest.replace(root / SWEEP, (json.dumps(data, indent=1) + "\n").encode())
    except OSError as error:
        raise recorded.not_writable(root, error) from None


def _recorded(root: Path) -> Sweep:
    """The sweep that a directory holds."""
    try:
        known = json.loads((root / SWEEP).read_text())
        return Sweep(
            known["experiment"], known["preset"], tuple(known["fixed"]), dict(known["axes"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ExperimentError(
            f"{root / SWEEP}: expected the record of a sweep ({error!r}); give another --workdir"
        ) from None


def _local(sweep: Sweep, cells: list[Cell], root: Path, jobs: int, *_: Any) -> list[str]:
    """Processes of this machine."""

    def told(event: processes.Event) -> None:
        if event.code is not None:
            print(f"{event.task.name}: {event.outcome}", flush=True)

    tasks = [
        processes.Task(
            cell.directory, sweep.command(cell, root), root / "logs" / f"{cell.directory}.txt"
        )
        for cell in cells
    ]
    return processes.run(tasks, jobs, told, root)


def _submitted(
    sweep: Sweep,
    cells: list[Cell],
    root: Path,
    jobs: int,
    cluster: str | None,
    options: Sequence[str],
) -> list[str]:
    """Jobs of a cluster, waited for."""
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UsageError(
            "--cluster: the package submitit is not installed; pip install -e '.[submitit]'"
        ) from None
    try:
        executor = submitit.AutoExecutor(folder=root / "logs", cluster=cluster)
        executor.update_parameters(**_options(options))
        if cluster == "slurm":
            executor.update_parameters(slurm_array_parallelism=jobs)
        with executor.batch():
            submitted = [
                executor.submit(submitit.helpers.CommandFunction(sweep.command(cell, root)))
                for cell in cells
            ]
    except (ValueError, TypeError, NameError, RuntimeError, OSError) as error:
        reason = in_line(error)[:200]
        raise UsageError(f"--cluster {cluster}, --submit: {reason}") from None
    failed = []
    for cell, job in zip(cells, submitted, strict=True):
        error = job.exception()
        print(f"{cell.directory}: {'done' if error is None else 'failed'}", flush=True)
        if error is not None:
            failed.append(f"{cell.directory} (job {job.job_id})")
    return failed


def _options(given: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE, numbers as numbers."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--submit: expected KEY=VALUE, got {text!r}")
        found[name] = int(value) if value.lstrip("-").isdigit() else value
    return found


def _note_code(sweep: Sweep, root: Path, done: Sequence[Cell]) -> None:
    """Say so where finished cells are of another code than the file has now."""
    code = catalog.get(sweep.experiment).code
    begun = [recorded.load(root / cell.directory).data.get("begun", {}) for cell in done]
    old = sum(facts.get("code", code) != code for facts in begun)
    if old:
        print(
            f"note: {sweep.experiment} has changed since {old} of these cells were run; remove "
            "their folders to run them again",
            file=sys.stderr,
        )


def table(root: Path) -> str:
    """Markdown of a sweep: a line for every choice but of seeds and every number of the results."""
    sweep = _recorded(root)
    shown = [field for field in sweep.axes if field.rpartition(".")[2] != "seed"]
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for cell in sweep.cells:
        if recorded.done(root / cell.directory):
            key = tuple(cell.values[field] for field in shown)
            groups.setdefault(key, []).append(_numbers(recorded.load(root / cell.directory).result))
    done = sum(len(group) for group in groups.values())
    settings = (sweep.experiment, sweep.preset, " ".join(sweep.fixed))
    lines = [
        f"{', '.join(filter(None, settings))}: {done} of {len(sweep.cells)} cells",
        "",
        f"| {' | '.join([*shown, 'quantity', 'mean', '95 % interval', 'runs'])} |",
        f"|{' --- |' * (len(shown) + 4)}",
    ]
    for key, results in groups.items():
        for name in results[0]:
            values = [result[name] for result in results if name in result]
            interval = "-"
            if len(set(values)) > 1:
                spread = paired.difference(values, [0.0] * len(values))
                interval = f"{spread.low:.6g} to {spread.high:.6g}"
            cells = [*key, name, f"{np.mean(values):.6g}", interval, str(len(values))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _numbers(result: dict[str, Any]) -> dict[str, float]:
    flat = configs.flatten(result)
    return {
        name: value
        for name, value in flat.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def found(root: Path, files: Sequence[Path] = ()) -> list[Path]:
    """Directories of sweeps below one; of all experiments, or of some files."""
    mine, folders = {_file(file) for file in files}, []
    for path in sorted(root.rglob(SWEEP)):
        try:
            if _file(_recorded(path.parent).experiment) in mine or not mine:
                folders.append(path.parent)
        except ExperimentError as error:
            print(f"note: left out: {error}", file=sys.stderr)
    return folders


def _file(name: str | Path) -> Path:
    return Path(name).with_suffix(".py").resolve()
