"""Times of a batch of training examples: independent, spread evenly, or in antithetic pairs.

All three take a key and the batch size B and return [B] times, each of them uniform in [0, 1); the
mean of a function over a batch usually varies less with the last two.

Source: Kingma et al. (arXiv 2107.00630), appendix I.1, for the even ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.schedule import whole


def independent(key: Array, batch: int) -> Float[Array, "B"]:
    """One draw for each example."""
    return jax.random.uniform(key, (_positive(batch),))


def low_discrepancy(key: Array, batch: int) -> Float[Array, "B"]:
    """(u + i / B) modulo 1, in random order, so that no place of the batch has times of its own.

    Source: Kingma et al. (arXiv 2107.00630), appendix I.1; the permutation is this library's.
    """
    batch = _positive(batch)
    first, second = jax.random.split(key)
    even = (jax.random.uniform(first) + jnp.arange(batch) / batch) % 1.0
    return jax.random.permutation(second, even)


def antithetic(key: Array, batch: int) -> Float[Array, "B"]:
    """Pairs u, 1 - u.

    Raises:
        ValueError: an odd batch.

    Source: antithetic variates, a standard method.
    """
    if _positive(batch) % 2:
        raise ValueError(f"batch: expected an even number for pairs, got {batch}")
    u = jax.random.uniform(key, (batch // 2,))
    tiny = jnp.finfo(u.dtype).epsneg
    return jnp.concatenate([u, jnp.minimum(1.0 - u, 1.0 - tiny)])


def _positive(batch: Any) -> int:
    whole("batch", batch)
    return batch
