"""Texts of any size as tokens: bytes, or byte-level BPE with a tokenizer trained on the text.

A TFDS set of documents is encoded once, into files of numbers that are mapped into memory, so that
training reads crops of it like those of a text in memory.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import msgspec
import numpy as np

from experiments.harness import config as configs
from experiments.harness import datasets
from experiments.harness.datasets import Reader, Text, TextConfig
from experiments.harness.errors import DataError
from experiments.harness.tracking import Progress

END = "<|endoftext|>"  # between documents; number 0, also among bytes
CHUNK = 32  # documents read and encoded at once, and a hundred times as many lines
Stop = Callable[[], None]


@dataclass(frozen=True)
class CorpusConfig:
    """Which text to read, and how it becomes tokens.

    Attributes:
        name: "pydoc", "tiny_shakespeare", or any TFDS set of documents, such as "c4/en",
            "lm1b" or "wiki40b/en".
        path: a text file to read instead, or a folder with one file named *train* and one named
            *valid* (see `datasets.TextConfig`).
        data_dir: folder with the TFDS sets; None: the environment variable TFDS_DATA_DIR.
        feature: the feature of a TFDS set that holds the text ("book_text" for pg19).
        vocabulary: size of the vocabulary of a byte-level BPE tokenizer, trained on the beginning
            of the text; None: tokens are bytes.
        sample: number of documents (lines, of a text file) that the tokenizer is trained on.
        tokens: largest number of training tokens, and a hundredth of it held out; None: all.
        validation: fraction held out, from the end, where the set has no split of its own.
    """

    name: str = "pydoc"
    path: str | None = None
    data_dir: str | None = None
    feature: str = "text"
    vocabulary: int | None = None
    sample: int = 100_000
    tokens: int | None = None
    validation: float = 0.1

    def __post_init__(self):
        if self.vocabulary is not None and not 257 < self.vocabulary <= 2**16:
            raise ValueError(
                f"data.vocabulary: expected from 258 to 65536 tokens, got {self.vocabulary}"
            )
        if self.sample < 1 or (self.tokens is not None and self.tokens < 1000):
            raise ValueError(
                f"data.sample, tokens: expected at least 1 and 1000, got {self.sample}, "
                f"{self.tokens}"
            )
        if not 0 < self.validation < 1:
            raise ValueError(
                f"data.validation: expected a fraction between 0 and 1, got {self.validation}"
            )

    @property
    def size(self) -> int:
        """Different tokens."""
        return 256 if self.vocabulary is None else self.vocabulary

    @property
    def text(self) -> TextConfig | None:
        """The same as a text that is read as a whole; None for a set of documents."""
        if self.path is None and self.name not in datasets.TEXTS:
            return None
        known: Any = self.name if self.name in datasets.TEXTS else datasets.TEXTS[0]
        return TextConfig(known, self.path, self.data_dir, self.validation)

    def look(self, batch: int = 1) -> str:
        """What there is, in a line; of a set of documents only the first one is read.

        Any number of crops makes a batch.

        Raises:
            DataError: as `load`.
        """
        if self.text is not None:
            return self.text.look(batch)
        reader = datasets.open_tfds(self.name, "train", self.data_dir, None, (self.feature,))
        _texts(reader, range(1), self)
        return f"{len(reader)} documents of {self.name}"


def load(config: CorpusConfig, check_stop: Stop = lambda: None) -> Text:
    """The tokens of a text, encoded now or before.

    Args:
        check_stop: called between documents; encoding ends where it raises, and begins again in
            the next call.

    Raises:
        DataError: it is missing, unreadable, too short, or has no such feature.
    """
    if config.text is not None:
        text = datasets.load_text(config.text)
        if config.vocabulary is not None:
            return _encoded_text(config, text, check_stop)
        train, held = text.train[: config.tokens], text.validation[: _held_out(config)]
        return replace(text, train=train, validation=held)
    return _encoded_set(config, check_stop)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether tokens are missing; other processes that want to make them wait meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "lock"):
        yield not (folder / "about.json").exists()


def _held_out(config: CorpusConfig) -> int | None:
    """The most tokens that are held out."""
    return None if config.tokens is None else config.tokens // 100


def _encoded_text(config: CorpusConfig, text: Text, check_stop: Stop) -> Text:
    def lines(values: np.ndarray) -> Iterator[list[bytes]]:
        every = iter(io.BytesIO(values.tobytes()))
        while some := list(itertools.islice(every, 100 * CHUNK)):
            check_stop()
            yield some

    folder = _folder(config, text.sha256)
    with _alone(folder) as missing:
        if not missing:
            return _read(folder, text.source, config.size)
        first = itertools.islice(itertools.chain.from_iterable(lines(text.train)), config.sample)
        tokenizer = _trained(first, config.size)
        for split, most in (("train", config.tokens), ("validation", _held_out(config))):
            _write(folder, split, lines(getattr(text, split)), tokenizer, most, end=False)
        _finish(folder, tokenizer)
    return _read(folder, text.source, config.size)


def _encoded_set(config: CorpusConfig, check_stop: Stop) -> Text:
    folder = datasets.set_folder(config.name, config.data_dir)
    own = any(any(folder.rglob(f"*-{name}.*")) for name in ("validation", "test"))
    held = datasets.held_out_split(config.name, config.data_dir) if own else "train"
    readers = {
        split: datasets.open_tfds(config.name, name, config.data_dir, None, (config.feature,))
        for split, name in (("train", "train"), ("validation", held))
    }
    count = len(readers["train"])
    cut = count if own else int(count * (1 - config.validation))
    numbers = {
        "train": range(cut),
        "validation": range(len(readers["validation"])) if own else range(cut, count),
    }
    state = datasets.cache_path(folder, "tokens", None, (config.feature,)).stem
    target = _folder(config, state)
    with _alone(target) as missing:
        if not missing:
            return _read(target, config.name, config.size)
        sample = range(min(config.sample, cut))
        read = functools.partial(_documents, config=config, check_stop=check_stop)
        texts = itertools.chain.from_iterable(read(readers["train"], sample))
        tokenizer = None if config.vocabulary is None else _trained(texts, config.size)
        for split, limit in (("train", config.tokens), ("validation", _held_out(config))):
            documents = read(readers[split], numbers[split])
            _write(target, split, documents, tokenizer, limit, end=True)
        _finish(target, tokenizer)
    return _read(target, config.name, config.size)


def _documents(
    reader: Reader, numbers: range, config: CorpusConfig, check_stop: Stop
) -> Iterator[list[bytes]]:
    with Progress(len(numbers), "document") as progress:
        for start in range(0, len(numbers), CHUNK):
            check_stop()
            some = numbers[start : start + CHUNK]
            yield _texts(reader, some, config)
            progress.update(start + len(some))


def _texts(reader: Reader, numbers: range, config: CorpusConfig) -> list[bytes]:
    columns = reader(numbers)
    if config.feature not in columns:
        raise DataError(
            f"data.feature: expected one of the features of {config.name!r}, got {config.feature!r}"
        )
    texts = list(columns[config.feature])
    if not all(isinstance(text, bytes) for text in texts):
        raise DataError(
            f"data.feature: expected text, got {columns[config.feature].dtype} in "
            f"{config.feature!r} of {config.name!r}"
        )
    return texts


def _decoded(text: bytes) -> str:
    return text.decode(errors="replace")


def _trained(texts: Iterator[bytes], size: int) -> Any:
    """A byte-level BPE tokenizer, which can write any text."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = level  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(_decoded, texts), trainer)
    tokenizer.encode_special_tokens = True  # an END that stands in a document is text
    return tokenizer


def _write(
    folder: Path,
    split: str,
    texts: Iterator[list[bytes]],
    tokenizer: Any,
    limit: int | None,
    *,
    end: bool,
) -> None:
    """The tokens of texts one behind the other, up to a limit, and how many bytes they stand for.

    Args:
        end: whether texts are documents, with an end between them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, count, size, digest = folder / f"{split}.tokens", 0, 0, hashlib.sha256()
    for stale in folder.glob(f"{split}.partial*"):
        stale.unlink()
    partial = path.with_suffix(f".partial{os.getpid()}")
    with partial.open("wb") as file:
        for some in texts:
            if tokenizer is None:
                tokens = np.frombuffer(b"".join(text + b"\0" * end for text in some), np.uint8)
            else:
                rows = tokenizer.encode_batch_fast([_decoded(text) for text in some])
                ends = [0] * end
                tokens = np.array([i for row in rows for i in [*row.ids, *ends]], np.uint16)
            size += sum(map(len, some)) + end * len(some)
            if limit is not None and count + len(tokens) > limit:
                size -= round(size * (count + len(tokens) - limit) / (count + len(tokens)))
                tokens = tokens[: limit - count]
            file.write(tokens.tobytes())
            digest.update(tokens.tobytes())
            count += len(tokens)
            if count == limit:
                break
    partial.replace(path)
    about = {"tokens": count, "bytes": size, "sha256": digest.hexdigest()}
    (folder / f"{split}.json").write_text(json.dumps(about))


def _finish(folder: Path, tokenizer: Any) -> None:
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    parts = {s: json.loads((folder / f"{s}.json").read_text()) for s in ("train", "validation")}
    kind = "uint8" if tokenizer is None else "uint16"
    temporary = folder / f"about.{os.getpid()}"
    temporary.write_text(json.dumps({**parts, "kind": kind}))
    temporary.replace(folder / "about.json")


def _read(folder: Path, source: str, vocabulary: int) -> Text:
    about = json.loads((folder / "about.json").read_text())

    def split(name: str) -> np.ndarray:
        count, path = about[name]["tokens"], folder / f"{name}.tokens"
        kind = np.dtype(about["kind"])
        if count == 0:
            raise DataError(f"{source}: expected a text long enough to hold a part of it out")
        if path.stat().st_size != count * kind.itemsize:
            raise DataError(f"{path}: expected {count} tokens; remove {folder} to encode again")
        return np.memmap(path, kind, "r")

    both = "".join(about[name]["sha256"] for name in ("train", "validation"))
    held = about["validation"]
    return Text(
        split("train"),
        split("validation"),
        source,
        hashlib.sha256(both.encode()).hexdigest(),
        vocabulary,
        held["bytes"] / held["tokens"],
    )


def _folder(config: CorpusConfig, state: str) -> Path:
    """Where the tokens of this text and configuration lie."""
    fields = {**configs.to_dict(replace(config, data_dir=None)), "state": state}
    name = hashlib.sha256(msgspec.json.encode(fields, order="deterministic")).hexdigest()[:16]
    return datasets.cache_folder() / "tokens" / f"{config.name.replace('/', '-')}-{name}"
