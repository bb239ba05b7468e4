"""Writes tests/golden/transformers: tiny random models of Hugging Face transformers.

    python tests/golden/make_transformers.py  # needs torch and transformers, see versions below

Every folder is what `save_pretrained` wrote, and `expected.npz` holds what the model then computed:
logits in float32 and in float64, of the same tokens padded on the left, of positions that begin at
300, and a greedy continuation. DeepSeek-V2 of transformers left YaRN's factor out of the scores
before its pull request 47435 of July 2026: the version used is in each `expected.npz`.
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, processors

HERE = Path(__file__).parent / "transformers"
LLAMA = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
LATENT = LLAMA | {
    "kv_lora_rank": 12,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "first_k_dense_replace": 2,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "moe_intermediate_size": 8,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
}
LONG = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0}
LONG |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
CASES = {
    "llama": ("Llama", LLAMA),
    "llama_gqa_bias": (
        "Llama",
        LLAMA | {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    ),
    "llama_mqa_tied": (
        "Llama",
        LLAMA | {"num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True},
    ),
    "llama3_rope": ("Llama", LLAMA | {"num_key_value_heads": 2, "rope_parameters": LONG}),
    "llama_yarn": ("Llama", LLAMA | {"head_dim": 8, "rope_parameters": YARN | {"factor": 4.0}}),
    "llama_linear": (
        "Llama",
        LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    ),
    "llama_sharded_bf16": ("Llama", LLAMA | {"num_hidden_layers": 3}),
    "mistral_window": (
        "Mistral",
        LLAMA | {"num_key_value_heads": 2, "sliding_window": 5},
    ),
    "deepseek_v2": (
        "DeepseekV2",
        LATENT
        | {"rope_parameters": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}}
        | {"attention_bias": True, "max_position_embeddings": 2560},
    ),
    "deepseek_v2_lite": (
        "DeepseekV2",
        LATENT | {"q_lora_rank": None, "first_k_dense_replace": 1, "topk_method": "greedy"},
    ),
    "deepseek_v2_groups": (
        "DeepseekV2",
        LATENT
        | {"first_k_dense_replace": 0, "topk_method": "group_limited_greedy", "n_group": 4}
        | {"topk_group": 2, "routed_scaling_factor": 2.0},
    ),
    "deepseek_v2_mscale_eps": (
        "DeepseekV2",
        LATENT
        | {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}}
        | {"rms_norm_eps": 0.05, "max_position_embeddings": 2560},
    ),
    "deepseek_v3": (
        "DeepseekV3",
        LATENT
        | {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}}
        | {"num_nextn_predict_layers": 0, "max_position_embeddings": 2560},
    ),
    "deepseek_v3_half_experts": (
        "DeepseekV3",
        LATENT
        | {"rope_interleave": False, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2}
        | {"num_nextn_predict_layers": 0},
    ),
}


LETTERS = "abcdefghijklmnopqrstuvwxyz .,;:!?'-\nTRMJ"  # of the tokenizer, 41


def tokenizer():
    """Letters as tokens, three special ones, and two bytes of a character to be put together."""
    names = ["<pad>", "<s>", "</s>", *LETTERS, "<0xC3>", "<0xA9>"]
    vocabulary = {name: i for i, name in enumerate(names)}
    model = models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<pad>")
    found = Tokenizer(model)
    found.add_special_tokens(["<pad>", "<s>", "</s>"])
    found.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    found.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return found


def filled(model, seed):
    """Weights that make attention, gates and routers far from even."""
    generator = torch.Generator().manual_seed(seed)
    named = [*model.named_parameters(), *model.named_buffers()]
    for name, value in named:
        if "inv_freq" in name:
            continue
        noise = torch.randn(value.shape, generator=generator)
        if "norm" in name:
            value.data.copy_(1.0 + 0.3 * noise)
        elif value.ndim == 1:
            value.data.copy_(0.3 * noise)
        else:
            value.data.copy_(noise * 1.4 * value.shape[-1] ** -0.5)
    model.tie_weights()
    return model.eval()


def expected(folder, kind):
    model_class = getattr(transformers, f"{kind}ForCausalLM")
    rng = np.random.default_rng(7)
    tokens = rng.integers(3, 48, (2, 14))
    padded, live = tokens.copy(), np.ones_like(tokens)
    padded[1, :4], live[1, :4] = 0, 0
    places = np.maximum(np.cumsum(live, axis=1) - 1, 0)
    found = {"tokens": tokens, "padded": padded, "live": live, "places": places}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        rest = {"dtype": dtype, "experts_implementation": "eager"}
        model = model_class.from_pretrained(folder, attn_implementation="eager", **rest).eval()

        def logits(tokens, model=model, **rest):
            rest = {key: torch.as_tensor(value) for key, value in rest.items()}
            with torch.no_grad():
                return model(torch.as_tensor(tokens), **rest).logits.numpy()

        found[name] = logits(tokens)
        if name == "float64":
            # Eager attention answers NaN to rows without a key in float64.
            other = model_class.from_pretrained(folder, attn_implementation="sdpa", **rest).eval()
            found["left"] = np.float32(
                logits(padded, other, attention_mask=live, position_ids=places)[:, 4:]
            )
            far = np.broadcast_to(300 + np.arange(14), (2, 14))
            found["offset"] = np.float32(logits(tokens, position_ids=far))
            with torch.no_grad():
                out = model.generate(
                    torch.as_tensor(tokens), max_new_tokens=12, do_sample=False, eos_token_id=None
                )
            found["greedy"] = out[:, 14:].numpy()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    np.savez_compressed(folder / "expected.npz", versions=versions, **found)


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    for seed, (name, (kind, settings)) in enumerate(CASES.items()):
        config = getattr(transformers, f"{kind}Config")(**settings)
        model = filled(getattr(transformers, f"{kind}ForCausalLM")(config), seed)
        rest = {}
        if name.endswith("bf16"):
            model, rest = model.to(torch.bfloat16), {"max_shard_size": "5KB"}
        folder = HERE / name
        model.save_pretrained(folder, **rest)
        expected(folder, kind)
        if name in ("llama", "deepseek_v2_lite"):
            tokenizer().save(str(folder / "tokenizer.json"))
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{name}: {size / 1024:.0f} KiB, {sorted(p.name for p in folder.iterdir())}")


if __name__ == "__main__":
    main()
