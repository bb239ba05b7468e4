"""Files of floats, compressed to a given step by a density fitted to them, and restored.

An archive holds the parameters of the density and a stream of `fourier_density.coding`; restoring
builds the same table from the same parameters, and the stream knows whether it has. A digest of all
this is last: an archive that was cut or changed is refused.
"""

import hashlib
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

import fourier_density
from experiments.harness import manifest
from experiments.harness.errors import DataError, UsageError
from fourier_density import RealLineDensity, coding, tables, transforms
from fourier_density.tables import Table

SUFFIX, MAGIC = ".fbd", b"FBDA\x01"
DIGEST = 8  # bytes
FITTED = 20_000  # values that the density is fitted to
STEPS = 256  # of the interquartile range, unless a step is given
TAILS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # left to the escape: the first whose table is not too large


class Archive(msgspec.Struct, forbid_unknown_fields=True):
    """What a file holds behind its magic.

    Attributes:
        kind: "npy" or "text".
        dtype: of the array, by NumPy's name.
        centre, spread: values are centre + spread y, y with the density.
        step: of the values.
        parts: real and imaginary parts of the coefficients.
        loc, scale, floor: of the density of y.
        base: a name of `transforms`, or degrees of freedom of Student's distribution.
        stream: of `coding`.
        tail: probability on either side that the table leaves to the escape.
    """

    kind: Literal["npy", "text"]
    dtype: Literal["float16", "float32", "float64", "float128"]
    centre: float
    spread: Annotated[float, msgspec.Meta(gt=0)]
    step: Annotated[float, msgspec.Meta(gt=0)]
    parts: tuple[list[float], list[float]]
    loc: float
    scale: float
    floor: float
    base: str | float
    stream: bytes = b""
    tail: float = TAILS[0]


@dataclass(frozen=True)
class Report:
    """What became of a file.

    Attributes:
        values, before, after: their number, bytes of the file and of the archive.
        bits: the rate of the model, of all values.
        order, step: of the density; of the values.
        error: largest of the values as they will be restored, in the file's type.
    """

    values: int
    before: int
    after: int
    bits: float
    order: int
    step: float
    error: float


def compress(
    source: Path,
    target: Path,
    step: float | None = None,
    begins: Callable[[], None] | None = None,
) -> Report:
    """Write an archive of a file of floats.

    Args:
        source: `.npy` of any shape, or text with numbers between white space.
        target: of the archive.
        step: values are restored within half of it, and half a unit in the last place of the
            file's type; by default 1/256 of the interquartile range.
        begins: called when all is checked, before the fit, which takes a while.

    Raises:
        DataError: a file that is none of floats, has none or not finite ones.
        UsageError: a step that is not positive, or too small for the values; a target that exists.
    """
    values, kind = _read(source)
    _refuse_existing(target)
    y = values.astype(np.float64)
    centre = float(np.median(y))
    low, high = np.quantile(y, (0.25, 0.75))
    spread = float(high - low) or float(y.std()) or 1.0
    step = spread / STEPS if step is None else step
    if not (np.isfinite(step) and step > 0):
        raise UsageError(f"--step: expected a number > 0, got {step}")
    low, high = np.quantile(y, (0.02, 0.98))
    if step * tables.MOST_SYMBOLS < high - low:  # before the fit, which takes a while
        raise _too_small(step, 3.0 * (high - low) / tables.MOST_SYMBOLS)  # heavy tails are wider
    standard = (y - centre) / spread
    if begins is not None:
        begins()
    try:
        archive = _fitted(standard.ravel(), kind, values.dtype.name, centre, spread, step)
        table = _widest(archive)
        archive.stream = coding.compress(standard, table)
    except ValueError as error:
        units = f" (of values less {centre:g}, divided by {spread:g})"
        raise UsageError(f"{source}, step {step:g}: {error}{units}") from error
    body = msgspec.msgpack.encode(archive)
    data = MAGIC + body + _digest(body)
    manifest.replace(target, data)
    symbols = table.quantise(standard)
    error = np.abs(_stored(archive, table.dequantise(symbols)).astype(np.float64) - y).max()
    bits = float(table.bits(symbols).sum() + 64 * np.sum(~table.contains(symbols)))
    order = len(archive.parts[0]) - 1
    size = source.stat().st_size
    return Report(y.size, size, len(data), bits, order, step, float(error))


def restore(source: Path, target: Path) -> int:
    """Write the file that an archive was made of, its values within half a step; their number.

    Raises:
        DataError: a file that is no archive, or damaged.
        UsageError: a target that exists.
    """
    archive = _opened(source)
    try:
        standard = coding.decompress(archive.stream, _table(archive))
    except ValueError as error:
        raise DataError(f"{source}: {error}") from error
    values = _stored(archive, standard)
    _refuse_existing(target)
    unfinished = target.with_name(f"{target.name}.tmp")
    with unfinished.open("wb") as file:
        if archive.kind == "npy":
            np.save(file, values, allow_pickle=False)
        else:
            np.savetxt(file, values.ravel(), fmt="%.17g")
    unfinished.replace(target)
    return values.size


def _stored(archive: Archive, standard: np.ndarray) -> np.ndarray:
    """Values of the file from standardised ones, in its type and never beyond its range."""
    values = archive.centre + archive.spread * standard
    limits = np.finfo(archive.dtype)
    return np.clip(values, limits.min, limits.max).astype(archive.dtype)


def suffix_of(source: Path) -> str:
    """Of the file that an archive restores.

    Raises:
        DataError: as `restore`.
    """
    return ".npy" if _opened(source).kind == "npy" else ".txt"


def _opened(source: Path) -> Archive:
    try:
        data = source.read_bytes()
    except OSError as error:
        raise DataError(f"{source}: {error.strerror}") from error
    if not data.startswith(MAGIC):
        raise DataError(f"{source}: expected an archive of this command, version 1")
    body = data[len(MAGIC) : -DIGEST]
    if _digest(body) != data[-DIGEST:]:
        raise DataError(f"{source}: expected a whole archive, it was cut or changed")
    try:
        return msgspec.msgpack.decode(body, type=Archive)
    except msgspec.MsgspecError as error:
        raise DataError(f"{source}: {error}") from error


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST).digest()


def _read(source: Path) -> tuple[np.ndarray, str]:
    kind = "npy" if source.suffix == ".npy" else "text"
    try:
        if kind == "npy":
            # Mapped, so that a size which the header makes up is refused before memory is taken.
            values = np.array(np.load(source, "r", allow_pickle=False))
        else:
            values = np.array(source.read_text().split(), np.float64)
    except UnicodeDecodeError:
        raise DataError(f"{source}: expected .npy, or text with numbers") from None
    except OSError as error:
        raise DataError(f"{source}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        where = "between white space (no commas, no heading)" if kind == "text" else "of np.save"
        said = textwrap.shorten(str(error), 80) if "pickle" not in str(error) else "got others"
        raise DataError(f"{source}: expected floats {where}, {said}") from error
    if not np.issubdtype(values.dtype, np.floating):
        whole = np.issubdtype(values.dtype, np.integer)
        hint = " (whole numbers as floats come back exactly with --step 1)" if whole else ""
        raise DataError(f"{source}: expected floats, got {values.dtype}{hint}")
    bad = int(np.sum(~np.isfinite(values)))
    if values.size < 1 or bad:
        got = f"{bad} of {values.size} that are not" if values.size else "none"
        raise DataError(f"{source}: expected finite values, got {got}")
    return values, kind


def _fitted(
    y: np.ndarray, kind: Any, dtype: Any, centre: float, spread: float, step: float
) -> Archive:
    """The archive without its stream."""
    sample = np.random.default_rng(0).permutation(y)[:FITTED]
    floor = min(1.0 / sample.size, 0.5)
    if np.ptp(sample) > 0 and sample.size >= 10:
        density = fourier_density.fit(sample, None, "real", floor=floor).density
    else:  # hardly anything to fit to
        density = RealLineDensity(np.ones(1), float(sample.mean()), 1.0, floor=floor)
    a = np.asarray(density.coefficients)
    base = density.base
    names = [name for name, known in transforms.NAMED.items() if known == base]
    return Archive(
        kind,
        dtype,
        centre,
        spread,
        step,
        (np.real(a).tolist(), np.imag(a).tolist()),
        float(density.loc),
        float(density.scale),
        floor,
        names[0] if names else base.df,
    )


def _widest(archive: Archive) -> Table:
    """Of the smallest tail that leaves bins enough; what is in the tail costs more bits."""
    smallest = 0.0
    for tail in TAILS:
        archive.tail = tail
        try:
            return _table(archive)
        except tables.TooManyBins as error:
            smallest = 1.01 * error.smallest * archive.spread  # as rounded below
    raise _too_small(archive.step, smallest)


def _too_small(step: float, smallest: float) -> UsageError:
    return UsageError(
        f"--step: expected at least {smallest:.3g}, about a millionth of the range of most values, "
        f"got {step:g}"
    )


def _table(archive: Archive) -> Table:
    """Of the standardised values."""
    re, im = (np.asarray(part, np.float32) for part in archive.parts)
    base: Any = archive.base if isinstance(archive.base, str) else None
    density = RealLineDensity(
        re + 1j * im,
        np.float32(archive.loc),
        np.float32(archive.scale),
        base or transforms.StudentT(float(archive.base)),
        np.float32(archive.floor),
    )
    return tables.from_density(density, step=archive.step / archive.spread, tail=archive.tail)


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise UsageError(f"{target}: exists; name another file by --output")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target}: expected a folder {target.parent} to write to, found none")
