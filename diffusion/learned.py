"""A schedule that is trained: monotone between two bounds that it keeps exactly.

Notation as in `schedule`; times and log-SNRs have any shape.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from diffusion.schedule import Schedule, check_range


@struct.dataclass
class Learned(Schedule):
    """A monotone network between two bounds, which it keeps exactly: VDM's schedule.

    g(t) = w t + sum_k b_k sigmoid(a_k t + c_k) with positive w, a_k, b_k (softplus of what is
    stored); lambda runs from logsnr_max to logsnr_min as (g(t) - g(0)) / (g(1) - g(0)) from 0 to 1.

    Attributes:
        slope_weight, inner, outer, offset: w, a, b, c before softplus.
        logsnr_min, logsnr_max: bounds, arrays that may be trained as well.

    Source: Kingma et al. (arXiv 2107.00630), appendix H and equation 59.
    """

    slope_weight: Array
    inner: Array
    outer: Array
    offset: Array
    logsnr_min: Array
    logsnr_max: Array

    def _raw(self, t: Array) -> Array:
        inner, outer = jax.nn.softplus(self.inner), jax.nn.softplus(self.outer)
        bumps = jnp.sum(outer * jax.nn.sigmoid(inner * t[..., None] + self.offset), axis=-1)
        return jax.nn.softplus(self.slope_weight) * t + bumps

    def logsnr(self, t: Array) -> Array:
        """The formula."""
        first, last = self._raw(jnp.zeros_like(t)), self._raw(jnp.ones_like(t))
        part = (self._raw(t) - first) / (last - first)
        return (1.0 - part) * self.logsnr_max + part * self.logsnr_min

    @property
    def ends(self) -> tuple[Any, Any]:
        """The bounds."""
        return self.logsnr_min, self.logsnr_max


def learned(
    key: Array, width: int = 64, logsnr_min: float = -5.0, logsnr_max: float = 13.3
) -> Learned:
    """A schedule to train, near the linear one.

    Raises:
        ValueError: width < 1, or bounds that do not increase.
    """
    check_range(logsnr_min, logsnr_max)
    if width < 1:
        raise ValueError(f"width: expected at least 1, got {width}")
    inner, offset = jax.random.normal(key, (2, width))
    return Learned(
        slope_weight=jnp.ones(()),
        inner=1.0 + inner,
        outer=jnp.full((width,), -4.0),
        offset=2.0 * offset,
        logsnr_min=jnp.asarray(logsnr_min, float),
        logsnr_max=jnp.asarray(logsnr_max, float),
    )
