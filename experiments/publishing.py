"""The small outcome of a finished run, copied to where it is committed."""

from pathlib import Path

from experiments import catalog, private
from experiments import report as reports
from experiments.harness import config as configs
from experiments.harness import manifest, recorded
from experiments.harness import run as runs
from experiments.harness.errors import ExperimentError
from experiments.harness.run import Record
from experiments.names import RESULTS

PUBLISHED = ("run.json", "metrics.jsonl", "table.md", "figure.png")


def publish(directory: Path, results: Path) -> None:
    """Copy a finished run's small outcome into `results`, without paths of this machine.

    Raises:
        ExperimentError: the run is not finished, or would replace what is published of other
            settings, or of the preset as it is; a file is too large to commit.
    """
    if (directory / recorded.SWEEP).exists():
        raise ExperimentError(f"{directory}: a sweep; publish one of its cells")
    record = recorded.load(directory)
    if record.data.get("status") != "done":
        raise ExperimentError(
            f"{directory}: expected a finished run, got status {record.data.get('status')!r}"
        )
    name = record.data["experiment"]
    ours = results.resolve() == RESULTS.resolve()
    ours = ours and name in catalog.names()  # the file of another would have to be executed
    if ours and reports.changed(catalog.get(name), record):
        raise ExperimentError(
            f"{directory}: expected a run of the preset {record.data['preset']} as it is, its "
            "settings were changed; publish it elsewhere, with --results DIR"
        )
    target = results / runs.slug(name) / runs.slug(record.data["preset"])
    if target.resolve() == directory.resolve():
        raise ExperimentError(f"{directory}: expected a run to publish, this is what is published")
    _refuse_another(target, record)
    parts = (directory / part for part in PUBLISHED)
    sources = [part for part in parts if part.exists()]
    for source in sources:
        if source.is_symlink():  # a record's folder may be another's
            raise ExperimentError(f"{source}: expected a file, got a link")
        size = source.stat().st_size / 2**20
        if size > 1:
            raise ExperimentError(
                f"{source}: expected at most 1 MiB to publish, got {size:.1f}; pictures and curves "
                "that are recorded are large: run with fewer or smaller ones"
            )
    contents = {
        one.name: one.read_bytes() if one.suffix == ".png" else private.redacted(one).encode()
        for one in sources
    }
    target.mkdir(parents=True, exist_ok=True)
    for part, data in reversed(contents.items()):  # the record, which vouches for the others, last
        manifest.replace(target / part, data)
    for part in PUBLISHED:  # of a run published before
        if part not in contents:
            (target / part).unlink(missing_ok=True)
    print(f"published {target}")


def _refuse_another(target: Path, record: Record) -> None:
    """Publish no run over one of other settings; over one of the same, it is the newer."""
    if not (target / "run.json").exists():
        return
    there = recorded.load(target)
    if differing := configs.difference(there.config, record.config):
        raise ExperimentError(
            f"{target}: expected a run of the same settings, there are others: "
            f"{'; '.join(differing)}; remove it, or publish elsewhere, with --results DIR"
        )
