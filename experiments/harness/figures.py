"""House style of the figures; drawn from recorded numbers alone, identical bytes every time."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette, ordered so that neighbours also differ in grey; line styles and
# markers repeat the distinction for readers who see no colour.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "x")
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.dpi": 100,
    "savefig.dpi": 150,
}


def new(rows: int = 1, columns: int = 1, width: float = 4.2, height: float = 3.1):
    """A figure of rows x columns panels of `width` x `height` inches, and its axes."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def logarithmic(axes: Any, which: str) -> None:
    """Make "x" or "y" logarithmic, with few plain numbers, however short the axis is."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.set_minor_formatter(ticker.NullFormatter())


def styles():
    """Keyword arguments of successive lines: color, line style and marker together."""
    return (
        {"color": color, "linestyle": line, "marker": marker}
        for color, line, marker in itertools.cycle(zip(COLORS, LINES, MARKERS, strict=True))
    )


def render(draw: Callable[[], Figure], path: Path) -> Path:
    """Draw in house style and write a PNG without time stamps or program names."""
    with matplotlib.rc_context(STYLE):
        draw().savefig(path, metadata={"Software": None})
    return path
