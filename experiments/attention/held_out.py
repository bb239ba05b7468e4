"""Windows of a held-out text, on which decoders are measured."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.harness import datasets


def windows(text: datasets.Text, size: int, count: int) -> np.ndarray:
    """Evenly spaced parts of the held-out text, [count, size]; of more than fit, those that do.

    No token is predicted in two of them, or the standard error of their mean would be too small;
    but there are two at least, which overlap in a text that has no room for them.
    """
    most = max(2, (len(text.validation) - 1) // (size - 1))
    if count > most:
        print(f"windows: {most} fit into the held-out text, {count} were asked for", flush=True)
        count = most
    starts = np.linspace(0, len(text.validation) - size, count).astype(int)
    return text.validation[starts[:, None] + np.arange(size)].astype(np.int32)


def evaluate(
    params: Any, windows: np.ndarray, size: int, bits: Callable[[Any, np.ndarray], jax.Array]
) -> dict[str, float]:
    """Mean and standard error over all windows, `size` at a time."""
    values = each_window(params, windows, size, bits)
    return {
        "validation_bits_per_byte": float(values.mean()),
        "validation_standard_error": float(values.std()) / math.sqrt(len(values)),
    }


def each_window(
    params: Any, windows: np.ndarray, size: int, bits: Callable[[Any, np.ndarray], jax.Array]
) -> np.ndarray:
    """Of every window, `size` at a time (the last batch is filled up)."""
    count = -(-len(windows) // size) * size
    padded = np.resize(windows, (count, windows.shape[1]))
    parts = [np.asarray(bits(params, padded[i : i + size])) for i in range(0, count, size)]
    return np.concatenate(parts)[: len(windows)].astype(np.float64)
