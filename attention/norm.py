"""RMSNorm.

Source: Zhang & Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rms_norm(x: Float[Array, "... d"], gain: Float[Array, "d"], eps: float) -> Array:
    """RMSNorm, x / rms(x) * gain; the mean square is taken in float32 at least.

    Source: Zhang & Sennrich (arXiv 1910.07467).
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    inverse = jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + eps)
    return (wide * inverse).astype(x.dtype) * gain.astype(x.dtype)
