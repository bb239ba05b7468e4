"""What a command would do, without doing it: settings, data, memory, arithmetic."""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax

from experiments import catalog, costs
from experiments.harness import config as configs
from experiments.harness import estimate, machine, manifest, recorded
from experiments.harness.errors import ExperimentError
from experiments.harness.sharding import DEFAULT, Layout

DATA = "its data"  # how a run's record calls what it was begun with


def dry_run(experiment: catalog.Experiment, config: Any, directory: Path, layout: Layout) -> None:
    """Print what a run would do, and look at its data.

    Raises:
        ExperimentError: a directory or data that the run would refuse; the settings are printed
            before.
    """
    print(json.dumps(configs.to_dict(config), indent=1))
    describe = experiment.optional("describe")
    for name, text in (describe(config) if describe else {}).items():
        print(f"{name}: {text}")
    refused: list[ExperimentError] = []
    known, state = {}, "refused"
    try:
        recorded.check_free(directory)
        if known := recorded.begun(directory):
            recorded.check_same(directory, known, experiment.name, config)
        state = recorded.state(known)
    except ExperimentError as error:
        refused.append(error)
    try:
        if found := _look(experiment, config):
            print(f"found: {found}")
        if state == "resumes" and (data := data_of(config)) is not None:
            recorded.check_pinned(directory, known, DATA, data)
    except ExperimentError as error:
        refused.append(error)
    free = machine.free_disk(directory) / 2**30
    print(f"directory: {directory} ({state}); {free:.1f} GiB free")
    began = time.monotonic()
    if not refused:
        _print_estimate(experiment, config, layout)
    seconds = time.monotonic() - began
    print(f"compiled in {seconds:.1f} s; " * (seconds > 0.05) + "nothing was run or written")
    for error in refused[:-1]:
        print(f"kexue-jax: {error}", file=sys.stderr)
    if refused:
        raise refused[-1]


def data_of(config: Any) -> str | None:
    """What the data that a configuration names are known by; None if it names none."""
    data: Any = getattr(config, "data", None)
    if hasattr(data, "fingerprint"):
        return data.fingerprint()
    path = getattr(data, "path", None)
    return manifest.listed(Path(path).expanduser()) if isinstance(path, str) else None


def _look(experiment: catalog.Experiment, config: Any) -> str | None:
    """By a function of the experiment, or by its configuration of data; None without either."""
    of_experiment = experiment.optional("look")
    if of_experiment is not None:
        return of_experiment(config)
    of_data = getattr(getattr(config, "data", None), "look", None)
    batch = getattr(getattr(config, "training", None), "batch_size", 1)
    return None if of_data is None else of_data(batch)


def show_estimate(name: str, preset: str, overrides: list[str], layout: Layout = DEFAULT) -> None:
    """Memory and arithmetic of the experiment's programs, on a layout of devices."""
    experiment = catalog.get(name)
    config = configs.parse(experiment.preset(preset), overrides)
    _print_estimate(experiment, config, layout)


def show_fields(command: str, name: str, preset: str) -> None:
    """What can be set, with the values of a preset."""
    default = costs.preset(name) if command == "costs" else catalog.get(name).preset(preset)
    with contextlib.suppress(SystemExit):
        configs.parse(default, ["--help"], f"kexue-jax {command} {name}")


def _print_estimate(experiment: catalog.Experiment, config: Any, layout: Layout) -> None:
    programs = experiment.optional("programs")
    if programs is None:
        print(f"{experiment.name} names no programs to estimate")
        return
    data, model = layout.sizes(jax.device_count())
    if data * model > 1:
        print(f"bytes of each of {data * model} devices: data {data} x model {model}")
    print("| program | arguments MB | temporaries MB | peak MB | GFLOP | calls | TFLOP |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in estimate.estimate(programs(config), layout):
        memory = [row[f"{part}_bytes"] / 1e6 for part in ("argument", "temporary", "peak")]
        cells = [f"{value:.1f}" for value in memory]
        cells += [f"{row['flops'] / 1e9:.3g}", str(row["calls"])]
        cells += [f"{row['total_flops'] / 1e12:.3g}"]
        print(f"| {row['program']} | {' | '.join(cells)} |")
