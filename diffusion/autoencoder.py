"""A small autoencoder of images for diffusion in its latent space, a Linen shell.

    network = Autoencoder(channels=32, multipliers=(1, 2), latent=2)
    params = network.init(key, x, key)
    x_hat, q = network.apply(params, x, seed)
    q = network.apply(params, x, method="encode")
    x = network.apply(params, q.mode(), method="decode")

Images are floating point, in [-1, 1] by convention. Norms look at the channels of one place only,
so that the same weights serve images of every size.

Source: Rombach et al. (arXiv 2112.10752), whose autoencoders have group norms and attention too.
"""

from typing import Any

import flax.linen as nn
import jax
from jax import Array

from diffusion.convolution import convolve
from diffusion.latent import Posterior, posterior
from diffusion.process import floating


class Block(nn.Module):
    """Residual block: (norm, swish, 3x3 convolution) twice.

    Attributes:
        channels: in and out.
    """

    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H, W, channels], from that."""
        h = _conv(self.channels)(nn.swish(nn.LayerNorm()(x)))
        zero = nn.initializers.zeros
        return x + _conv(self.channels, kernel_init=zero)(nn.swish(nn.LayerNorm()(h)))


def _conv(channels: int, **options: Any) -> nn.Module:
    return nn.Conv(channels, (3, 3), conv_general_dilated=convolve, **options)


class Encoder(nn.Module):
    """Levels of blocks, each half the size of the one before.

    Attributes:
        channels, multipliers, blocks: of the levels.
        out: channels of the output.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    out: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H / f, W / f, out], from images."""
        h = _conv(self.channels * self.multipliers[0])(x)
        for level, multiplier in enumerate(self.multipliers):
            width = self.channels * multiplier
            if level:
                h = nn.Conv(width, (3, 3), (2, 2))(h)
            for _ in range(self.blocks):
                h = Block(width)(h)
        return _conv(self.out)(nn.swish(nn.LayerNorm()(h)))


class Decoder(nn.Module):
    """Levels of blocks, each twice the size of the one before.

    Attributes:
        channels, multipliers, blocks: of the levels, from the last to the first.
        out: channels of images.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    out: int

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """[B, H, W, out], from latents."""
        h = _conv(self.channels * self.multipliers[-1])(z)
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for _ in range(self.blocks):
                h = Block(self.channels * multiplier)(h)
            if level:
                h = h.repeat(2, axis=1).repeat(2, axis=2)
                h = _conv(self.channels * self.multipliers[level - 1])(h)
        return _conv(self.out)(nn.swish(nn.LayerNorm()(h)))


class Autoencoder(nn.Module):
    """Images to Gaussians over latents and back.

    Attributes:
        channels: of the first level.
        multipliers: of the channels, one per level; images are downsampled by f = 2^(levels - 1).
        blocks: of each level, in both directions.
        latent: channels of latents.
        image: channels of images.

    Source: Rombach et al. (arXiv 2112.10752), without attention, norms at one place only.
    """

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 1
    latent: int = 4
    image: int = 1

    def setup(self) -> None:
        """The two halves.

        Raises:
            ValueError: sizes below 1 or no level.
        """
        if min(self.channels, self.latent, self.image, *(self.multipliers or (0,))) < 1:
            raise ValueError(
                "channels, multipliers, latent, image: expected at least 1 and one level, got "
                f"{self.channels}, {self.multipliers}, {self.latent}, {self.image}"
            )
        if self.blocks < 0:
            raise ValueError(f"blocks: expected at least 0, got {self.blocks}")
        sizes = self.channels, self.multipliers, self.blocks
        self.encoder = Encoder(*sizes, 2 * self.latent)
        self.decoder = Decoder(*sizes, self.image)

    @property
    def factor(self) -> int:
        """Pixels a side of a latent."""
        return 2 ** (len(self.multipliers) - 1)

    def encode(self, x: Array) -> Posterior:
        """The posterior [B, H / f, W / f, latent] of images [B, H, W, image].

        Raises:
            ValueError: sizes that are not multiples of f, or other channels.
        """
        f = self.factor
        floating("x", x)
        if x.ndim != 4 or x.shape[1] % f or x.shape[2] % f or x.shape[3] != self.image:
            raise ValueError(
                f"x: expected [B, H, W, {self.image}] with sides of {f} n, got {x.shape}"
            )
        return posterior(self.encoder(x))

    def decode(self, z: Any) -> Array:
        """Images [B, H, W, image] from latents [B, H / f, W / f, latent].

        Raises:
            ValueError: other channels.
        """
        if isinstance(z, Posterior):
            raise ValueError("z: expected latents, got a Posterior; take its mode() or a sample")
        if z.ndim != 4 or z.shape[3] != self.latent:
            raise ValueError(f"z: expected [B, h, w, {self.latent}], got {z.shape}")
        return self.decoder(z)

    def __call__(self, x: Array, seed: jax.Array) -> tuple[Array, Posterior]:
        """Reconstructions from sampled latents, and their posterior."""
        q = self.encode(x)
        return self.decode(q.sample(seed)), q
