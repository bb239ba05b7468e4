"""U-ViT: a U-Net whose bottom is a transformer, without skips inside it.

Source: Hoogeboom et al. (arXiv 2301.11093), section 3.5 (U-ViT); Peebles & Xie (2212.09748) for
scales, shifts and gates by the context.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from diffusion.unet import UNet, repeat


def product(x: Array, w: Array, dimensions: Any, **options: Any) -> Array:
    """As `jax.lax.dot_general` of tokens [B, T, ...] and weights, with both axes of tokens as one.

    On CPUs the gradient of the weights is then one product; over two axes it takes four times as
    long.
    """
    count = len(dimensions[0][0])  # the last axes of x, the first of w
    tokens = x.reshape(-1, math.prod(x.shape[-count:]))
    plain = (((1,), (0,)), ((), ()))
    y = jax.lax.dot_general(tokens, w.reshape(tokens.shape[-1], -1), plain, **options)
    return y.reshape(*x.shape[:-count], *w.shape[count:])


class Layer(nn.Module):
    """Attention and a perceptron over tokens, each scaled, shifted and gated by the context.

    Attributes:
        heads: that share the channels.
        expand: hidden width of the perceptron over the channels.
        dropout: rate within the perceptron.
        dtype: of the computation.

    Source: Peebles & Xie (arXiv 2212.09748), adaLN-Zero.
    """

    heads: int
    expand: int = 4
    dropout: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, context: Array, train: bool) -> Array:
        """Tokens [B, T, channels]."""
        channels = x.shape[-1]
        if channels % self.heads:
            raise ValueError(f"heads: expected a divisor of {channels} channels, got {self.heads}")
        zero = nn.initializers.zeros
        gates = nn.Dense(6 * channels, kernel_init=zero, dtype=self.dtype)(context)[:, None]
        scale, shift, gate, scale_2, shift_2, gate_2 = jnp.split(gates, 6, axis=-1)
        norm = {"use_bias": False, "use_scale": False, "dtype": self.dtype}
        inside = nn.LayerNorm(**norm)(x) * (1 + scale) + shift
        attend = nn.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            force_fp32_for_softmax=True,
            qkv_dot_general=product,
            out_dot_general=product,
        )
        x = x + gate * checkpoint_name(attend(inside), "kept")
        inside = nn.LayerNorm(**norm)(x) * (1 + scale_2) + shift_2
        dense = {"dtype": self.dtype, "dot_general": product}
        inside = nn.Dense(self.expand * channels, **dense)(inside)
        inside = nn.gelu(checkpoint_name(inside, "kept"))
        inside = nn.Dropout(self.dropout)(inside, deterministic=not train)
        return x + gate_2 * nn.Dense(channels, **dense)(inside)


class UViT(UNet):
    """As `UNet`, with `blocks[-1]` transformer layers of `heads[-1]` heads at the bottom.

    Attributes:
        positions: largest number of tokens at the bottom; each has a learnt position embedding.

    Source: Hoogeboom et al. (arXiv 2301.11093), section 3.5.
    """

    positions: int = 1024

    @property
    def size_bound(self) -> tuple[str, ...]:
        """Also: places of the bottom are told apart by vectors of their number."""
        return (*super().size_bound, "positions are learnt one by one")

    def checked(self, shape: tuple[int, ...]) -> None:
        """Refuse sizes that do not fit, more places than positions among them.

        Raises:
            ValueError: naming what does not fit.
        """
        super().checked(shape)
        smaller = self.patch * 2 ** (len(self.blocks) - 1)
        places = (shape[1] // smaller) * (shape[2] // smaller)
        if places > self.positions:
            raise ValueError(
                f"positions: expected at least {places}, places of the bottom, got {self.positions}"
            )

    def layer(self, size: int) -> Callable[[], nn.Module]:
        """What makes a layer of the bottom."""
        rate = self.dropout if size <= self.dropout_size else 0.0
        return lambda: Layer(self.heads[-1], 4, rate, self.dtype)

    def bottom(self, x: Array, context: Array, train: bool) -> Array:
        """The transformer over all places."""
        batch, height, width, channels = x.shape
        tokens = x.reshape(batch, -1, channels)
        normal = nn.initializers.normal(0.02)
        places = self.param("places", normal, (self.positions, channels))
        tokens = tokens + places[: height * width].astype(tokens.dtype)
        run = repeat(self.layer(height), self.blocks[-1], train, self.remat, "bottom")
        return run(tokens, None, context)[0].reshape(x.shape)
