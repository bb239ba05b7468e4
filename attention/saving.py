"""Writing decoders as Hugging Face's transformers reads them: the inverse of `checkpoints`.

attention.save_pretrained("elsewhere", model.params, model.config)
"""

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from attention import convert, grouped, hf_config, hf_names
from attention.hf_names import Leaf
from attention.tensor_files import INDEX, SINGLE
from attention.transformer import TransformerConfig

OWN_FILES = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.tmp)?")
SHARD = 5 * 10**9  # bytes of a file that is written
STORED = ("float64", "float32", "float16", "bfloat16")


def save_pretrained(
    directory: str | Path,
    params: dict[str, Any],
    config: TransformerConfig,
    *,
    shard_bytes: int = SHARD,
    **settings: Any,
) -> None:
    """Write a checkpoint that Hugging Face's transformers loads.

    Interleaved rotary dimensions of grouped-query attention are permuted to Llama's layout. What
    only says how to compute (kernels, forms, int8 caches) is not written. An existing checkpoint
    is replaced only after all tensors of the new one have been written beside it.

    Args:
        directory: created if it does not exist.
        params: float64, float32, float16 or bfloat16.
        shard_bytes: largest size of a file, unless one tensor alone is larger.
        settings: further entries of config.json: max_position_embeddings, bos_token_id, ...

    Raises:
        ValueError: a decoder that is none of these models; parameters of other shapes; settings
            that the decoder decides, or that `load_pretrained` does not know.

    Source: the files of Hugging Face's transformers: config.json, safetensors and their index.
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
    try:
        again = hf_config.read(written)  # what is written can be read
    except ValueError as error:
        raise ValueError(str(error).partition("; if")[0]) from None
    if again.ffn_bias != config.ffn_bias:
        raise ValueError("mlp_bias: expected no such setting, the decoder's is written")
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
        save_file(tensors, folder / f"{name}.tmp", {"format": "pt"})
    for name in names:
        (folder / f"{name}.tmp").replace(folder / name)
    stale = [path for path in folder.iterdir() if OWN_FILES.fullmatch(path.name)]
    for old in [*(path for path in stale if path.name not in names), *folder.glob(INDEX)]:
        old.unlink()
    if len(groups) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(table.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
