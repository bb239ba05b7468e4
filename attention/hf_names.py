"""Names of tensors in Hugging Face's checkpoints for the parameters of a decoder.

Linear maps are [out, in] in the files and [in, out] here; what is a tensor for each layer, and for
each expert, in the files is stacked here. Columns of heads and of their parts are in one order.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from attention import transformer
from attention.transformer import TransformerConfig

OUTSIDE = {
    "embedding": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}
INSIDE = {
    "mixer_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "mixer/query": "self_attn.q_proj",
    "mixer/key": "self_attn.k_proj",
    "mixer/value": "self_attn.v_proj",
    "mixer/output": "self_attn.o_proj",
    "mixer/query_down": "self_attn.q_a_proj",
    "mixer/query_norm": "self_attn.q_a_layernorm",
    "mixer/query_up": "self_attn.q_b_proj",
    "mixer/down": "self_attn.kv_a_proj_with_mqa",
    "mixer/norm": "self_attn.kv_a_layernorm",
    "mixer/up": "self_attn.kv_b_proj",
    "ffn/gate": "mlp.gate_proj",
    "ffn/up": "mlp.up_proj",
    "ffn/down": "mlp.down_proj",
    "ffn/router": "mlp.gate",
    "ffn/shared/gate": "mlp.shared_experts.gate_proj",
    "ffn/shared/up": "mlp.shared_experts.up_proj",
    "ffn/shared/down": "mlp.shared_experts.down_proj",
}


@dataclass(frozen=True)
class Leaf:
    """A parameter and the tensors that it is made of.

    Attributes:
        path: of keys in the parameters.
        names: of tensors, an array of the axes along which they are stacked.
        shape: of the parameter.
        turned: whether tensors are transposed.
    """

    path: tuple[str, ...]
    names: np.ndarray
    shape: tuple[int, ...]
    turned: bool

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """Of each tensor in the files."""
        rest = self.shape[self.names.ndim :]
        return rest[::-1] if self.turned else rest

    @property
    def size(self) -> int:
        """Numbers of the parameter."""
        return math.prod(self.shape)


def leaves(config: TransformerConfig) -> list[Leaf]:
    """All parameters of a decoder."""
    made = jax.eval_shape(lambda: transformer.init(jax.random.key(0), config))
    found = []
    for path, leaf in jax.tree.leaves_with_path(made):
        keys = tuple(str(entry.key) for entry in path)  # pyright: ignore[reportAttributeAccessIssue]
        names = _names(keys, config)
        turned = leaf.ndim - names.ndim == 2 and keys != ("embedding",)
        found.append(Leaf(keys, names, leaf.shape, turned))
    return found


def _names(keys: tuple[str, ...], config: TransformerConfig) -> np.ndarray:
    if keys[0] not in config.stacks:
        return np.array(OUTSIDE[keys[0]], object)
    count = config.stacks[keys[0]]
    first = 0 if keys[0] == "layers" else config.dense_layers
    key, kind = "/".join(keys[1:]), "weight"
    if key == "ffn/correction":
        template = "mlp.gate.e_score_correction_bias"
    else:
        if key.endswith("_bias"):
            key, kind = key.removesuffix("_bias"), "bias"
        template = f"{INSIDE[key]}.{kind}"
    layers = range(first, first + count)
    if keys[0] == "expert_layers" and keys[1:2] == ("ffn",) and keys[2] in ("gate", "up", "down"):
        part = template.removeprefix("mlp.")
        experts = range(config.experts.n_experts if config.experts else 0)
        table = [[f"model.layers.{i}.mlp.experts.{e}.{part}" for e in experts] for i in layers]
    else:
        table = [f"model.layers.{i}.{template}" for i in layers]
    return np.array(table, object)


def nested(found: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """Parameters from a dictionary by path."""
    tree: dict[str, Any] = {}
    for path, value in found.items():
        place = tree
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
    return tree
