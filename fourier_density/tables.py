"""Frequency tables of quantised densities, in whole numbers, for entropy coding.

Notation
    k       symbol, a whole number: the bin around offset + k step
    w_k     frequency, at least 1; all of them with that of the escape sum to 2^24
    escape  the symbol that announces a value outside the table

An encoder and a decoder have to agree on every w_k to the last digit. Masses of bins are therefore
computed in float64 on the CPU and turned into whole numbers. A library version that rounds
differently could still change a frequency: `Table.fingerprint`, which streams carry, reveals it,
and `Table.to_bytes` stores a table itself.

Source: the project's own; densities as in arXiv 2402.15345, where they are priors.
"""

import functools
import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fourier_density.density import PeriodicDensity
from fourier_density.host import in_float64
from fourier_density.reflected import ReflectedDensity

PRECISION = 24  # bits of the frequencies
TOTAL = 2**PRECISION
MOST_SYMBOLS = 2**20
FURTHEST = 2.0**62  # symbols beyond are not whole numbers of 64 bits


class TooManyBins(ValueError):
    """A table would have more symbols than it can hold.

    Attributes:
        smallest: the smallest step with which it can hold them.
    """

    def __init__(self, step: float, low: float, high: float, smallest: float):
        super().__init__(
            f"step: expected at most {MOST_SYMBOLS - 2} bins from {low:g} to {high:g}, got steps "
            f"of {step:g}; take {1.00001 * smallest:g} or more, or leave more to the escape"
        )
        self.smallest = smallest


@dataclass(frozen=True, eq=False)
class Table:
    """Frequencies of the symbols low, low + 1, ...; the last one is that of the escape, if any.

    Attributes:
        frequencies: int64 [S] or, with an escape, [S + 1]; sum 2^24.
        low: first symbol.
        step, offset: symbol k is the value offset + k step.
        escapes: whether there is an escape.
    """

    frequencies: np.ndarray
    low: int
    step: float
    offset: float
    escapes: bool

    def __post_init__(self):
        w = np.asarray(self.frequencies)
        if w.ndim != 1 or not np.issubdtype(w.dtype, np.integer) or w.size < 1 + self.escapes:
            raise ValueError(
                f"frequencies: expected whole numbers [S >= 1], got {w.dtype} {w.shape}"
            )
        if w.size > MOST_SYMBOLS or w.min() < 1 or int(w.sum()) != TOTAL:
            raise ValueError(
                f"frequencies: expected at most {MOST_SYMBOLS}, all >= 1, with sum {TOTAL}, got "
                f"{w.size} of {w.min()} and more, with sum {w.sum()}"
            )
        _check_grid(self.step, self.offset)
        if abs(self.low) > FURTHEST:
            raise ValueError(f"low: expected a symbol within 2^62, got {self.low}")
        object.__setattr__(self, "frequencies", w.astype(np.int64))

    @property
    def symbols(self) -> int:
        """S, without the escape."""
        return self.frequencies.size - self.escapes

    @functools.cached_property
    def fingerprint(self) -> bytes:
        """Eight bytes that tell tables apart."""
        return hashlib.blake2b(self.to_bytes(), digest_size=8).digest()

    def quantise(self, values: Any) -> np.ndarray:
        """Symbols int64 of finite values, of the same shape.

        Raises:
            ValueError: values that are not finite, or more than 2^62 steps away.
        """
        values = np.asarray(values, np.float64)
        if not np.all(np.isfinite(values)):
            raise ValueError(f"values: expected finite numbers, got {_first_infinite(values)}")
        k = np.round((values - self.offset) / self.step)
        if values.size and np.abs(k).max() > FURTHEST:
            raise ValueError(
                f"values: expected some within 2^62 steps of {self.step} from the offset"
            )
        return np.asarray(k, np.int64)

    def dequantise(self, symbols: Any) -> np.ndarray:
        """Values float64 in the middle of the bins."""
        return np.asarray(self.offset + self.step * np.asarray(symbols, np.float64))

    def contains(self, symbols: Any) -> np.ndarray:
        """Which symbols have a frequency of their own."""
        symbols = np.asarray(symbols)
        return np.asarray((symbols >= self.low) & (symbols < self.low + self.symbols))

    def bits(self, symbols: Any) -> np.ndarray:
        """Ideal code lengths -log2(w_k / 2^24) in bits; outside the table that of the escape alone.

        Raises:
            ValueError: symbols outside a table without escape.
        """
        return np.asarray(PRECISION - np.log2(self.frequencies[self.indices(symbols)]))

    def indices(self, symbols: Any) -> np.ndarray:
        """Indices into `frequencies`, int64; that of the escape for symbols outside the table.

        Raises:
            ValueError: symbols outside a table without escape.
        """
        symbols = np.asarray(symbols, np.int64)
        inside = self.contains(symbols)
        if not self.escapes and not inside.all():
            raise ValueError(
                f"symbols: expected {self.low} to {self.low + self.symbols - 1}, as the table has "
                f"no escape, got {symbols[~inside].flat[0]}"
            )
        return np.where(inside, symbols - self.low, self.symbols)

    def to_bytes(self) -> bytes:
        """Header of four numbers, then the frequencies, all little-endian."""
        head = np.array([self.low, self.escapes], "<i8").tobytes()
        grid = np.array([self.step, self.offset], "<f8").tobytes()
        return head + grid + self.frequencies.astype("<u4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Table":
        """The inverse of `to_bytes`.

        Raises:
            ValueError: bytes that are none of a table.
        """
        if len(data) < 36 or len(data) % 4 or len(data) > 32 + 4 * MOST_SYMBOLS:
            raise ValueError(f"data: expected the bytes of a table, got {len(data)} bytes")
        low, escapes = (int(v) for v in np.frombuffer(data, "<i8", 2))
        step, offset = (float(v) for v in np.frombuffer(data, "<f8", 2, 16))
        if escapes not in (0, 1):
            raise ValueError(f"data: expected 0 or 1 for the escape, got {escapes}")
        w = np.frombuffer(data, "<u4", offset=32).astype(np.int64)
        return cls(w, low, step, offset, bool(escapes))


def from_density(
    density: Any,
    *,
    step: float = 1.0,
    offset: float = 0.0,
    tail: float = 1e-6,
    escape: bool = True,
) -> Table:
    """The table of a density whose values are quantised to bins of width `step`.

    Args:
        density: a single one, with `log_interval_prob`, `cdf` and, if it has one, `quantile`: on
            the line, or on [-1, 1], whose outermost bins are cut off at the ends.
        step, offset: of the bins, whose centres are offset + k step.
        tail: probability in (0, 0.1) that is left to the escape on either side; on [-1, 1] none is.
        escape: whether values outside the table can be coded, at a cost; if not, they are refused.

    Raises:
        TooManyBins: a step too small for the range.
        ValueError: a batch of densities, a step that is not positive, a density without mass.
    """
    _check_grid(step, offset)
    if not hasattr(density, "cdf"):
        raise ValueError(
            f"density: expected one (of a Fit its `density`), got {type(density).__name__}"
        )
    if getattr(density, "batch_shape", ()) != ():
        raise ValueError(f"density: expected a single one, got a batch {density.batch_shape}")
    if not 0 < tail < 0.1:
        raise ValueError(f"tail: expected a probability in (0, 0.1), got {tail}")
    bounded = isinstance(density, PeriodicDensity | ReflectedDensity)
    ends = (-1.0, 1.0) if bounded else tuple(_quantile(density, p) for p in (tail, 1.0 - tail))
    furthest = max(abs(end - offset) for end in ends) / FURTHEST
    smallest = max(furthest, (ends[1] - ends[0]) / (MOST_SYMBOLS - 3))
    if step < smallest:
        raise TooManyBins(step, ends[0], ends[1], smallest)
    places = [(end - offset) / step for end in ends]
    low, high = (
        (math.ceil(places[0] - 0.5), math.floor(places[1] + 0.5))
        if bounded
        else (math.floor(places[0]), math.ceil(places[1]))
    )
    k = np.arange(low, high + 1)
    lower, upper = offset + (k - 0.5) * step, offset + (k + 0.5) * step
    if bounded:
        lower, upper = np.clip(lower, -1.0, 1.0), np.clip(upper, -1.0, 1.0)
    mass = np.exp(in_float64("log_interval_prob", density, lower, upper))
    return from_masses(mass, low, step=step, offset=offset, escape=escape)


def from_masses(
    masses: Any,
    low: int = 0,
    *,
    step: float = 1.0,
    offset: float = 0.0,
    escape: bool = True,
) -> Table:
    """A table of given probabilities; one minus their sum goes to the escape.

    Args:
        masses: [S], not negative.
        low: symbol of the first mass.
        step, offset: symbol k stands for the value offset + k step.
        escape: whether other values can be coded. Without it masses are scaled to sum to one.

    Raises:
        ValueError: masses that are negative, not finite, all zero or too many.
    """
    p = np.asarray(masses, np.float64)
    if p.ndim != 1 or not 1 <= p.size < MOST_SYMBOLS:
        raise ValueError(f"masses: expected [S], 1 <= S < {MOST_SYMBOLS}, got {p.shape}")
    if not np.all(np.isfinite(p)) or p.min() < 0 or p.sum() <= 0:
        raise ValueError("masses: expected finite ones >= 0, not all zero")
    if escape:
        p = np.append(p, max(1.0 - p.sum(), 0.0))
    return Table(frequencies(p), low, step, offset, escape)


def frequencies(p: np.ndarray) -> np.ndarray:
    """Whole numbers [..., S], at least 1, with sum 2^24, close to the proportions p [..., S].

    Each gets 1 and its share of the rest, rounded down; what is left over goes to the largest.
    """
    rest = TOTAL - p.shape[-1]
    w = 1 + np.floor(p * (rest / p.sum(-1, keepdims=True))).astype(np.int64)
    largest = np.argmax(p, -1)[..., None]
    over = TOTAL - w.sum(-1, keepdims=True)
    np.put_along_axis(w, largest, np.take_along_axis(w, largest, -1) + over, -1)
    return w


def _quantile(density: Any, level: float) -> float:
    """Of densities with `quantile`; by bisection of `cdf` for others."""
    if hasattr(density, "quantile"):
        return float(in_float64("quantile", density, level))
    reach = 1.0
    while not (in_float64("cdf", density, -reach) < level < in_float64("cdf", density, reach)):
        reach *= 2.0
        if reach > 1e30:
            raise ValueError(f"density: expected one with a quantile at {level}")
    low, high = -reach, reach
    while high - low > 1e-3 * min(reach, 1.0):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if in_float64("cdf", density, middle) < level else (low, middle)
    return 0.5 * (low + high)


def _check_grid(step: float, offset: float) -> None:
    if not (math.isfinite(step) and step > 0 and math.isfinite(offset)):
        raise ValueError(f"step, offset: expected finite ones, step > 0, got {step}, {offset}")


def _first_infinite(values: np.ndarray) -> str:
    place = np.argwhere(~np.isfinite(values))[0]
    return f"{values[tuple(place)]} at {place.tolist()}"
