"""Public checkpoints: directories of Hugging Face's with config.json and safetensors.

    model = attention.load_pretrained("path/to/DeepSeek-V2-Lite", dtype=jnp.bfloat16)
    logits = attention.transformer.apply(model.params, tokens, model.config)
    attention.save_pretrained("elsewhere", model.params, model.config)

Llama, Mistral, DeepSeek-V2 and V3, without torch or transformers. Tensors go one by one from the
mapped file to the array that they are a part of, in the dtype and on the devices that the caller
wants; no more than one parameter is held twice.
"""

import json
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attention import convert, grouped, hf_config, hf_names
from attention.hf_names import Leaf
from attention.tensor_files import INDEX, SINGLE, TensorFiles, inside, read_json
from attention.transformer import TransformerConfig

CORRECTION = "correction"
OWN_FILES = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
SHARD = 5 * 10**9  # bytes of a file that is written
Sharding = jax.sharding.Sharding
STORED = ("float64", "float32", "float16", "bfloat16")


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
        dtype: of the parameters; that of the embedding in the file by default. Corrections of
            experts are float32 at least: they are differences of nearly equal numbers.
        sharding: where they go: one for all, or a function of a parameter's path of keys and its
            shape; the default device if there is none.
        ignore: settings of config.json that are known to change nothing.

    Raises:
        ValueError: a file is missing, damaged or outside the directory; another architecture,
            kind of rotary embedding or activation; a setting that is not known; tensors that are
            missing, superfluous, of another shape, or not of floats.
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
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
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


def save_pretrained(
    directory: str | Path,
    params: dict[str, Any],
    config: TransformerConfig,
    *,
    shard_bytes: int = SHARD,
    **settings: Any,
) -> None:
    """Write a checkpoint that Hugging Face's transformers loads.

    Rotary dimensions that are interleaved go to the order of Llama where grouped-query attention
    has them. What only says how to compute (kernels, forms, int8 caches) is not written.

    Args:
        directory: made if it is not there.
        params: float64, float32, float16 or bfloat16.
        shard_bytes: largest size of a file.
        settings: further entries of config.json: max_position_embeddings, bos_token_id, ...

    Raises:
        ValueError: a decoder that is none of these models; parameters of other shapes; settings
            that the decoder decides.
    """
    written = hf_config.write(config)
    decided = sorted({*written, "dtype", "torch_dtype", "rope_scaling", "rope_theta"} & {*settings})
    if decided:
        raise ValueError(f"{decided[0]}: expected no such setting, the decoder's is written")
    leaves, arrays = hf_names.leaves(config), _flat(params)
    for leaf in leaves:
        found = arrays.pop(leaf.path, None)
        if found is None or found.shape != leaf.shape:
            got = "none" if found is None else found.shape
            raise ValueError(f"params: {'/'.join(leaf.path)}: expected {leaf.shape}, got {got}")
    if arrays:
        raise ValueError(f"params: expected no {'/'.join(next(iter(arrays)))} for this config")
    for path, leaf in _flat(params).items():
        if str(leaf.dtype) not in STORED:
            raise ValueError(
                f"params: {'/'.join(path)}: expected one of {STORED}, got {leaf.dtype}"
            )
    written |= {"dtype": str(params["embedding"].dtype), **settings}
    hf_config.read(written, settings)  # what is written can be read
    folder = Path(directory).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(config.mixer, grouped.GroupedConfig):
        params, config = convert.change_layout(params, config, "half")
    _write_tensors(folder, _flat(params), leaves, shard_bytes)
    (folder / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")


def _flat(params: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    pairs = jax.tree.leaves_with_path(params)
    return {tuple(str(entry.key) for entry in path): leaf for path, leaf in pairs}  # pyright: ignore


def _write_tensors(
    folder: Path,
    arrays: dict[tuple[str, ...], Any],
    leaves: list[Leaf],
    shard_bytes: int,
) -> None:
    from safetensors.numpy import save_file

    pairs = [(leaf, place) for leaf in leaves for place in np.ndindex(leaf.names.shape)]
    groups, total = [[]], 0
    for leaf, place in pairs:
        size = int(np.prod(leaf.tensor_shape)) * arrays[leaf.path].dtype.itemsize
        if groups[-1] and total + size > shard_bytes:
            groups.append([])
            total = 0
        groups[-1].append((leaf, place))
        total += size
    names = [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    names = [SINGLE] if len(groups) == 1 else names
    table, size = {}, 0
    for name, group in zip(names, groups, strict=True):
        tensors = {}
        for leaf, place in group:
            value = np.asarray(arrays[leaf.path][place])
            key = str(leaf.names[place])
            tensors[key] = np.ascontiguousarray(value.T if leaf.turned else value)
            table[key], size = name, size + value.nbytes
        save_file(tensors, folder / name, {"format": "pt"})
    stale = [path for path in folder.iterdir() if OWN_FILES.fullmatch(path.name)]
    for old in [*(path for path in stale if path.name not in names), *folder.glob(INDEX)]:
        old.unlink()
    if len(groups) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(table.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
