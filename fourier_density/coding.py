"""Compression to bytes and back, by the range coder of `constriction`.

    table = tables.from_density(fit.density, step=0.01)
    data = coding.compress(values, table)           # bytes
    values = coding.decompress(data, table)         # within half a step, the same everywhere

Values beyond 2^52 steps come back within a unit of their last place.

A stream is framed: what it holds is checked before a value is decoded. Little-endian,

    magic "FBDM", version u8, dimensions u8, 2 bytes zero
    fingerprint of the tables, 8 bytes
    shape u64 each, words u64, escapes u64
    words of the range coder u32 each
    symbols outside the tables i64 each
    digest of the decoded symbols, 8 bytes; digest of all the above, 8 bytes

A stream that was cut, changed, made with other tables or by another version is refused with a
`StreamError`: it never decodes to other data.

Source: the framing is the project's own, the range coder that of the library `constriction`.
"""

import hashlib
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fourier_density.tables import TOTAL, Table

MAGIC, VERSION = b"FBDM", 1
HEAD = struct.Struct("<4sBBxx8s")
DIGEST = 8
MOST_DIMENSIONS = 8
MOST_VALUES = 2**28


class StreamError(ValueError):
    """Bytes that are not a whole stream made with the tables at hand."""


def compress(values: Any, tables: Table | Sequence[Table]) -> bytes:
    """A stream of quantised values.

    Args:
        values: finite numbers [...] of up to eight axes, or [..., C] with C tables.
        tables: one for all values, or a sequence of C, one for each index of the last axis.

    Raises:
        ValueError: values that are not real, not finite, or outside a table without escape; no
            tables, or another number than places; more axes.
    """
    _check_tables(tables)
    if np.iscomplexobj(values):
        raise ValueError("values: expected real numbers, got complex ones")
    values = np.asarray(values, np.float64)
    columns = [table.quantise(column) for column, table in _columns(values, tables)]
    return encode(_joined(columns, tables, values.shape), tables)


def decompress(
    data: bytes, tables: Table | Sequence[Table], *, most: int = MOST_VALUES
) -> np.ndarray:
    """Values, float64: the centres of the bins that the compressed values were in.

    Args:
        data: a stream of `compress`.
        tables: those it was made with.
        most: largest number of values; a stream that claims more is refused.

    Raises:
        StreamError: a stream that was cut or changed, or made with other tables or another version.
    """
    symbols = decode(data, tables, most=most)
    columns = [table.dequantise(column) for column, table in _columns(symbols, tables)]
    return _joined(columns, tables, symbols.shape)


def encode(symbols: Any, tables: Table | Sequence[Table]) -> bytes:
    """A stream of symbols, int64 [...] of up to eight axes, or [..., C] with C tables.

    Raises:
        ValueError: symbols outside a table without escape, no tables, another number than places,
            more axes.
    """
    _check_tables(tables)
    symbols = np.asarray(symbols)
    if symbols.size and not np.issubdtype(symbols.dtype, np.integer):
        raise ValueError(f"symbols: expected whole numbers, got {symbols.dtype}")
    if symbols.size and int(symbols.max()) >= 2**63:
        raise ValueError(f"symbols: expected less than 2^63, got {symbols.max()}")
    symbols = symbols.astype(np.int64)
    encoder = Encoder()
    for column, table in _columns(symbols, tables):
        encoder.write(column, table)
    return encoder.finish(symbols, fingerprint(tables))


def decode(data: bytes, tables: Table | Sequence[Table], *, most: int = MOST_VALUES) -> np.ndarray:
    """Symbols, int64, of a stream of `encode`. Arguments and errors are those of `decompress`.

    Raises:
        StreamError: more values claimed than the bits can hold; what `decompress` raises.
    """
    _check_tables(tables)
    decoder = Decoder(data, fingerprint(tables), most=most)
    shape = decoder.shape
    each = _split(tables, shape, StreamError)
    count = math.prod(shape) // len(each)
    if sum(count * _fewest_bits(table) for table in each) > decoder.bits:
        raise StreamError(f"data: {math.prod(shape)} values cannot be in {decoder.bits} bits")
    columns = [decoder.read(count, table) for table in each]
    symbols = _joined(columns, tables, shape)
    decoder.finish(symbols)
    return symbols


def fingerprint(tables: Table | Iterable[Table]) -> bytes:
    """An eight-byte hash of a table or of several, to tell models apart."""
    each = [tables] if isinstance(tables, Table) else tables
    joined = b"".join(table.fingerprint for table in each)
    return hashlib.blake2b(joined, digest_size=DIGEST).digest()


class Encoder:
    """Writes a stream in several calls: for models whose tables depend on earlier symbols.

        encoder = Encoder()
        encoder.write(symbols, table)               # many symbols, one table
        encoder.write_each(indices, frequencies)    # a row of frequencies for each symbol
    Then `encoder.finish(all_symbols, fingerprint)` returns the bytes.
    """

    def __init__(self):
        stream = _stream()
        self._models = stream.model
        self._coder = stream.queue.RangeEncoder()
        self._escapes = bytearray()

    def write(self, symbols: np.ndarray, table: Table) -> None:
        """Write symbols, int64 of any shape; those outside the table are escaped."""
        symbols = np.ravel(symbols)
        indices = table.indices(symbols)
        if table.frequencies.size > 1 and symbols.size:
            self._coder.encode(indices.astype(np.int32), _model(self._models, table.frequencies))
        self._escapes += symbols[~table.contains(symbols)].astype("<i8").tobytes()

    def write_each(self, indices: np.ndarray, frequencies: np.ndarray) -> None:
        """Write indices [n], each by its own row of frequencies [n, S >= 2] (`tables.frequencies`).

        Raises:
            ValueError: indices outside their row of frequencies, or not as many as rows.
        """
        w, indices = _checked_frequencies(frequencies), np.asarray(indices)
        if indices.shape != w.shape[:1] or np.any((indices < 0) | (indices >= w.shape[1])):
            raise ValueError(f"indices: expected [{len(w)}] from 0 to {w.shape[1] - 1}")
        family = self._models.Categorical(perfect=False)
        self._coder.encode(indices.astype(np.int32), family, w - 1.0)

    def finish(self, symbols: Any, fingerprint: bytes) -> bytes:
        """The framed stream.

        Args:
            symbols: all that were written, in their shape; only shape and digest are stored.
            fingerprint: eight bytes that identify the tables (see `fingerprint`).

        Raises:
            ValueError: symbols of more axes than a stream can tell.
        """
        symbols = np.asarray(symbols, np.int64)
        if symbols.ndim > MOST_DIMENSIONS:
            raise ValueError(
                f"symbols: expected at most {MOST_DIMENSIONS} axes, got {symbols.ndim}"
            )
        words = self._coder.get_compressed().astype("<u4").tobytes()
        head = HEAD.pack(MAGIC, VERSION, symbols.ndim, fingerprint)
        sizes = [*symbols.shape, len(words) // 4, len(self._escapes) // 8]
        body = head + np.array(sizes, "<u8").tobytes() + words + bytes(self._escapes)
        body += _digest_of(symbols)
        return body + _digest(body)


class Decoder:
    """Reads what an `Encoder` wrote, in the same order.

    Args:
        data: a stream.
        fingerprint: of the tables at hand.
        most: a stream that claims more values is refused.

    Raises:
        StreamError: the frame is damaged, of another version, or of other tables.
    """

    def __init__(self, data: bytes, fingerprint: bytes, *, most: int = MOST_VALUES):
        self.shape, words, self._escapes, self._expected = _unframed(data, fingerprint, most)
        self.bits = 32 * words.size
        stream = _stream()
        self._models = stream.model
        self._coder = stream.queue.RangeDecoder(words)

    def read(self, count: int, table: Table) -> np.ndarray:
        """Symbols int64 [count].

        Raises:
            StreamError: an escaped symbol is missing.
        """
        indices = np.zeros(count, np.int64)
        if table.frequencies.size > 1 and count:
            indices = self._decoded(_model(self._models, table.frequencies), count)
        symbols = table.low + indices
        if table.escapes:
            outside = np.flatnonzero(indices == table.symbols)
            if outside.size > self._escapes.size:
                raise StreamError("data: an escaped symbol is missing")
            symbols[outside], self._escapes = np.split(self._escapes, [outside.size])
        return symbols

    def read_each(self, frequencies: np.ndarray) -> np.ndarray:
        """Read indices, int64 [n], each by its own row of frequencies [n, S >= 2]."""
        w = _checked_frequencies(frequencies)
        return self._decoded(self._models.Categorical(perfect=False), w - 1.0)

    def finish(self, symbols: np.ndarray) -> None:
        """Compare the symbols, in their shape, with those encoded.

        Raises:
            StreamError: they differ.
        """
        if self._escapes.size or _digest_of(np.asarray(symbols, np.int64)) != self._expected:
            raise StreamError("data: the tables at hand are not those of the stream")

    def _decoded(self, model: Any, what: Any) -> np.ndarray:
        try:
            return self._coder.decode(model, what).astype(np.int64)
        except AssertionError as error:  # of the coder, for words that no table could have made
            raise StreamError("data: the tables at hand are not those of the stream") from error


def _unframed(data: bytes, fingerprint: bytes, most: int) -> tuple[Any, ...]:
    """Shape, words, escapes and digest of the symbols, after all checks that need no decoding."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise StreamError(f"data: expected bytes, got {type(data).__name__}")
    data = bytes(data)
    if len(data) < HEAD.size + 16 + 2 * DIGEST or data[:4] != MAGIC:
        raise StreamError("data: expected a stream that begins with FBDM, or it was cut")
    _, version, dimensions, made_with = HEAD.unpack_from(data)
    if version != VERSION:
        raise StreamError(f"data: expected version {VERSION}, got {version}")
    if _digest(data[:-DIGEST]) != data[-DIGEST:]:
        raise StreamError("data: expected a whole stream, it was cut or changed")
    end = HEAD.size + 8 * (dimensions + 2)
    if dimensions > MOST_DIMENSIONS or len(data) < end + 2 * DIGEST:
        raise StreamError(f"data: expected at most {MOST_DIMENSIONS} axes, got {dimensions}")
    if made_with != fingerprint:
        raise StreamError("data: the stream was made with other tables")
    *shape, words, escapes = (int(n) for n in np.frombuffer(data, "<u8", dimensions + 2, HEAD.size))
    if len(data) != end + 4 * words + 8 * escapes + 2 * DIGEST:
        raise StreamError("data: the lengths in the header are not those of the stream")
    if math.prod(shape) > most:
        raise StreamError(f"data: expected at most {most} values, got {math.prod(shape)}")
    coded = np.frombuffer(data, "<u4", words, end).astype(np.uint32)
    outside = np.frombuffer(data, "<i8", escapes, end + 4 * words).astype(np.int64)
    return tuple(shape), coded, outside, data[-2 * DIGEST : -DIGEST]


def _stream() -> Any:
    """The coders and their models: a compiled module, which says nothing of types."""
    try:
        import constriction
    except ImportError:
        raise ImportError(
            "constriction: not installed; streams need this range coder, which has wheels for "
            "Linux on x86-64, macOS and Windows"
        ) from None
    module: Any = constriction
    return module.stream


def _model(models: Any, w: np.ndarray) -> Any:
    """A model of the coder with exactly these frequencies.

    It gives one of 2^24 to every symbol and shares the rest by the given numbers, rounded down: of
    w - 1, which sum to the rest, nothing is rounded.
    """
    return models.Categorical(w - 1.0, perfect=False)


def _checked_frequencies(w: Any) -> np.ndarray:
    w = np.asarray(w)
    if w.ndim != 2 or w.shape[1] < 2 or w.min(initial=1) < 1 or np.any(w.sum(1) != TOTAL):
        raise ValueError(f"frequencies: expected [n, S >= 2], at least 1 with sums {TOTAL}")
    return w


def _check_tables(tables: Any) -> None:
    each = [tables] if isinstance(tables, Table) else tables
    if not isinstance(each, Sequence) or not all(isinstance(one, Table) for one in each):
        raise ValueError(f"tables: expected a Table or several, got {type(tables).__name__}")


def _columns(values: np.ndarray, tables: Any) -> list[Any]:
    """Pairs of values and their table."""
    each = _split(tables, values.shape, ValueError)
    if isinstance(tables, Table):
        return [(values, tables)]
    return [(values[..., i], table) for i, table in enumerate(each)]


def _split(tables: Any, shape: tuple[int, ...], error: type[ValueError]) -> list[Table]:
    if isinstance(tables, Table):
        return [tables]
    each = list(tables)
    if not shape or shape[-1] != len(each) or not each:
        raise error(f"tables: expected as many as the last axis of {shape}, got {len(each)}")
    return each


def _joined(columns: list[np.ndarray], tables: Any, shape: tuple[int, ...]) -> np.ndarray:
    if isinstance(tables, Table):
        return columns[0].reshape(shape)
    return np.stack([column.reshape(shape[:-1]) for column in columns], axis=-1)


def _fewest_bits(table: Table) -> float:
    """Of the most frequent symbol, less what rounding in the coder may save."""
    return 0.99 * -math.log2(table.frequencies.max() / TOTAL)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


def _digest_of(symbols: np.ndarray) -> bytes:
    return _digest(np.ascontiguousarray(symbols).astype("<i8").tobytes())
