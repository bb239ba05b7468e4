"""Texts of any size as tokens: bytes, or pairs of bytes merged by a tokenizer made from the text.

A TFDS set of documents is encoded once, into files of numbers that are mapped into memory, so that
training reads crops of it like those of a text in memory.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from experiments.harness import config as configs
from experiments.harness import datasets
from experiments.harness.datasets import Reader, Text, TextConfig
from experiments.harness.errors import DataError
from experiments.harness.tracking import Progress

END = "<|endoftext|>"  # between documents; number 0, also among bytes
CHUNK = 512  # documents read and encoded at once


@dataclass(frozen=True)
class CorpusConfig:
    """Which text to read, and how it becomes tokens.

    Attributes:
        name: "pydoc", "tiny_shakespeare", or any TFDS set of documents, such as "c4/en",
            "lm1b" or "wiki40b/en".
        path: any file to use instead.
        data_dir: folder of the TFDS sets; TFDS_DATA_DIR by default.
        feature: of a set's examples, in which their text stands ("book_text" of pg19).
        vocabulary: different tokens of a byte-level BPE tokenizer trained on the beginning of the
            text; None leaves bytes.
        sample: documents (or lines) that the tokenizer is trained on.
        tokens: at most so many are encoded for training; those held out are a hundredth.
        validation: fraction at the end held out, where the set has no split of its own.
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


def load(config: CorpusConfig) -> Text:
    """The tokens of a text, encoded now or before.

    Raises:
        DataError: it is missing, unreadable, too short, or has no such feature.
    """
    if config.path is not None or config.name in datasets.TEXTS:
        text = _whole(config)
        return text if config.vocabulary is None else _encoded_text(config, text)
    return _encoded_set(config)


def _whole(config: CorpusConfig) -> Text:
    known: Any = config.name if config.name in datasets.TEXTS else datasets.TEXTS[0]
    plain = TextConfig(known, config.path, config.data_dir, config.validation)
    text = datasets.load_text(plain)
    return replace(text, train=text.train[: config.tokens])


def _encoded_text(config: CorpusConfig, text: Text) -> Text:
    def lines(values: np.ndarray) -> Iterator[list[str]]:
        every = _decoded(values).splitlines(keepends=True)
        yield from (every[i : i + CHUNK] for i in range(0, len(every), CHUNK))

    folder = _folder(config, text.sha256)
    if not (folder / "about.json").exists():
        first = itertools.islice(itertools.chain.from_iterable(lines(text.train)), config.sample)
        tokenizer = _trained(first, config.size)
        for split in ("train", "validation"):
            _write(folder, split, lines(getattr(text, split)), tokenizer, config.tokens, end=False)
        _finish(folder, tokenizer)
    return _read(folder, text.source, config.size)


def _encoded_set(config: CorpusConfig) -> Text:
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
    if not (target / "about.json").exists():
        sample = range(min(config.sample, cut))
        texts = itertools.chain.from_iterable(_documents(readers["train"], sample, config))
        tokenizer = None if config.vocabulary is None else _trained(texts, config.size)
        most = config.tokens
        for split, limit in (("train", most), ("validation", most and most // 100)):
            documents = _documents(readers[split], numbers[split], config)
            _write(target, split, documents, tokenizer, limit, end=True)
        _finish(target, tokenizer)
    return _read(target, config.name, config.size)


def _documents(reader: Reader, numbers: range, config: CorpusConfig) -> Iterator[list[str]]:
    with Progress(len(numbers), "document") as progress:
        for start in range(0, len(numbers), CHUNK):
            some = numbers[start : start + CHUNK]
            columns = reader(some)
            if config.feature not in columns:
                raise DataError(
                    f"data.feature: expected one of the features of {config.name!r}, "
                    f"got {config.feature!r}"
                )
            yield [_decoded(value) for value in columns[config.feature]]
            progress.update(start + len(some))


def _decoded(value: Any) -> str:
    return bytes(value).decode(errors="replace")


def _trained(texts: Iterator[str], size: int) -> Any:
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
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _write(
    folder: Path,
    split: str,
    texts: Iterator[list[str]],
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
    partial = path.with_suffix(f".{os.getpid()}")
    with partial.open("wb") as file:
        for some in texts:
            if tokenizer is None:
                parts = [text.encode() for text in some]
                tokens = np.frombuffer(b"".join(p + b"\0" * end for p in parts), np.uint8)
                size += len(tokens)
            else:
                rows = tokenizer.encode_batch(some)
                ends = [0] * end
                tokens = np.array([i for row in rows for i in [*row.ids, *ends]], np.uint16)
                size += sum(len(text.encode()) for text in some) + end * len(some)
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
        if count == 0 or path.stat().st_size != count * kind.itemsize:
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
