"""Files of floats to archives and back, by the command line."""

import re

import msgspec
import numpy as np
import pytest

from experiments import __main__ as command
from experiments import archive

pytest.importorskip("constriction")  # it has no wheel for Linux on ARM


def run(*arguments):
    return command.main([str(argument) for argument in arguments])


def heavy(count, dtype=np.float64):
    rng = np.random.default_rng(0)
    return (
        1e4
        + np.where(rng.random(count) < 0.7, rng.normal(-2, 0.3, count), rng.standard_t(2, count))
    ).astype(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_array_comes_back_within_half_a_step(tmp_path, capsys, dtype):
    values = heavy(3000, dtype).reshape(30, 100)
    np.save(tmp_path / "values.npy", values)
    assert run("compress", tmp_path / "values.npy", "--step", 0.02) == 0
    said = capsys.readouterr().out
    assert "3000 values" in said and "bits a value" in said
    assert run("restore", tmp_path / "values.npy.fbd", "--output", tmp_path / "again.npy") == 0
    again = np.load(tmp_path / "again.npy")
    assert again.dtype == dtype and again.shape == (30, 100)
    rounding = np.finfo(dtype).eps * 1e4
    assert np.abs(again.astype(float) - values).max() <= 0.01 * (1 + 1e-9) + rounding
    entropy_of_raw = 8 * values.itemsize
    assert 8 * (tmp_path / "values.npy.fbd").stat().st_size < 0.5 * entropy_of_raw * values.size


@pytest.mark.slow
def test_text_and_the_default_step(tmp_path):
    values = heavy(500)
    (tmp_path / "v.txt").write_text(" ".join(map(repr, values.tolist())) + "\n")
    report = archive.compress(tmp_path / "v.txt", tmp_path / "v.fbd")
    low, high = np.quantile(values, (0.25, 0.75))
    np.testing.assert_allclose(report.step, (high - low) / 256)
    assert archive.restore(tmp_path / "v.fbd", tmp_path / "w.txt") == 500
    again = np.loadtxt(tmp_path / "w.txt")
    assert np.abs(again - values).max() <= report.step / 2 * (1 + 1e-6)
    assert report.error <= report.step / 2 * (1 + 1e-6)
    assert report.bits <= 8 * report.after <= report.bits + 8 * 800


@pytest.mark.parametrize("values", [[3.5], [2.0] * 40, [0.0, 1.0], [1e300, -1e300, 0.0]])
def test_odd_files(tmp_path, values):
    np.save(tmp_path / "v.npy", np.array(values))
    report = archive.compress(tmp_path / "v.npy", tmp_path / "v.fbd")
    archive.restore(tmp_path / "v.fbd", tmp_path / "w.npy")
    again = np.load(tmp_path / "w.npy")
    assert np.abs(again - values).max() <= report.step / 2 * (1 + 1e-6)


@pytest.mark.slow
def test_what_is_far_out_escapes_where_steps_are_small(tmp_path):
    """From end to end 2^20 steps are too few; of all but the tails they are enough."""
    values = 5 + 2 * np.random.default_rng(0).standard_t(1.5, 1000)
    np.save(tmp_path / "v.npy", values)
    report = archive.compress(tmp_path / "v.npy", tmp_path / "v.fbd", 3e-4)
    assert report.bits < 20 * values.size
    archive.restore(tmp_path / "v.fbd", tmp_path / "w.npy")
    assert np.abs(np.load(tmp_path / "w.npy") - values).max() <= 1.5e-4 * (1 + 1e-6)
    assert archive._opened(tmp_path / "v.fbd").tail > archive.TAILS[0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_error_that_is_told_is_that_of_the_restored_file(tmp_path, capsys, dtype):
    values = (100 * np.random.default_rng(1).normal(size=200)).astype(dtype)
    np.save(tmp_path / "v.npy", values)
    assert run("compress", tmp_path / "v.npy", "--step", 0.01) == 0
    told = capsys.readouterr()
    assert run("restore", tmp_path / "v.npy.fbd", "--output", tmp_path / "w.npy") == 0
    again = np.load(tmp_path / "w.npy")
    assert again.dtype == dtype
    error = np.abs(again.astype(float) - values.astype(float))
    half_a_unit = 0.5 * np.spacing(np.abs(values)).astype(float)
    assert np.all(error <= 0.005 * (1 + 1e-9) + half_a_unit)
    assert float(re.search(r"within (\S+)", told.out)[1]) == pytest.approx(error.max(), rel=5e-3)
    assert ("coarser than that" in told.err) == (error.max() > 0.005)


def test_nothing_is_restored_beyond_the_range_of_its_type(tmp_path):
    values = np.array([0.0, 1e4, -3e4, np.finfo("float16").max], "float16")
    np.save(tmp_path / "v.npy", values)
    for place, step in enumerate((90.0, 100.0, 110.0, 130.0)):
        report = archive.compress(tmp_path / "v.npy", tmp_path / f"{place}.fbd", step)
        archive.restore(tmp_path / f"{place}.fbd", tmp_path / f"{place}.npy")
        again = np.load(tmp_path / f"{place}.npy")
        assert np.isfinite(again).all() and report.error <= step / 2 + 16


def test_what_is_wrong_is_one_line_and_a_status(tmp_path, capsys):
    np.save(tmp_path / "nan.npy", np.array([1.0, np.nan]))
    np.save(tmp_path / "int.npy", np.arange(4))
    np.save(tmp_path / "none.npy", np.zeros(0))
    np.save(tmp_path / "good.npy", heavy(200))
    (tmp_path / "words.txt").write_text("1.0 two")
    (tmp_path / "empty.npy").touch()
    (tmp_path / "broken.npy").write_text("no array")
    head = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000,), }"
    (tmp_path / "huge.npy").write_bytes(
        b"\x93NUMPY\x01\x00v\x00" + head.ljust(117).encode() + b"\n"
    )
    for name, said in (
        ("nan.npy", "finite values, got 1 of 2 that are not"),
        ("int.npy", "expected floats"),
        ("none.npy", "finite values, got none"),
        ("words.txt", "expected floats"),
        ("huge.npy", "expected floats"),
        ("empty.npy", "empty.npy: expected floats of np.save"),
        ("broken.npy", "expected floats of np.save, got others"),
        ("missing.npy", "No such file"),
        (".", "Is a directory"),
    ):
        assert run("compress", tmp_path / name) == 1
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    assert run("compress", tmp_path / "good.npy", "--step", 0) == 2
    err = capsys.readouterr().err
    assert "--step" in err and err.count("\n") == 1
    assert run("compress", tmp_path / "good.npy", "--output", tmp_path / "no" / "x") == 2
    assert f"expected a folder {tmp_path / 'no'} to write to" in capsys.readouterr().err
    assert run("compress", tmp_path / "good.npy", "--step", 1e-12) == 2
    said = capsys.readouterr().err
    assert (
        run("compress", tmp_path / "good.npy", "--step", *re.findall(r"at least (\S+),", said)) == 0
    )
    (tmp_path / "good.npy.fbd").unlink()
    assert run("compress", tmp_path / "good.npy") == 0
    assert run("restore", tmp_path / "good.npy.fbd") == 0
    assert np.load(tmp_path / "good.restored.npy").size == 200
    assert run("compress", tmp_path / "good.npy") == 2
    assert "exists" in capsys.readouterr().err

    data = (tmp_path / "good.npy.fbd").read_bytes()
    for place in range(0, len(data), 7):
        bad = bytearray(data)
        bad[place] ^= 0x10
        (tmp_path / "bad.fbd").write_bytes(bad)
        (tmp_path / "out").unlink(missing_ok=True)
        status = run("restore", tmp_path / "bad.fbd", "--output", tmp_path / "out")
        if status == 0:  # a changed centre, step or type is not of the stream
            pytest.fail(f"byte {place} of {len(data)} was changed and not noticed")
    for size in (0, 3, 40, len(data) - 1):
        (tmp_path / "bad.fbd").write_bytes(data[:size])
        assert run("restore", tmp_path / "bad.fbd", "--output", tmp_path / "cut") == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "object"},
        {"dtype": "U200000"},
        {"dtype": "nonsense"},
        {"kind": "zzz"},
        {"spread": 0.0},
        {"spread": -1.0},
        {"step": 0.0},
    ],
)
def test_a_forged_header_writes_nothing(tmp_path, capsys, change):
    """Its digest is right: nothing but the schema can refuse it."""
    np.save(tmp_path / "v.npy", np.array([2.0] * 40))
    archive.compress(tmp_path / "v.npy", tmp_path / "v.fbd")
    data = (tmp_path / "v.fbd").read_bytes()
    fields = msgspec.msgpack.decode(data[len(archive.MAGIC) : -archive.DIGEST])
    body = msgspec.msgpack.encode({**fields, **change})
    (tmp_path / "bad.fbd").write_bytes(archive.MAGIC + body + archive._digest(body))
    assert run("restore", tmp_path / "bad.fbd", "--output", tmp_path / "out") == 1
    assert next(iter(change)) in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
