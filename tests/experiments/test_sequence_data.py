"""Data of sequence learning: pixels, Pathfinder, documents, pairs, sounds; what is refused."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from experiments import commands
from experiments.harness import datasets, image_sets
from experiments.harness.errors import DataError
from experiments.harness.image_sets import ImageConfig
from experiments.harness.training import TrainingConfig
from experiments.ssm import documents, long_range, sequential_images, speech, topics
from experiments.ssm.documents import DocumentsConfig
from experiments.ssm.speech import SpeechConfig

SHORT = [
    *("--training.steps", "3", "--training.batch_size", "4", "--training.eval_every", "3"),
    *("--training.checkpoint_every", "3", "--model.channels", "4", "--model.layers", "1"),
]


def test_pixels_come_in_order_and_permuted():
    images = image_sets.load(ImageConfig())
    config = sequential_images.Config()
    rows = sequential_images.pixels(images.test, config)
    np.testing.assert_array_equal(rows[3, :, 0], images.test[3].ravel())
    moved = sequential_images.pixels(images.test, dataclasses.replace(config, order="permuted"))
    order = sequential_images.permutation(64)
    assert sorted(order) == list(range(64)) and list(order) != list(range(64))
    np.testing.assert_array_equal(moved, rows[:, order])
    colours = np.arange(24.0).reshape(1, 2, 4, 3)
    grey = sequential_images.pixels(colours, dataclasses.replace(config, grey=True))
    expected = colours.reshape(8, 3) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(grey[0, :, 0], expected, rtol=1e-6)
    with pytest.raises(DataError, match="images: expected labels from 0 to 4, got 0 to 9"):
        sequential_images.load(dataclasses.replace(config, classes=5))


@pytest.fixture
def pathfinder(tmp_path):
    """Forty small pictures with lists of labels, in the published layout."""
    folder = tmp_path / "pathfinder32" / long_range.HARDEST
    for part in range(2):
        (folder / "imgs" / str(part)).mkdir(parents=True)
        lines = []
        for k in range(20):
            name = f"sample_{k}.png"
            Image.new("L", (8, 8), 100 * part + k).save(folder / "imgs" / str(part) / name)
            lines.append(f"imgs/{part} {name} {k} {k % 2} 0.1 14")
        (folder / "metadata").mkdir(exist_ok=True)
        (folder / "metadata" / f"{part}.npy").write_text("\n".join(lines) + "\n")
    return tmp_path / "pathfinder32"


def test_pathfinder_is_read_with_its_labels(pathfinder, tmp_path):
    config = sequential_images.Config(
        data=ImageConfig(path=str(pathfinder), size=8, mode="L"), classes=2
    )
    images = sequential_images.load(config)
    x = np.concatenate([images.train, images.test])
    labels = np.concatenate([images.train_labels, images.test_labels])
    shade = np.round((x[:, 0, 0, 0] + 1) * 255 / 2).astype(int)
    assert len(x) == 40 and len(images.test) >= 2
    np.testing.assert_array_equal(labels, shade % 100 % 2)
    assert sequential_images.shape(config) == (64, 1)
    lists = pathfinder / long_range.HARDEST / "metadata" / "0.npy"
    (pathfinder / long_range.HARDEST / "imgs" / "0" / "sample_0.png").write_bytes(b"")
    assert sequential_images.load(config).count + len(images.test) >= 38  # an empty one is left out
    lists.write_text("imgs/0 sample_1.png\n")
    with pytest.raises(DataError, match=r"0.npy, line 1: expected folder, file, number, label"):
        sequential_images.load(config)
    lists.write_text("imgs/0 sample_1.png 1 7\n")
    with pytest.raises(DataError, match="expected labels from 0 to 1, got 0 to 7"):
        sequential_images.load(config)


def test_windows_of_topics_and_pairs_of_them():
    config = documents.Config(data=DocumentsConfig(longest=40, classes=4))
    train, test = topics.split(4, 40)
    assert len(train) == len(test) == 4
    batch = documents.windows(test, config, np.random.default_rng(0), 30)
    for row, length, topic in zip(batch["x"], batch["lengths"], batch["label"], strict=True):
        assert length == 40 and bytes((row - 1).astype(np.uint8)) in test[topic]
    both = dataclasses.replace(config, task="retrieval")
    batch = documents.windows(train, both, np.random.default_rng(0), 60)
    assert batch["x"].shape == (60, 2, 40) and 0.2 < batch["label"].mean() < 0.8
    for pair, same in zip(batch["x"], batch["label"], strict=True):
        found = [
            {i for i, t in enumerate(train) if bytes((r - 1).astype(np.uint8)) in t} for r in pair
        ]
        assert bool(found[0] & found[1]) == bool(same)
        if same:  # two places that do not overlap
            (topic,) = found[0] & found[1]
            places = [train[topic].find(bytes((r - 1).astype(np.uint8))) for r in pair]
            assert (
                abs(places[0] - places[1]) >= 40
                or train[topic].count(train[topic][places[0] :][:40]) > 1
            )
    tokens, lengths = documents.packed([b"ab", b"", b"abcdef"], 4)
    np.testing.assert_array_equal(tokens, [[98, 99, 0, 0], [0] * 4, [98, 99, 100, 101]])
    assert lengths.tolist() == [2, 1, 4]


@pytest.mark.slow
def test_pairs_of_lra_are_read_and_learnt_from(tmp_path):
    lines = [f"{float(k % 2)}\tid{k}\tid{k + 1}\ttext {k}\tmore {k}" for k in range(12)]
    for split in ("train", "test"):
        (tmp_path / f"new_aan_pairs.{split}.tsv").write_text("\n".join(lines) + "\n")
    texts, labels = long_range.pairs(str(tmp_path), "train")
    assert texts[3] == (b"text 3", b"more 3") and labels.tolist() == [0, 1] * 6
    config = documents.Config("retrieval", data=documents.DocumentsConfig(path=str(tmp_path)))
    task = documents.make_task(config)
    whole, part = task.batch(0, 6, 1), task.part(0, 6, 1, slice(1, 4))
    assert all(np.array_equal(part[name], whole[name][1:4]) for name in whole)
    options = ["--task", "retrieval", "--data.path", str(tmp_path), "--data.longest", "8", *SHORT]
    record = commands.run("ssm/documents", "quick", options, tmp_path / "run")
    assert record.rows[0]["parameters"] > 0 and record.result["majority"] == 50.0
    (tmp_path / "new_aan_pairs.test.tsv").write_text("1.0\tid\ttext\n")
    with pytest.raises(DataError, match="line 1: expected label, name, name, text, text"):
        long_range.pairs(str(tmp_path), "test")


@pytest.fixture
def sounds(tmp_path):
    """Two words of six sounds each, two of them for tests, one for validation."""
    folder = tmp_path / "words"
    tests, validation = [], []
    for label, word in enumerate(("no", "yes")):
        (folder / word).mkdir(parents=True)
        for k in range(6):
            wave = np.full(20 + k, 1000 * (label + 1) + k, np.int16)
            wavfile.write(folder / word / f"{k}.wav", 16_000, wave)
        tests += [f"{word}/0.wav", f"{word}/1.wav"]
        validation += [f"{word}/2.wav"]
    (folder / "_background_noise_").mkdir()
    (folder / "testing_list.txt").write_text("\n".join(tests))
    (folder / "validation_list.txt").write_text("\n".join(validation))
    return folder


def test_a_folder_of_sounds_is_read_split_and_scaled(sounds, tmp_path):
    config = speech.Config(
        data=SpeechConfig(path=str(sounds), length=24, classes=2),
        training=TrainingConfig(batch_size=4),
    )
    task = speech.make_task(config)
    assert task.held_out["label"].tolist() == [0, 0, 1, 1]
    batch = task.batch(0, 6, 0)
    assert batch["x"].shape == (6, 24, 1) and sorted(batch["label"]) == [0, 0, 0, 1, 1, 1]
    ratio = batch["x"][batch["label"] == 1].max() / batch["x"][batch["label"] == 0].max()
    assert ratio == pytest.approx(2.0, rel=0.01)
    assert 0.3 < batch["x"].std() < 3.0
    np.testing.assert_array_equal(batch["x"][:, -1] == 0, (batch["x"] == 0).sum(1) > 0)
    np.testing.assert_array_equal(task.part(0, 6, 0, slice(2, 5))["x"], batch["x"][2:5])
    options = ["--data.path", str(sounds), "--data.classes", "2", "--data.length", "24"]
    record = commands.run("ssm/speech", "quick", [*options, *SHORT], tmp_path / "run")
    assert 0 <= record.rows[0]["error"] <= 1
    (sounds / "no" / "4.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"4.wav: expected a readable WAV file"):
        speech.make_task(config)
    with pytest.raises(DataError, match="expected 3 sub-folders, the classes, got 2"):
        speech.folder(dataclasses.replace(config.data, classes=3))
    (sounds / "testing_list.txt").unlink()
    with pytest.raises(DataError, match="expected a folder with lists of tests"):
        speech.folder(config.data)


def test_tones_have_the_contours_they_are_labelled_with():
    config = SpeechConfig(length=4096, noise=0.0)
    batch = speech.tones(config, np.random.default_rng(0), 40)
    names = list(speech.CONTOURS)
    for wave, label in zip(batch["x"][..., 0], batch["label"], strict=True):
        crossings = np.flatnonzero(np.diff(np.signbit(wave)))
        counts = np.histogram(crossings, bins=[0, 512, 1792, 2304, 3584, 4096])[0] / [
            4,
            10,
            4,
            10,
            4,
        ]
        start, middle, end = counts[0], counts[2], counts[4]
        expected = {
            "steady": math.isclose(start, end, rel_tol=0.15),
            "rising": end > 1.5 * start,
            "falling": start > 1.5 * end,
            "peak": middle > 1.5 * max(start, end),
            "dip": middle < min(start, end) / 1.5,
        }
        assert expected[names[label]], (names[label], counts)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Reviews and sounds in TFDS layout."""
    import tensorflow_datasets as tfds

    class Base(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        kind: tuple

        def _info(self):
            name, feature = self.kind
            features = {name: feature, "label": np.int64}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in ("train", "test")}

    class TinyReviews(Base, skip_registration=True):
        kind = "text", tfds.features.Text()

        def _generate_examples(self):
            yield from ((k, {"text": f"review {k}" * (k + 1), "label": k % 2}) for k in range(12))

    class TinySounds(Base, skip_registration=True):
        kind = "audio", tfds.features.Tensor(shape=(None,), dtype=np.int64)

        def _generate_examples(self):
            yield from ((k, {"audio": [100 * k] * (20 + k), "label": k % 3}) for k in range(12))

    where = tmp_path_factory.mktemp("tfds")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for builder in (TinyReviews, TinySounds):
            builder(data_dir=where, file_format="array_record").download_and_prepare()
    return str(where)


@pytest.mark.slow
def test_sets_of_tfds_are_read(sets, tmp_path):
    options = ["--data.name", "tiny_reviews", "--data.data_dir", sets, "--data.classes", "2"]
    record = commands.run("ssm/documents", "quick", [*options, *SHORT], tmp_path / "reviews")
    assert record.result["majority"] == 50.0
    options = ["--data.name", "tiny_sounds", "--data.data_dir", sets, "--data.classes", "3"]
    record = commands.run("ssm/speech", "quick", [*options, *SHORT], tmp_path / "sounds")
    assert 0 <= record.rows[0]["error"] <= 1
    data = SpeechConfig("tiny_sounds", data_dir=sets, classes=2)
    with pytest.raises(DataError, match="tiny_sounds: expected labels from 0 to 1, got 0 to 2"):
        speech.make_task(speech.Config(data=data))
    data = DocumentsConfig("tiny_sounds", data_dir=sets)
    with pytest.raises(DataError, match=r"data\.name: expected a set with a text and a label"):
        documents.make_task(documents.Config(data=data))


def test_a_folder_of_texts_has_a_part_to_train_and_one_to_test(tmp_path):
    (tmp_path / "wiki.train.tokens").write_text("a" * 3000)
    (tmp_path / "wiki.test.tokens").write_text("c" * 100)
    with pytest.raises(DataError, match=r"expected one file named \*valid\*, got none"):
        datasets.load_text(datasets.TextConfig(path=str(tmp_path)))
    (tmp_path / "wiki.valid.tokens").write_text("b" * 1000)
    text = datasets.load_text(datasets.TextConfig(path=str(tmp_path)))
    assert (len(text.train), len(text.validation)) == (3000, 1000)
    assert set(text.validation) == {ord("b")} and text.source == tmp_path.name


def test_topics_that_are_too_short_are_named():
    with pytest.raises(DataError, match="expected 10 topics of at least 80002 bytes, got 0"):
        topics.split(10, 20_000)


def test_no_topic_holds_what_another_one_holds_out():
    train, test = topics.split(10, 512)
    for number, held in enumerate(test):
        pieces = [held[start : start + 64] for start in range(0, len(held) - 64, 7)]
        others = train[:number] + train[number + 1 :]
        shared = sum(any(piece in other for other in others) for piece in pieces)
        assert shared < 0.02 * len(pieces)
