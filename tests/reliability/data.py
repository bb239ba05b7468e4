"""Damaged files of a TFDS set: every one is refused, or read as it was written."""

import random
import warnings
from pathlib import Path

import numpy as np

from experiments.harness import datasets
from experiments.harness.errors import DataError
from tests.reliability.faults import damages
from tests.reliability.subject import Outcome


def write(folder: Path) -> None:
    """A small set, `tiny_rows`."""
    import tensorflow_datasets as tfds

    class TinyRows(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"text": tfds.features.Text(), "label": np.int64}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from ((k, {"text": f"row {k} " * (k + 1), "label": k % 2}) for k in range(12))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TinyRows(data_dir=folder, file_format="array_record").download_and_prepare()


def campaign(folder: Path, count: int, seed: int = 0) -> Outcome:
    """Bits flipped, ends cut, parts zeroed, files deleted, where there is anything but padding."""
    outcome = Outcome("damaged data set", "refused by name, or every value as it was written")
    write(folder)
    generator = random.Random(seed)
    good = datasets.read_tfds("tiny_rows", "train", str(folder))
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        end = len(data.rstrip(b"\0"))
        for name, changed in damages(data[:end], count, generator):
            path.unlink() if changed is None else path.write_bytes(changed + data[end:])
            try:
                found = datasets.read_tfds("tiny_rows", "train", str(folder))
                same = found.keys() == good.keys()
                wrong = not same or any(not np.array_equal(found[k], good[k]) for k in good)
            except DataError:
                wrong = False
            outcome.check(not wrong, f"{path.name}: {name}")
            path.write_bytes(data)
    return outcome
