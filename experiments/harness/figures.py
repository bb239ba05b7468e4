"""House style of the figures; drawn from recorded numbers alone, identical bytes every time."""

import io
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager, ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.harness import manifest

# Okabe and Ito's palette, ordered so that neighbours also differ in grey; line styles and
# markers repeat the distinction for readers who see no colour.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "x")
# Names of the code, as the papers spell them.
NAMES = {
    "gqa": "GQA",
    "mha": "MHA",
    "mqa": "MQA",
    "mla": "MLA",
    "s4": "S4",
    "s4d": "S4D",
    "s5": "S5",
    "dss": "DSS",
    "rtf": "RTF",
    "gated_rtf": "gated RTF",
    "mamba": "Mamba",
    "legs": "LegS",
    "legt": "LegT",
    "lagt": "LagT",
    "fous": "FouS",
    "fout": "FouT",
    "fout_naive": "FouT, naive",
    "xavier": "Xavier",
    "montel": "Montel",
    "zoh": "zero-order hold",
    "hankel": "Hankel",
    "pade": "Padé",
    "ddim": "DDIM",
    "dpmpp_2m": "DPM-Solver++(2M)",
    "heun": "Heun",
    "edm euler": "EDM, Euler",
    "edm heun": "EDM, Heun",
    "edm churn": "EDM, churn",
    "student_t": "Student's t",
    "laplace": "Laplace",
    "reflect": "reflected",
    "fourier": "Fourier",
    "deep": "deep factorized",
}
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


def new(rows: int = 1, columns: int = 1, width: float = 4.2, height: float = 3.1, **grid: Any):
    """A figure of rows x columns panels of `width` x `height` inches, and its axes."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


def spelled(name: str) -> str:
    """A name of the code as papers spell it: "s4d" is S4D."""
    return NAMES.get(name, name)


def printable(text: str, family: str = "monospace") -> str:
    """The text with "?" for what has no glyph in a font, such as control characters."""
    font = font_manager.get_font(font_manager.findfont(family))
    known = (c == "\n" or (c.isprintable() and font.get_char_index(ord(c))) for c in text)
    return "".join(c if good else "?" for c, good in zip(text, known, strict=True))


def legend_below(figure: Figure, columns: int = 6, axes: Iterable[Any] | None = None) -> None:
    """One legend below all panels, with every label of some `axes` (or of all) once."""
    found: dict[str, Any] = {}
    for panel in figure.axes if axes is None else axes:
        for line, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, line)
    rows = -(-len(found) // columns)
    place = {"loc": "outside lower center", "ncols": -(-len(found) // rows)}
    figure.legend(found.values(), found.keys(), **place)


def logarithmic(axes: Any, which: str) -> None:
    """Make "x" or "y" logarithmic, with few plain numbers, however short the axis is."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(_Ticks(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.set_minor_formatter(ticker.NullFormatter())


class _Ticks(ticker.LogLocator):
    """Evenly spaced where fewer than two of 1, 2 and 5 fall on the axis."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        found = np.asarray(super().tick_values(vmin, vmax))
        if np.sum((found >= vmin) & (found <= vmax)) < 2:
            return ticker.MaxNLocator(4).tick_values(vmin, vmax)
        return found


def styles():
    """Keyword arguments of successive lines: color, line style and marker together."""
    return (
        {"color": color, "linestyle": line, "marker": marker}
        for color, line, marker in itertools.cycle(zip(COLORS, LINES, MARKERS, strict=True))
    )


def render(draw: Callable[[], Figure], path: Path) -> Path:
    """Draw in house style and write a PNG without time stamps or program names."""
    data = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        draw().savefig(data, format=path.suffix[1:] or "png", metadata={"Software": None})
    manifest.replace(path, data.getvalue())
    return path
