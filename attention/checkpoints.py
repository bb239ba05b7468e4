"""Pretrained checkpoints: Hugging Face directories of config.json and safetensors files.

    model = attention.load_pretrained("path/to/DeepSeek-V2-Lite", dtype=jnp.bfloat16)
    logits = attention.transformer.apply(model.params, tokens, model.config)

Llama, Mistral, DeepSeek-V2 and V3, without torch or transformers. Tensors go one by one from the
mapped file to the array that they are a part of, in the dtype and on the devices that the caller
wants; no more than one parameter is held twice.
"""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attention import hf_config, hf_names, partition
from attention.hf_names import Leaf
from attention.tensor_files import TensorFiles, inside, read_json
from attention.transformer import TransformerConfig

CORRECTION = "correction"
Sharding = jax.sharding.Sharding


class Model(NamedTuple):
    """A decoder.

    Attributes:
        config: its sizes.
        params: its weights, as `transformer.init` makes them.
        settings: all of config.json.
    """

    config: TransformerConfig
    params: dict[str, Any]
    settings: dict[str, Any]


def load_pretrained(
    directory: str | Path,
    dtype: Any = None,
    sharding: Sharding | Callable[[tuple[str, ...], tuple[int, ...]], Sharding] | None = None,
    ignore: Collection[str] = (),
) -> Model:
    """Read a checkpoint of Llama, Mistral, DeepSeek-V2 or V3.

    Args:
        directory: with config.json and model.safetensors, or an index and its files.
        dtype: of the parameters; that of the embedding in the file by default. The routers'
            `correction` is float32 at least: differences of its nearly equal entries matter.
        sharding: of the parameters: one for all, or a function (path of keys, shape) -> sharding;
            by default they go to the default device. Axes of meshes are `AxisType.Auto`.
        ignore: names of unknown settings of config.json that do not change the computation.

    Raises:
        ValueError: a file is missing, damaged or outside the directory; another architecture,
            kind of rotary embedding or activation; a setting that is not known; tensors that are
            missing, superfluous, of another shape, or not of floats; a mesh of explicit axes.
    """
    folder = Path(directory).expanduser()
    if not folder.is_dir():
        raise ValueError(f"directory: expected a directory, got {folder} (nothing is downloaded)")
    path = folder / "config.json"
    settings = read_json(inside(folder, path.name))
    try:
        config = hf_config.read(settings, ignore)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    try:
        floats = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:  # a name that is none
        floats = False
    if not floats:
        raise ValueError(f"dtype: expected one of floats, got {dtype}")
    files = TensorFiles(folder)
    least = config.n_layers * (1 if config.experts is None else config.experts.n_experts)
    if config.n_layers > len(files.shapes) or least > 2 * len(files.shapes) + 1000:
        raise ValueError(
            f"{path}: expected as many layers and experts as the {len(files.shapes)} tensors can "
            f"be, got {config.n_layers} layers"
        )
    leaves = hf_names.leaves(config)
    expected = {name: leaf.tensor_shape for leaf in leaves for name in leaf.names.ravel()}
    files.check(expected, _spare(files, config, settings))
    if dtype is None:
        dtype = files.read("model.embed_tokens.weight", (slice(1),)).dtype
    if jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype):
        raise ValueError(f"dtype: expected jax_enable_x64 to be set for {jnp.dtype(dtype)}")
    params = {}
    for leaf in leaves:
        place = sharding(leaf.path, leaf.shape) if callable(sharding) else sharding
        partition.check_axes(place)
        exact = jnp.promote_types(dtype, jnp.float32) if leaf.path[-1] == CORRECTION else dtype
        params[leaf.path] = _array(files, leaf, jnp.dtype(exact), place)
    return Model(config, hf_names.nested(params), settings)


def _spare(files: TensorFiles, config: TransformerConfig, settings: dict[str, Any]) -> list[str]:
    """Tensors that change nothing: frequencies, a tied head, layers for tokens further on."""
    found = [name for name in files.shapes if name.endswith(".rotary_emb.inv_freq")]
    if config.tie_embeddings:
        found.append("lm_head.weight")
    more = settings.get("num_nextn_predict_layers")
    if isinstance(more, int) and more > 0:
        for name in files.shapes:
            layer = re.match(r"model\.layers\.(\d{1,6})\.", name)
            if layer and 0 <= int(layer[1]) - config.n_layers < more:
                found.append(name)
    return found


def _array(files: TensorFiles, leaf: Leaf, dtype: Any, sharding: Sharding | None) -> jax.Array:
    if sharding is None:
        return jnp.asarray(_part(files, leaf, (slice(None),) * len(leaf.shape), dtype))
    return jax.make_array_from_callback(
        leaf.shape, sharding, lambda index: _part(files, leaf, tuple(index or ()), dtype)
    )


def _part(files: TensorFiles, leaf: Leaf, index: tuple[slice, ...], dtype: Any) -> np.ndarray:
    """A block of a parameter."""
    depth = leaf.names.ndim
    names = np.asarray(leaf.names[index[:depth]], object)
    bounds = [slice(*part.indices(size)) for part, size in zip(index, leaf.shape, strict=True)][
        depth:
    ]
    inner = tuple(bounds[::-1] if leaf.turned else bounds)
    shape = (*names.shape, *(part.stop - part.start for part in bounds))
    block = _aligned(shape, dtype)
    for place in np.ndindex(names.shape):
        piece = files.read(str(names[place]), inner)
        block[place] = piece.T if leaf.turned else piece
    return block


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array at an address that JAX takes over on CPUs without a copy."""
    size = int(np.prod(shape)) * jnp.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
