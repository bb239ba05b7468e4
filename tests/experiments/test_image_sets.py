"""Images from every source: scaled, split, resized; folders that do not fit are refused by name."""

import dataclasses
import warnings

import numpy as np
import pytest
from PIL import Image

from experiments.harness import datasets, image_sets
from experiments.harness.errors import DataError
from experiments.harness.image_sets import ImageConfig


def save(folder, name, size=(8, 8), mode="RGB", value=0):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "P", "1") else (value,) * len(mode)).save(
        folder / name
    )


@pytest.fixture
def pets(tmp_path):
    """Two classes of ten images, each of its own grey value."""
    for k, name in enumerate(("cats", "dogs")):
        for i in range(10):
            save(tmp_path / "pets" / name, f"{i}.png", value=100 * k + i)
    return tmp_path / "pets"


def test_digits_are_embedded_and_split_by_writers():
    images = image_sets.load(image_sets.DIGITS)
    assert images.train.shape == (1500, 8, 8, 1) and images.test.shape == (297, 8, 8, 1)
    assert (images.levels, images.classes, images.count) == (17, 10, 1500)
    assert images.train.min() == -1.0 and images.train.max() == 1.0
    batch = images.batch(np.array([3, 1]))
    np.testing.assert_array_equal(batch["x"], images.train[[3, 1]])
    np.testing.assert_array_equal(batch["label"], images.train_labels[[3, 1]])


@pytest.mark.parametrize("size", [4, 16])
def test_other_sizes_average_down_and_interpolate_up(size):
    plain, other = (image_sets.load(ImageConfig(size=s)) for s in (None, size))
    assert other.train.shape == (1500, size, size, 1) and other.levels == 256
    assert image_sets.shape(ImageConfig(size=size)) == (size, size, 1)
    np.testing.assert_allclose(other.train.mean((1, 2)), plain.train.mean((1, 2)), atol=0.05)
    if size == 4:
        means = plain.train.reshape(-1, 4, 2, 4, 2, 1).mean((2, 4))
        np.testing.assert_allclose(other.train, means, atol=1.6 / 255 * 2)


def test_folders_become_classes(pets):
    config = ImageConfig(path=str(pets), validation=0.2)
    images = image_sets.load(config)
    assert images.train.shape[1:] == images.test.shape[1:] == (8, 8, 3)
    assert len(images.train) + len(images.test) == 20 and 2 <= len(images.test) <= 8
    assert (
        images.classes == 2
        and images.count == len(images.train)
        and image_sets.shape(config) == (8, 8, 3)
    )
    for x, label in ((images.train, images.train_labels), (images.test, images.test_labels)):
        grey = np.round((x[:, 0, 0, 0] + 1) * 127.5).astype(int)
        np.testing.assert_array_equal(grey // 100, label)
    assert config.label == "pets"
    shown = image_sets.load(ImageConfig(path=str(pets), validation=0.4)).some(2)
    assert (shown[:, 0, 0, 0] > -0.5).tolist() == [False, True]  # one of each class
    held = {round(float(x)) for x in (images.test[:, 0, 0, 0] + 1) * 127.5}
    save(pets / "cats", "more.png", value=50)
    again = image_sets.load(config)
    still = {round(float(x)) for x in (again.test[:, 0, 0, 0] + 1) * 127.5}
    assert still - {50} == held  # more files do not move the others


def test_a_flat_folder_has_no_classes_and_other_files_are_passed_over(tmp_path):
    for i in range(4):
        save(tmp_path / "flat", f"{i}.jpg", mode="L", value=i)
    (tmp_path / "flat" / "notes.txt").write_text("no image")
    (tmp_path / "flat" / ".hidden.png").write_text("no image")
    images = image_sets.load(ImageConfig(path=str(tmp_path / "flat")))
    assert images.classes is None and images.train.shape == (2, 8, 8, 1)
    (tmp_path / "flat" / "set.png").mkdir()
    save(tmp_path / "flat" / ".thumbs", "small.png")
    assert image_sets.load(ImageConfig(path=str(tmp_path / "flat"))).count == 2
    assert set(images.train_labels) == {0}


def test_centre_squares_are_cut_out(tmp_path):
    picture = np.zeros((4, 12, 3), np.uint8)
    picture[:, 4:8] = 255
    (tmp_path / "wide").mkdir()
    Image.fromarray(picture).save(tmp_path / "wide" / "a.png")
    for name in ("b.png", "c.PNG"):
        save(tmp_path / "wide", name, (30, 20), value=255)
    images = image_sets.load(ImageConfig(path=str(tmp_path / "wide"), size=2))
    assert images.train.shape == (1, 2, 2, 3)
    assert images.train.min() == images.test.min() == 1.0


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, {}, "expected image files .* found none"),
        ({"a.png": {}}, {}, "images to train on and two to hold out, got 1 in 1 classes"),
        ({"a/x.png": {}, "b/x.png": {}}, {}, "two to hold out, got 2 in 2 classes"),
        ({"a/b/x.png": {}}, {}, "got deeper ones: a/b/x.png"),
        ({"a.tif": {"mode": "F"}, "b.png": {}}, {}, "a.tif: expected 8 or 16 bits a pixel"),
        ({"a.png": {}, "b.png": {"size": (8, 9)}}, {}, r"b.png: expected 8 x 8 .* 8 x 9; .*size"),
        (
            {"a.png": {}, "b.png": {"mode": "L"}},
            {},
            r"b.png: expected an RGB image .* a grey.*mode",
        ),
        ({"a.png": {"mode": "RGBA"}, "b.png": {}}, {}, "a.png: expected a grey or RGB.*mode RGBA"),
        ({"a.png": {}, "sub/b.png": {}}, {}, "in its sub-folders .classes., got both: a.png"),
        ({"a.png": None, "b.png": {}}, {}, "a.png: expected a readable image, got"),
    ],
)
def test_folders_that_do_not_fit_are_refused(tmp_path, files, options, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, how in files.items():
        if how is None:
            (folder / name).write_bytes(b"\x89PNG no more")
        else:
            save((folder / name).parent, (folder / name).name, **how)
    with pytest.raises(DataError, match=message):
        image_sets.load(ImageConfig(path=str(folder), **options))


def test_modes_and_sizes_that_differ_can_be_converted(tmp_path):
    (tmp_path / "f").mkdir()
    Image.new("RGBA", (9, 7), (10, 20, 30, 0)).save(tmp_path / "f" / "a.png")  # seen through
    save(tmp_path / "f", "b.png", (5, 6), "L", 255)
    deep = np.full((6, 6), 65535, np.uint16)
    Image.fromarray(deep).save(tmp_path / "f" / "c.png")
    images = image_sets.load(ImageConfig(path=str(tmp_path / "f"), size=4, mode="RGB"))
    assert images.train.shape == (1, 4, 4, 3) and images.test.shape == (2, 4, 4, 3)
    assert images.train.min() == images.test.min() == 1.0


def test_sixteen_bits_are_scaled_and_films_refused(tmp_path):
    (tmp_path / "f").mkdir()
    for i in range(3):
        ramp = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
        Image.fromarray(ramp).save(tmp_path / "f" / f"{i}.png")
    images = image_sets.load(ImageConfig(path=str(tmp_path / "f")))
    np.testing.assert_allclose(images.train[0].ravel(), np.linspace(-1, 1, 64), atol=0.01)
    frames = [Image.new("L", (8, 8), value) for value in (0, 255)]
    frames[0].save(tmp_path / "f" / "film.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=r"film.gif: expected a still image, got 2 frames"):
        image_sets.load(ImageConfig(path=str(tmp_path / "f")))


def test_labels_follow_their_frequencies():
    images = image_sets.load(image_sets.DIGITS)
    rare = dataclasses.replace(images, train_labels=np.repeat([0, 1, 4], [70, 20, 10]))
    np.testing.assert_array_equal(np.bincount(rare.labels(50)), [35, 10, 0, 0, 5])
    np.testing.assert_array_equal(rare.labels(50), rare.labels(50))


def test_missing_folders_sets_and_sizes_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(DataError, match=r"data.path: expected a folder of images, got .*nowhere"):
        image_sets.load(ImageConfig(path=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"'imagenet2012' not found .no folder given"):
        image_sets.load(ImageConfig("imagenet2012"))
    with pytest.raises(DataError, match=r"data.size: expected the pixels a side.*not found"):
        image_sets.shape(ImageConfig("imagenet2012"))
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataError, match=r"data.size: .*'mnits' not found .*nearest: mnist"):
        image_sets.shape(ImageConfig("mnits", data_dir=str(tmp_path)))
    for options, message in (
        ({"size": 0}, "data.size: expected at least 1"),
        ({"validation": 1.0}, "data.validation: expected a fraction"),
        ({"lazy": True}, "data.lazy: expected a set of TFDS"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageConfig(**options)


def test_sets_of_tfds_whole_and_lazily(tiny_images):
    folder = str(tiny_images)
    assert datasets.held_out_split("tiny_images", folder) == "validation"
    assert image_sets.shape(ImageConfig("tiny_images", data_dir=folder, size=4)) == (4, 4, 3)
    with pytest.raises(DataError, match=r"split 'extra' .*expected that split"):
        datasets.open_tfds("tiny_images", "extra", folder)
    whole = image_sets.load(ImageConfig("tiny_images", data_dir=folder, size=4))
    lazy = image_sets.load(ImageConfig("tiny_images", data_dir=folder, size=4, lazy=True))
    assert whole.train.shape == (12, 4, 4, 3) and whole.classes == 3 and lazy.count == 12
    chosen = np.array([7, 2, 2])
    for name in ("x", "label"):
        np.testing.assert_array_equal(lazy.batch(chosen)[name], whole.batch(chosen)[name])
    with pytest.raises(DataError, match=r"expected images of one size.*--data.size"):
        image_sets.load(ImageConfig("tiny_images", data_dir=folder))
    with pytest.raises(DataError, match=r"data.size: expected"):
        image_sets.load(ImageConfig("tiny_images", data_dir=folder, lazy=True))
    whole_again = image_sets.load(ImageConfig("tiny_images", data_dir=folder, size=4))
    np.testing.assert_array_equal(whole_again.train, whole.train)


@pytest.fixture
def tiny_images(tmp_path):
    """A TFDS set of images of two sizes, with a split for validation and one without labels."""
    import tensorflow_datasets as tfds

    class TinyImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Tensor(shape=(None, 8, 3), dtype=np.uint8)
            label = tfds.features.ClassLabel(num_classes=3)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {
                name: self._generate_examples(n)
                for name, n in (("train", 12), ("validation", 5), ("test", 2))
            }

        def _generate_examples(self, n):
            for i in range(n):
                shape = (6 + 2 * (i % 2), 8, 3)
                yield i, {"image": np.full(shape, 20 * i, np.uint8), "label": i % 3}

    folder = tmp_path / "tfds"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TinyImages(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_a_lazy_set_is_read_ahead_in_the_same_order_on_any_number_of_hosts(tiny_images):
    """From any step on, whole or by rows."""
    folder = str(tiny_images)
    whole = image_sets.load(ImageConfig("tiny_images", data_dir=folder, size=4))
    lazy = image_sets.load(ImageConfig("tiny_images", data_dir=folder, size=4, lazy=True))
    for step in (0, 1, 2, 3, 7, 8, 1):
        expected = whole.part(5, 4, step)
        halves = [lazy.part(5, 4, step, slice(start, start + 2)) for start in (0, 2)]
        found = lazy.part(5, 4, step)
        for name in ("x", "label"):
            np.testing.assert_array_equal(found[name], expected[name])
            both = np.concatenate([half[name] for half in halves])
            np.testing.assert_array_equal(both, expected[name])
