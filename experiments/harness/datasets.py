"""Data as arrays: embedded defaults and TFDS sets on ArrayRecord files, without TensorFlow.

The order of examples is a pure function of (seed, step), so a resumed run sees exactly the
batches an uninterrupted one would have seen.
"""

import functools
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.harness import array_cache, foreign_features
from experiments.harness.errors import DataError, in_line, nearest

TEXTS = ("pydoc", "tiny_shakespeare")


@dataclass(frozen=True)
class TextConfig:
    """Which text to read, as bytes.

    Attributes:
        name: "pydoc", the English documentation inside every CPython, or "tiny_shakespeare".
        path: a text file to read instead, or a folder with one file named *train* and one named
            *valid*, as WikiText-103 is distributed.
        data_dir: folder with the TFDS sets; None: the environment variable TFDS_DATA_DIR.
        validation: fraction held out, from the end, where the set has no split of its own.
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

    def fingerprint(self) -> str:
        """SHA-256 of the text.

        Raises:
            DataError: as `load_text`.
        """
        return load_text(self).sha256

    def look(self, batch: int = 1) -> str:
        """What there is, in a line. Any number of crops makes a batch.

        Raises:
            DataError: as `load_text`.
        """
        del batch
        text = load_text(self)
        sizes = f"{len(text.train)} + {len(text.validation)} bytes"
        return f"{text.source}, {sizes}, sha256 {text.sha256[:16]}"


@dataclass(frozen=True)
class Text:
    """Bytes, or tokens, to train and validate on, and where they came from.

    Attributes:
        vocabulary: how many different tokens there are.
        bytes_per_token: on average, of the held-out part.
    """

    train: np.ndarray
    validation: np.ndarray
    source: str
    sha256: str
    vocabulary: int = 256
    bytes_per_token: float = 1.0

    @property
    def unit(self) -> str:
        """What the numbers are."""
        return "bytes" if self.bytes_per_token == 1.0 else "tokens"


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
    path = None if config.path is None else Path(config.path).expanduser()
    if path is not None and path.is_dir():
        return _text_folder(path)
    content = _pydoc() if path is None else _read_file(path)
    if len(content) < 1000:
        raise DataError(
            f"{config.path}: expected a text of at least 1000 bytes, got {len(content)}"
        )
    values = np.frombuffer(content, np.uint8)
    cut = int(len(values) * (1 - config.validation))
    source = "pydoc" if config.path is None else Path(config.path).name
    return Text(values[:cut], values[cut:], source, hashlib.sha256(content).hexdigest())


def read_tfds(
    name: str,
    split: str,
    data_dir: str | None = None,
    size: int | None = None,
    features: tuple[str, ...] | None = None,
) -> dict[str, np.ndarray]:
    """All examples of a TFDS set, one array a feature; decoded once, then cached on disk.

    Features of varying size (bytes, sounds) become object arrays and are not cached. With `size`
    images are cut to their centre square and resized. `features` names those to keep; None keeps
    all.

    Raises:
        DataError: the folder or the set is missing, a file is damaged, or images differ in size.
    """
    cached = cache_path(set_folder(name, data_dir), split, size, features)
    kept = array_cache.read(cached)
    if kept is not None:
        return kept
    reader = open_tfds(name, split, data_dir, size, features)
    columns = reader(range(len(reader)))
    if all(column.dtype != object for column in columns.values()):
        array_cache.write(cached, columns)
    return columns


class Reader:
    """Examples of a TFDS set by number, decoded when asked for: (numbers) -> arrays by feature."""

    def __init__(self, source: Any, where: str, size: int | None, features: tuple[str, ...] | None):
        self.source, self.where, self.size, self.features = source, where, size, features

    def __len__(self) -> int:
        return len(self.source)

    def __call__(self, numbers: Any) -> dict[str, np.ndarray]:
        """The examples of these numbers.

        Raises:
            DataError: a damaged file, or images of several sizes and no `size`.
        """
        try:
            examples = self.source.__getitems__([int(number) for number in numbers])
        except Exception as error:  # TFDS and array_record raise many kinds for damaged files
            raise _damaged(self.where, error) from None
        # A truncated file is read without an error: its examples come back as None.
        holes = sum(e is None or any(value is None for value in e.values()) for e in examples)
        if holes or not examples:
            raise _damaged(self.where, f"{holes} unreadable of {len(examples)} examples")
        columns = {}
        for feature in examples[0]:
            if self.features is not None and feature not in self.features:
                continue
            values = [example[feature] for example in examples]
            if feature == "image":
                values = self._images(values)
            columns[feature] = _column(values)
        return columns

    def _images(self, values: list[np.ndarray]) -> list[np.ndarray]:
        if self.size is not None:
            return [resized(value[None], self.size)[0] for value in values]
        sizes = sorted({value.shape for value in values})
        if len(sizes) > 1:
            raise DataError(
                f"{self.where}: expected images of one size, got {sizes[0]} and {sizes[1]}; "
                "give --data.size to cut out and resize all"
            )
        return values


def _column(values: list[Any]) -> np.ndarray:
    """One array, of objects where they are bytes or arrays of several shapes."""
    if not isinstance(values[0], bytes) and len({np.shape(value) for value in values}) == 1:
        return np.asarray(values)
    column = np.empty(len(values), object)
    column[:] = values
    return column


def open_tfds(
    name: str,
    split: str,
    data_dir: str | None = None,
    size: int | None = None,
    features: tuple[str, ...] | None = None,
) -> Reader:
    """A TFDS set whose examples are read one by one.

    Raises:
        DataError: the folder, the set or the split is missing; features of foreign classes.
    """
    folder = set_folder(name, data_dir)
    foreign_features.check(folder)
    import tensorflow_datasets as tfds

    logging.getLogger("absl").addFilter(_is_no_advice)
    where = f"data set {name!r}, split {split!r} in {tfds_folder(data_dir)}"
    if not any(folder.rglob(f"*-{split}.*")):
        raise DataError(f"{where}: expected that split, found no file of it")
    try:
        source: Any = tfds.data_source(
            name, split=split, data_dir=tfds_folder(data_dir), download=False
        )
    except Exception as error:  # of many kinds
        raise _damaged(where, error) from None
    return Reader(source, where, size, features)


def _is_no_advice(record: logging.LogRecord) -> bool:
    """TFDS recommends another decoder of images, and Grain to prepare a set anew."""
    advice = "OpenCV is not installed", "was created with group size"
    return not any(part in record.getMessage() for part in advice)


def held_out_split(name: str, data_dir: str | None = None) -> str:
    """The split "validation" where a set has it (ImageNet's test has no labels), else "test".

    Raises:
        DataError: the folder or the set is missing.
    """
    found = any(set_folder(name, data_dir).rglob("*-validation.*"))
    return "validation" if found else "test"


def square(image: Any, size: int) -> Any:
    """The centre square of a Pillow image, averaged down or interpolated up to a size."""
    from PIL import Image, ImageOps

    smaller = min(image.size) >= size
    method = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
    return ImageOps.fit(image, (size, size), method)


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """As `square`, of uint8 images [n, H, W, C] with one or three channels."""
    from PIL import Image

    grey = images.shape[-1] == 1
    pictures = (Image.fromarray(image[..., 0] if grey else image) for image in images)
    arrays = np.stack([np.asarray(square(picture, size)) for picture in pictures])
    return arrays[..., None] if grey else arrays


def tfds_folder(data_dir: str | None = None) -> Path | None:
    """The folder with TFDS sets: the argument, else TFDS_DATA_DIR, else none."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
    return Path(chosen).expanduser() if chosen else None


def cache_folder() -> Path:
    """Where decoded data and compiled programs are kept; KEXUE_CACHE_DIR overrides."""
    if given := os.environ.get("KEXUE_CACHE_DIR"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kexue-jax"


def crops(values: np.ndarray, batch: int, length: int, seed: int, step: int) -> np.ndarray:
    """A batch [batch, length] of random crops, a function of (seed, step) alone.

    Raises:
        DataError: the data is shorter than one crop.
    """
    if len(values) < length:
        raise DataError(f"data: expected at least {length} tokens for one crop, got {len(values)}")
    starts = np.random.default_rng([seed, step]).integers(0, len(values) - length + 1, batch)
    return values[starts[:, None] + np.arange(length)]


def check_batch(size: int, batch: int) -> None:
    """Refuse fewer examples than a batch.

    Raises:
        DataError: there are.
    """
    if size < batch:
        raise DataError(
            f"training.batch_size: expected at most the {size} examples to train on, got {batch}"
        )


def shuffled(size: int, batch: int, seed: int, step: int) -> np.ndarray:
    """Indices [batch] of epoch-wise shuffled data at a step; every epoch sees each once.

    A remainder smaller than a batch is left out of its epoch.

    Raises:
        DataError: fewer examples than a batch.
    """
    check_batch(size, batch)
    epoch, position = divmod(step, size // batch)
    return _order(size, seed, epoch)[position * batch : (position + 1) * batch]


@functools.lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng([seed, epoch]).permutation(size)
    order.setflags(write=False)  # it is kept
    return order


def _pydoc() -> bytes:
    from pydoc_data import topics

    return "\n".join(topics.topics[name] for name in sorted(topics.topics)).encode()


def _text_folder(folder: Path) -> Text:
    """The training and the held-out text of a folder, each a file."""
    contents = []
    for part in ("train", "valid"):
        files = [file for file in sorted(folder.iterdir()) if part in file.name and file.is_file()]
        if len(files) != 1:
            raise DataError(
                f"{folder}: expected one file named *{part}*, got "
                f"{', '.join(file.name for file in files) or 'none'}"
            )
        contents.append(_read_file(files[0]))
    train, validation = (np.frombuffer(content, np.uint8) for content in contents)
    digest = hashlib.sha256(b"".join(contents)).hexdigest()
    return Text(train, validation, folder.name, digest)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"data.path: expected a readable text file, got {path}: {error.strerror}"
        ) from None


def _damaged(where: str, reason: Any) -> DataError:
    if isinstance(reason, Exception):
        reason = in_line(f"{type(reason).__name__}: {reason}")[:200]
    return DataError(
        f"{where}: expected readable ArrayRecord files, got {reason}; prepare the set again"
    )


def set_folder(name: str, data_dir: str | None) -> Path:
    """The folder of a TFDS set.

    Raises:
        DataError: it is missing.
    """
    folder = tfds_folder(data_dir)
    where = "no folder given" if folder is None else f"looked in {folder}"
    if folder is not None and folder.is_dir():
        sets = sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())
        sets = [one for one in sets if one != "downloads"]  # what TFDS was made from
        where += f", which has {', '.join(sets[:8]) or 'none'}{nearest(name, sets)}"
    if folder is None or not (folder / name).is_dir():
        raise DataError(
            f"data set {name!r} not found ({where}); give --data.data_dir or TFDS_DATA_DIR, "
            f"a folder in which tfds.builder({name!r}, file_format='array_record')"
            ".download_and_prepare() has written it (that needs TensorFlow, reading does not)"
        )
    return folder / name


def cache_path(
    folder: Path, split: str, size: int | None, features: tuple[str, ...] | None
) -> Path:
    """A name that changes whenever the files do."""
    state = hashlib.sha256(f"{folder.resolve()} {features}".encode())
    for file in sorted(folder.rglob("*")):
        stat = file.stat()
        state.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    part = split if size is None else f"{split}-{size}"
    return cache_folder() / "data" / f"{folder.name}-{part}-{state.hexdigest()[:16]}.npz"
