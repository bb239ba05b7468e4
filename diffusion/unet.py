"""A U-Net for denoising, most of whose work is done at its lowest resolution.

A network (z [B, H, W, C], logsnr [B], condition) -> a prediction of the shape of z, zero at
initialisation. Each level halves the size; blocks of a level are alike and run in one scan, so that
depth costs no compile time. An embedding of log-SNR and class scales and shifts every block.

Source: Hoogeboom et al. (arXiv 2301.11093), sections 3.3, 3.4 and appendix; Ho et al. (2006.11239).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from diffusion import wavelet
from diffusion.convolution import convolve
from diffusion.layers import Context

STEMS = ("none", "conv", "dwt")


class Block(nn.Module):
    """Residual block: (norm, swish, 3x3 convolution) twice, the second norm modulated by context.

    Attributes:
        channels: of the output; other input channels are projected to it.
        dropout: rate before the second convolution.
        heads: of self-attention over all pixels after the block; 0 for none.
        dtype: of the computation.
    """

    channels: int
    dropout: float = 0.0
    heads: int = 0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, context: Array, train: bool) -> Array:
        """[B, H, W, channels], from that or from more channels."""
        h = checkpoint_name(_conv(self.channels, self.dtype)(nn.swish(Norm(self.dtype)(x))), "kept")
        scale, shift = jnp.split(nn.Dense(2 * self.channels, dtype=self.dtype)(context), 2, axis=-1)
        h = nn.swish(Norm(self.dtype)(h, 1.0 + scale, shift))
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        h = _conv(self.channels, self.dtype, kernel_init=nn.initializers.zeros)(h)
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype)(x)
        x = checkpoint_name(x + h, "kept")
        return x + Attention(self.heads, self.dtype)(x) if self.heads else x


class Attention(nn.Module):
    """Self-attention over all pixels, whose output is zero at initialisation.

    Attributes:
        heads: number of heads, a divisor of the channels.
        dtype: of the computation.

    Source: scaled dot-product attention, Vaswani et al. (arXiv 1706.03762).
    """

    heads: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, channels]."""
        batch, channels = x.shape[0], x.shape[-1]
        if channels % self.heads:
            raise ValueError(f"heads: expected a divisor of {channels} channels, got {self.heads}")
        tokens = Norm(self.dtype)(x).reshape(-1, channels)
        qkv = nn.Dense(3 * channels, dtype=self.dtype)(tokens)
        q, k, v = jnp.split(qkv.reshape(batch, -1, 3 * self.heads, channels // self.heads), 3, 2)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
        weights = nn.softmax(scores * q.shape[-1] ** -0.5).astype(v.dtype)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(-1, channels)
        zero = nn.initializers.zeros
        return nn.Dense(channels, kernel_init=zero, dtype=self.dtype)(y).reshape(x.shape)


class Norm(nn.Module):
    """Group normalisation over places and some channels, then a scale and a shift of each channel.

    Moments are of channels first, then of groups, so that what is done to x is one product and one
    sum; a scale and shift [B, channels] of the caller go into the same two.

    Attributes:
        dtype: of the output; moments are float32 at least.

    Source: group normalisation, Wu & He (arXiv 1803.08494).
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        """[B, H, W, channels], from that."""
        channels = x.shape[-1]
        groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % (4 * g) == 0 or g == 1)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        first, second = jnp.mean(wide, (1, 2)), jnp.mean(jnp.square(wide), (1, 2))
        mean, power = (
            jnp.mean(moment.reshape(-1, groups, channels // groups), -1)
            for moment in (first, second)
        )
        factor = jax.lax.rsqrt(jnp.maximum(power - jnp.square(mean), 0.0) + 1e-6)
        mean, factor = (jnp.repeat(a, channels // groups, axis=-1) for a in (mean, factor))
        factor = factor * self.param("scale", nn.initializers.ones, (channels,))
        offset = self.param("bias", nn.initializers.zeros, (channels,)) - mean * factor
        if scale is not None:
            factor, offset = factor * scale, offset * scale
        if shift is not None:
            offset = offset + shift
        y = wide * factor[:, None, None] + offset[:, None, None]
        return y.astype(self.dtype or x.dtype)


def _conv(channels: int, dtype: Any, **options: Any) -> nn.Module:
    """3x3, quick in loops too."""
    return nn.Conv(channels, (3, 3), dtype=dtype, conv_general_dilated=convolve, **options)


class Body(nn.Module):
    """A block as the body of a scan: down, keeping what it made; up, reading what was kept."""

    make: Callable[[], nn.Module]
    train: bool

    @nn.compact
    def __call__(self, x: Array, skip: Any, context: Array) -> tuple[Array, Array]:
        """The new x, twice."""
        inside = x if skip is None else jnp.concatenate([x, skip], axis=-1)
        x = self.make()(inside, context, self.train)
        return x, x


def repeat(
    make: Callable[[], nn.Module], count: int, train: bool, remat: bool, name: str
) -> Callable[..., tuple[Array, Array]]:
    """Equal blocks in one scan: (x, skips [count, ...] or None, context) -> (x, all outputs).

    The backward pass keeps the convolutions and computes norms and attention again; with `remat` it
    keeps what enters a block alone.
    """
    policy = None if remat else jax.checkpoint_policies.save_only_these_names("kept")
    body = nn.remat(Body, prevent_cse=False, policy=policy)
    scanned = nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast),  # pyright: ignore[reportArgumentType]
        length=count,
    )
    return scanned(make, train, name=name)


class UNet(nn.Module):
    """A U-Net of residual blocks with one skip connection per block.

    Attributes:
        channels: base width, multiplied by `multipliers` at each level.
        multipliers: one per level.
        blocks: number of blocks per level, on the way down and again up; the last is the bottom.
        heads: of attention at each level; 0 for none.
        classes: number of classes, or None; the index `classes` itself means unconditional.
        context: width of the embedding of log-SNR and class; None: 4 `channels`.
        dropout, dropout_size: rate, at levels whose height is at most `dropout_size` pixels.
        stem, patch: "none"; or patches of `patch` a side by "conv" or "dwt", undone at the output.
        dtype: of the computation; parameters and the output are float32.
        remat: compute activations again in the backward pass.

    Source: Hoogeboom et al. (arXiv 2301.11093), sections 3.3 (depth, stems) and 3.4 (dropout); the
    section on architecture of https://kexue.fm/archives/10047.
    """

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: tuple[int, ...] = (1, 2)
    heads: tuple[int, ...] = (0, 1)
    classes: int | None = None
    context: int | None = None
    dropout: float = 0.0
    dropout_size: int = 16
    stem: str = "none"
    patch: int = 1
    dtype: Any = None
    remat: bool = False

    @property
    def size_bound(self) -> tuple[str, ...]:
        """Why the network works differently on images of another size than it was trained on."""
        attends = ("attention looks at as many places as there are",) if any(self.heads) else ()
        return ("group norms take moments over all places", *attends)

    def checked(self, shape: tuple[int, ...]) -> None:
        """Refuse sizes that do not fit.

        Raises:
            ValueError: naming what does not fit.
        """
        if not len(self.multipliers) == len(self.blocks) == len(self.heads) > 0:
            raise ValueError(
                "multipliers, blocks, heads: expected one for each level, got "
                f"{self.multipliers}, {self.blocks}, {self.heads}"
            )
        if self.channels < 1:
            raise ValueError(f"channels: expected at least 1, got {self.channels}")
        if self.stem not in STEMS:
            raise ValueError(f"stem: expected one of {STEMS}, got {self.stem!r}")
        if (
            self.patch < 1
            or self.patch & (self.patch - 1)
            or (self.stem == "none") != (self.patch == 1)
        ):
            raise ValueError(
                "patch: expected 1 without a stem, a power of 2 above it with one, got "
                f"{self.patch} with stem {self.stem!r}"
            )
        least = self.patch * 2 ** (len(self.blocks) - 1)
        if len(shape) != 4 or shape[1] % least or shape[2] % least:
            raise ValueError(f"z: expected [B, H, W, C] with sides of {least} n, got {shape}")

    def block(self, level: int, size: int) -> Callable[[], nn.Module]:
        """What makes a block of a level."""
        rate = self.dropout if size <= self.dropout_size else 0.0
        width, heads = self.channels * self.multipliers[level], self.heads[level]
        return lambda: Block(width, rate, heads, self.dtype)

    def bottom(self, x: Array, context: Array, train: bool) -> Array:
        """The last level."""
        level = len(self.blocks) - 1
        make = self.block(level, x.shape[1])
        return repeat(make, self.blocks[level], train, self.remat, "bottom")(x, None, context)[0]

    @nn.compact
    def __call__(self, z: Array, logsnr: Any, condition: Any = None, train: bool = False) -> Array:
        """The prediction, float32; `train` turns dropout on."""
        self.checked(z.shape)
        dtype = self.dtype or z.dtype
        context = Context(self.context or 4 * self.channels, self.classes)(
            len(z), logsnr, condition, jnp.float32
        )
        x, skips = self.read(z.astype(dtype)), []
        last = len(self.blocks) - 1
        for level in range(last):
            make = self.block(level, x.shape[1])
            down = repeat(make, self.blocks[level], train, self.remat, f"down_{level}")
            x, kept = down(x, None, context)
            skips.append(kept)
            width = self.channels * self.multipliers[level + 1]
            x = nn.Conv(width, (3, 3), (2, 2), dtype=self.dtype, name=f"smaller_{level}")(x)
        x = self.bottom(x, context, train)
        for level in reversed(range(last)):
            width = self.channels * self.multipliers[level]
            x = x.repeat(2, axis=1).repeat(2, axis=2)
            x = _conv(width, self.dtype, name=f"larger_{level}")(x)
            make = self.block(level, x.shape[1])
            up = repeat(make, self.blocks[level], train, self.remat, f"up_{level}")
            x, _ = up(x, skips.pop()[::-1], context)
        return self.write(x, z.shape[-1])

    def read(self, z: Array) -> Array:
        """The image at the size of the first level."""
        if self.stem == "conv":
            step = (self.patch, self.patch)
            return nn.Conv(self.channels, step, step, dtype=self.dtype, name="read")(z)
        if self.stem == "dwt":
            z = wavelet.forward(z, self.patch.bit_length() - 1)
        return _conv(self.channels, self.dtype, name="read")(z)

    def write(self, x: Array, channels: int) -> Array:
        """The prediction at full size."""
        x = nn.swish(Norm(self.dtype)(x)).astype(jnp.float32)
        zero, area = nn.initializers.zeros, self.patch**2
        x = _conv(channels * area, None, kernel_init=zero, name="write")(x)
        if self.stem == "dwt":
            return wavelet.inverse(x, self.patch.bit_length() - 1)
        batch, height, width, _ = x.shape
        x = x.reshape(batch, height, width, self.patch, self.patch, channels)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(
            batch, height * self.patch, width * self.patch, channels
        )
