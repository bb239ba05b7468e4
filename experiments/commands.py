"""What the subcommands of the command line do."""

import contextlib
import importlib.metadata
import json
import keyword
import math
import sys
from pathlib import Path
from typing import Any

import jax

from experiments import (
    archive,
    catalog,
    costs,
    planning,
    processes,
    reproduction,
    sheet,
    sweeps,
    writing,
)
from experiments import report as reports
from experiments.harness import config as configs
from experiments.harness import (
    datasets,
    figures,
    hosts,
    ledger,
    machine,
    manifest,
    recorded,
    weights,
)
from experiments.harness import run as runs
from experiments.harness.errors import ExperimentError, Interrupted, UsageError
from experiments.harness.run import Record, Run
from experiments.harness.sharding import DEFAULT, Layout, make_mesh
from experiments.names import RUNS

SHOWN = 8  # results in the line of a run that is done
PACKAGES = ("fourier_density", "attention", "ssm", "diffusion", "experiments")
NEXT = """
Next:  source .venv/bin/activate
       python -m experiments list                        every experiment, with its presets
       python -m experiments run NAME --help             all that can be set
       python -m experiments run NAME --preset cpu       minutes, not seconds
       python -m experiments report                      the claims, with the published results
       python -m experiments new my/experiment           one of your own
       README.md, docs/index.md (make docs builds the site)"""


def list_experiments(as_json: bool) -> None:
    """Names, first lines and presets."""
    found = [catalog.get(name) for name in catalog.names()]
    if as_json:
        rows = [
            {"name": e.name, "summary": e.summary, "presets": [*e.module.PRESETS]} for e in found
        ]
        print(json.dumps(rows, indent=1))
        return
    width = max(len(e.name) for e in found)
    for e in found:
        print(f"{e.name:<{width}}  {e.summary}  [{', '.join(e.module.PRESETS)}]")


def run(
    name: str,
    preset: str,
    overrides: list[str],
    workdir: Path | None,
    *,
    wandb: bool = False,
    dry: bool = False,
    layout: Layout = DEFAULT,
) -> Record | None:
    """Run or resume an experiment, on a layout of devices; `dry` only shows what it would do."""
    experiment = catalog.get(name)
    default = experiment.preset(preset)
    config = configs.parse(default, overrides)
    directory = workdir or default_directory(experiment.name, preset, config, default)
    make_mesh(layout)  # refuses one that does not fit
    if dry:
        planning.dry_run(experiment, config, directory, layout)
        return None
    given: dict[str, Any] = {"wandb": wandb, "layout": layout, "overrides": overrides}
    with Run(experiment.name, preset, config, directory, **given) as current:
        if experiment.code and not current.as_begun("code", experiment.code) and hosts.first():
            print(
                f"note: {name} has changed since the run in {directory} began, which keeps what it "
                "has; remove it to run all of the new code",
                file=sys.stderr,
            )
        if current.finished:
            lost = experiment.optional("trained_networks") and not weights.saved(directory)
            what = "complete, without its weights" if lost else "already complete"
            print(f"{directory}: {what}; remove it to run again", file=sys.stderr)
            _note_other_data(config, current)
            record = current.record()
        else:
            record = current.finish(_result(experiment, config, current))
            if layout != DEFAULT and not current.divided and hosts.first():
                print(f"note: {name} runs on one device; --mesh.* was not used", file=sys.stderr)
    if hosts.first():
        present(experiment, record)
        print(summary(record))
        for key in _not_finite(record):
            print(f"note: {name}: {key} of the result is not finite", file=sys.stderr)
    return record


def _result(experiment: catalog.Experiment, config: Any, current: Run) -> dict[str, Any]:
    if (data := planning.data_of(config)) is not None:
        current.pin(planning.DATA, data)
    try:
        return experiment.module.main(config, current)
    except SystemExit as error:  # of a user's file
        raise ExperimentError(
            f"{experiment.name}: expected main to return its result, it left with {error.code}"
        ) from None


def _note_other_data(config: Any, finished: Run) -> None:
    """Note if the data of a finished run, which is not run again, have changed since."""
    with contextlib.suppress(ExperimentError, OSError):
        known, now = finished.data.get("pinned", {}).get(planning.DATA), planning.data_of(config)
        if known is not None and now != known and hosts.first():
            print("note: its data have changed since", file=sys.stderr)


def default_directory(name: str, preset: str, config: Any, default: Any) -> Path:
    """runs/<experiment>/<preset>; a changed configuration adds its hash.

    So does the preset itself where that folder holds a run of what it was before.
    """
    folder, digest = RUNS / runs.slug(name), configs.digest(config)
    if config == default and recorded.begun(folder / preset).get("config_hash", digest) == digest:
        return folder / preset
    return folder / f"{preset}-{digest[:6]}"


def present(experiment: catalog.Experiment, record: Record) -> None:
    """Write table.md and figure.png from recorded numbers."""
    make_table = experiment.optional("table")
    text = make_table(record) if make_table else scalar_table(record)
    manifest.replace(record.directory / "table.md", text.encode())
    draw = experiment.optional("draw")
    if draw is not None:
        figures.render(lambda: draw(record), record.directory / "figure.png")


def scalar_table(record: Record) -> str:
    """The numbers of the result as a Markdown table."""
    lines = ["| quantity | value |", "| --- | --- |"]
    scalars = {k: v for k, v in record.result.items() if isinstance(v, int | float)}
    lines += [f"| {name} | {value:.6g} |" for name, value in scalars.items()]
    return "\n".join(lines) + "\n"


def summary(record: Record) -> str:
    """One line: what ran, the first scalar results, where."""
    scalars = [f"{k} {v:.4g}" for k, v in record.result.items() if isinstance(v, int | float)]
    shown, rest = scalars[:SHOWN], len(scalars) - SHOWN
    if rest > 0 or not shown:
        shown.append(f"({rest} more in table.md)" if shown else "(numbers: table.md)")
    name = f"{record.data['experiment']} [{record.data['preset']}]"
    return f"{name}  {'  '.join(shown)}  -> {record.directory}"


def _not_finite(record: Record) -> list[str]:
    numbers = {k: v for k, v in record.result.items() if isinstance(v, float)}
    return [key for key, value in numbers.items() if not math.isfinite(value)]


def reproduce(preset: str, patterns: list[str], root: Path, at_once: int) -> None:
    """Run all experiments that match a pattern at a scale; then report on what is finished of it.

    Raises:
        UsageError: the pattern matches nothing, no jobs at once.
        ExperimentError: some failed; the others ran all the same.
    """
    processes.check_jobs(at_once)
    jobs = reproduction.plan(preset, patterns)
    failure = None
    try:
        reproduction.reproduce(jobs, root, at_once)
    except Interrupted:
        raise
    except ExperimentError as error:  # told behind the report of the others
        failure = error
    found = [r for r in reports.finished(root) if reproduction.made(r, root, preset)]
    names = {job.name for job in jobs} | {record.data["experiment"] for record in found}
    rows = reports.rows(found, [name for name in catalog.names() if name in names])
    (root / "report.md").write_text(f"{ledger.markdown(rows)}\n{reports.summary(rows)}")
    pictures = [(r.data["experiment"], r.directory / "figure.png") for r in found]
    drawn = [(name, picture) for name, picture in pictures if picture.exists()]
    print(f"{ledger.brief(rows)}\n{reports.summary(rows)}")
    if preset.startswith("quick"):
        print("quick runs show that all works; claims are judged by larger ones (--preset cpu)\n")
    print(f"what the claims say: {root / 'report.md'}")
    if drawn:
        print(f"all figures:         {sheet.contact_sheet(drawn, root / 'figures.png')}")
    if failure is not None:
        raise failure
    print(NEXT)


def sweep(options: Any, fields: list[str]) -> None:
    """Run an experiment over a grid of fields."""
    chosen = sweeps.parse(options.name, options.preset, fields)
    folder = RUNS / runs.slug(chosen.experiment)
    root = options.workdir or folder / f"sweep-{options.preset}"
    if options.dry_run:
        sweeps.show(chosen, root)
        return
    sweeps.run(chosen, root, options.jobs, options.cluster, options.submit)


def redraw(root: Path, files: list[Path]) -> None:
    """Redraw the figures of the runs below a folder; of users' experiments only those in `files`.

    Raises:
        ExperimentError: there are none.
    """
    done = [record for record in recorded.find(root) if record.data.get("status") == "done"]
    found = reports.known(done, files)
    if not found:
        raise ExperimentError(
            f"{root}: expected finished runs, found none; run one first, or draw the published "
            "figures again: figures --workdir results"
        )
    for record in found:
        present(catalog.get(record.data["experiment"]), record)
        figure = record.directory / "figure.png"
        print(figure if figure.exists() else f"{record.directory}: no figure, it has no `draw`")


def report(root: Path, files: list[Path], as_json: bool, brief: bool = False) -> None:
    """Claims of all experiments, each against the largest finished run, published ones among them.

    Args:
        files: of the user's own, to report on instead; nothing else that a run names is executed.
    """
    found = reports.known(reports.finished(root), files)
    rows = reports.rows(found, reports.names_of(files, found) or None)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print(reports.summary(rows) if brief else f"{ledger.markdown(rows)}\n{reports.summary(rows)}")
    for directory in [] if brief else sweeps.found(root, files):
        print(f"\n{directory}\n{sweeps.table(directory)}", end="")


def show_costs(name: str, overrides: list[str]) -> None:
    """Cache, parameters and operations of a decoder."""
    print(costs.table(configs.parse(costs.preset(name), overrides)))


def new(path: Path, training: bool = False) -> None:
    """Write a small working experiment to start from, or one that trains a network.

    Raises:
        UsageError: a name that is not one of a module, or hides a package.
        ExperimentError: the file exists or cannot be written.
    """
    first = path.parts[0] if len(path.parts) > 1 else ""
    if first in PACKAGES and not Path(first, "__init__.py").exists():
        raise UsageError(
            f"{path}: expected another folder: Python would find {first}/ here in place of the "
            "package of that name"
        )
    if first in PACKAGES[:-1]:
        raise UsageError(f"{path}: expected a folder outside {first}/, such as experiments/{path}")
    if path.suffix not in ("", ".py") or not path.stem:
        raise UsageError(f"{path}: expected a name that ends in .py")
    if not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        raise UsageError(f"{path}: expected the name of a module, such as my/experiment")
    path = path.with_suffix(".py")
    if path.exists():
        raise ExperimentError(f"{path}: expected a new file, but it exists")
    if path.parent.resolve() == Path.cwd() and _installed(path.stem):
        raise UsageError(
            f"{path}: expected another name or a folder, such as my/{path.name}: Python would find "
            f"the file here in place of the module {path.stem}"
        )
    name = "training_template.py" if training else "template.py"
    text = (Path(__file__).parent / "harness" / name).read_text()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace('"template.', f'"{path.stem}.'))
    except OSError as error:
        raise ExperimentError(f"{path}: cannot write: {error.strerror}") from None
    print(f"{path}\nrun it with: kexue-jax run {path} --preset quick")


def _installed(name: str) -> bool:
    """Whether Python, this project or another installed one has a module of that name."""
    if name in PACKAGES or name in sys.stdlib_module_names:
        return True
    return name in importlib.metadata.packages_distributions()


def doctor() -> None:
    """Devices, versions, data, package origins."""
    environment = machine.environment()
    print("devices   ", "; ".join(environment["devices"]))
    for name, version in environment["versions"].items():
        print(f"{name:<18} {version}")
    folder = datasets.tfds_folder()
    print("data folder", folder or "none (set TFDS_DATA_DIR for the TFDS sets)")
    for name in ("tiny_shakespeare", "mnist", "cifar10"):
        found = folder is not None and (folder / name).is_dir()
        print(f"  {name:<18} {'found' if found else 'not found'}")
    print("  embedded: pydoc text, scikit-learn digits, synthetic densities")
    print(
        "cache      ",
        datasets.cache_folder(),
        f"({machine.free_disk(Path()) / 2**30:.0f} GiB free here)",
    )
    for name in PACKAGES:
        print(f"{name:<18} {Path(__import__(name).__file__).parent}")


def generate(options: Any) -> None:
    """Continue prompts or score a text with a public checkpoint.

    Raises:
        UsageError: neither a prompt nor a text; what the checkpoint or the settings lack.
    """
    prompts = options.prompt or []
    if options.score is None and not prompts:
        raise UsageError("generate: expected --prompt or --score")
    if options.score is not None and len(prompts) > 1:
        raise UsageError(f"--score: expected one --prompt at most, got {len(prompts)}")
    if not 0 <= options.seed < 2**32:
        raise UsageError(f"--seed: expected a number from 0 to 2^32 - 1, got {options.seed}")
    dtype = writing.check_dtype(options.dtype)
    if options.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    checkpoint = writing.Checkpoint(options.checkpoint.expanduser(), dtype, options.ignore)
    if options.score is not None:
        writing.score_text(checkpoint, options.score, prompts[0] if prompts else None)
        return
    names = ("temperature", "top_k", "top_p", "min_p", "chunk", "seed")
    rest = {name: getattr(options, name) for name in names}
    writing.continue_texts(checkpoint, prompts, writing.Options(options.max_new_tokens, **rest))


def compress(source: Path, target: Path | None, step: float | None) -> None:
    """Compress a file of floats, and say what became of it."""
    target = target or Path(f"{source}{archive.SUFFIX}")
    note = f"{source}: a density is fitted to it, some seconds"
    found = archive.compress(source, target, step, lambda: print(note, file=sys.stderr, flush=True))
    print(
        f"{source}: {found.values} values, {found.before} bytes -> {target}: {found.after} bytes, "
        f"{8 * found.after / found.values:.3f} bits a value (the model's rate is "
        f"{found.bits / found.values:.3f}, its order {found.order}), within {found.error:.3g} "
        f"at steps of {found.step:.3g}"
    )
    if found.error > 0.5 * found.step * (1 + 1e-6):
        note = "note: beyond half a step, for the numbers of the file are coarser than that"
        print(note, file=sys.stderr)
    if found.after >= found.before:
        print("note: the archive is no smaller than the file", file=sys.stderr)


def restore(source: Path, target: Path | None) -> None:
    """Restore a file of floats."""
    name = Path(source.name.removesuffix(archive.SUFFIX)).stem
    target = target or source.with_name(f"{name}.restored{archive.suffix_of(source)}")
    print(f"{target}: {archive.restore(source, target)} values")
