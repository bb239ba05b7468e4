"""Batches of a set that is read from disk, ahead of the training loop, by grain.

Which examples a batch holds, and in which order, is `datasets.shuffled`: a function of seed and
step alone. So a run can go on at any step, and with another number of hosts, each of which reads
its own rows.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from experiments.harness import datasets

AHEAD = 4  # batches


class Rows:
    """Some rows of every batch, one after the other, as grain's random access wants them."""

    def __init__(self, reader: Any, batch: int, seed: int, rows: slice):
        self.reader, self.batch, self.seed, self.rows = reader, batch, seed, rows
        self.width = rows.stop - rows.start
        self._chosen = functools.lru_cache(maxsize=2 * AHEAD)(self._numbers)

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The example at a place, by field."""
        step, row = divmod(int(index), self.width)
        number = self._chosen(step)[self.rows.start + row]
        return {name: column[0] for name, column in self.reader([number]).items()}

    def _numbers(self, step: int) -> np.ndarray:
        return datasets.shuffled(len(self.reader), self.batch, self.seed, step)


def batches(
    reader: Any, batch: int, seed: int, rows: slice | None = None, threads: int = 16
) -> Callable[[int], dict[str, np.ndarray]]:
    """Step -> rows of its batch, by feature; steps in order are read ahead.

    Args:
        reader: (numbers) -> arrays by feature, such as `datasets.open_tfds` gives.
        rows: of this host; all by default.
    """
    source = Rows(reader, batch, seed, rows or slice(0, batch))
    state: dict[str, Any] = {"step": None}

    def begin(step: int) -> Iterator[Any]:
        rest = grain.MapDataset.source(source)[step * source.width :]
        read = rest.to_iter_dataset(grain.ReadOptions(threads, AHEAD * source.width))
        return iter(read.batch(source.width, drop_remainder=True))

    def part(step: int) -> dict[str, np.ndarray]:
        if step != state["step"]:
            state["read"] = begin(step)
        state["step"] = step + 1
        return next(state["read"])

    return part
