"""Band-limited noise, and the same some steps later: the task of arXiv 2405.06147, section 4.3."""

import jax
import jax.numpy as jnp


def signals(key: jax.Array, count: int, length: int, band: float) -> jax.Array:
    """Noise [count, length] of root mean square 1/2, less its first value, as in the source.

    Args:
        band: highest frequency, as a fraction of the Nyquist frequency.
    """
    bins = length // 2 + 1
    used = (jnp.arange(bins) > 0) & (jnp.arange(bins) <= band * length / 2)
    parts = jax.random.normal(key, (2, count, bins)) * used
    size = jnp.sqrt(length**2 / (4.0 * jnp.sum(used)))
    x = jnp.fft.irfft(0.5 * size * jax.lax.complex(parts[0], parts[1]), length)
    return x - x[:, :1]


def delayed(x: jax.Array, lag: int) -> jax.Array:
    """The signals [count, length] `lag` steps later, zeros before."""
    return jnp.pad(x, [(0, 0), (lag, 0)])[:, : x.shape[1]]
