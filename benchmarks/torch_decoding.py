"""Milliseconds of a decoded token in Hugging Face Transformers, for `benchmarks/attention.py`.

Run by a Python of its own that has torch and transformers:

    path/to/python benchmarks/torch_decoding.py MLA 2048 8192

Prints one line of JSON for each context: the fastest step of a random model of the same sizes
(4 layers, d = 512, 8 heads of 64, SwiGLU of 1408, 256 tokens, float32), whose cache was filled with
random numbers, cut back after each step. Llama for MHA, GQA and MQA, DeepSeek-V2 with dense layers
for MLA.
"""

import json
import sys
import time

import torch
import transformers

GROUPS = {"MHA": 8, "GQA": 2, "MQA": 1}
SIZES = {
    "vocab_size": 256,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
}


def model_of(name):
    if name in GROUPS:
        config = transformers.LlamaConfig(**SIZES, num_key_value_heads=GROUPS[name], head_dim=64)
        return transformers.LlamaForCausalLM(config)
    config = transformers.DeepseekV2Config(
        **SIZES,
        num_key_value_heads=8,
        kv_lora_rank=256,
        q_lora_rank=None,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
        first_k_dense_replace=4,
    )
    return transformers.DeepseekV2ForCausalLM(config)


@torch.no_grad()
def measure(name, context, seconds=2.0):
    """Seconds of the fastest step, and the elements cached of a token and layer."""
    model = model_of(name).eval()
    start = model(torch.zeros(1, 2, dtype=torch.long), use_cache=True).past_key_values
    filled = transformers.DynamicCache(config=model.config)
    elements = 0
    for layer in range(SIZES["num_hidden_layers"]):
        one = start.layers[layer]
        parts = [
            torch.randn(*part.shape[:-2], context - 1, part.shape[-1])
            for part in (one.keys, one.values)
        ]
        elements = sum(part.shape[1] * part.shape[-1] for part in parts)
        filled.update(*parts, layer)
    times, end = [], time.perf_counter() + seconds
    token = torch.zeros(1, 1, dtype=torch.long)
    while time.perf_counter() < end or len(times) < 3:
        began = time.perf_counter()
        model(token, past_key_values=filled, use_cache=True)
        times.append(time.perf_counter() - began)
        filled.crop(-1)
    return min(times), elements


if __name__ == "__main__":
    torch.manual_seed(0)
    for context in map(int, sys.argv[2:]):
        fastest, cached = measure(sys.argv[1], context)
        row = {"context": context, "seconds": fastest, "elements": cached}
        print(json.dumps(row), flush=True)
