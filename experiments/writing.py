"""Text from public checkpoints and from runs on bytes: continued as it comes, or scored."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attention import TransformerConfig, generation
from attention.checkpoints import Model, load_pretrained
from attention.tensor_files import inside, read_json
from experiments import trained
from experiments.harness.errors import DataError, ExperimentError, UsageError
from experiments.harness.tracking import Progress

DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class Options:
    """How to continue text.

    Attributes:
        new_tokens: at most so many.
        temperature, top_k, top_p, min_p: as `attention.generate`.
        chunk: tokens of a prompt that are read at once.
        seed: of the samples.
    """

    new_tokens: int = 100
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    chunk: int | None = None
    seed: int = 0


class Checkpoint:
    """A directory's model and tokenizer: a public checkpoint, or a run on bytes."""

    def __init__(self, folder: Path, dtype: str | None = None, ignore: Sequence[str] = ()):
        """Read both.

        Raises:
            DataError: something is missing, damaged or not known.
        """
        from tokenizers import Tokenizer

        began = time.monotonic()
        if (folder / "run.json").is_file():
            self.model, self.stop, self.tokenizer = _of_run(folder, dtype), (), Bytes()
            return
        try:
            self.model: Model = load_pretrained(folder, dtype, ignore=tuple(ignore))
            path = inside(folder, "tokenizer.json")
            self.stop = _ends(folder, self.model)
        except ValueError as error:
            raise DataError(f"--checkpoint: {str(error).removeprefix('directory: ')}") from None
        try:
            self.tokenizer: Any = Tokenizer.from_str(path.read_text())
        except Exception as error:  # the tokenizers' own are plain exceptions
            raise DataError(f"--checkpoint: {path}: {error}") from None
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self.model.params))
        say(f"{folder.name}: {size / 1e6:.1f} MB in {time.monotonic() - began:.1f} s")

    def encode(self, text: str, option: str = "--prompt") -> list[int]:
        """Tokens of a text, with those that begin one.

        Raises:
            UsageError: none.
            DataError: tokens that the model does not have.
        """
        ids = self.tokenizer.encode(text).ids
        size = self.model.config.vocab_size
        if not ids:
            raise UsageError(f"{option}: expected text of at least one token, got none")
        if max(ids) >= size:
            raise DataError(f"tokenizer.json: expected tokens below {size}, got {max(ids)}")
        return ids

    def decode(self, ids: Sequence[int], before: Sequence[int] = ()) -> str:
        """The text of tokens behind others: alone they may lose a space in front."""
        whole = self.tokenizer.decode([int(i) for i in (*before, *ids)], skip_special_tokens=True)
        start = self.tokenizer.decode([int(i) for i in before], skip_special_tokens=True)
        return whole[_common(whole, start) :]

    def check_room(self, tokens: int, option: str = "--max-new-tokens") -> None:
        """Refuse more tokens than the model was made for.

        Raises:
            UsageError: naming both numbers.
        """
        most = self.model.settings.get("max_position_embeddings")
        if most is not None and tokens > most:
            raise UsageError(
                f"{option}: expected at most {most} tokens with the prompt, which this model was "
                f"made for, got {tokens}"
            )


class Bytes:
    """A tokenizer whose tokens are the bytes of a text, with the two methods used here."""

    class Encoding(NamedTuple):
        """As of `tokenizers`."""

        ids: list[int]

    def encode(self, text: str) -> Encoding:
        """Its bytes."""
        return self.Encoding([*text.encode()])

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of bytes; what is none becomes U+FFFD."""
        del skip_special_tokens  # there are none
        return bytes(ids).decode(errors="replace")


def _of_run(folder: Path, dtype: str | None) -> Model:
    """The decoder that a run has trained on bytes."""
    try:
        found = trained.load(folder)
    except ExperimentError as error:
        raise DataError(f"--checkpoint: {error}") from None
    if not isinstance(found.settings, TransformerConfig) or found.settings.vocab_size != 256:
        raise DataError(f"--checkpoint: {folder}: expected a decoder that was trained on bytes")
    params = jax.tree.map(lambda leaf: leaf.astype(dtype or leaf.dtype), found.params)
    return Model(found.settings, params, {})


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many entries two sequences begin with together."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(a), len(b)))


def _ends(folder: Path, model: Model) -> tuple[int, ...]:
    """Tokens that end a text; those that the model does not have cannot come."""
    name = "generation_config.json"
    found = None
    if (folder / name).exists():
        found = read_json(inside(folder, name)).get("eos_token_id")
    found = model.settings.get("eos_token_id") if found is None else found
    ends = [] if found is None else found if isinstance(found, list) else [found]
    if not all(isinstance(end, int) for end in ends):
        raise ValueError(f"{folder}: eos_token_id: expected tokens, got {found!r}")
    return tuple(end for end in ends if 0 <= end < model.config.vocab_size)


def say(text: str) -> None:
    """A line for the user, apart from the output."""
    print(text, file=sys.stderr, flush=True)


def continue_texts(checkpoint: Checkpoint, prompts: Sequence[str], options: Options) -> list[str]:
    """Continue prompts, a single one on standard output as it comes.

    Returns:
        The new texts.

    Raises:
        UsageError: empty or too long prompts, settings outside their range.
    """
    rows = [checkpoint.encode(prompt) for prompt in prompts]
    longest = max(len(row) for row in rows)
    checkpoint.check_room(longest + options.new_tokens)
    tokens = np.array([row + [0] * (longest - len(row)) for row in rows])
    model, began, first = checkpoint.model, time.monotonic(), None
    try:
        parts = generation.stream(
            model.params,
            model.config,
            tokens,
            options.new_tokens,
            lengths=np.array([len(row) for row in rows]),
            chunk=options.chunk,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            stop=checkpoint.stop,
            key=jax.random.key(options.seed),
        )
    except ValueError as error:
        name, rest = str(error).split(":", 1)
        raise UsageError(f"--{name.replace('_', '-')}:{rest}") from None
    alone, found, shown = len(rows) == 1, [[] for _ in rows], ""
    ended = np.zeros(len(rows), bool)
    progress = None if alone else Progress(options.new_tokens, "token")
    if alone:
        print(prompts[0], end="", flush=True)
    count = 0
    for part in parts:
        first, count = time.monotonic() if first is None else first, count + 1
        if (part < 0).any():
            raise ExperimentError("the logits are NaN, as those of weights that are NaN")
        ended |= np.isin(part, checkpoint.stop)
        for row, token, over in zip(found, part, ended, strict=True):
            if not over:
                row.append(int(token))
        if alone:
            text = checkpoint.decode(found[0], rows[0])
            if text.startswith(shown) and not text.endswith("\ufffd"):  # part of a character
                print(text[len(shown) :], end="", flush=True)
                shown = text
        elif progress is not None:
            progress.update(count)
    texts = [checkpoint.decode(row, before) for row, before in zip(found, rows, strict=True)]
    if alone:
        print(texts[0][len(shown) :] if texts[0].startswith(shown) else "")
    else:
        for prompt, text in zip(prompts, texts, strict=True):
            print(f"{prompt}{text}\n")
    now, first = time.monotonic(), first or time.monotonic()
    rate = (count - 1) * len(rows) / max(now - first, 1e-9)
    say(
        f"{longest} tokens read and compiled in {first - began:.2f} s, then "
        f"{count - 1} x {len(rows)} at {rate:.1f} tokens/s"
    )
    return texts


def score_text(checkpoint: Checkpoint, text: str, prompt: str | None = None) -> dict[str, float]:
    """Log-likelihood of a text, behind a prompt if there is one; printed as a table.

    Both are made tokens together; what is scored begins with the first token that the prompt alone
    does not have, and never with the first of all, which nothing comes before.

    Raises:
        UsageError: a text of too few or too many tokens.
    """
    whole = checkpoint.encode((prompt or "") + text, "--score")
    before = checkpoint.encode(prompt) if prompt else []
    first = max(_common(whole, before), 1)
    if len(whole) <= first:
        raise UsageError("--score: expected a text of at least one token behind another, got none")
    checkpoint.check_room(len(whole), "--score")
    model = checkpoint.model
    scores = generation.score(model.params, model.config, np.array([whole]))[0]
    each = np.asarray(scores, np.float64)[first - 1 :]
    if isinstance(checkpoint.tokenizer, Bytes):  # a character may be cut, no byte is
        size = len(each)
    else:
        size = len(checkpoint.decode(whole[first:], whole[:first]).encode())
    total = float(each.sum())
    found = {
        "tokens": len(each),
        "log_likelihood": total,
        "nats_per_token": -total / len(each),
        "perplexity": float(np.exp(-total / len(each))),
        "bits_per_byte": -total / np.log(2.0) / max(size, 1),
    }
    for name, value in found.items():
        print(f"{name.replace('_', ' ')}: {value:.6g}")
    return found


def check_dtype(dtype: str | None) -> Any:
    """The dtype of a name.

    Raises:
        UsageError: none of floats.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"--dtype: expected one of {DTYPES}, got {dtype!r}")
    return None if dtype is None else jnp.dtype(dtype)
