"""Drawing densities with Matplotlib, which is loaded when first used."""

from typing import Any

import numpy as np


def points(order: int) -> int:
    """Points that show all waves of a density."""
    return 512 + 32 * order


def plot(density: Any, x: Any, ax: Any = None, **line: Any) -> Any:
    """Draw one density.

    Args:
        density: with `prob` and `batch_shape`.
        x: [n], where to evaluate it.
        ax: Matplotlib axes; by default the current ones.
        line: passed to `Axes.plot`.

    Returns:
        The axes.

    Raises:
        ValueError: a batch of densities.
    """
    import matplotlib.pyplot as plt

    if density.batch_shape:
        raise ValueError(
            "plot: expected a single density, got a batch of shape "
            f"{density.batch_shape}; draw its members one by one"
        )
    ax = plt.gca() if ax is None else ax
    ax.plot(np.asarray(x), np.asarray(density.prob(x)), **line)
    ax.set(xlabel="x", ylabel="density")
    ax.set_ylim(bottom=0.0)
    return ax
