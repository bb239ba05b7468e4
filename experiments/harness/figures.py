"""House style of the figures; drawn from recorded numbers alone, identical bytes every time."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
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
