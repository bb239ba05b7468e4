"""Data: embedded sets, files, TFDS sets written here, real ones where they lie."""

import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from experiments.harness import array_cache, datasets
from experiments.harness.datasets import TextConfig
from experiments.harness.errors import DataError

REAL = os.environ.get("TFDS_DATA_DIR")
needs_real = pytest.mark.skipif(not REAL, reason="set TFDS_DATA_DIR to read the real sets")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A set in TFDS layout on ArrayRecord files, written without TensorFlow."""
    import tensorflow_datasets as tfds

    # Not registered, so that reading it relies on the files alone.
    class TinyDigits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8),
                "label": tfds.features.ClassLabel(num_classes=3),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(12):
                yield i, {"image": np.full((4, 4, 1), i, np.uint8), "label": i % 3}

    folder = tmp_path_factory.mktemp("tfds")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TinyDigits(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def tiny_set(written, tmp_path):
    """A copy of it, for one test to damage."""
    return shutil.copytree(written, tmp_path / "tfds")


def test_array_record_sets_are_read_whole_then_from_the_cache(tiny_set, tmp_path, monkeypatch):
    columns = datasets.read_tfds("tiny_digits", "train", str(tiny_set))
    assert columns["image"].shape == (12, 4, 4, 1) and columns["image"].dtype == np.uint8
    assert sorted(columns["image"][:, 0, 0, 0]) == list(range(12))
    np.testing.assert_array_equal(columns["image"][:, 0, 0, 0] % 3, columns["label"])
    monkeypatch.setattr(datasets, "open_tfds", None)  # a second read must not decode
    again = datasets.read_tfds("tiny_digits", "train", str(tiny_set))
    np.testing.assert_array_equal(again["image"], columns["image"])


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.9])
def test_a_truncated_file_is_an_error_not_a_silent_hole(tiny_set, keep):
    file = next((tiny_set / "tiny_digits" / "1.0.0").glob("*array_record*"))
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match="readable ArrayRecord files"):
        datasets.read_tfds("tiny_digits", "train", str(tiny_set))


def test_missing_sets_and_splits_name_folder_and_remedy(tiny_set, monkeypatch):
    with pytest.raises(DataError, match=r"looked in .*download_and_prepare"):
        datasets.read_tfds("mnist", "train", str(tiny_set))
    with pytest.raises(DataError, match="which has tiny_digits; nearest: tiny_digits"):
        datasets.read_tfds("tiny_digit", "train", str(tiny_set))
    with pytest.raises(DataError, match="split 'test'"):
        datasets.read_tfds("tiny_digits", "test", str(tiny_set))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(DataError, match="no folder given"):
        datasets.read_tfds("mnist", "train")


def test_embedded_text_is_english_and_split_in_two():
    text = datasets.load_text(TextConfig())
    assert len(text.train) > 300_000 and len(text.sha256) == 64
    assert len(text.validation) == pytest.approx(len(text.train) / 9, rel=0.01)
    assert b"The following" in text.train.tobytes()


def test_any_file_can_be_read(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(bytes(range(256)) * 8)
    text = datasets.load_text(TextConfig(path=str(file), validation=0.25))
    assert len(text.train) == 1536 and text.source == "text.txt"
    file.write_text("short")
    with pytest.raises(DataError, match="at least 1000 bytes, got 5"):
        datasets.load_text(TextConfig(path=str(file)))


def test_crops_depend_on_seed_and_step_alone():
    values = np.arange(1000)
    one = datasets.crops(values, 5, 20, seed=3, step=7)
    np.testing.assert_array_equal(one, datasets.crops(values, 5, 20, seed=3, step=7))
    assert one.shape == (5, 20)
    np.testing.assert_array_equal(np.diff(one, axis=1), 1)
    for other in (datasets.crops(values, 5, 20, 3, 8), datasets.crops(values, 5, 20, 4, 7)):
        assert not np.array_equal(one, other)
    assert datasets.crops(np.arange(20), 2, 20, 0, 0).min() == 0
    with pytest.raises(DataError, match="at least 21 tokens"):
        datasets.crops(np.arange(20), 1, 21, 0, 0)


def test_an_epoch_sees_every_example_once():
    seen = [datasets.shuffled(12, 4, seed=1, step=step) for step in range(6)]
    assert sorted(np.concatenate(seen[:3])) == list(range(12))
    assert sorted(np.concatenate(seen[3:])) == list(range(12))
    assert not np.array_equal(seen[0], seen[3])
    with pytest.raises(DataError, match="batch_size"):
        datasets.shuffled(3, 4, 0, 0)


@needs_real
def test_real_tiny_shakespeare():
    text = datasets.load_text(TextConfig(name="tiny_shakespeare"))
    assert (len(text.train), len(text.validation)) == (1_003_854, 55_770)
    assert text.train[:14].tobytes() == b"First Citizen:"


@pytest.mark.parametrize("key", ["pythonClassName", "type"])
def test_no_module_is_imported_that_a_set_names(key, tmp_path, monkeypatch):
    """TFDS would, before it says that it does not know the class."""
    folder = tmp_path / "mine" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "mine-train.array_record-00000-of-00001").touch()
    inner = {"featuresDict": {"features": {"x": {key: "evil_module.Thing"}}}}
    kind = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    (folder / "features.json").write_text(json.dumps({**inner, "pythonClassName": kind}))
    (tmp_path / "evil_module.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"features of TFDS itself, got 'evil_module\.Thing'"):
        datasets.open_tfds("mine", "train", str(tmp_path))
    assert "evil_module" not in sys.modules
    (folder / "features.json").write_text("{")
    with pytest.raises(DataError, match=r"features\.json: expected readable JSON"):
        datasets.open_tfds("mine", "train", str(tmp_path))


@pytest.mark.slow
@needs_real
def test_real_mnist():
    columns = datasets.read_tfds("mnist", "test")
    images, labels = columns["image"], columns["label"]
    assert images.shape == (10_000, 28, 28, 1)
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.slow
@needs_real
def test_real_cifar10_jpeg():
    columns = datasets.read_tfds("cifar10_jpeg", "test")
    images, labels = columns["image"], columns["label"]
    assert images.shape == (10_000, 32, 32, 3)
    assert np.bincount(labels).tolist() == [1000] * 10


def test_a_damaged_file_of_the_cache_is_made_again(tmp_path, capsys):
    path, arrays = tmp_path / "a.npz", {"x": np.arange(100)}
    assert array_cache.read(path) is None
    array_cache.write(path, arrays)
    np.testing.assert_array_equal(array_cache.read(path)["x"], arrays["x"])
    data = path.read_bytes()
    for at in (3, 200, len(data) - 5):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        array_cache.read(path)
    path.write_bytes(data[:300] + bytes([data[300] ^ 4]) + data[301:])
    assert array_cache.read(path) is None
    assert "a.npz" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_said_and_done_without(tmp_path, capsys):
    (tmp_path / "file").touch()
    array_cache.write(tmp_path / "file" / "a.npz", {"x": np.arange(3)})
    assert "a.npz: " in capsys.readouterr().err
    (tmp_path / "b.npz").mkdir()  # in its place
    array_cache.write(tmp_path / "b.npz", {"x": np.arange(3)})
    assert "b.npz: Is a directory; nothing is kept" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.npz", "file"]


def test_the_cache_lies_where_this_package_or_the_desktop_is_told(monkeypatch):
    monkeypatch.setenv("KEXUE_CACHE_DIR", "~/there")
    assert datasets.cache_folder() == Path.home() / "there"
    monkeypatch.setenv("KEXUE_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert datasets.cache_folder() == Path("/caches/kexue-jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert datasets.cache_folder() == Path.home() / ".cache" / "kexue-jax"
