"""Text from public checkpoints: continued as it comes, or scored."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention import generation
from attention.checkpoints import Model, load_pretrained
from attention.tensor_files import read_json
from experiments.harness.errors import UsageError
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
    """A directory's model and tokenizer."""

    def __init__(self, folder: Path, dtype: str | None = None, ignore: Sequence[str] = ()):
        """Read both.

        Raises:
            UsageError: something is missing, damaged or not known.
        """
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        began = time.monotonic()
        try:
            self.model: Model = load_pretrained(folder, dtype, ignore=tuple(ignore))
            if not path.is_file():
                raise ValueError(f"{folder}: expected tokenizer.json, found none")
            self.tokenizer: Any = Tokenizer.from_str(path.read_text())
        except ValueError as error:
            raise UsageError(f"--checkpoint: {error}") from None
        except Exception as error:  # the tokenizers' own are plain exceptions
            raise UsageError(f"--checkpoint: {path}: {error}") from None
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self.model.params))
        say(f"{folder.name}: {size / 1e6:.1f} MB in {time.monotonic() - began:.1f} s")
        self.stop = _ends(folder, self.model.settings)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Tokens of a text, with those that begin one unless `special` is off.

        Raises:
            UsageError: none, or tokens that the model does not have.
        """
        ids = self.tokenizer.encode(text, add_special_tokens=special).ids
        size = self.model.config.vocab_size
        if not ids:
            raise UsageError("--prompt: expected text of at least one token, got none")
        if max(ids) >= size:
            raise UsageError(f"tokenizer.json: expected tokens below {size}, got {max(ids)}")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def check_room(self, tokens: int) -> None:
        """Refuse more tokens than the model was made for.

        Raises:
            UsageError: naming both numbers.
        """
        most = self.model.settings.get("max_position_embeddings")
        if most is not None and tokens > most:
            raise UsageError(
                f"--max-new-tokens: expected at most {most} tokens with the prompt, which this "
                f"model was made for, got {tokens}"
            )


def _ends(folder: Path, settings: dict[str, Any]) -> tuple[int, ...]:
    """Tokens that end a text."""
    path = folder / "generation_config.json"
    found = read_json(path).get("eos_token_id") if path.is_file() else None
    found = settings.get("eos_token_id") if found is None else found
    return tuple(np.atleast_1d([] if found is None else found).astype(int).tolist())


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
        ended |= np.isin(part, checkpoint.stop)
        for row, token, over in zip(found, part, ended, strict=True):
            if not over:
                row.append(int(token))
        if alone:
            text = checkpoint.decode(found[0])
            if text.startswith(shown) and not text.endswith("\ufffd"):  # part of a character
                print(text[len(shown) :], end="", flush=True)
                shown = text
        elif progress is not None:
            progress.update(count)
    texts = [checkpoint.decode(row) for row in found]
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

    Raises:
        UsageError: a text of too few or too many tokens.
    """
    before = checkpoint.encode(prompt) if prompt else []
    rest = checkpoint.encode(text, special=not before)
    whole = np.array([before + rest])
    checkpoint.check_room(whole.shape[1])
    model = checkpoint.model
    try:
        each = generation.score(model.params, model.config, whole)[0]
    except ValueError as error:
        raise UsageError(f"--score: {error}") from None
    each = np.asarray(each, np.float64)[max(len(before) - 1, 0) :]
    total = float(each.sum())
    found = {
        "tokens": len(each),
        "log_likelihood": total,
        "nats_per_token": -total / len(each),
        "perplexity": float(np.exp(-total / len(each))),
        "bits_per_byte": -total / np.log(2.0) / len(text.encode()),
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
