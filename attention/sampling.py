"""The next token: the most likely one, or a sample of the likely ones."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attention import checks


class Sampling(NamedTuple):
    """How to choose the next token; all numbers but top_k may be traced.

    Attributes:
        temperature: 0 takes the most likely token; otherwise logits are divided by it, first.
        top_k: keep the k most likely tokens; None for all.
        top_p: of those keep the fewest with at least this probability in total (nucleus).
        min_p: keep tokens with at least this fraction of the most likely one's probability.
    """

    temperature: Array | float | int = 0.0
    top_k: int | None = None
    top_p: Array | float | int | None = None
    min_p: Array | float | int | None = None

    def check(self, vocabulary: int, key: Array | None) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: naming the argument.
        """
        if self.top_k is not None:
            checks.whole("top_k", self.top_k)
        if not self.temperature >= 0:
            raise ValueError(f"temperature: expected 0 or more, got {self.temperature}")
        if self.temperature == 0 and (self.top_k, self.top_p, self.min_p) != (None, None, None):
            warnings.warn("top_k, top_p, min_p: no effect at temperature 0", stacklevel=3)
        if self.temperature > 0 and key is None:
            raise ValueError("key: expected a random key for a temperature above 0, got None")
        if key is not None and not isinstance(key, jax.Array | np.ndarray):
            raise ValueError(f"key: expected a random key such as jax.random.key(0), got {key!r}")
        if self.top_k is not None and self.top_k > vocabulary:
            raise ValueError(f"top_k: expected 1..{vocabulary}, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: expected a share in (0, 1], got {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p: expected a share in [0, 1], got {self.min_p}")


def choose(logits: Float[Array, "B V"], key: Array, sampling: Sampling) -> Array:
    """The next token of each example, int32 [B], -1 where logits are NaN.

    Half precision is widened first.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    greedy = jnp.argmax(logits, axis=-1)
    tempered = logits / jnp.maximum(sampling.temperature, 1e-6)
    kept = jnp.where(keep(tempered, sampling), tempered, -jnp.inf)
    sampled = jax.random.categorical(key, kept)
    token = jnp.where(sampling.temperature > 0, sampled, greedy)
    return jnp.where(jnp.isnan(logits).any(axis=-1), -1, token).astype(jnp.int32)


def keep(logits: Float[Array, "B V"], sampling: Sampling) -> Bool[Array, "B V"]:
    """Mask of the tokens that may be drawn, of logits after temperature; ties favour the first.

    Source: Fan et al. (arXiv 1805.04833) for top_k; Holtzman et al. (arXiv 1904.09751) for top_p;
    Nguyen et al. (arXiv 2407.01082) for min_p.
    """
    if sampling.top_k is None and sampling.top_p is None and sampling.min_p is None:
        return jnp.ones(logits.shape, bool)
    falling, order = jax.lax.top_k(logits, sampling.top_k or logits.shape[-1])
    share = jax.nn.softmax(falling)
    good = jnp.ones(falling.shape, bool)
    if sampling.top_p is not None:
        before = jnp.cumsum(share, axis=-1) - share  # rounded up to 1 far out
        good &= (before < sampling.top_p) | (jnp.asarray(sampling.top_p) >= 1)
    if sampling.min_p is not None:
        good &= share >= sampling.min_p * share[:, :1]
    rows = jnp.arange(len(logits))[:, None]
    return jnp.zeros(logits.shape, bool).at[rows, order].set(good.at[:, 0].set(True))
