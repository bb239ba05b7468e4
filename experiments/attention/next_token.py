"""Predicting the next token of a text with a decoder: loss and the problem to train."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import attention
from attention import transformer
from experiments.attention import held_out
from experiments.harness import datasets, sharding
from experiments.harness.training import Problem, TrainingConfig
from experiments.harness.weights import Network


def make_problem(
    decoder: attention.TransformerConfig,
    context: int,
    settings: TrainingConfig,
    windows: int,
    text: datasets.Text,
    mixer: attention.Mixer | None = None,
    dtype: str | None = None,
    dropout: float = 0.0,
) -> Problem:
    """The language model as pure functions for the training loop.

    Args:
        windows: parts of the held-out text, evenly spaced.
        mixer: attention, where it is not that of `decoder.mixer`.
        dtype: of activations; weights, losses and the optimiser stay in float32.
        dropout: in training.

    Raises:
        DataError: the held-out text is shorter than one context.
    """
    size = context + 1
    if len(text.validation) < size:
        raise datasets.DataError(
            f"data: expected at least {size} validation {text.unit}, one more than the context, "
            f"got {len(text.validation)}"
        )
    at_once = settings.batch_size // settings.accumulate
    parts = held_out.windows(text, size, windows)
    bits = window_bits(decoder, mixer, dtype)
    per_byte = functools.partial(_scaled, bits=bits, factor=1 / text.bytes_per_token)

    def batch(step: int) -> np.ndarray:
        crops = datasets.crops(text.train, settings.batch_size, size, settings.seed, step)
        return crops.astype(np.int32)

    return Problem(
        init=functools.partial(transformer.init, config=decoder, mixer=mixer),
        loss=functools.partial(loss, config=decoder, mixer=mixer, dtype=dtype, dropout=dropout),
        batch=batch,
        evaluate=functools.partial(held_out.evaluate, windows=parts, size=at_once, bits=per_byte),
        partition=functools.partial(partition, decoder, mixer),
    )


def network(decoder: attention.TransformerConfig, mixer: attention.Mixer | None = None) -> Network:
    """A decoder: `apply` takes (params, tokens [B, T]) and gives logits [B, T, V]."""
    both = {"config": decoder, "mixer": mixer}
    init, apply = (functools.partial(f, **both) for f in (transformer.init, transformer.apply))
    return Network(init, apply, decoder)


def partition(
    decoder: attention.TransformerConfig, mixer: attention.Mixer | None, size: int
) -> sharding.Rules:
    """How a decoder is divided among devices; another mixer than its own stays whole."""
    if mixer is None:
        return attention.partition.rules(decoder, size)
    return attention.partition.AROUND


def token_bits(
    params: Any,
    tokens: jax.Array,
    config: attention.TransformerConfig,
    mixer: attention.Mixer | None = None,
    dtype: str | None = None,
    **training: Any,
) -> jax.Array:
    """Bits to code each token from those before it, [B, T] of tokens [B, T+1]."""
    wide = None if dtype is None else jnp.float32
    logits = transformer.apply(
        params, tokens[:, :-1], config, mixer=mixer, dtype=dtype, logits_dtype=wide, **training
    )
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return nats / math.log(2)


def loss(
    params: Any,
    tokens: jax.Array,
    key: jax.Array,
    config: attention.TransformerConfig,
    mixer: attention.Mixer | None = None,
    dtype: str | None = None,
    dropout: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean bits a token of a batch."""
    noise = {"dropout": dropout, "key": key} if dropout else {}
    return token_bits(params, tokens, config, mixer, dtype, **noise).mean(), {}


@functools.lru_cache(maxsize=4)
def window_bits(
    config: attention.TransformerConfig,
    mixer: attention.Mixer | None = None,
    dtype: str | None = None,
) -> Callable[[Any, np.ndarray], jax.Array]:
    """A compiled function: mean bits a token of every window."""
    return jax.jit(lambda params, tokens: token_bits(params, tokens, config, mixer, dtype).mean(1))


def _scaled(params: Any, tokens: np.ndarray, bits: Callable[..., Any], factor: float) -> Any:
    return bits(params, tokens) * factor
