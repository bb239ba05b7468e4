"""Files of the Long Range Arena (arXiv 2011.04006), where they lie in a folder.

Pathfinder comes as `curv_contour_length_14/imgs/<n>/sample_<k>.png` with lists of labels beside,
`curv_contour_length_14/metadata/<n>.npy`: lines of text, folder, file, number, label. ListOps comes
as `basic_<split>.tsv`, lines of an expression and its value; Retrieval as
`new_aan_pairs.<split>.tsv`, lines of a label, two names and two texts.
"""

from pathlib import Path

import numpy as np

from experiments.harness import image_sets
from experiments.harness.errors import DataError
from experiments.harness.image_sets import ImageConfig, Images
from experiments.ssm import listops_grammar

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


def listops(folder: str, split: str, longest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens [n, longest], lengths [n] and values [n] of a split.

    Raises:
        DataError: the file is missing; an expression does not parse, is too long, or its value is
            not the one beside it. The message says which line.
    """
    file = Path(folder).expanduser() / f"basic_{split}.tsv"
    rows, values = [], []
    for number, line in enumerate(_lines(file)[1:], 2):
        source, _, target = line.decode(errors="replace").rpartition("\t")
        try:
            rows.append(listops_grammar.parse(source))
            values.append(int(target))
        except ValueError as error:
            raise DataError(f"{file}, line {number}: {error}") from None
    labels = np.array(values, np.int32)
    check_labels(labels, 10, str(file))
    try:
        tokens, lengths = listops_grammar.pack(rows, longest)
        found = listops_grammar.values(tokens, lengths)
    except ValueError as error:
        raise DataError(f"{file}, below its title: {error}") from None
    wrong = np.flatnonzero(found != labels)
    if len(wrong):
        line = wrong[0]
        raise DataError(
            f"{file}, line {line + 2}: expected the value {found[line]}, got {labels[line]}"
        )
    return tokens, lengths, labels


def pairs(folder: str, split: str) -> tuple[list[tuple[bytes, bytes]], np.ndarray]:
    """Two texts and whether they belong together, of every example of a split of Retrieval.

    Raises:
        DataError: the file is missing, or a line is not of that form.
    """
    file = Path(folder).expanduser() / f"new_aan_pairs.{split}.tsv"
    texts, labels = [], []
    for number, line in enumerate(_lines(file), 1):
        try:
            label, _, _, first, second = line.split(b"\t")
            labels.append(int(float(label)))
        except (ValueError, OverflowError):
            raise DataError(
                f"{file}, line {number}: expected label, name, name, text, text, got {line[:60]!r}"
            ) from None
        texts.append((first, second))
    found = np.array(labels, np.int32)
    check_labels(found, 2, str(file))
    return texts, found


def _lines(file: Path) -> list[bytes]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"data.path: expected a readable {file}, got: {error}") from None
    return content.rstrip(b"\r\n").split(b"\n") if content.strip() else []
