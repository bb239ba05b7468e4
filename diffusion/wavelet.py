"""The 5/3 wavelet transform: a quarter of the pixels, four times the channels, and back.

Notation
    x     [B, H, W, C], H and W even
    s, d  low and high band along an axis, with mirrored ends:
          d_n = x_{2n+1} - (x_{2n} + x_{2n+2}) / 2,    s_n = x_{2n} + (d_{n-1} + d_n) / 4,
          then s is multiplied and d divided by sqrt(2): of white noise the bands have variances,
          away from the edges, of 0.56 to 2.07 after one level, 0.19 to 3.02 after two

Source: Le Gall & Tabatabai (1988), by the lifting steps of Sweldens (1998); as a stem of a
denoiser, Hoogeboom et al. (arXiv 2301.11093).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.schedule import whole

ROOT = 2.0**0.5


def _split(x: Array, axis: int) -> tuple[Array, Array]:
    even, odd = (_part(x, axis, first, None, 2) for first in (0, 1))
    after = jnp.concatenate([_part(even, axis, 1, None), _part(even, axis, -1, None)], axis=axis)
    high = odd - 0.5 * (even + after)
    before = jnp.concatenate([_part(high, axis, 0, 1), _part(high, axis, 0, -1)], axis=axis)
    return ROOT * (even + 0.25 * (before + high)), high / ROOT


def _join(low: Array, high: Array, axis: int) -> Array:
    low, high = low / ROOT, high * ROOT
    before = jnp.concatenate([_part(high, axis, 0, 1), _part(high, axis, 0, -1)], axis=axis)
    even = low - 0.25 * (before + high)
    after = jnp.concatenate([_part(even, axis, 1, None), _part(even, axis, -1, None)], axis=axis)
    both = jnp.stack([even, high + 0.5 * (even + after)], axis=axis + 1)
    return both.reshape(*low.shape[:axis], 2 * low.shape[axis], *low.shape[axis + 1 :])


def _part(x: Array, axis: int, start: int, stop: int | None, step: int = 1) -> Array:
    index = [slice(None)] * x.ndim
    index[axis] = slice(start, stop, step)
    return x[tuple(index)]


def forward(x: Float[Array, "B H W C"], levels: int = 1) -> Float[Array, "B h w c"]:
    """The four bands of each channel side by side, `levels` times over: [B, H/2^l, W/2^l, 4^l C].

    Raises:
        ValueError: a size that cannot be halved so often.

    Source: Le Gall & Tabatabai (1988), by the lifting steps of Sweldens (1998), scaled.
    """
    whole("levels", levels)
    if x.shape[1] % 2**levels or x.shape[2] % 2**levels:
        raise ValueError(f"x: expected sizes that are multiples of {2**levels}, got {x.shape[1:3]}")
    for _ in range(levels):
        bands = [part for row in _split(x, 1) for part in _split(row, 2)]
        x = jnp.concatenate(bands, axis=-1)
    return x


def inverse(y: Float[Array, "B h w c"], levels: int = 1) -> Float[Array, "B H W C"]:
    """The image of `forward`, exactly but for rounding.

    Raises:
        ValueError: channels that are not a multiple of 4^levels.

    Source: Le Gall & Tabatabai (1988), by the lifting steps of Sweldens (1998) in reverse.
    """
    whole("levels", levels)
    if y.shape[-1] % 4**levels:
        raise ValueError(f"y: expected channels in multiples of {4**levels}, got {y.shape[-1]}")
    for _ in range(levels):
        bands = jnp.split(y, 4, axis=-1)
        y = _join(_join(bands[0], bands[1], 2), _join(bands[2], bands[3], 2), 1)
    return y
