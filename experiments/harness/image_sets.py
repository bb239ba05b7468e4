"""Images as arrays: embedded digits, any set of TFDS with labels, or a folder of files.

All sources give channels last, in [-1, 1]. A folder's sub-folders are its classes; which of its
files are held out depends on their names, so that more files do not move the others, but where
there are few: two are held out at least, and never a whole class.
"""

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.harness import datasets
from experiments.harness.errors import DataError

KNOWN = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
KNOWN["cifar10_jpeg"] = KNOWN["cifar10"]
COLUMNS = ("image", "label")
KEPT = 10_000  # decoded images that a set read at every batch keeps of each split


@dataclass(frozen=True)
class ImageConfig:
    """Which images to read.

    Attributes:
        name: "digits", scikit-learn's; or a set of TFDS with images and labels: "mnist",
            "cifar10", "imagenet_resized/64x64", "imagenet2012", ...; "cifar10_jpeg" is CIFAR-10
            after lossy JPEG compression.
        path: a folder of image files to read instead; its sub-folders are classes.
        data_dir: folder with the TFDS sets; None: the environment variable TFDS_DATA_DIR.
        size: side in pixels to which images are resized, after a crop to their centre square;
            None leaves them as they are.
        mode: convert the files of a folder to grey ("L") or "RGB", with transparency made white.
        validation: fraction of a folder's images that is held out.
        lazy: read a TFDS set from disk at each batch, for sets that do not fit in memory.
    """

    name: str = "digits"
    path: str | None = None
    data_dir: str | None = None
    size: int | None = None
    mode: Literal["L", "RGB"] | None = None
    validation: float = 0.1
    lazy: bool = False

    def __post_init__(self):
        if self.size is not None and self.size < 1:
            raise ValueError(f"data.size: expected at least 1 pixel, got {self.size}")
        if not 0 < self.validation < 1:
            raise ValueError(
                f"data.validation: expected a fraction between 0 and 1, got {self.validation}"
            )
        if self.lazy and (self.path or self.name == "digits"):
            raise ValueError("data.lazy: expected a set of TFDS; folders and digits are read whole")

    @property
    def label(self) -> str:
        """What to call the set in figures."""
        name = self.name if self.path is None else Path(self.path).name
        if name == "cifar10_jpeg":
            name = "CIFAR-10, JPEG re-encoded"
        return name if self.size is None else f"{name}, {self.size} x {self.size}"

    def look(self, batch: int = 1) -> str:
        """What there is, in a line; a set of TFDS is opened, everything else read.

        Raises:
            DataError: as `load`; fewer images than a batch.
        """
        if self.path is not None or self.name == "digits":
            images = load(self)
            datasets.check_batch(images.count, batch)
            return counted(images)
        parts = ("train", datasets.held_out_split(self.name, self.data_dir))
        counts = [len(datasets.open_tfds(self.name, part, self.data_dir)) for part in parts]
        datasets.check_batch(counts[0], batch)
        height, width, channels = shape(self)
        return f"{counts[0]} + {counts[1]} images, {height} x {width} x {channels}"


DIGITS = ImageConfig()


@functools.lru_cache(maxsize=8)
def _reading(source: Any, size: int, seed: int, rows: tuple[int, int] | None) -> Any:
    from experiments.harness import reading

    return reading.batches(source, size, seed, None if rows is None else slice(*rows))


@dataclass(frozen=True)
class Images:
    """Both splits of a set.

    Attributes:
        train, test: images in [-1, 1], [n, H, W, C]; of a lazy set the first ones.
        train_labels, test_labels: [n], zeros where there are no classes.
        levels: number of grey values.
        classes: how many, or None.
        count: training images in all.
        source: where a lazy set is read.
        grouped: whether images of a class stand side by side, as the files of a folder do.
    """

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    levels: int
    classes: int | None
    count: int
    source: Any = None
    grouped: bool = False

    def batch(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Training images x and their labels, by number."""
        if self.source is None:
            return {"x": self.train[chosen], "label": self.train_labels[chosen]}
        columns = self.source(chosen)
        return {"x": _scaled(columns["image"], 256), "label": columns["label"].astype(np.int32)}

    def part(self, seed: int, size: int, step: int, rows: slice | None = None) -> dict[str, Any]:
        """The training batch of a step, or some of its rows; a lazy set is read ahead."""
        if self.source is None:
            chosen = datasets.shuffled(self.count, size, seed, step)
            return self.batch(chosen if rows is None else chosen[rows])
        place = None if rows is None else (rows.start, rows.stop)
        columns = _reading(self.source, size, seed, place)(step)
        return {"x": _scaled(columns["image"], 256), "label": columns["label"].astype(np.int32)}

    def some(self, n: int) -> np.ndarray:
        """Held-out images to show; from all over the set where they are grouped."""
        if not self.grouped:
            return self.test[:n]
        return self.test[np.linspace(0, len(self.test) - 1, min(n, len(self.test))).astype(int)]

    def labels(self, n: int) -> np.ndarray:
        """Classes [n] as often as in training, in an order that is always the same."""
        place = ((np.arange(n) + 0.5) / n * len(self.train_labels)).astype(int)
        return np.random.default_rng(0).permutation(np.sort(self.train_labels)[place])


def label(config: dict[str, Any]) -> str:
    """The set's name for figures, of the configuration in a run's record."""
    return ImageConfig(**config["data"]).label


def load(config: ImageConfig) -> Images:
    """Read a set.

    Raises:
        DataError: it is missing, unreadable, or its images differ in size or mode.
    """
    if config.path is not None:
        return _folder(config, Path(config.path).expanduser())
    if config.name == "digits":
        return _digits(config)
    held_out = datasets.held_out_split(config.name, config.data_dir)
    if config.lazy:
        return _lazy(config, held_out)
    train, test = (
        datasets.read_tfds(config.name, split, config.data_dir, config.size, COLUMNS)
        for split in ("train", held_out)
    )
    return _images(config.name, train, test)


def counted(images: Images) -> str:
    """How many images and classes there are, in a line."""
    height, width, channels = images.test.shape[1:]
    line = f"{images.count} + {len(images.test)} images, {height} x {width} x {channels}"
    return line if images.classes is None else f"{line}, {images.classes} classes"


def shape(config: ImageConfig) -> tuple[int, int, int]:
    """[H, W, C] of a set's images, without reading more than one file, none if size and mode say.

    Raises:
        DataError: a set of an unknown size, for which no `size` is given; a folder without images.
    """
    if config.path is not None and config.size is not None and config.mode is not None:
        return config.size, config.size, {"L": 1, "RGB": 3}[config.mode]
    if config.path is not None:
        files = _files(Path(config.path).expanduser())
        first = _read(files[0], config)
        return first.shape[0], first.shape[1], first.shape[2]
    known = _prepared_shape(config) or KNOWN.get(config.name)
    if config.size is not None:
        return config.size, config.size, known[2] if known else 3
    if known is None or min(known) < 1:
        text = f"data.size: expected the pixels a side of the images of {config.name!r}"
        try:
            datasets.set_folder(config.name, config.data_dir)
        except DataError as error:  # a name may be misspelt
            text = f"{text}; {error}"
        raise DataError(text)
    return known


def _prepared_shape(config: ImageConfig) -> tuple[int, int, int] | None:
    """What a prepared set says of its images, 0 for sizes that vary; None if it is not there."""
    folder = datasets.tfds_folder(config.data_dir)
    found = [] if folder is None else sorted((folder / config.name).rglob("features.json"))
    try:
        features = json.loads(found[-1].read_text())["featuresDict"]["features"]
        image = features["image"]
        kind = "image" if "image" in image else "tensor"
        sizes = image[kind]["shape"]["dimensions"]
        height, width, channels = (max(0, int(size)) for size in sizes)
    except (IndexError, KeyError, ValueError, OSError):
        return None
    return height, width, channels


def _scaled(images: np.ndarray, levels: int) -> np.ndarray:
    return 2.0 * images.astype(np.float32) / (levels - 1) - 1.0


def _images(name: str, train: Any, test: Any, **options: Any) -> Images:
    for columns in (train, test):
        missing = {"image", "label"} - set(columns)
        if missing:
            raise DataError(
                f"data set {name!r}: expected images with labels, it lacks {', '.join(missing)}"
            )
        if columns["image"].dtype != np.uint8 or columns["image"].ndim != 4:
            raise DataError(
                f"data set {name!r}: expected images uint8 [n, H, W, C], got "
                f"{columns['image'].dtype} {columns['image'].shape}"
            )
        if columns["label"].min() < 0:
            raise DataError(f"data set {name!r}: expected labels from 0 on, got negative ones")
    labels = [columns["label"].astype(np.int32) for columns in (train, test)]
    pixels = [_scaled(columns["image"], 256) for columns in (train, test)]
    classes = 1 + int(max(part.max() for part in labels))
    count = options.pop("count", len(pixels[0]))
    return Images(pixels[0], labels[0], pixels[1], labels[1], 256, classes, count, **options)


def _digits(config: ImageConfig) -> Images:
    """scikit-learn's; the last 297, by other writers, are the test split."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images, labels, levels = bunch.images[..., None], bunch.target.astype(np.int32), 17
    if config.size is not None:
        grey = np.round(images * (255 / 16)).astype(np.uint8)
        images, levels = datasets.resized(grey, config.size), 256
    x, cut = _scaled(images, levels), 1500
    return Images(x[:cut], labels[:cut], x[cut:], labels[cut:], levels, 10, cut)


def _lazy(config: ImageConfig, held_out: str) -> Images:
    if config.size is None:
        raise DataError("data.size: expected the pixels a side of a set that is read lazily")
    train, test = (
        datasets.open_tfds(config.name, split, config.data_dir, config.size, COLUMNS)
        for split in ("train", held_out)
    )
    columns = [part(np.arange(min(KEPT, len(part)))) for part in (train, test)]
    return _images(config.name, *columns, count=len(train), source=train)


def _folder(config: ImageConfig, folder: Path) -> Images:
    files = _files(folder)
    names = sorted({file.parent for file in files})
    labels = np.array([names.index(file.parent) for file in files], np.int32)
    images = from_files(config, folder, files, labels)
    return replace(images, classes=None) if names == [folder] else images


def from_files(
    config: ImageConfig, folder: Path, files: Sequence[Path], labels: np.ndarray
) -> Images:
    """Images of some files below a folder, with their labels; a share is held out.

    Raises:
        DataError: unreadable files, or images of several sizes or modes.
    """
    arrays = [_read(file, config) for file in files]
    first = arrays[0].shape
    for file, array in zip(files, arrays, strict=True):
        if array.shape[-1] != first[-1]:
            raise DataError(
                f"{file}: expected {_mode(first)} like {files[0].name}, got {_mode(array.shape)}; "
                "give --data.mode L or RGB to convert all"
            )
        if array.shape != first:
            raise DataError(
                f"{file}: expected {first[1]} x {first[0]} pixels like {files[0].name}, got "
                f"{array.shape[1]} x {array.shape[0]}; give --data.size to cut out and resize all"
            )
    held = _held_out([file.relative_to(folder).as_posix() for file in files], labels, config)
    x, classes = _scaled(np.stack(arrays), 256), 1 + int(labels.max())
    return Images(
        *(x[~held], labels[~held], x[held], labels[held], 256, classes, int((~held).sum())),
        grouped=True,
    )


def _held_out(names: list[str], labels: np.ndarray, config: ImageConfig) -> np.ndarray:
    """Files held out: those whose name's hash is low; two at least, never a whole class."""
    place = np.array([int(hashlib.sha256(n.encode()).hexdigest()[:12], 16) for n in names]) / 16**12
    held = place < config.validation
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        if held[mine].all():
            held[mine[place[mine].argmax()]] = False
    counts = np.bincount(labels)
    for chosen in np.argsort(place):
        if held.sum() < 2 and counts[labels[chosen]] - held[labels == labels[chosen]].sum() > 1:
            held[chosen] = True
    if held.sum() < 2:
        raise DataError(
            f"data.path: expected images to train on and two to hold out, got {len(names)} in "
            f"{len(counts)} classes"
        )
    return held


def _files(folder: Path) -> list[Path]:
    """Image files of a folder, or of its sub-folders, sorted."""
    from PIL import Image

    if not folder.is_dir():
        raise DataError(f"data.path: expected a folder of images, got {folder}")
    known = Image.registered_extensions()
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in known
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    depths = {len(file.relative_to(folder).parts): file for file in found}
    if not found:
        raise DataError(f"{folder}: expected image files (PNG, JPEG, ...), found none")
    if max(depths) > 2:
        raise DataError(
            f"{folder}: expected images in the folder or in its sub-folders (classes), got deeper "
            f"ones: {depths[max(depths)].relative_to(folder)}"
        )
    if len(depths) > 1:
        raise DataError(
            f"{folder}: expected images in the folder or in its sub-folders (classes), got both: "
            f"{depths[1].name} and {depths[2].relative_to(folder)}"
        )
    return found


def _read(file: Path, config: ImageConfig) -> np.ndarray:
    """One file as uint8 [H, W, C]."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            frames = getattr(opened, "n_frames", 1)
            image = ImageOps.exif_transpose(opened)
            image.load()
    except Exception as error:  # Pillow's formats raise many kinds
        raise DataError(f"{file}: expected a readable image, got: {error}") from None
    if frames > 1:
        raise DataError(f"{file}: expected a still image, got {frames} frames")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(f"{file}: expected 8 or 16 bits a pixel, got mode {image.mode}")
    if config.mode is not None and image.mode != config.mode:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert(config.mode)
    if image.mode not in ("L", "RGB"):
        raise DataError(
            f"{file}: expected a grey or RGB image, got mode {image.mode}; "
            "give --data.mode L or RGB to convert all"
        )
    if config.size is not None:
        image = datasets.square(image, config.size)
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def _mode(shape: tuple[int, ...]) -> str:
    return "a grey image" if shape[-1] == 1 else "an RGB image"
