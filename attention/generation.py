"""Text generation: prefill, then one loop; a single compiled program.

Prompts are padded to one of few lengths, so that prompts of many lengths share a program.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attention import checks, transformer
from attention.mixer import Mixer
from attention.sampling import Sampling, choose
from attention.transformer import TransformerConfig

SHORTEST = 16  # of the lengths to which prompts are padded


def generate(
    params: Any,
    config: TransformerConfig,
    prompts: Any,
    max_new_tokens: int,
    *,
    lengths: Any = None,
    mask: Any = None,
    chunk: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop: int | Sequence[int] = (),
    pad: int = 0,
    key: Array | None = None,
    mixer: Mixer | None = None,
) -> Array:
    """Continue prompts, greedily or by sampling.

    Args:
        prompts: int [B, T], right-padded when `lengths` is given.
        max_new_tokens: tokens to generate, >= 1.
        lengths: int [B], live tokens of each prompt, 1..T; all T by default.
        mask: in place of lengths, bool [B, T], True for live tokens: padding on the left or on the
            right, as tokenizers give it.
        chunk: prefill prompts in chunks of this many tokens, for less memory; at once by default.
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_k, top_p, min_p: sample among likely tokens only, see `sampling.Sampling`.
        stop: a token or several after which an example ends; it is included in the output.
        pad: the token that fills the output after it.
        key: random key, needed when temperature > 0.
        mixer: a mixer in place of the one of `config`.

    Returns:
        New tokens, int32 [B, max_new_tokens]; -1 where logits are NaN, as from NaN weights.

    Raises:
        ValueError: an empty prompt; shapes, lengths, tokens or settings of the sampling outside
            their range; no key.
    """
    _check(params, config)
    sampling = Sampling(temperature, top_k, top_p, min_p)
    request = _request(config, prompts, max_new_tokens, lengths, mask, chunk, sampling, stop, key)
    checks.whole("pad", pad, 0)
    return _generate(params, *request.traced, jnp.int32(pad), config, mixer, *request.fixed)


def stream(
    params: Any,
    config: TransformerConfig,
    prompts: Any,
    max_new_tokens: int,
    *,
    lengths: Any = None,
    mask: Any = None,
    chunk: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop: int | Sequence[int] = (),
    pad: int = 0,
    key: Array | None = None,
    mixer: Mixer | None = None,
) -> Iterator[np.ndarray]:
    """The tokens of `generate` as they come, int32 [B] each, until all examples have ended.

    Arguments and errors are those of `generate`.
    """
    _check(params, config)
    sampling = Sampling(temperature, top_k, top_p, min_p)
    request = _request(config, prompts, max_new_tokens, lengths, mask, chunk, sampling, stop, key)
    checks.whole("pad", pad, 0)
    return _stream(params, config, request, pad, mixer)


def score(
    params: Any,
    config: TransformerConfig,
    tokens: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    mixer: Mixer | None = None,
) -> Float[Array, "B rest"]:
    """Log-likelihood of every token given those before it, [B, T - 1], in nats.

    Args:
        tokens: int [B, T], T >= 2.
        lengths, mask: of padding, as in `generate`; padding scores 0. Tokens padded on the left
            are moved to the front, and so are their scores.

    Raises:
        ValueError: as `generate`; a single token, which nothing comes before.
    """
    _check(params, config)
    tokens, lengths = _prompts(config, tokens, lengths, mask, "tokens")
    time = tokens.shape[1]
    if time < 2:
        raise ValueError("tokens: expected at least 2 of each example, got 1")
    return _score(params, _padded(tokens), lengths, config, mixer)[:, : time - 1]


def _check(params: Any, config: Any) -> None:
    """Refuse what is no configuration, and a whole model in the place of its parameters."""
    if not isinstance(config, TransformerConfig):
        raise ValueError(
            f"config: expected a TransformerConfig behind params, got {type(config).__name__}"
        )
    if hasattr(params, "params"):
        raise ValueError(f"params: expected those of the {type(params).__name__}, its `.params`")


class _Request(NamedTuple):
    """What was asked for, checked: what may be traced, and what a program is compiled for."""

    traced: tuple[Any, ...]  # prompts, lengths, key, temperature, top_p, min_p, stop
    fixed: tuple[Any, ...]  # max_new_tokens, top_k, chunk


def _request(
    config: TransformerConfig,
    prompts: Any,
    max_new_tokens: Any,
    lengths: Any,
    mask: Any,
    chunk: Any,
    sampling: Sampling,
    stop: Any,
    key: Array | None,
) -> _Request:
    prompts, lengths = _prompts(config, prompts, lengths, mask)
    checks.whole("max_new_tokens", max_new_tokens)
    if chunk is not None:
        checks.whole("chunk", chunk)
    sampling.check(config.vocab_size, key)
    ends = np.atleast_1d(stop if np.size(stop) else np.zeros(0, np.int32))
    if not np.issubdtype(ends.dtype, np.integer):
        raise ValueError(f"stop: expected tokens, whole numbers, got {stop!r}")
    ends = ends.astype(np.int32)
    if ends.size and (ends.min() < 0 or ends.max() >= config.vocab_size):
        raise ValueError(f"stop: expected tokens in [0, {config.vocab_size}), got {stop}")
    key = jax.random.key(0) if key is None else key
    prompts = _padded(prompts)
    chunk = None if chunk is None or chunk >= prompts.shape[1] else chunk
    shares = (sampling.temperature, sampling.top_p, sampling.min_p)
    shares = (None if share is None else jnp.asarray(share, float) for share in shares)
    traced = (prompts, lengths, key, *shares, ends)
    return _Request(traced, (max_new_tokens, sampling.top_k, chunk))


def _prompts(
    config: TransformerConfig, prompts: Any, lengths: Any, mask: Any, name: str = "prompts"
) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded prompts and how much of each is live."""
    try:
        prompts = np.asarray(prompts)
    except checks.Untraceable:
        raise ValueError(
            f"{name}: expected numbers, got a traced array: this is a compiled program of its own, "
            "call it outside of jit, vmap and grad"
        ) from None
    except ValueError:  # rows of different lengths
        raise ValueError(f"{name}: expected rows of one length, padded, with `lengths`") from None
    if prompts.ndim != 2 or 0 in prompts.shape:
        raise ValueError(f"{name}: expected a non-empty [B, T], got shape {prompts.shape}")
    if not np.issubdtype(prompts.dtype, np.integer):
        raise ValueError(f"{name}: expected integers, got {prompts.dtype}")
    if prompts.min() < 0 or prompts.max() >= config.vocab_size:
        raise ValueError(
            f"{name}: expected tokens in [0, {config.vocab_size}), "
            f"got [{prompts.min()}, {prompts.max()}]"
        )
    batch, time = prompts.shape
    if mask is not None:
        if lengths is not None:
            raise ValueError("mask, lengths: expected one of them, got both")
        prompts, lengths = right_padded(prompts, mask)
    lengths = np.full(batch, time) if lengths is None else np.asarray(lengths)
    whole = np.issubdtype(lengths.dtype, np.integer)
    if lengths.shape != (batch,) or not whole or lengths.min() < 1 or lengths.max() > time:
        raise ValueError(f"lengths: expected {batch} values in [1, {time}], got {lengths}")
    return prompts.astype(np.int32), lengths.astype(np.int32)


def _padded(prompts: np.ndarray) -> np.ndarray:
    """Prompts padded on the right to a power of two, or to three quarters of one."""
    time = prompts.shape[1]
    wide = max(SHORTEST, 1 << (time - 1).bit_length())
    wide = 3 * wide // 4 if wide > SHORTEST and time <= 3 * wide // 4 else wide
    return np.pad(prompts, ((0, 0), (0, wide - time)))


def right_padded(prompts: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Prompts [B, T] with their live tokens in front, and how many there are.

    Raises:
        ValueError: shapes differ, a row without live tokens or with a gap between them.
    """
    prompts, mask = np.asarray(prompts), np.asarray(mask)
    if not np.all((mask == 0) | (mask == 1)):
        raise ValueError("mask: expected bool, or 0 and 1, got other values")
    mask = mask.astype(bool)
    if mask.shape != prompts.shape:
        raise ValueError(f"mask: expected the shape {prompts.shape} of prompts, got {mask.shape}")
    lengths, first = mask.sum(axis=1), mask.argmax(axis=1)
    if np.any(lengths == 0):
        raise ValueError(f"mask: expected live tokens in row {lengths.argmin()}, got none")
    moved = (first[:, None] + np.arange(mask.shape[1])) % mask.shape[1]
    live = np.take_along_axis(mask, moved, axis=1)
    if np.any(live != (np.arange(mask.shape[1]) < lengths[:, None])):
        raise ValueError("mask: expected live tokens side by side, got gaps")
    return np.take_along_axis(prompts, moved, axis=1), lengths


@functools.partial(jax.jit, static_argnames=("config", "mixer", "new_tokens", "top_k", "chunk"))
def _generate(
    params: Any,
    prompts: Array,
    lengths: Array,
    key: Array,
    temperature: Any,
    top_p: Any,
    min_p: Any,
    stop: Array,
    pad: Array,
    config: TransformerConfig,
    mixer: Mixer | None,
    new_tokens: int,
    top_k: int | None,
    chunk: int | None,
) -> Array:
    state, last = _begin(params, prompts, lengths, config, mixer, new_tokens, chunk)
    prepared = transformer.prepare(params, config, mixer)
    sampling = Sampling(temperature, top_k, top_p, min_p)
    tokens = jnp.full((new_tokens, len(prompts)), pad, jnp.int32)

    def going_on(carry: tuple[Any, ...]) -> Array:
        index, _, _, ended, _ = carry
        return (index < new_tokens) & ~ended.all()

    def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        index, state, logits, ended, tokens = carry
        token = choose(logits, jax.random.fold_in(key, index), sampling)
        state, logits = transformer.step(prepared, state, token, config, mixer=mixer)
        tokens = tokens.at[index].set(jnp.where(ended, pad, token))
        return index + 1, state, logits, ended | _among(token, stop), tokens

    carry = (jnp.int32(0), state, last, jnp.zeros(len(prompts), bool), tokens)
    return jax.lax.while_loop(going_on, body, carry)[-1].T


def _among(token: Array, stop: Array) -> Array:
    return jnp.any(token[:, None] == stop, axis=1)


def _stream(
    params: Any, config: TransformerConfig, request: _Request, pad: int, mixer: Mixer | None
) -> Iterator[np.ndarray]:
    prompts, lengths, key, temperature, top_p, min_p, stop = request.traced
    new_tokens, top_k, chunk = request.fixed
    state, logits = _compiled_begin(params, prompts, lengths, config, mixer, new_tokens, chunk)
    prepared = _compiled_prepare(params, config, mixer)
    ended = np.zeros(len(prompts), bool)
    for index in range(new_tokens):
        chosen = temperature, top_k, top_p, min_p
        state, logits, token = _advance(
            prepared, state, logits, key, jnp.int32(index), *chosen, config, mixer
        )
        token = np.where(ended, pad, np.asarray(token)).astype(np.int32)
        yield token
        ended |= np.isin(token, stop)
        if ended.all():
            return


@functools.partial(jax.jit, static_argnames=("top_k", "config", "mixer"), donate_argnums=1)
def _advance(
    prepared: Any,
    state: Any,
    logits: Array,
    key: Array,
    index: Array,
    temperature: Any,
    top_k: int | None,
    top_p: Any,
    min_p: Any,
    config: TransformerConfig,
    mixer: Mixer | None,
) -> tuple[Any, Array, Array]:
    sampling = Sampling(temperature, top_k, top_p, min_p)
    token = choose(logits, jax.random.fold_in(key, index), sampling)
    state, logits = transformer.step(prepared, state, token, config, mixer=mixer)
    return state, logits, token


def _begin(
    params: Any,
    prompts: Array,
    lengths: Array,
    config: TransformerConfig,
    mixer: Mixer | None,
    new_tokens: int,
    chunk: int | None,
) -> tuple[Any, Array]:
    """The state behind prompts, with room for new tokens, and the logits of the next one."""
    batch, time = prompts.shape
    slots = max(time + new_tokens, 0 if chunk is None else -(-time // chunk) * chunk)
    dtype = params["embedding"].dtype
    state = transformer.init_state(config, batch, slots, dtype, mixer=mixer)
    if chunk is not None:
        return _by_chunks(params, prompts, lengths, state, config, mixer, chunk)
    return transformer.prefill(params, prompts, state, config, lengths, mixer=mixer, last=True)


_compiled_begin = jax.jit(_begin, static_argnames=("config", "mixer", "new_tokens", "chunk"))
_compiled_prepare = jax.jit(transformer.prepare, static_argnames=("config", "mixer"))


@functools.partial(jax.jit, static_argnames=("config", "mixer"))
def _score(
    params: Any,
    tokens: Array,
    lengths: Array,
    config: TransformerConfig,
    mixer: Mixer | None,
) -> Array:
    logits = transformer.apply(params, tokens, config, mixer=mixer)[:, :-1]
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    each = jnp.take_along_axis(jax.nn.log_softmax(wide), tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.where(jnp.arange(1, tokens.shape[1]) < lengths[:, None], each, 0.0)


def _by_chunks(
    params: Any,
    prompts: Array,
    lengths: Array,
    state: Any,
    config: TransformerConfig,
    mixer: Mixer | None,
    chunk: int,
) -> tuple[Any, Array]:
    """Read prompts in pieces of `chunk` tokens: the state, the logits of the last live tokens."""
    batch, time = prompts.shape
    pieces = jnp.pad(prompts, ((0, 0), (0, -time % chunk))).reshape(batch, -1, chunk)

    def body(carry: tuple[Any, Array], piece: tuple[Array, Array]) -> tuple[Any, None]:
        (state, logits), (tokens, start) = carry, piece
        live = jnp.clip(lengths - start, 0, chunk)
        rule = {"mixer": mixer, "last": True}
        state, new = transformer.extend(params, tokens, state, config, live, **rule)
        return (state, jnp.where(live[:, None] > 0, new, logits)), None

    starts = chunk * jnp.arange(pieces.shape[1])
    embedding = params["embedding"]
    logits = jnp.zeros((batch, config.vocab_size), embedding.dtype)
    carry, _ = jax.lax.scan(body, (state, logits), (pieces.swapaxes(0, 1), starts))
    return carry
