"""Texts as tokens: bytes, tokenizers made from the text, sets of documents, what is refused."""

import concurrent.futures
import json
import time
import warnings

import numpy as np
import pytest

from experiments.harness import corpora, datasets
from experiments.harness.corpora import CorpusConfig
from experiments.harness.errors import DataError, Interrupted

DOCUMENTS = [f"Document {i} says: the cat, sat on mat {i % 7}.\n" for i in range(1300)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sets of documents in TFDS layout, one with a validation split."""
    import tensorflow_datasets as tfds

    class Base(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _splits(self):
            return {"train": DOCUMENTS}

        def _info(self):
            kinds = {"text": tfds.features.Text(), "number": np.int64}
            features = tfds.features.FeaturesDict(kinds)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {name: self._generate_examples(texts) for name, texts in self._splits().items()}

        def _generate_examples(self, texts):
            yield from ((i, {"text": text, "number": i}) for i, text in enumerate(texts))

    class TinyCats(Base, skip_registration=True):
        pass

    class TinySplit(Base, skip_registration=True):
        def _splits(self):
            return {"train": DOCUMENTS[:900], "validation": DOCUMENTS[900:]}

    where = tmp_path_factory.mktemp("tfds")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for builder in (TinyCats, TinySplit):
            builder(data_dir=where, file_format="array_record").download_and_prepare()
    return str(where)


def held(name, folder):
    """What a set holds, in the order of its files."""
    return [
        bytes(text).decode()
        for text in datasets.read_tfds(name, "train", folder, features=("text",))["text"]
    ]


def test_a_set_as_bytes_is_its_documents_with_ends_between(folder):
    text = corpora.load(CorpusConfig("tiny_cats", data_dir=folder))
    every = "".join(f"{document}\0" for document in held("tiny_cats", folder)).encode()
    assert bytes(text.train) + bytes(text.validation) == every
    assert bytes(text.train).count(b"\0") == 1170 and text.vocabulary == 256
    assert text.bytes_per_token == 1.0 and text.unit == "bytes"
    assert isinstance(text.train, np.memmap)


@pytest.mark.parametrize(("name", "validation"), [("tiny_cats", 130), ("tiny_split", 400)])
def test_a_set_as_tokens_says_the_same_in_fewer(folder, name, validation):
    import tokenizers

    text = corpora.load(CorpusConfig(name, data_dir=folder, vocabulary=300))
    saved = next((datasets.cache_folder() / "tokens").glob(f"{name}-*/tokenizer.json"))
    tokenizer = tokenizers.Tokenizer.from_file(str(saved))
    documents = [
        tokenizer.decode(part.tolist(), skip_special_tokens=False)
        for part in np.split(text.train, np.flatnonzero(text.train == 0) + 1)[:-1]
    ]
    assert documents[:5] == [f"{d}{corpora.END}" for d in held(name, folder)[:5]]
    assert (np.asarray(text.validation) == 0).sum() == validation
    assert text.vocabulary == 300 and 256 < text.train.max() < 300 and text.unit == "tokens"
    texts = tokenizer.decode(text.validation.tolist(), skip_special_tokens=True)
    exact = (len(texts.encode()) + validation) / len(text.validation)  # an end counts as one byte
    assert text.bytes_per_token == pytest.approx(exact, rel=1e-12) and exact > 1.5


def test_tokens_are_made_once_and_again_when_anything_changes(folder, monkeypatch):
    config = CorpusConfig("tiny_cats", data_dir=folder, vocabulary=280, sample=200)
    first = corpora.load(config)
    with monkeypatch.context() as patch:
        patch.setattr(corpora, "_write", None)
        again = corpora.load(config)
        assert again.sha256 == first.sha256 and np.array_equal(again.train, first.train)
        with pytest.raises(TypeError):
            corpora.load(CorpusConfig("tiny_cats", data_dir=folder, vocabulary=281, sample=200))


def test_a_limit_of_tokens_is_kept(folder):
    for vocabulary in (None, 300):
        config = CorpusConfig("tiny_cats", data_dir=folder, vocabulary=vocabulary, tokens=10_000)
        text = corpora.load(config)
        assert len(text.train) == 10_000 and len(text.validation) == 100
        whole = corpora.load(CorpusConfig("tiny_cats", data_dir=folder, vocabulary=vocabulary))
        assert np.array_equal(text.train, whole.train[:10_000])
        assert text.bytes_per_token == pytest.approx(whole.bytes_per_token, rel=0.1)


@pytest.mark.parametrize("vocabulary", [None, 400])
def test_a_limit_holds_for_files_as_well(vocabulary, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("".join(DOCUMENTS))
    text = corpora.load(CorpusConfig(path=str(path), vocabulary=vocabulary, tokens=9000))
    assert (len(text.train), len(text.validation)) == (9000, 90)


@pytest.mark.parametrize("vocabulary", [None, 400])
def test_embedded_texts_and_files_are_tokens_too(vocabulary, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("".join(DOCUMENTS))
    for config in (
        CorpusConfig(vocabulary=vocabulary, sample=500),
        CorpusConfig(path=str(path), vocabulary=vocabulary),
    ):
        text = corpora.load(config)
        assert text.source in ("pydoc", "mine.txt") and text.vocabulary == config.size
        assert len(text.train) > 8 * len(text.validation) > 0
        assert (text.bytes_per_token > 1.3) == (vocabulary is not None)


def test_damaged_tokens_are_refused(folder):
    corpora.load(CorpusConfig("tiny_cats", data_dir=folder, vocabulary=290))
    tokens = next((datasets.cache_folder() / "tokens").glob("tiny_cats-*/train.tokens"))
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(DataError, match="encode again"):
        corpora.load(CorpusConfig("tiny_cats", data_dir=folder, vocabulary=290))


def test_interrupted_encoding_begins_again(folder, monkeypatch):
    config = CorpusConfig("tiny_cats", data_dir=folder)
    write = corpora._write

    def stopped(folder, split, *rest, **given):
        if split == "validation":
            raise KeyboardInterrupt
        write(folder, split, *rest, **given)

    monkeypatch.setattr(corpora, "_write", stopped)
    with pytest.raises(KeyboardInterrupt):
        corpora.load(config)
    monkeypatch.setattr(corpora, "_write", write)
    assert len(corpora.load(config).validation) > 0


def test_what_encodes_can_be_stopped_and_leaves_nothing(folder):
    asked = []

    def check_stop():
        asked.append(1)
        if len(asked) > 20:
            raise Interrupted("stopped")

    config = CorpusConfig("tiny_cats", data_dir=folder, vocabulary=310)
    with pytest.raises(Interrupted):
        corpora.load(config, check_stop)
    text = corpora.load(config)
    where = next((datasets.cache_folder() / "tokens").glob("tiny_cats-*"))
    assert len(text.train) > 0 and not list(where.glob("*.partial*"))


def test_an_end_that_stands_in_a_document_is_text(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(f"one{corpora.END}two {corpora.END}\n" * 200)
    text = corpora.load(CorpusConfig(path=str(path), vocabulary=300))
    assert not (np.asarray(text.train) == 0).any() and len(text.train) > 200


def test_sets_without_the_feature_and_missing_sets_are_named(folder):
    with pytest.raises(DataError, match=r"data\.feature: expected one of .* got 'book_text'"):
        corpora.load(CorpusConfig("tiny_cats", data_dir=folder, feature="book_text"))
    with pytest.raises(DataError, match=r"data\.feature: expected text, got int64 in 'number'"):
        corpora.load(CorpusConfig("tiny_cats", data_dir=folder, feature="number"))
    with pytest.raises(DataError, match="'c4/en' not found"):
        corpora.load(CorpusConfig("c4/en", data_dir=folder))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vocabulary": 256}, "data.vocabulary: expected from 258 to 65536"),
        ({"vocabulary": 70_000}, "data.vocabulary"),
        ({"tokens": 10}, "data.sample, tokens"),
        ({"sample": 0}, "data.sample, tokens"),
        ({"validation": 1.0}, "data.validation"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        CorpusConfig(**options)


def test_about_says_what_the_files_are(folder):
    corpora.load(CorpusConfig("tiny_cats", data_dir=folder, vocabulary=300))
    about = next((datasets.cache_folder() / "tokens").glob("*/about.json"))
    saved = json.loads(about.read_text())
    assert saved["kind"] == "uint16" and saved["train"]["bytes"] > saved["train"]["tokens"]


def test_two_that_encode_one_text_at_once_do_it_in_turn(tmp_path, monkeypatch):
    monkeypatch.setenv("KEXUE_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("".join(DOCUMENTS))
    config = CorpusConfig(path=str(tmp_path / "text.txt"), vocabulary=300, sample=200)
    plain, calls = corpora._write, []

    def slow(*arguments, **options):
        calls.append(arguments[1])
        time.sleep(0.2)
        plain(*arguments, **options)

    monkeypatch.setattr(corpora, "_write", slow)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: corpora.load(config), range(3)))
    assert calls == ["train", "validation"]  # once, by one of them
    assert len({text.sha256 for text in found}) == 1
