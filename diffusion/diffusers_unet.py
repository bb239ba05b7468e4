"""Public checkpoints of diffusers' `UNet2DModel`: a directory with config.json and safetensors.

    model = load_diffusers_unet("path/to/ddpm-cifar10")  # or a folder with unet/ in it
    model.apply(model.params, z, i)                        # z [B, H, W, C], i [B] in 0 .. N - 1
    denoiser = model.denoiser(schedules.linear_beta())      # (z, logsnr) -> eps

The network is a function over a flat dictionary of arrays, named as in the file, convolutions and
linear maps transposed to JAX's order once. No torch is needed and no pickle is read.

Source: Ho et al. (arXiv 2006.11239), in the layout of diffusers 0.42 (`UNet2DModel`).
"""

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import pooling
from diffusion.convolution import ORDER, same
from diffusion.diffusers_config import checked_config, mid_groups, shapes
from diffusion.tables import Table

FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
Params = Mapping[str, Array]


@dataclass(frozen=True)
class DiffusersUNet:
    """A `UNet2DModel`.

    Attributes:
        config: its settings, defaults filled in.
        params: arrays by the names of the file.
    """

    config: Mapping[str, Any]
    params: Params

    size_bound = (
        "group norms take moments over all places",
        "attention looks at as many places as there are",
    )

    def apply(self, params: Params, z: Array, i: Any, label: Any = None) -> Array:
        """What the network predicts, usually eps, [B, H, W, C].

        Args:
            params: `self.params`, or others of the same names and shapes.
            z: [B, H, W, C], sizes that can be halved at every level but the last.
            i: [B] timesteps of the training process, 0..N-1; fractions are allowed.
            label: [B] class indices, for models that have classes.

        Raises:
            ValueError: sizes that do not fit, a class that is missing or not expected.
        """
        return _apply(self.config, params, z, i, label)

    def denoiser(self, table: Table) -> Callable[..., Array]:
        """(z, logsnr[, label]) -> prediction, for the schedule it was trained with."""
        return table.denoiser(functools.partial(self.apply, self.params))


def load_diffusers_unet(directory: str | Path) -> DiffusersUNet:
    """Read a directory with config.json and a safetensors file.

    Raises:
        ValueError: no such files, pickles in their place, settings that are not built in, tensors
            that are missing, superfluous or of another shape.
    """
    folder = Path(directory)
    if not (folder / "config.json").is_file() and (folder / "unet" / "config.json").is_file():
        folder = folder / "unet"
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if not (folder / "config.json").is_file() or path is None:
        pickles = sorted(
            f.name for p in ("*.bin", "*.pt", "*.pth", "*.ckpt") for f in folder.glob(p)
        )
        also = (
            f"; {pickles[0]} is a pickle, which can run code: convert it first" if pickles else ""
        )
        raise ValueError(f"{folder}: expected config.json and {FILES[0]}{also}")
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        config = checked_config(json.loads((folder / "config.json").read_text()))
    except RecursionError:
        raise ValueError(f"{folder / 'config.json'}: expected JSON, got it too deep") from None
    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: expected a whole safetensors file, got {error}") from None
    arrays = {_renamed(name): value for name, value in arrays.items()}
    _check_arrays(config, arrays, path)
    return DiffusersUNet(config, {name: _turned(name, value) for name, value in arrays.items()})


def _renamed(name: str) -> str:
    """Names of older files."""
    for old, new in (
        (".query.", ".to_q."),
        (".key.", ".to_k."),
        (".value.", ".to_v."),
        (".proj_attn.", ".to_out.0."),
    ):
        name = name.replace(old, new)
    return name


def _turned(name: str, value: np.ndarray) -> Array:
    """An array in JAX's order: convolutions [h, w, in, out], linear maps [in, out]."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
    elif value.ndim == 2 and name != "class_embedding.weight":
        value = value.T
    wide = value.astype(np.float32) if value.dtype == np.float16 else value
    return jnp.asarray(wide)


def _check_arrays(config: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> None:
    """Refuse arrays that are missing, superfluous or of another shape than the settings say."""
    expected = shapes(config)
    for name, shape in expected.items():
        if name not in arrays:
            raise ValueError(f"{path}: expected a tensor {name}, found none")
        if arrays[name].shape != shape:
            raise ValueError(f"{path}: {name}: expected {shape}, got {arrays[name].shape}")
    extra = sorted(set(arrays) - set(expected))
    if extra:
        raise ValueError(f"{path}: expected no tensor {extra[0]} for this config.json")


def _linear(params: Params, name: str, x: Array) -> Array:
    return x @ params[f"{name}.weight"] + params[f"{name}.bias"]


def _conv(params: Params, name: str, x: Array) -> Array:
    return same(x, params[f"{name}.weight"]) + params[f"{name}.bias"]


def _norm(params: Params, name: str, x: Array, groups: int, eps: float) -> Array:
    wide = x.reshape(len(x), -1, groups, x.shape[-1] // groups).astype(jnp.float32)
    mean = jnp.mean(wide, (1, 3), keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), (1, 3), keepdims=True)
    y = ((wide - mean) * jax.lax.rsqrt(variance + eps)).reshape(x.shape).astype(x.dtype)
    return y * params[f"{name}.weight"] + params[f"{name}.bias"]


_halved = functools.partial(pooling.average, factor=2)
_doubled = functools.partial(pooling.nearest, factor=2)


def _resnet(
    config: Mapping[str, Any],
    params: Params,
    name: str,
    x: Array,
    time: Array,
    resize: Callable[[Array], Array] = lambda x: x,
) -> Array:
    groups, eps = config["norm_num_groups"], config["norm_eps"]
    h = resize(jax.nn.silu(_norm(params, f"{name}.norm1", x, groups, eps)))
    x = resize(x)
    h = _conv(params, f"{name}.conv1", h)
    context = _linear(params, f"{name}.time_emb_proj", jax.nn.silu(time))[:, None, None]
    if config["resnet_time_scale_shift"] == "scale_shift":
        scale, shift = jnp.split(context, 2, axis=-1)
        h = _norm(params, f"{name}.norm2", h, groups, eps) * (1.0 + scale) + shift
    else:
        h = _norm(params, f"{name}.norm2", h + context, groups, eps)
    h = _conv(params, f"{name}.conv2", jax.nn.silu(h))
    if f"{name}.conv_shortcut.weight" in params:
        x = _linear_of_conv(params, f"{name}.conv_shortcut", x)
    return x + h


def _linear_of_conv(params: Params, name: str, x: Array) -> Array:
    return x @ params[f"{name}.weight"][0, 0] + params[f"{name}.bias"]


def _attention(
    config: Mapping[str, Any], params: Params, name: str, x: Array, groups: int | None
) -> Array:
    channels = x.shape[-1]
    heads = channels // (config["attention_head_dim"] or channels)
    h = x if groups is None else _norm(params, f"{name}.group_norm", x, groups, config["norm_eps"])
    h = h.reshape(len(x), -1, channels)
    q, k, v = (
        _linear(params, f"{name}.{part}", h).reshape(len(x), -1, heads, channels // heads)
        for part in ("to_q", "to_k", "to_v")
    )
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * (channels // heads) ** -0.5).astype(v.dtype)
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(h.shape)
    return x + _linear(params, f"{name}.to_out.0", y).reshape(x.shape)


def _waves(config: Mapping[str, Any], i: Array) -> Array:
    """Sines and cosines of steps, [B, channels of the first level]."""
    channels = config["block_out_channels"][0]
    half = channels // 2
    rates = jnp.exp(-math.log(10_000) * jnp.arange(half) / (half - config["freq_shift"]))
    angles = i.astype(jnp.float32)[:, None] * rates
    parts = (jnp.cos(angles), jnp.sin(angles))
    waves = jnp.concatenate(parts if config["flip_sin_to_cos"] else parts[::-1], axis=-1)
    return jnp.pad(waves, ((0, 0), (0, channels % 2)))


def _embedded(params: Params, name: str, waves: Array) -> Array:
    return _linear(
        params, f"{name}.linear_2", jax.nn.silu(_linear(params, f"{name}.linear_1", waves))
    )


def _context(config: Mapping[str, Any], params: Params, i: Array, label: Any) -> Array:
    """The vector of time and class, [B, width]."""
    time = _embedded(params, "time_embedding", _waves(config, i))
    classes = config["class_embed_type"] or config["num_class_embeds"]
    if (classes is None) != (label is None):
        raise ValueError(
            f"label: expected {'none' if classes is None else 'classes [B]'} for this model, got "
            f"{'none' if label is None else 'one'}"
        )
    if label is None:
        return time
    if config["class_embed_type"] == "timestep":
        return time + _embedded(params, "class_embedding", _waves(config, jnp.asarray(label)))
    table = params["class_embedding.weight"]
    known = jnp.where(label < 0, len(table), label)
    return time + table.at[known].get(mode="fill", fill_value=jnp.nan)


def _smaller(config: Mapping[str, Any], params: Params, name: str, x: Array, time: Array) -> Array:
    if f"{name}.norm1.weight" in params:
        return _resnet(config, params, name, x, time, _halved)
    before = config["downsample_padding"]
    pads = ((before, 1), (before, 1))
    weight = params[f"{name}.conv.weight"]
    y = jax.lax.conv_general_dilated(x, weight, (2, 2), pads, dimension_numbers=ORDER)
    return y + params[f"{name}.conv.bias"]


def _larger(config: Mapping[str, Any], params: Params, name: str, x: Array, time: Array) -> Array:
    if f"{name}.norm1.weight" in params:
        return _resnet(config, params, name, x, time, _doubled)
    return _conv(params, f"{name}.conv", _doubled(x))


def _apply(config: Mapping[str, Any], params: Params, z: Array, i: Any, label: Any) -> Array:
    levels, layers = config["block_out_channels"], config["layers_per_block"]
    least = 2 ** (len(levels) - 1)
    channels = config["in_channels"]
    if z.ndim != 4 or z.shape[-1] != channels or z.shape[1] % least or z.shape[2] % least:
        raise ValueError(
            f"z: expected [B, H, W, {channels}] with sides of {least} n, got {z.shape}"
        )
    time = _context(config, params, jnp.broadcast_to(jnp.asarray(i), z.shape[:1]), label)
    groups = config["norm_num_groups"]
    x = _conv(params, "conv_in", 2.0 * z - 1.0 if config["center_input_sample"] else z)
    skips = [x]
    for level, kind in enumerate(config["down_block_types"]):
        name = f"down_blocks.{level}"
        for layer in range(layers):
            x = _resnet(config, params, f"{name}.resnets.{layer}", x, time)
            if kind.startswith("Attn"):
                x = _attention(config, params, f"{name}.attentions.{layer}", x, groups)
            skips.append(x)
        if level < len(levels) - 1:
            x = _smaller(config, params, f"{name}.downsamplers.0", x, time)
            skips.append(x)
    if config["mid_block_type"] is not None:
        x = _resnet(config, params, "mid_block.resnets.0", x, time)
        if config["add_attention"]:
            x = _attention(config, params, "mid_block.attentions.0", x, mid_groups(config))
        x = _resnet(config, params, "mid_block.resnets.1", x, time)
    for level, kind in enumerate(config["up_block_types"]):
        name = f"up_blocks.{level}"
        for layer in range(layers + 1):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = _resnet(config, params, f"{name}.resnets.{layer}", x, time)
            if kind.startswith("Attn"):
                x = _attention(config, params, f"{name}.attentions.{layer}", x, groups)
        if level < len(levels) - 1:
            x = _larger(config, params, f"{name}.upsamplers.0", x, time)
    x = jax.nn.silu(_norm(params, "conv_norm_out", x, groups, config["norm_eps"]))
    return _conv(params, "conv_out", x)
