"""Settings of diffusers' `UNet2DModel`: what is built in, and the shapes of all arrays."""

from collections.abc import Mapping
from typing import Any

# What is built in here; other values of these settings are refused.
KNOWN = {
    "time_embedding_type": ("positional",),
    "act_fn": ("silu", "swish"),
    "mid_block_type": ("UNetMidBlock2D", None),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "class_embed_type": (None, "timestep"),
    "mid_block_scale_factor": (1, 1.0),
    "downsample_padding": (0, 1),
}
BLOCKS = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
}
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "mid_block_type": "UNetMidBlock2D",
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}


def checked_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with defaults filled in.

    Raises:
        ValueError: naming what is not built in or missing.
    """
    config = {**DEFAULTS, **given}
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"config.json: expected a UNet2DModel, got {config['_class_name']}")
    for name, values in KNOWN.items():
        if config[name] not in values:
            raise ValueError(f"config.json: {name}: expected one of {values}, got {config[name]!r}")
    levels = config.get("block_out_channels")
    if not levels:
        raise ValueError("config.json: block_out_channels: expected the channels of each level")
    for name, values in BLOCKS.items():
        blocks = config.get(name) or ()
        if len(blocks) != len(levels) or not set(blocks) <= set(values):
            raise ValueError(
                f"config.json: {name}: expected {len(levels)} of {values}, got {blocks}"
            )
    if config["freq_shift"] >= levels[0] // 2:
        raise ValueError("config.json: freq_shift: expected less than half the channels")
    return config


class _Arrays:
    """Shapes by name, layer by layer."""

    def __init__(self, config: Mapping[str, Any], width: int):
        self.config, self.width = config, width
        self.found: dict[str, tuple[int, ...]] = {}

    def dense(self, name: str, inside: int, outside: int, *kernel: int) -> None:
        self.found[f"{name}.weight"] = (outside, inside, *kernel)
        self.found[f"{name}.bias"] = (outside,)

    def norm(self, name: str, channels: int) -> None:
        self.found[f"{name}.weight"] = self.found[f"{name}.bias"] = (channels,)

    def resnet(self, name: str, inside: int, outside: int) -> None:
        self.norm(f"{name}.norm1", inside)
        self.dense(f"{name}.conv1", inside, outside, 3, 3)
        twice = 2 if self.config["resnet_time_scale_shift"] == "scale_shift" else 1
        self.dense(f"{name}.time_emb_proj", self.width, twice * outside)
        self.norm(f"{name}.norm2", outside)
        self.dense(f"{name}.conv2", outside, outside, 3, 3)
        if inside != outside:
            self.dense(f"{name}.conv_shortcut", inside, outside, 1, 1)

    def attention(self, name: str, channels: int, normed: bool = True) -> None:
        if normed:
            self.norm(f"{name}.group_norm", channels)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            self.dense(f"{name}.{part}", channels, channels)

    def resample(self, name: str, how: str, kind: str, channels: int) -> None:
        if how == "resnet" and kind.startswith("Attn"):  # the plain blocks know convolutions alone
            self.resnet(name, channels, channels)
        else:
            self.dense(f"{name}.conv", channels, channels, 3, 3)


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of all arrays as the file has them, by name."""
    levels, layers = config["block_out_channels"], config["layers_per_block"]
    width = config.get("time_embedding_dim") or 4 * levels[0]
    arrays = _Arrays(config, width)
    arrays.dense("conv_in", config["in_channels"], levels[0], 3, 3)
    arrays.dense("time_embedding.linear_1", levels[0], width)
    arrays.dense("time_embedding.linear_2", width, width)
    if config["class_embed_type"] == "timestep":
        arrays.dense("class_embedding.linear_1", levels[0], width)
        arrays.dense("class_embedding.linear_2", width, width)
    elif config["num_class_embeds"] is not None:
        arrays.found["class_embedding.weight"] = (config["num_class_embeds"], width)
    skips, before = [levels[0]], levels[0]
    for level, (kind, channels) in enumerate(zip(config["down_block_types"], levels, strict=True)):
        name = f"down_blocks.{level}"
        for layer in range(layers):
            arrays.resnet(f"{name}.resnets.{layer}", before, channels)
            before = channels
            skips.append(channels)
            if kind.startswith("Attn"):
                arrays.attention(f"{name}.attentions.{layer}", channels)
        if level < len(levels) - 1:
            arrays.resample(f"{name}.downsamplers.0", config["downsample_type"], kind, channels)
            skips.append(channels)
    if config["mid_block_type"] is not None:
        for layer in range(2):
            arrays.resnet(f"mid_block.resnets.{layer}", before, before)
        if config["add_attention"]:
            arrays.attention("mid_block.attentions.0", before, mid_groups(config) is not None)
    pairs = zip(config["up_block_types"], reversed(levels), strict=True)
    for level, (kind, channels) in enumerate(pairs):
        name = f"up_blocks.{level}"
        for layer in range(layers + 1):
            arrays.resnet(f"{name}.resnets.{layer}", before + skips.pop(), channels)
            before = channels
            if kind.startswith("Attn"):
                arrays.attention(f"{name}.attentions.{layer}", channels)
        if level < len(levels) - 1:
            arrays.resample(f"{name}.upsamplers.0", config["upsample_type"], kind, channels)
    arrays.norm("conv_norm_out", levels[0])
    arrays.dense("conv_out", levels[0], config["out_channels"], 3, 3)
    return arrays.found


def mid_groups(config: Mapping[str, Any]) -> int | None:
    """Groups of the norm before the attention in the middle, or None for no norm."""
    given = config["attn_norm_num_groups"]
    plain = config["resnet_time_scale_shift"] == "default"
    return given if given is not None else config["norm_num_groups"] if plain else None
