"""Networks of runs, opened by the folder of the run."""

from pathlib import Path
from typing import Any, NamedTuple

from experiments import catalog
from experiments.harness import recorded, weights
from experiments.harness.errors import ExperimentError


class Trained(NamedTuple):
    """A network with what it has learnt.

    Attributes:
        config: of the run.
        name: of the network among those of the run.
        params: its weights; averaged ones where the run averages them.
        apply: (params, ...) -> outputs: of decoders (tokens [B, T]) -> logits [B, T, V]; of
            sequence models a batch {"x": ...[, "lengths": [B]]} -> outputs; of a generator of
            images (noise [B, H, W, C][, key][, label [B]]) -> images.
        settings: what it was made from, such as an `attention.TransformerConfig`, or None.
    """

    config: Any
    name: str
    params: Any
    apply: Any
    settings: Any

    def __repr__(self) -> str:
        return f"Trained({self.name!r}, {type(self.config).__module__})"


def load(
    directory: str | Path, name: str | None = None, *, file: str | Path | None = None
) -> Trained:
    """A network that a run trains: as it was written at the end, or at the newest checkpoint.

    Args:
        directory: of the run.
        name: of the network; may be left out where the run has written one only. Of arms of a
            comparison the first seed is kept.
        file: the run's experiment, if it is one of your own: it is executed, which a file that only
            the record names is not.

    Raises:
        ExperimentError: no run, none of an experiment that keeps its networks, one of another
            version of its configuration, no such network, or damaged weights.
    """
    folder = Path(directory)
    known = str(recorded.load(folder).data.get("experiment"))
    if file is None and known not in catalog.names():
        raise ExperimentError(
            f"{folder}: a run of {known!r}, which is none of this package; give its file, which "
            "is then executed: trained.load(folder, file=...)"
        )
    experiment = catalog.get(known if file is None else str(file))
    networks = experiment.optional("trained_networks")
    if networks is None:
        own = "experiments." + experiment.name.replace("/", ".") + ".load"
        hint = f"; open it by {own}" if experiment.optional("load") else ""
        raise ExperimentError(f"{folder}: {experiment.name} keeps no networks here{hint}")
    _, config = weights.configured(folder, known, experiment.module.Config)
    made, written = networks(config), weights.saved(folder)
    if name is None:
        if len(written) > 1:
            raise ExperimentError(f"{folder}: expected the name of one of {', '.join(written)}")
        name = next(iter(written or made))
    if name not in made:
        raise ExperimentError(f"{folder}: expected one of {', '.join(made)}, got {name!r}")
    network = made[name]
    params = weights.load(folder, name, network)
    return Trained(config, name, params, network.apply, network.settings)
