"""Data as arrays: embedded defaults and TFDS sets on ArrayRecord files, without TensorFlow.

The order of examples is a pure function of (seed, step), so a resumed run sees exactly the
batches an uninterrupted one would have seen.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.harness.errors import DataError, UsageError

TEXTS = ("pydoc", "tiny_shakespeare")
IMAGES = ("digits", "mnist", "cifar10_jpeg")


@dataclass(frozen=True)
class TextConfig:
    """Which text to read, as bytes.

    Attributes:
        name: "pydoc", the English documentation inside every CPython, or "tiny_shakespeare".
        path: any file to use instead.
        data_dir: folder of the TFDS sets; TFDS_DATA_DIR by default.
        validation: fraction at the end held out, where the set has no split of its own.
    """

    name: Literal["pydoc", "tiny_shakespeare"] = "pydoc"
    path: str | None = None
    data_dir: str | None = None
    validation: float = 0.1

    def __post_init__(self):
        if not 0 < self.validation < 1:
            raise ValueError(
                f"validation: expected a fraction between 0 and 1, got {self.validation}"
            )


@dataclass(frozen=True)
class Text:
    """Bytes to train and validate on, and where they came from."""

    train: np.ndarray
    validation: np.ndarray
    source: str
    sha256: str


def load_text(config: TextConfig) -> Text:
    """Read a text.

    Raises:
        DataError: it is missing, unreadable or too short.
    """
    if config.path is None and config.name == "tiny_shakespeare":
        splits = [
            read_tfds("tiny_shakespeare", split, config.data_dir)["text"][0]
            for split in ("train", "validation")
        ]
        train, validation = (np.frombuffer(text, np.uint8) for text in splits)
        digest = hashlib.sha256(b"".join(splits)).hexdigest()
        return Text(train, validation, "tiny_shakespeare", digest)
    content = _pydoc() if config.path is None else _read_file(Path(config.path))
    if len(content) < 1000:
        raise DataError(
            f"{config.path}: expected a text of at least 1000 bytes, got {len(content)}"
        )
    values = np.frombuffer(content, np.uint8)
    cut = int(len(values) * (1 - config.validation))
    source = "pydoc" if config.path is None else Path(config.path).name
    return Text(values[:cut], values[cut:], source, hashlib.sha256(content).hexdigest())


def load_images(
    name: str, split: str = "train", data_dir: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, height, width, channels] and labels int32 [n].

    "digits" is scikit-learn's (8x8, values 0..16; the last 297 are its test split);
    "cifar10_jpeg" is CIFAR-10 after a lossy compression, not CIFAR-10.

    Raises:
        DataError: the set is missing or unreadable.
        UsageError: unknown name.
    """
    if name not in IMAGES:
        raise UsageError(f"data: expected one of {', '.join(IMAGES)}, got {name!r}")
    if name == "digits":
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        part = slice(None, 1500) if split == "train" else slice(1500, None)
        images = bunch.images[part, ..., None].astype(np.uint8)
        return images, bunch.target[part].astype(np.int32)
    columns = read_tfds(name, split, data_dir)
    return columns["image"], columns["label"].astype(np.int32)


def read_tfds(name: str, split: str, data_dir: str | None = None) -> dict[str, np.ndarray]:
    """All examples of a TFDS set, one array a feature; decoded once, then cached on disk.

    Features of varying size (bytes) become object arrays and are not cached.

    Raises:
        DataError: the folder or the set is missing, or a file is damaged.
    """
    folder = tfds_folder(data_dir)
    where = "no folder given" if folder is None else f"looked in {folder}"
    if folder is None or not (folder / name).is_dir():
        raise DataError(
            f"data set {name!r} not found ({where}); give --data.data_dir or TFDS_DATA_DIR, "
            f"a folder in which tfds.builder({name!r}, file_format='array_record')"
            ".download_and_prepare() has written it"
        )
    cached = _cache_path(folder / name, split)
    if cached.exists():
        with np.load(cached) as arrays:
            return dict(arrays)
    columns = _decode(name, split, folder)
    if all(column.dtype != object for column in columns.values()):
        cached.parent.mkdir(parents=True, exist_ok=True)
        temporary = cached.with_suffix(f".{os.getpid()}.npz")
        np.savez(temporary, **columns)  # pyright: ignore[reportArgumentType]
        temporary.replace(cached)
    return columns


def tfds_folder(data_dir: str | None = None) -> Path | None:
    """The folder with TFDS sets: the argument, else TFDS_DATA_DIR, else none."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
    return Path(chosen).expanduser() if chosen else None


def cache_folder() -> Path:
    """Where decoded data and compiled programs are kept; KEXUE_CACHE_DIR overrides."""
    default = Path.home() / ".cache" / "kexue-jax"
    return Path(os.environ.get("KEXUE_CACHE_DIR", default))


def crops(values: np.ndarray, batch: int, length: int, seed: int, step: int) -> np.ndarray:
    """A batch [batch, length] of random crops, a function of (seed, step) alone.

    Raises:
        DataError: the data is shorter than one crop.
    """
    if len(values) < length:
        raise DataError(f"data: expected at least {length} tokens for one crop, got {len(values)}")
    starts = np.random.default_rng([seed, step]).integers(0, len(values) - length + 1, batch)
    return values[starts[:, None] + np.arange(length)]


def shuffled(size: int, batch: int, seed: int, step: int) -> np.ndarray:
    """Indices [batch] of epoch-wise shuffled data at a step; every epoch sees each once.

    A remainder smaller than a batch is left out of its epoch.

    Raises:
        DataError: fewer examples than a batch.
    """
    steps = size // batch
    if steps == 0:
        raise DataError(f"batch_size: expected at most {size} examples, got {batch}")
    epoch, position = divmod(step, steps)
    order = np.random.default_rng([seed, epoch]).permutation(size)
    return order[position * batch : (position + 1) * batch]


def _pydoc() -> bytes:
    from pydoc_data import topics

    return "\n".join(topics.topics[name] for name in sorted(topics.topics)).encode()


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"data.path: expected a readable text file, got {path}: {error.strerror}"
        ) from None


def _decode(name: str, split: str, folder: Path) -> dict[str, np.ndarray]:
    import tensorflow_datasets as tfds

    damaged = (
        f"data set {name!r}, split {split!r} in {folder}: expected readable ArrayRecord files, "
        "got {}; prepare the set again"
    )
    try:
        source: Any = tfds.data_source(name, split=split, data_dir=folder, download=False)
        examples = source.__getitems__(range(len(source)))
    except Exception as error:  # TFDS and array_record raise many kinds for damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(damaged.format(reason)) from None
    # A truncated file is read without an error: its examples come back as None.
    holes = sum(e is None or any(value is None for value in e.values()) for e in examples)
    if holes or not examples:
        raise DataError(damaged.format(f"{holes} unreadable of {len(examples)} examples"))
    columns = {}
    for feature in examples[0]:
        values = [example[feature] for example in examples]
        kind = object if isinstance(values[0], bytes) else None
        columns[feature] = np.asarray(values, kind)
    return columns


def _cache_path(folder: Path, split: str) -> Path:
    """A name that changes whenever the files do."""
    state = hashlib.sha256(str(folder.resolve()).encode())
    for file in sorted(folder.rglob("*")):
        stat = file.stat()
        state.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return cache_folder() / "data" / f"{folder.name}-{split}-{state.hexdigest()[:16]}.npz"
