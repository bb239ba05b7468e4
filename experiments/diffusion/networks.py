"""Denoisers as configurations, from a small MLP to the sizes of simple diffusion."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp

from diffusion import layers, partition, unet, uvit

U = ("unet", "uvit")


@dataclass(frozen=True)
class NetworkConfig:
    """A denoiser; the fields from `multipliers` on are for the U-Net and the U-ViT only.

    Attributes:
        kind: a residual MLP on all pixels, a convolutional network, a U-Net or a U-ViT.
        width: hidden width of the MLP; else channels of the convolutions or of the first level.
        depth: number of blocks; of a U-Net or U-ViT, those at the lowest resolution.
        classes: number of classes to condition on; None: unconditional.
        drop: fraction of training examples whose class is dropped, for classifier-free guidance.
        fourier: exponents n of extra inputs sin, cos(2^n pi z); for the MLP and convolutions only.
        multipliers: channels of each resolution level, from the highest down, over `width`.
        blocks: blocks of each level but the lowest, on the way down and again on the way up.
        attention: how many of the lowest levels have self-attention.
        head_width: channels per attention head.
        context: width of the embedding of log-SNR and class; None: 4 `width`.
        dropout, dropout_size: rate, and the largest side in pixels of levels that have dropout.
        stem, patch: strided convolution or wavelet at the input, which divides sides by `patch`.
        dtype: of the computation; weights, their averages and losses are float32.
        remat: recompute activations in the backward pass.
    """

    kind: Literal["mlp", "conv", "unet", "uvit"] = "mlp"
    width: int = 128
    depth: int = 3
    classes: int | None = None
    drop: float = 0.1
    fourier: tuple[int, ...] = ()
    multipliers: tuple[int, ...] = (1, 2)
    blocks: tuple[int, ...] = (1,)
    attention: int = 1
    head_width: int = 64
    context: int | None = None
    dropout: float = 0.0
    dropout_size: int = 16
    stem: Literal["none", "conv", "dwt"] = "none"
    patch: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False

    def __post_init__(self):
        if min(self.width, self.depth) < 1 or not 0 <= self.drop <= 1:
            raise ValueError(
                "network.width, depth, drop: expected at least 1, 1 and a share in [0, 1], got "
                f"{self.width}, {self.depth}, {self.drop}"
            )
        if self.classes is not None and self.classes < 1:
            raise ValueError(f"network.classes: expected at least 1, got {self.classes}")
        if self.kind in U:
            self._check_levels()
            return
        fields = [field.name for field in dataclasses.fields(self)]
        for name in fields[fields.index("multipliers") :]:
            if getattr(self, name) != getattr(type(self), name):
                default = getattr(type(self), name)
                raise ValueError(
                    f"network.{name}: expected kind unet or uvit, which alone have it, got "
                    f"{self.kind}; leave it at {default}"
                )

    def _check_levels(self) -> None:
        if self.fourier:
            raise ValueError(f"network.fourier: expected none for {self.kind}")
        least = 1 if self.kind == "uvit" else 0
        if min(self.multipliers, default=0) < 1 or self.attention < least:
            raise ValueError(
                f"network.multipliers, attention: expected at least 1 and {least}, got "
                f"{self.multipliers}, {self.attention}"
            )
        if self.context is not None and self.context < 1:
            raise ValueError(f"network.context: expected at least 1, got {self.context}")
        if len(self.blocks) != len(self.multipliers) - 1 or min(self.blocks, default=1) < 1:
            raise ValueError(
                "network.blocks: expected one number for each level above the bottom, "
                f"{len(self.multipliers) - 1}, got {self.blocks}"
            )
        if not 0 <= self.dropout < 1 or self.head_width < 1:
            raise ValueError(
                "network.dropout, head_width: expected in [0, 1) and at least 1, got "
                f"{self.dropout}, {self.head_width}"
            )
        for heads, multiplier in zip(self.heads, self.multipliers, strict=True):
            if heads and self.width * multiplier % heads:
                raise ValueError(
                    f"network.head_width: expected to divide {self.width * multiplier} channels "
                    f"into whole heads, got {self.head_width}"
                )

    @property
    def heads(self) -> tuple[int, ...]:
        """Of attention at each level; 0 for none."""
        above = len(self.multipliers) - self.attention
        return tuple(
            0 if level < above else max(1, self.width * multiplier // self.head_width)
            for level, multiplier in enumerate(self.multipliers)
        )

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse images [H, W, C] that the network cannot halve often enough.

        Raises:
            ValueError: naming the sizes.
        """
        if self.kind in U:
            self.network().checked((1, *shape))

    def network(self) -> Any:
        """The Linen module."""
        if self.kind == "mlp":
            return layers.MLP(self.width, self.depth, self.classes, self.fourier)
        if self.kind == "conv":
            dilations = tuple(1 + block % 2 for block in range(self.depth))
            return layers.Conv(self.width, dilations, self.classes, self.fourier)
        make = unet.UNet if self.kind == "unet" else uvit.UViT
        return make(
            self.width,
            self.multipliers,
            (*self.blocks, self.depth),
            self.heads,
            self.classes,
            self.context,
            self.dropout,
            self.dropout_size,
            self.stem,
            self.patch,
            None if self.dtype == "float32" else jnp.bfloat16,
            self.remat,
        )

    def partition(self, size: int) -> partition.Rules:
        """How its weights are divided among devices (see `diffusion.partition`).

        Raises:
            ValueError: heads of a U-ViT that cannot be divided so.
        """
        return partition.rules(self.heads[-1] if self.kind == "uvit" else 0, size)

    def training(self, key: Any) -> dict[str, Any]:
        """What `apply` is told in training: dropout on, and its key."""
        return {"train": True, "rngs": {"dropout": key}} if self.kind in U else {}


# The sizes of simple diffusion (arXiv 2301.11093), appendix, as remembered: they could not be read
# again. Known from other papers: two thousand million parameters of U-ViT L (2312.06662).
SIMPLE = {"classes": 1000, "context": 1024, "dropout": 0.1, "dtype": "bfloat16"}
UNET_128 = NetworkConfig(
    "unet",
    128,
    4,
    multipliers=(1, 2, 4, 8, 8),
    blocks=(3, 4, 4, 12),
    attention=2,
    head_width=128,
    **SIMPLE,
)
UNET_256 = dataclasses.replace(
    UNET_128, multipliers=(1, 1, 2, 4, 8, 8), blocks=(1, 2, 2, 4, 12), remat=True
)
UNET_512 = dataclasses.replace(UNET_256, stem="dwt", patch=2)
UVIT_128 = NetworkConfig(
    "uvit",
    128,
    36,
    multipliers=(1, 2, 4, 16),
    blocks=(2, 2, 2),
    head_width=128,
    remat=True,
    **SIMPLE,
)
UVIT_256 = dataclasses.replace(UVIT_128, stem="dwt", patch=2)
UVIT_512 = dataclasses.replace(UVIT_128, stem="dwt", patch=4)
