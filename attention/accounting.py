"""What a decoder costs: bytes of its cache, numbers of parameters, operations.

Notation as in `transformer`. Bytes and parameters come from the shapes of the real arrays, never
from formulas beside them; the formulas are in the tests. Operations are those of matrix products,
two for a multiplication and its addition, and are compared with the traced program there.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from attention import grouped_latent, latent, tied, transformer
from attention.transformer import TransformerConfig


def cache_bytes(
    config: TransformerConfig, batch: int, length: int, dtype: Any = jnp.float32
) -> int:
    """Bytes that the cache of all layers takes, without the lengths of the examples.

    Args:
        batch: B, number of examples.
        length: slots (tokens) of each example; with a sliding window at most its size is allocated.
        dtype: of the cache; float32 by default.

    Source: DeepSeek-V2 (arXiv 2405.04434), table 1, in bytes.
    """
    make = functools.partial(transformer.init_state, config, batch, length, dtype)
    states = jax.eval_shape(make)
    leaves = [leaf for state in states for leaf in jax.tree.leaves(state._replace(length=None))]
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def parameters(config: TransformerConfig) -> dict[str, int]:
    """Parameter counts: "attention", "feed_forward" (and norms of layers), "rest" (outside)."""
    make = functools.partial(transformer.init, config=config)
    shapes = jax.eval_shape(make, jax.random.key(0))

    def count(tree: Any) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    attention = sum(count(shapes[name]["mixer"]) for name in config.stacks)
    layers = sum(count(shapes[name]) for name in config.stacks)
    total = count(shapes)
    return {"attention": attention, "feed_forward": layers - attention, "rest": total - layers}


def operations(
    config: TransformerConfig, tokens: int = 1, context: int = 0, form: str | None = None
) -> dict[str, int]:
    """Operations (FLOPs) of matrix products for new tokens of one example, by purpose.

    Args:
        tokens: processed at once; 1 is a step of decoding.
        context: tokens in the cache before them.
        form: of MLA, "materialised" or "absorbed"; by default absorbed for single tokens, which
            are steps of decoding, materialised without a context, else by `LatentConfig.choose`.

    Returns:
        Counts for projections, attention (scores and value sums, for pairs that attend), expansion
        (of latents to keys and values; of absorbed queries and sums), feed_forward, unembedding.

    Raises:
        ValueError: tokens < 1, context < 0, an unknown form.

    Source: derived from https://kexue.fm/archives/10091, equations 1 to 3, 10 and 12.
    """
    if tokens < 1 or context < 0:
        raise ValueError(f"tokens, context: expected >= 1 and >= 0, got {tokens} and {context}")
    if form not in (None, *latent.FORMS):
        raise ValueError(f"form: expected one of {latent.FORMS} or None, got {form!r}")
    mixer, d, layers = config.mixer, config.d_model, config.n_layers
    seen = [min(context + t + 1, mixer.window or context + tokens) for t in range(tokens)]
    pairs = sum(seen)
    if isinstance(mixer, latent.LatentConfig):
        parts = _latent(mixer, tokens, context, pairs, form)
    elif isinstance(mixer, grouped_latent.GroupedLatentConfig):
        parts = _grouped_latent(mixer, tokens, context, pairs)
    elif isinstance(mixer, tied.TiedConfig):
        key, value = mixer.nope_dim + mixer.rope_dim, mixer.value_dim
        columns = mixer.n_heads * (key + value) + mixer.cache_elements
        parts = {
            "projections": 2 * tokens * d * columns,
            "attention": 2 * pairs * mixer.n_heads * (key + value),
            "expansion": 0,
        }
    else:
        wide, narrow = mixer.n_heads * mixer.width, mixer.kv_heads * mixer.width
        query = d * wide if mixer.query_dim is None else mixer.query_dim * (d + wide)
        parts = {
            "projections": 2 * tokens * (query + d * (wide + 2 * narrow)),
            "attention": 4 * pairs * wide,
            "expansion": 0,
        }
    whole = {name: layers * value for name, value in parts.items()}
    whole["feed_forward"] = 2 * tokens * d * _feed_forward(config)
    return whole | {"unembedding": 2 * tokens * d * config.vocab_size}


def _feed_forward(config: TransformerConfig) -> int:
    """Columns that a token is multiplied with in all layers; experts count if they are chosen."""
    dense, expert = (config.stacks.get(name, 0) for name in ("layers", "expert_layers"))
    total, one = 3 * config.hidden * dense, config.experts
    if one is not None:
        total += expert * (one.n_experts + 3 * (one.chosen * one.d_ff + (one.shared_d_ff or 0)))
    return total


def _grouped_latent(
    c: grouped_latent.GroupedLatentConfig, tokens: int, context: int, pairs: int
) -> dict[str, int]:
    """Single tokens are absorbed; of chunks the whole cache is expanded."""
    query = c.n_heads * (c.nope_dim + c.rope_dim)
    columns = query + c.cache_elements + c.n_heads * c.value_dim
    up = 2 * c.n_heads * c.latent_dim * (c.nope_dim + c.value_dim)
    single = tokens == 1
    one = 2 * c.latent_dim + c.rope_dim if single else c.nope_dim + c.rope_dim + c.value_dim
    return {
        "projections": 2 * tokens * c.d_model * columns,
        "attention": 2 * pairs * c.n_heads * one,
        "expansion": up * (1 if single else tokens + min(context, c.window or context)),
    }


def _latent(
    c: latent.LatentConfig, tokens: int, context: int, pairs: int, form: str | None
) -> dict[str, int]:
    if form is None:
        whole = c.form or ("materialised" if context == 0 else c.choose(tokens))
        form = "absorbed" if tokens == 1 else whole
    query = c.n_heads * (c.nope_dim + c.rope_dim)
    query = c.d_model * query if c.query_dim is None else c.query_dim * (c.d_model + query)
    rest = c.d_model * (c.cache_elements + c.n_heads * c.value_dim)
    up = 2 * c.n_heads * c.latent_dim * (c.nope_dim + c.value_dim)
    one = c.nope_dim + c.rope_dim + c.value_dim
    if form == "absorbed":
        one = 2 * c.latent_dim + c.rope_dim
    expanded = tokens
    if form == "materialised":
        expanded += min(context, c.window or context)
    return {
        "projections": 2 * tokens * (query + rest),
        "attention": 2 * pairs * c.n_heads * one,
        "expansion": up * expanded,
    }
