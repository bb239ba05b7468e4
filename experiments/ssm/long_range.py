"""Files of the Long Range Arena (arXiv 2011.04006), where they lie in a folder.

Pathfinder comes as `curv_contour_length_14/imgs/<n>/sample_<k>.png` with lists of labels beside,
`curv_contour_length_14/metadata/<n>.npy`: lines of text, folder, file, number, label.
"""

from pathlib import Path

import numpy as np

from experiments.harness import image_sets
from experiments.harness.errors import DataError
from experiments.harness.image_sets import ImageConfig, Images

HARDEST = "curv_contour_length_14"


def check_labels(labels: np.ndarray, classes: int, where: str) -> None:
    """Refuse labels that a model of some classes cannot give.

    Raises:
        DataError: one is below 0 or not below `classes`.
    """
    if len(labels) == 0:
        raise DataError(f"{where}: expected some examples, found none")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{where}: expected labels from 0 to {classes - 1}, got {labels.min()} to "
            f"{labels.max()}; give --classes"
        )


def is_pathfinder(folder: str) -> bool:
    """Whether a folder has Pathfinder's layout."""
    return (Path(folder).expanduser() / HARDEST / "metadata").is_dir()


def pathfinder(config: ImageConfig) -> Images:
    """The hardest set of a Pathfinder folder; a tenth of its images is held out, by their names.

    Raises:
        DataError: lists or images are unreadable.
    """
    folder = Path(config.path or "").expanduser() / HARDEST
    names: list[Path] = []
    labels: list[int] = []
    for file in sorted((folder / "metadata").glob("*.npy"), key=lambda path: path.name):
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            words = line.split()
            try:
                place, label = folder / words[0] / words[1], int(words[3])
            except (IndexError, ValueError):
                raise DataError(
                    f"{file}, line {number}: expected folder, file, number, label, got {line!r}"
                ) from None
            if place.is_file() and place.stat().st_size == 0:
                continue  # one image of the published set is empty
            names.append(place)
            labels.append(label)
    if not names:
        raise DataError(f"{folder / 'metadata'}: expected lists of images, found none")
    return image_sets.from_files(config, folder, names, np.array(labels, np.int32))
