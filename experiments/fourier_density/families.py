"""Heads of one size and the networks before them, by name, and a panel that compares them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments.fourier_density.points import DIGITS
from experiments.harness import figures
from fourier_density import autoregressive, heads, networks

Name = Literal["fourier", "corrected", "mixture", "spline"]
NAMES: tuple[Name, ...] = ("fourier", "corrected", "mixture", "spline")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of all models.

    Attributes:
        order, base: of the Fourier head.
        corrected: components of a mixture, and the order of the Fourier series that corrects it.
        components, bins: of the mixture head, and of the spline head.
        bound: where the spline becomes the identity, in units of its scale.
        scale: initial scale of all heads.
        hidden, layers: of the network, masked for the plane, over a window of pixels for digits.
        frequencies: of the coordinates' Fourier features that the masked network reads: how many.
        dropout: rate in the residual blocks of the network.
    """

    order: int = 4
    base: str = "normal"
    corrected: tuple[int, int] = (2, 1)
    components: int = 4
    bins: int = 4
    bound: float = 4.0
    scale: float = 1.0
    hidden: int = 16
    layers: int = 1
    frequencies: int = 2
    dropout: float = 0.0


def head(config: ModelConfig, name: Name) -> heads.Head:
    """The head of that name.

    Raises:
        ValueError: sizes out of range.
    """
    scale, (few, order) = config.scale, config.corrected
    make: dict[Name, Callable[[], heads.Head]] = {
        "fourier": lambda: heads.Fourier(config.order, base=config.base, scale=scale),
        "corrected": lambda: heads.Fourier(order, base=heads.Mixture(few, scale=scale)),
        "mixture": lambda: heads.Mixture(config.components, scale=scale),
        "spline": lambda: heads.SplineFlow(config.bins, bound=config.bound, scale=scale),
    }
    return make[name]()


def model(config: ModelConfig, source: str, name: Name) -> autoregressive.Model:
    """A density: with a masked network for points of the plane, a window of pixels for digits.

    Raises:
        ValueError: sizes out of range.
    """
    one = head(config, name)
    sizes: Any = {"hidden": config.hidden, "layers": config.layers, "dropout": config.dropout}
    if source == DIGITS:
        network = networks.window_mlp((8, 8), one.outputs, **sizes)
    else:
        features = networks.waves(config.frequencies)
        network = networks.masked_mlp(2, one.outputs, features=features, **sizes)
    return autoregressive.model(network, one)


def draw_heads(axis: Any, values: dict[Any, np.ndarray], entropy: float | None) -> None:
    """A measure of every head: seeds as dots, means as bars; the law's entropy as a line."""
    for place, each in enumerate(values.values()):
        dots = {"color": figures.COLORS[0], "label": "seeds" * (place == 0)}
        axis.plot(each, [place] * len(each), ".", **dots)
    means = [np.mean(each) for each in values.values()]
    axis.plot(means, range(len(means)), "|", color="#000000", markersize=12, label="mean")
    if entropy is not None:
        look = {"color": "#777777", "linestyle": "--", "linewidth": 1.2}
        axis.axvline(entropy, label="entropy of the law", **look)
    axis.set_yticks(range(len(means)), [figures.spelled(name) for name in values])
    axis.set_ylim(len(means) - 0.5, -0.5)
    axis.locator_params(axis="x", nbins=5)
