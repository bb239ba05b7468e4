"""Streams: exact round trips, lengths, another process, and every kind of damage."""

import hashlib
import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourier_density import RealLineDensity, coding, tables
from fourier_density.coding import Decoder, Encoder, StreamError
from fourier_density.tables import TOTAL, Table

pytest.importorskip("constriction")  # it has no wheel for Linux on ARM
A = np.array([1.0, 0.5 - 0.2j, 0.1j])
STEP = 0.05


def density(loc=0.0):
    return RealLineDensity(A, loc, 1.0)


@pytest.fixture(scope="module")
def table():
    return tables.from_density(density(), step=STEP)


def values(count, seed=0):
    """Logistic noise: not of the density, with some values beyond the table."""
    return np.random.default_rng(seed).logistic(0.0, 0.6, count)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 0, 2), (40, 5, 3)])
def test_values_come_back_within_half_a_step(shape, table):
    x = values(int(np.prod(shape))).reshape(shape)
    back = coding.decompress(coding.compress(x, table), table)
    assert back.shape == shape and back.dtype == np.float64
    assert x.size == 0 or np.abs(back - x).max() <= 0.5 * STEP * (1 + 1e-12)


def test_symbols_come_back_exactly_and_escapes_cost_what_they_say(table):
    k = np.random.default_rng(1).integers(-400, 400, 5000)
    k[:3] = [2**62, -(2**62), 10**9]
    assert not table.contains(k).all()
    data = coding.encode(k, table)
    np.testing.assert_array_equal(coding.decode(data, table), k)
    bits = table.bits(k).sum() + 64 * np.sum(~table.contains(k))
    frame = 16 + 24 + 16  # bytes of head, sizes and digests
    assert bits <= 8 * (len(data) - frame) <= bits * 1.0001 + 64


def test_the_stream_has_the_length_of_the_ideal_code(table):
    """A million draws from the table itself: within 0.02 % of the entropy, most of it the frame."""
    w = table.frequencies / TOTAL
    k = table.low + np.random.default_rng(2).choice(w.size - 1, 10**6, p=w[:-1] / w[:-1].sum())
    data = coding.encode(k, table)
    assert abs(8 * (len(data) - 56) / table.bits(k).sum() - 1) < 5e-5
    assert abs(8 * len(data) / table.bits(k).sum() - 1) < 2e-4


@pytest.mark.parametrize("symbol", [0, 1, 2, 3])
def test_the_coder_uses_our_frequencies_exactly(symbol):
    """The cost of a symbol repeated is its own, from 1 of 2^24 on: nothing is requantised."""
    w = np.array([1, 5, 1000, TOTAL - 1006])
    table = Table(w, 0, 1.0, 0.0, False)
    count = 2_000_000 if symbol == 3 else 20_000
    # Another symbol first, so that the coder does not start at the end of its interval.
    k = np.append(2, np.full(count, symbol))
    found = 8 * (len(coding.encode(k, table)) - 56) - 40
    np.testing.assert_allclose(found, count * table.bits(symbol), rtol=1e-3, atol=64)


def test_a_table_for_every_place_of_the_last_axis(table):
    other = tables.from_density(density(2.0), step=0.2, escape=False, tail=1e-9)
    x = np.stack([values(100), 2.0 + values(100, 1) / 3], axis=-1)
    data = coding.compress(x, [table, other])
    back = coding.decompress(data, [table, other])
    assert (np.abs(back - x).max(0) <= [0.5 * STEP + 1e-9, 0.1 + 1e-9]).all()
    for wrong in ([other, table], [table], table, [table, table]):
        with pytest.raises(StreamError, match="other tables"):
            coding.decompress(data, wrong)
    with pytest.raises(ValueError, match="as many as the last axis"):
        coding.compress(x, [table])


def test_one_symbol_needs_no_bits():
    only = Table(np.array([TOTAL]), 3, 1.0, 0.0, False)
    data = coding.encode(np.full(1000, 3), only)
    assert len(data) == 56
    np.testing.assert_array_equal(coding.decode(data, only), np.full(1000, 3))
    with pytest.raises(StreamError, match="at most 999 values"):
        coding.decode(data, only, most=999)


SCRIPT = """
import json, sys
import numpy as np
from fourier_density import RealLineDensity, coding, tables
a = np.array([1.0, 0.5 - 0.2j, 0.1j])
table = tables.from_density(RealLineDensity(a, 0.0, 1.0), step=0.05)
back = coding.decompress(open(sys.argv[1], "rb").read(), table)
import hashlib
print(json.dumps([table.fingerprint.hex(), hashlib.sha256(back.tobytes()).hexdigest()]))
"""


def test_another_process_builds_the_same_table_and_reads_the_stream(table, tmp_path):
    x = values(3000)
    data = coding.compress(x, table)
    (tmp_path / "stream").write_bytes(data)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "stream")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    fingerprint, digest = json.loads(out)
    assert fingerprint == table.fingerprint.hex()
    here = coding.decompress(data, table)
    assert digest == hashlib.sha256(here.tobytes()).hexdigest()


def test_tables_of_their_own_for_every_symbol():
    rng = np.random.default_rng(3)
    w = tables.frequencies(rng.random((2, 50, 17)) ** 4)
    k = np.stack([[rng.choice(17, p=row / TOTAL) for row in rows] for rows in w])
    encoder = Encoder()
    for symbols, rows in zip(k, w, strict=True):
        encoder.write_each(symbols, rows)
    data = encoder.finish(k, b"a model!")
    decoder = Decoder(data, b"a model!")
    found = np.stack([decoder.read_each(rows) for rows in w])
    decoder.finish(found)
    np.testing.assert_array_equal(found, k)
    bits = -np.log2(np.take_along_axis(w, k[..., None], -1) / TOTAL).sum()
    assert bits <= 8 * (len(data) - 64) <= bits + 64
    with pytest.raises(StreamError, match="not those of the stream"):
        wrong = Decoder(data, b"a model!")
        wrong.finish(np.stack([wrong.read_each(rows) for rows in w[::-1]]))
    for bad in (w[0].astype(float) * 0.5, w[0][:, :1], w[0] + 1):
        with pytest.raises(ValueError, match="frequencies"):
            Encoder().write_each(k[0], bad)
    with pytest.raises(ValueError, match="indices"):
        Encoder().write_each(k[0] + 17, w[0])


@pytest.fixture(scope="module")
def stream(table):
    return coding.compress(np.append(values(60), [1e5]), table)


def test_every_truncation_is_refused(stream, table):
    for size in range(len(stream)):
        with pytest.raises(StreamError):
            coding.decompress(stream[:size], table)
    with pytest.raises(StreamError):
        coding.decompress(stream + b"\0", table)


def test_every_flipped_bit_is_refused(stream, table):
    for place in range(8 * len(stream)):
        bad = bytearray(stream)
        bad[place // 8] ^= 1 << place % 8
        with pytest.raises(StreamError):
            coding.decompress(bytes(bad), table)


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_do_anything_but_decode_or_be_refused(noise, framed):
    table = Table(np.array([TOTAL - 9, 9]), 0, 1.0, 0.0, True)
    data = b"FBDM\x01" + noise if framed else noise
    with pytest.raises(StreamError):
        coding.decompress(data, table)


def forged(table, shape, words=(), escapes=(), version=1, dimensions=None, sizes=None):
    """A stream with digests that fit whatever it says."""
    digest = lambda d: hashlib.blake2b(d, digest_size=8).digest()  # noqa: E731
    dimensions = len(shape) if dimensions is None else dimensions
    body = b"FBDM" + bytes([version, dimensions, 0, 0]) + coding.fingerprint(table)
    sizes = (len(words), len(escapes)) if sizes is None else sizes
    body += np.array([*shape, *sizes], "<u8").tobytes()
    body += np.array(words, "<u4").tobytes() + np.array(escapes, "<i8").tobytes() + bytes(8)
    return body + digest(body)


@pytest.mark.parametrize(
    "error, wrong",
    [
        ("version 1, got 2", {"shape": (3,), "version": 2}),
        ("at most 8 axes", {"shape": (1,), "dimensions": 200}),
        ("lengths in the header", {"shape": (3,), "sizes": (2**60, 0)}),
        ("lengths in the header", {"shape": (3,), "sizes": (0, 2**60)}),
        ("at most 268435456 values", {"shape": (2**40, 2**40)}),
        ("cannot be in 32 bits", {"shape": (2**20,), "words": (1,)}),
        ("not those of the stream", {"shape": (2,), "words": (2**31, 5)}),
        ("not those of the stream", {"shape": (1,), "words": (2**31, 5), "escapes": (4,)}),
    ],
)
def test_forged_streams_are_refused_by_name_and_before_memory_is_taken(error, wrong, table):
    with pytest.raises(StreamError, match=error):
        coding.decompress(forged(table, **wrong), table)


def test_what_cannot_be_coded_is_named(table):
    strict = tables.from_density(density(), step=STEP, escape=False)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="finite"):
            coding.compress([0.0, bad], table)
    with pytest.raises(ValueError, match="values: expected real numbers, got complex"):
        coding.compress(np.array([1 + 2j]), table)
    with pytest.raises(ValueError, match="no escape"):
        coding.compress([0.0, 1e4], strict)
    with pytest.raises(ValueError, match="whole numbers"):
        coding.encode([0.5], table)
    with pytest.raises(
        ValueError, match=r"symbols: expected less than 2\^63, got 9223372036854775813"
    ):
        coding.encode(np.array([2**63 + 5], np.uint64), table)
    with pytest.raises(ValueError, match="at most 8 axes"):
        coding.encode(np.zeros((1,) * 9, int), table)
    data = coding.compress([0.0], table)
    for function, first in ((coding.compress, [0.0]), (coding.encode, [0]), (coding.decode, data)):
        for wrong in (first, [table, 1], None):
            with pytest.raises(ValueError, match="tables: expected a Table or several, got"):
                inspect.unwrap(function)(first, wrong)
    with pytest.raises(StreamError, match="data: expected bytes, got str"):
        inspect.unwrap(coding._unframed)("abc", b"", 9)


def test_without_the_coder_it_is_named(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ImportError, match="constriction: not installed; streams need"):
        coding.compress([0.0], table)
