"""Text generation: prefill, then one scan; a single compiled program."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attention import checks, transformer
from attention.mixer import Mixer


def generate(
    params: Any,
    config: transformer.TransformerConfig,
    prompts: Any,
    max_new_tokens: int,
    *,
    lengths: Any = None,
    mask: Any = None,
    chunk: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
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
        chunk: read prompts in pieces of so many tokens, for less memory; all at once by default.
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_k: sample among the k most likely tokens only.
        key: random key, needed when temperature > 0.
        mixer: a mixer in place of the one of `config`.

    Returns:
        int32 [B, max_new_tokens].

    Raises:
        ValueError: shapes, lengths, temperature or top_k outside their range, no key.
    """
    prompts = np.asarray(prompts)
    if prompts.ndim != 2 or 0 in prompts.shape:
        raise ValueError(f"prompts: expected a non-empty [B, T], got shape {prompts.shape}")
    if not np.issubdtype(prompts.dtype, np.integer):
        raise ValueError(f"prompts: expected integers, got {prompts.dtype}")
    if prompts.min() < 0 or prompts.max() >= config.vocab_size:
        raise ValueError(
            f"prompts: expected tokens in [0, {config.vocab_size}), "
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
    for name, value in (("max_new_tokens", max_new_tokens), ("chunk", chunk), ("top_k", top_k)):
        if value is not None or name == "max_new_tokens":
            checks.whole(name, value)
    if not temperature >= 0 or (temperature > 0 and key is None):
        raise ValueError(f"temperature: expected 0, or > 0 with a key, got {temperature}")
    if top_k is not None and top_k > config.vocab_size:
        raise ValueError(f"top_k: expected 1..{config.vocab_size}, got {top_k}")
    key = jax.random.key(0) if key is None else key
    chunk = None if chunk is None or chunk >= time else chunk
    return _generate(
        params, prompts, lengths, key, temperature, config, max_new_tokens, top_k, mixer, chunk
    )


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


def choose(
    logits: Float[Array, "B V"], key: Array, temperature: Array | float, top_k: int | None
) -> Array:
    """The next token: the most likely at temperature 0, else a sample."""
    greedy = jnp.argmax(logits, axis=-1)
    if top_k is not None:
        likeliest, places = jax.lax.top_k(logits, top_k)  # exactly k, also among ties
        rows = jnp.arange(logits.shape[0])[:, None]
        logits = jnp.full_like(logits, -jnp.inf).at[rows, places].set(likeliest)
    sampled = jax.random.categorical(key, logits / jnp.maximum(temperature, 1e-6))
    return jnp.where(temperature > 0, sampled, greedy).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("config", "new_tokens", "top_k", "mixer", "chunk"))
def _generate(
    params: Any,
    prompts: Array,
    lengths: Array,
    key: Array,
    temperature: Array,
    config: transformer.TransformerConfig,
    new_tokens: int,
    top_k: int | None,
    mixer: Mixer | None,
    chunk: int | None,
) -> Array:
    batch, time = prompts.shape
    dtype = params["embedding"].dtype
    slots = (
        time + new_tokens if chunk is None else max(time + new_tokens, -(-time // chunk) * chunk)
    )
    state = transformer.init_state(config, batch, slots, dtype, mixer=mixer)
    if chunk is None:
        rule = {"mixer": mixer, "last": True}
        state, last = transformer.prefill(params, prompts, state, config, lengths, **rule)
    else:
        state, last = _by_chunks(params, prompts, lengths, state, config, mixer, chunk)
    prepared = transformer.prepare(params, config, mixer)

    def body(carry: tuple[Any, Array], index: Array) -> tuple[tuple[Any, Array], Array]:
        state, logits = carry
        token = choose(logits, jax.random.fold_in(key, index), temperature, top_k)
        state, logits = transformer.step(prepared, state, token, config, mixer=mixer)
        return (state, logits), token

    _, tokens = jax.lax.scan(body, (state, last), jnp.arange(new_tokens))
    return tokens.T


def _by_chunks(
    params: Any,
    prompts: Array,
    lengths: Array,
    state: Any,
    config: transformer.TransformerConfig,
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
