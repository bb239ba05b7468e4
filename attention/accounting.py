"""What a decoder costs: bytes of its cache, numbers of parameters.

Notation as in `transformer`. Counts come from the shapes of the real arrays, never from formulas
beside them; the formulas are in the tests.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from attention import transformer
from attention.transformer import TransformerConfig


def cache_bytes(
    config: TransformerConfig, batch: int, length: int, dtype: Any = jnp.float32
) -> int:
    """Bytes that the cache of all layers takes, without the lengths of the examples.

    Args:
        batch: B.
        length: slots of an example; a sliding window needs no more than its size.
        dtype: of the cache.
    """
    make = functools.partial(transformer.init_state, config, batch, length, dtype)
    states = jax.eval_shape(make)
    leaves = [leaf for state in states for leaf in jax.tree.leaves(state._replace(length=None))]
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def parameters(config: TransformerConfig) -> dict[str, int]:
    """Numbers of parameters of the attention of all layers, of the rest of them, and outside."""
    make = functools.partial(transformer.init, config=config)
    shapes = jax.eval_shape(make, jax.random.key(0))

    def count(tree: Any) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    attention, layers = count(shapes["layers"]["mixer"]), count(shapes["layers"])
    total = count(shapes)
    return {"attention": attention, "feed_forward": layers - attention, "rest": total - layers}
