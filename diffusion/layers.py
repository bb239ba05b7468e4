"""Small denoisers, Linen shells: a residual MLP and a convolutional one without global normalisers.

Both are networks (z [B, ...], logsnr [B], condition) -> a prediction of the shape of z, zero at
initialisation. Conditions are class indices [B]; the index `classes` means unconditional.

    network = MLP(width=128, classes=10)
    params = network.init(key, z, logsnr, labels)
    denoiser = functools.partial(network.apply, params)
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

RATES = (0.05, 4.0)  # of the waves that log-SNR is told in, radians a nat


def waves(logsnr: Any, count: int = 16) -> Array:
    """Sines and cosines of log-SNR, [B, 2 count], in float32 at least."""
    logsnr = jnp.asarray(logsnr)
    logsnr = logsnr.astype(jnp.promote_types(logsnr.dtype, jnp.float32))
    angles = logsnr[:, None] * jnp.geomspace(*RATES, count, dtype=logsnr.dtype)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def octaves(z: Array, exponents: tuple[int, ...]) -> Array:
    """Fourier features for fine levels: z, then sin and cos of 2^n pi z for each n, last axis.

    Source: Kingma et al. (arXiv 2107.00630), equation 34.
    """
    angles = [(2.0**n * jnp.pi) * z for n in exponents]
    return jnp.concatenate([z, *(f(a) for a in angles for f in (jnp.sin, jnp.cos))], axis=-1)


class Context(nn.Module):
    """A vector for log-SNR and class.

    Attributes:
        width: of the vector.
        classes: number of classes, or None; the class of this number stands for none.
    """

    width: int
    classes: int | None = None

    @nn.compact
    def __call__(self, batch: int, logsnr: Any, condition: Any, dtype: Any) -> Array:
        """[B, width] of log-SNR and classes [B], or of a number for all."""
        if not isinstance(self.width, int) or self.width < 1:
            raise ValueError(f"width: expected a whole number of at least 1, got {self.width}")
        logsnr = _of_each("logsnr", logsnr, batch)
        h = nn.Dense(self.width)(nn.silu(nn.Dense(self.width)(waves(logsnr))))
        if self.classes is None and condition is not None:
            raise ValueError("condition: expected none of a network without classes")
        if self.classes is not None:
            condition = _of_each(
                "condition", self.classes if condition is None else condition, batch
            )
            known = jnp.where(condition < 0, self.classes + 1, condition)  # not from the end
            h = h + nn.Embed(self.classes + 1, self.width)(known)
        return nn.silu(h).astype(dtype)


def _of_each(name: str, values: Any, batch: int) -> Array:
    if jnp.shape(values) not in ((), (batch,)):
        raise ValueError(f"{name}: expected shape [{batch}], got {list(jnp.shape(values))}")
    return jnp.broadcast_to(values, (batch,))


class MLP(nn.Module):
    """A residual MLP whose blocks are scaled and shifted by an embedding of log-SNR and class.

    Attributes:
        width, depth: width and number of the blocks.
        classes: number of classes, or None; the index `classes` itself means unconditional.
        fourier: exponents of the Fourier features of z (see `octaves`), further inputs.
    """

    width: int = 128
    depth: int = 3
    classes: int | None = None
    fourier: tuple[int, ...] = ()

    @property
    def size_bound(self) -> tuple[str, ...]:
        """Why it does not work on other sizes."""
        return ("its first layer has a weight for every place",)

    @nn.compact
    def __call__(self, z: Array, logsnr: Any, condition: Any = None) -> Array:
        """The prediction, of the shape of z."""
        context = Context(self.width, self.classes)(len(z), logsnr, condition, z.dtype)
        h = nn.Dense(self.width)(octaves(z, self.fourier).reshape(len(z), -1))
        for _ in range(self.depth):
            scale, shift = jnp.split(nn.Dense(2 * self.width)(context), 2, axis=-1)
            inside = nn.LayerNorm()(h) * (1 + scale) + shift
            inside = nn.Dense(2 * self.width)(nn.silu(inside))
            h = h + nn.Dense(self.width)(nn.silu(inside))
        out = nn.Dense(z[0].size, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(h))
        return out.reshape(z.shape)


class Conv(nn.Module):
    """Residual 3x3 convolutions; norms look at the channels of one place only, so that the same
    weights serve images of every size.

    Attributes:
        channels: of every layer.
        dilations: of each block.
        classes: number of classes, or None; the class of this number stands for none.
        fourier: exponents of `octaves` of z that are read as well.
    """

    channels: int = 32
    dilations: tuple[int, ...] = (1, 2, 1)
    classes: int | None = None
    fourier: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, z: Array, logsnr: Any, condition: Any = None) -> Array:
        """The prediction [B, H, W, C]."""
        width = 4 * self.channels
        context = Context(width, self.classes)(len(z), logsnr, condition, z.dtype)
        h = nn.Conv(self.channels, (3, 3))(octaves(z, self.fourier))
        for dilation in self.dilations:
            scale, shift = jnp.split(nn.Dense(2 * self.channels)(context), 2, axis=-1)
            inside = nn.LayerNorm()(h) * (1 + scale[:, None, None]) + shift[:, None, None]
            inside = nn.Conv(self.channels, (3, 3), kernel_dilation=dilation)(nn.silu(inside))
            h = h + nn.Conv(self.channels, (1, 1))(nn.silu(inside))
        zero = nn.initializers.zeros
        return nn.Conv(z.shape[-1], (3, 3), kernel_init=zero)(nn.silu(nn.LayerNorm()(h)))
