"""Configurations of Hugging Face's checkpoints: Llama, Mistral, DeepSeek-V2 and V3.

A setting that is not known is refused unless it is off: guessing would load a model that computes
something else. Sources: the models of transformers 5.23, and config.json of the published
checkpoints, older names of settings included.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from attention import rope
from attention.experts import ExpertsConfig
from attention.grouped import GroupedConfig
from attention.latent import LatentConfig
from attention.transformer import TransformerConfig


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


GROUPED, LATENT = ("llama", "mistral"), ("deepseek_v2", "deepseek_v3")
LATENT_EPS = 1e-6  # of the latents' norms in transformers, whatever rms_norm_eps says
MUST = {
    "hidden_act": "silu",
    "moe_layer_freq": 1,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
}
NEUTRAL = _words("""
    architectures auto_map model_type dtype torch_dtype transformers_version use_cache _name_or_path
    bos_token_id eos_token_id pad_token_id attention_dropout initializer_range pretraining_tp
    max_position_embeddings output_router_logits aux_loss_alpha seq_aux ep_size
    num_nextn_predict_layers router_aux_loss_coef qk_head_dim is_llama_config transformers.js_config
    max_sequence_length max_length min_length temperature top_k top_p do_sample num_beams
    repetition_penalty length_penalty unsloth_fixed unsloth_version finetuning_task id2label
    label2id chunk_size_feed_forward return_dict problem_type task_specific_params
    num_return_sequences diversity_penalty num_beam_groups typical_p no_repeat_ngram_size
    encoder_no_repeat_ngram_size
""")
OFF = (None, False, {}, [], "")
COMMON = _words("""
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
    num_key_value_heads rms_norm_eps tie_word_embeddings rope_parameters rope_scaling rope_theta
    attention_bias mlp_bias head_dim
""")
OWN = {
    "llama": (),
    "mistral": ("sliding_window",),
    "deepseek_v2": _words("""
        kv_lora_rank q_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim first_k_dense_replace
        n_routed_experts num_experts_per_tok n_shared_experts moe_intermediate_size n_group
        topk_group topk_method scoring_func norm_topk_prob routed_scaling_factor
"""),
}
OWN["deepseek_v3"] = (*OWN["deepseek_v2"], "rope_interleave")
ROPE = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        *("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale"),
        *("mscale_all_dim", "attention_factor", "truncate", "finetuned"),
    ),
}


class _Settings:
    """Settings with their defaults; remembers nothing, refuses by name."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = values

    def get(self, name: str, kind: type, default: Any = ...) -> Any:
        value = self.values.get(name)
        if value is None:
            if default is ...:
                raise ValueError(f"expected {name}, found none")
            return default
        good = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            value, good = float(value), math.isfinite(value)
        if not good:
            raise ValueError(f"{name}: expected {kind.__name__}, got {value!r}")
        return value


def read(settings: Mapping[str, Any], ignore: Collection[str] = ()) -> TransformerConfig:
    """The `TransformerConfig` that the settings of a config.json describe.

    Args:
        ignore: names of settings that, as the caller knows, do not change the computation.

    Raises:
        ValueError: another architecture, activation or kind of rotary embedding; settings that are
            missing, of another type, contradictory, or not known.
    """
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in OWN:
        raise ValueError(f"model_type: expected one of {tuple(OWN)}, got {kind!r}")
    known = {*NEUTRAL, *COMMON, *OWN[kind], *MUST, *ignore}
    strange = {k: v for k, v in settings.items() if k not in known and v not in OFF}
    if strange:
        first = next(iter(strange))
        raise ValueError(
            f"{first}: not known for {kind}, got {strange[first]!r}; if it changes nothing of what "
            f"the model computes, pass ignore={tuple(strange)}"
        )
    for name, only in MUST.items():
        if name in settings and settings[name] not in (None, only) and name not in ignore:
            raise ValueError(f"{name}: expected {only!r}, got {settings[name]!r}")
    one = _Settings(settings)
    latent = kind in LATENT
    layers = one.get("num_hidden_layers", int)
    first = one.get("first_k_dense_replace", int, 3 if kind == "deepseek_v3" else 0)
    dense = min(first, layers) if latent else layers
    return TransformerConfig(
        vocab_size=one.get("vocab_size", int),
        n_layers=layers,
        mixer=(_latent if latent else _grouped)(one, kind, ignore),
        d_ff=one.get("intermediate_size", int),
        ffn_bias=one.get("mlp_bias", bool, False),
        experts=None if dense == layers else _experts(one, kind),
        dense_layers=0 if dense == layers else dense,
        tie_embeddings=one.get("tie_word_embeddings", bool, False),
        norm_eps=one.get("rms_norm_eps", float, 1e-6),
    )


def _grouped(one: _Settings, kind: str, ignore: Collection[str]) -> GroupedConfig:
    base, scaling = _rope(one, ignore)
    window = one.get("sliding_window", int, None)
    if "sliding_window" not in one.values:
        window = 4096
    if isinstance(scaling, rope.Yarn) and scaling.mscale_all_dim:
        raise ValueError(f"mscale_all_dim: expected none for {kind}, whose scores it leaves alone")
    heads = one.get("num_attention_heads", int)
    return GroupedConfig(
        d_model=one.get("hidden_size", int),
        n_heads=heads,
        n_kv_heads=one.get("num_key_value_heads", int, heads if kind == "llama" else 8),
        head_dim=one.get("head_dim", int, None),
        rope_base=base,
        rope_scaling=scaling,
        window=window if kind == "mistral" else None,
        bias=one.get("attention_bias", bool, False) and kind == "llama",
    )


def _latent(one: _Settings, kind: str, ignore: Collection[str]) -> LatentConfig:
    base, scaling = _rope(one, ignore)
    queries = one.get("q_lora_rank", int, None)
    if "q_lora_rank" not in one.values:
        queries = 1536
    half = kind == "deepseek_v3" and not one.get("rope_interleave", bool, True)
    return LatentConfig(
        d_model=one.get("hidden_size", int),
        n_heads=one.get("num_attention_heads", int),
        latent_dim=one.get("kv_lora_rank", int),
        query_dim=queries,
        nope_dim=one.get("qk_nope_head_dim", int),
        rope_dim=one.get("qk_rope_head_dim", int),
        value_dim=one.get("v_head_dim", int),
        rope_base=base,
        rope_layout="half" if half else "interleaved",
        rope_scaling=scaling,
        norm_eps=LATENT_EPS,
        bias=one.get("attention_bias", bool, False),
    )


def _experts(one: _Settings, kind: str) -> ExpertsConfig:
    v3, width = kind == "deepseek_v3", one.get("moe_intermediate_size", int)
    method = one.get("topk_method", str, "noaux_tc" if v3 else "greedy")
    allowed = ("noaux_tc",) if v3 else ("greedy", "group_limited_greedy")
    scoring = one.get("scoring_func", str, "sigmoid" if v3 else "softmax")
    normalise = one.get("norm_topk_prob", bool, v3)
    if method not in allowed:
        raise ValueError(f"topk_method: expected one of {allowed}, got {method!r}")
    if scoring != ("sigmoid" if v3 else "softmax"):
        raise ValueError(f"scoring_func: expected that of {kind}, got {scoring!r}")
    if normalise and not v3:
        raise ValueError(
            "norm_topk_prob: expected false for deepseek_v2, on which implementations disagree"
        )
    groups = method != "greedy"
    shared = one.get("n_shared_experts", int, 1 if v3 else 2)
    if "n_shared_experts" in one.values and one.values["n_shared_experts"] is None:
        shared = 0
    return ExpertsConfig(
        n_experts=one.get("n_routed_experts", int),
        chosen=one.get("num_experts_per_tok", int),
        d_ff=width,
        shared_d_ff=shared * width or None,
        groups=one.get("n_group", int) if groups else None,
        chosen_groups=one.get("topk_group", int) if groups else None,
        scoring="sigmoid" if v3 else "softmax",
        normalise=normalise,
        scale=one.get("routed_scaling_factor", float, 2.5 if v3 else 1.0),
    )


def _rope(one: _Settings, ignore: Collection[str]) -> tuple[float, rope.Scaling | None]:
    """Base and scaling, in the names of transformers 5 or in older ones."""
    new, old = (one.get(name, dict, None) for name in ("rope_parameters", "rope_scaling"))
    if new and old and new != old:
        raise ValueError(f"rope_parameters, rope_scaling: expected one of them, got {new}, {old}")
    found = new or old or {}
    part = _Settings(found)
    base = part.get("rope_theta", float, one.get("rope_theta", float, 10_000.0))
    kind = part.get("rope_type", str, part.get("type", str, "default"))
    if kind not in ROPE:
        raise ValueError(f"rope_type: expected one of {tuple(ROPE)}, got {kind!r}")
    for name, value in found.items():
        known = ("rope_theta", "rope_type", "type", *ROPE[kind], *ignore)
        if name in known or value is None:
            continue
        if (name, value) != ("partial_rotary_factor", 1.0):
            raise ValueError(
                f"rope_parameters: expected those of {kind}, {name} is not known, got {value!r}"
            )
    if kind == "default":
        return base, None
    if kind == "linear":
        return base, rope.Linear(part.get("factor", float))
    original = part.get("original_max_position_embeddings", int)
    if kind == "llama3":
        low, high = part.get("low_freq_factor", float), part.get("high_freq_factor", float)
        return base, rope.Llama3(part.get("factor", float), low, high, original)
    return base, _yarn(one, part, original)


def _yarn(one: _Settings, part: _Settings, original: int) -> rope.Yarn:
    if not part.get("truncate", bool, True):
        raise ValueError("truncate: expected true for yarn, got false")
    factor = part.get("factor", float, None)
    if factor is None:
        factor = one.get("max_position_embeddings", int) / original
    scaling = rope.Yarn(
        factor,
        original,
        part.get("beta_fast", float, 32.0),
        part.get("beta_slow", float, 1.0),
        part.get("mscale", float, None),
        part.get("mscale_all_dim", float, None),
    )
    given = part.get("attention_factor", float, None)
    if given is not None and abs(given - rope.amplitude(scaling)) > 1e-6:
        raise ValueError(
            f"attention_factor: expected {rope.amplitude(scaling):.6g}, that of factor and mscale, "
            f"got {given:.6g}"
        )
    return scaling


def write(config: TransformerConfig) -> dict[str, Any]:
    """The config.json of a decoder: of Llama, Mistral, DeepSeek-V2 or V3.

    Raises:
        ValueError: a decoder that none of them can be, naming why.
    """
    mixer = config.mixer
    if not isinstance(mixer, GroupedConfig | LatentConfig):
        raise ValueError(f"mixer: expected grouped-query attention or MLA, got {mixer!r}")
    common = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": mixer.n_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_parameters": _written_rope(mixer),
    }
    own = _write_latent(config, mixer) if isinstance(mixer, LatentConfig) else None
    own = _write_grouped(config, mixer) if own is None else own
    return common | own


def _write_grouped(config: TransformerConfig, mixer: Any) -> dict[str, Any]:
    if mixer.query_dim is not None:
        raise ValueError("query_dim: expected none, as Llama and Mistral have it")
    if mixer.rotated != mixer.width:
        raise ValueError("rope_dims: expected all of a head, as Llama and Mistral have it")
    if config.experts is not None:
        raise ValueError("experts: expected none with grouped-query attention")
    kind = "llama" if mixer.window is None else "mistral"
    if kind == "mistral" and (mixer.bias or config.ffn_bias):
        raise ValueError("bias, ffn_bias: expected none with a window, as Mistral has it")
    own = {
        "model_type": kind,
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "num_key_value_heads": mixer.kv_heads,
        "head_dim": mixer.width,
    }
    if kind == "mistral":
        return own | {"sliding_window": mixer.window}
    return own | {"attention_bias": mixer.bias, "mlp_bias": config.ffn_bias}


def _write_latent(config: TransformerConfig, mixer: LatentConfig) -> dict[str, Any]:
    one = config.experts
    v3 = mixer.rope_layout == "half" or (one is not None and one.scoring == "sigmoid")
    if mixer.window is not None:
        raise ValueError("window: expected none, which DeepSeek does not have")
    if mixer.norm_eps != LATENT_EPS or not mixer.latent_norm:
        raise ValueError(f"mixer.norm_eps: expected norms with {LATENT_EPS}, as in transformers")
    if config.ffn_bias and v3:
        raise ValueError("ffn_bias: expected none for DeepSeek-V3")
    kind = "deepseek_v3" if v3 else "deepseek_v2"
    own = {
        "model_type": kind,
        "architectures": [f"DeepseekV{3 if v3 else 2}ForCausalLM"],
        "num_key_value_heads": mixer.n_heads,
        "kv_lora_rank": mixer.latent_dim,
        "q_lora_rank": mixer.query_dim,
        "qk_nope_head_dim": mixer.nope_dim,
        "qk_rope_head_dim": mixer.rope_dim,
        "v_head_dim": mixer.value_dim,
        "attention_bias": mixer.bias,
        "first_k_dense_replace": config.dense_layers if one else config.n_layers,
    }
    if v3:
        own |= {
            "rope_interleave": mixer.rope_layout == "interleaved",
            "num_nextn_predict_layers": 0,
        }
    else:
        own["mlp_bias"] = config.ffn_bias
    return own if one is None else own | _write_experts(one, v3)


def _write_experts(one: ExpertsConfig, v3: bool) -> dict[str, Any]:
    if one.shared_d_ff is None or one.shared_d_ff % one.d_ff:
        raise ValueError(
            f"experts.shared_d_ff: expected a multiple of {one.d_ff}, got {one.shared_d_ff}"
        )
    if one.scoring != ("sigmoid" if v3 else "softmax") or (one.normalise and not v3):
        raise ValueError(
            "experts: expected softmax scores as they are with interleaved rotary dimensions "
            "(DeepSeek-V2), or sigmoid ones (V3)"
        )
    if v3 and one.groups is None:
        raise ValueError("experts.groups: expected some with sigmoid scores")
    method = "noaux_tc" if v3 else "greedy" if one.groups is None else "group_limited_greedy"
    return {
        "n_routed_experts": one.n_experts,
        "num_experts_per_tok": one.chosen,
        "moe_intermediate_size": one.d_ff,
        "n_shared_experts": one.shared_d_ff // one.d_ff,
        "n_group": one.groups,
        "topk_group": one.chosen_groups,
        "topk_method": method,
        "scoring_func": one.scoring,
        "norm_topk_prob": one.normalise,
        "routed_scaling_factor": one.scale,
    }


def _written_rope(mixer: Any) -> dict[str, Any]:
    if mixer.rope_base is None:
        raise ValueError("rope_base: expected rotary embedding, which all of these models have")
    base, scaling = {"rope_theta": mixer.rope_base}, mixer.rope_scaling
    if scaling is None:
        return base | {"rope_type": "default"}
    base["factor"] = scaling.factor
    if isinstance(scaling, rope.Linear):
        return base | {"rope_type": "linear"}
    base["original_max_position_embeddings"] = scaling.original_length
    if isinstance(scaling, rope.Llama3):
        ends = {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
        return base | ends | {"rope_type": "llama3"}
    if scaling.mscale_all_dim and isinstance(mixer, GroupedConfig):
        raise ValueError("mscale_all_dim: expected none with grouped-query attention")
    rest = {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    both = {"mscale": scaling.mscale, "mscale_all_dim": scaling.mscale_all_dim}
    rest |= {name: value for name, value in both.items() if value is not None}
    return base | rest | {"rope_type": "yarn"}
