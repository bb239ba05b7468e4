"""Directories of checkpoints that are refused, and some that only look wrong."""

import dataclasses
import json
import struct
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from attention import hf_config, load_pretrained

GOLDEN = Path(__file__).parents[1] / "golden" / "transformers"


def copy(folder, name="llama"):
    """A golden directory that may be spoiled."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (GOLDEN / name).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def setting(name, value, source="llama"):
    def spoil(folder):
        copy(folder, source)
        found = json.loads((folder / "config.json").read_text()) | {name: value}
        (folder / "config.json").write_text(json.dumps(found))

    return spoil


def rotary(**changes):
    def spoil(folder):
        copy(folder, "llama_yarn")
        found = json.loads((folder / "config.json").read_text())
        found["rope_parameters"] |= changes
        (folder / "config.json").write_text(json.dumps(found))

    return spoil


def tensors(change):
    def spoil(folder):
        copy(folder)
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")

    return spoil


def content(name, value, source="llama"):
    def spoil(folder):
        copy(folder, source)
        (folder / name).write_bytes(value((folder / name).read_bytes()))

    return spoil


def indexed(change):
    def spoil(folder):
        copy(folder, "llama_sharded_bf16")
        path = folder / "model.safetensors.index.json"
        found = json.loads(path.read_text())
        change(found["weight_map"])
        path.write_text(json.dumps(found))

    return spoil


def without(name, source="llama"):
    def spoil(folder):
        (copy(folder, source) / name).unlink()

    return spoil


def linked(folder):
    copy(folder)
    elsewhere = folder.parent / "elsewhere.safetensors"
    (folder / "model.safetensors").rename(elsewhere)
    (folder / "model.safetensors").symlink_to(elsewhere)


def pickled(folder):
    without("model.safetensors")(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")


NORM = "model.norm.weight"
BAD = {
    "no config": (without("config.json"), r"expected config.json, found none"),
    "no file": (without("model.safetensors"), r"expected model.safetensors or model.safetensors.i"),
    "a pickle": (pickled, r"pytorch_model.bin is a pickle"),
    "no shard": (
        without("model-00002-of-00004.safetensors", "llama_sharded_bf16"),
        r"expected model-00002-of-00004.safetensors, found none",
    ),
    "index to outside": (
        indexed(lambda table: table.update({NORM: "../other.safetensors"})),
        r"expected files inside of it, got ../other.safetensors",
    ),
    "index to the root": (
        indexed(lambda table: table.update({NORM: "/etc/passwd"})),
        r"expected files inside of it, got /etc/passwd",
    ),
    "index to another shard": (
        indexed(lambda table: table.update({NORM: "model-00001-of-00004.safetensors"})),
        r"is not said by model.safetensors.index.json to be here|expected tensor",
    ),
    "index with more": (
        indexed(lambda table: table.update({"x": "model-00001-of-00004.safetensors"})),
        r"expected tensor x, found none",
    ),
    "index with less": (
        indexed(lambda table: table.pop(NORM)),
        r"tensor model.norm.weight is not said by",
    ),
    "a link": (linked, r"expected a file inside .*, got a link to elsewhere"),
    "no JSON": (content("config.json", lambda text: text[:20]), r"config.json: expected JSON"),
    "JSON of a list": (content("config.json", lambda text: b"[]"), r"expected an object, got list"),
    "long header": (
        content("model.safetensors", lambda text: struct.pack("<Q", 10**12) + text[8:]),
        r"expected a whole safetensors file",
    ),
    "truncated": (
        content("model.safetensors", lambda text: text[:-100]),
        r"expected a whole safetensors file",
    ),
    "index with NUL": (
        indexed(lambda table: table.update({NORM: "a\0b"})),
        r"expected a file, got|expected a\\x00b, found none|embedded null",
    ),
    "index with a long name": (
        indexed(lambda table: table.update({NORM: "a" * 5000})),
        r"expected a file, got 'aaa",
    ),
    "nested JSON": (
        content("config.json", lambda text: b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        r"config.json: expected JSON",
    ),
    "kind of a list": (setting("model_type", ["llama"]), r"model_type: expected one of"),
    "endless epsilon": (setting("rms_norm_eps", float("inf")), r"rms_norm_eps: expected float"),
    "endless layers": (setting("num_hidden_layers", 10**7), r"expected as many layers and experts"),
    "endless experts": (
        setting("n_routed_experts", 10**9, "deepseek_v2_lite"),
        r"expected as many layers and experts",
    ),
    "two kinds of rope": (
        setting("rope_scaling", {"rope_type": "linear", "factor": 4.0}),
        r"rope_parameters, rope_scaling: expected one of them",
    ),
    "missing": (
        tensors(lambda t: t.pop(NORM)),
        r"expected tensor model.norm.weight \(16,\), found",
    ),
    "extra": (
        tensors(lambda t: t.update(x=np.zeros(3, np.float32))),
        r"expected no tensor x for this config.json",
    ),
    "shape": (
        tensors(lambda t: t.update({NORM: np.zeros(3, np.float32)})),
        r"model.norm.weight: expected \(16,\), got \(3,\)",
    ),
    "dtype": (
        tensors(lambda t: t.update({NORM: np.zeros(16, np.int8)})),
        r"model.norm.weight: expected one of .*, got I8",
    ),
    "architecture": (setting("model_type", "gpt2"), r"model_type: expected one of .*, got 'gpt2'"),
    "activation": (setting("hidden_act", "gelu"), r"hidden_act: expected 'silu', got 'gelu'"),
    "quantised": (
        setting("quantization_config", {"quant_method": "fp8"}),
        r"quantization_config: expected None",
    ),
    "unknown setting": (setting("logit_cap", 3.0), r"logit_cap: not known for llama, got 3.0"),
    "window of llama": (setting("sliding_window", 4), r"sliding_window: not known for llama"),
    "no size": (setting("hidden_size", None), r"expected hidden_size, found none"),
    "size of text": (setting("hidden_size", "16"), r"hidden_size: expected int, got '16'"),
    "heads": (setting("num_key_value_heads", 3), r"n_kv_heads: expected a divisor"),
    "rope type": (rotary(rope_type="longrope"), r"rope_type: expected one of .*, got 'longrope'"),
    "rope setting": (
        rotary(short_factor=[1.0]),
        r"expected those of yarn, short_factor is not known",
    ),
    "rope truncate": (rotary(truncate=False), r"truncate: expected true for yarn"),
    "rope factor": (rotary(attention_factor=2.0), r"attention_factor: expected 1.13863"),
    "rope scores": (rotary(mscale_all_dim=1.0), r"mscale_all_dim: expected none for llama"),
    "rope base": (rotary(rope_theta=0.5), r"rope_base: expected a finite number above 1"),
    "method": (
        setting("topk_method", "noaux_tc", "deepseek_v2_lite"),
        r"topk_method: expected one of \('greedy', 'group_limited_greedy'\)",
    ),
    "normalised": (
        setting("norm_topk_prob", True, "deepseek_v2_lite"),
        r"norm_topk_prob: expected false for deepseek_v2",
    ),
    "scoring": (
        setting("scoring_func", "sigmoid", "deepseek_v2_lite"),
        r"scoring_func: expected that of deepseek_v2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_spoiled_directories_are_refused(name, tmp_path):
    spoil, message = BAD[name]
    spoil(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path / "model")


def test_other_refusals_of_reading(tmp_path):
    with pytest.raises(ValueError, match="directory: expected a directory, got"):
        load_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="dtype: expected one of floats, got"):
        load_pretrained(GOLDEN / "llama", dtype=jnp.int32)
    setting("logit_cap", 3.0)(tmp_path / "model")
    load_pretrained(tmp_path / "model", ignore=("logit_cap",))


@pytest.mark.parametrize(
    ("source", "extra"),
    [
        ("llama", {"is_llama_config": True, "transformers.js_config": {"dtype": "q4"}}),
        ("llama", {"max_sequence_length": 2048, "max_length": 4096, "temperature": 0.9}),
        ("llama", {"unsloth_fixed": True, "id2label": {"0": "A"}, "pruned_heads": {}}),
        ("llama", {"num_nextn_predict_layers": 10**9}),
        ("mistral_window", {"unsloth_version": "2024.9"}),
    ],
)
def test_settings_of_published_checkpoints_are_known(source, extra, tmp_path):
    folder = copy(tmp_path / "model", source)
    found = json.loads((folder / "config.json").read_text()) | extra
    (folder / "config.json").write_text(json.dumps(found))
    assert load_pretrained(folder).config == load_pretrained(GOLDEN / source).config


def test_absent_settings_have_the_defaults_of_transformers():
    def read(name, *absent):
        found = json.loads((GOLDEN / name / "config.json").read_text())
        return hf_config.read({k: v for k, v in found.items() if k not in absent})

    assert read("mistral_window", "sliding_window").mixer.window == 4096
    assert read("deepseek_v2", "q_lora_rank").mixer.query_dim == 1536
    v3 = read("deepseek_v3_half_experts", "routed_scaling_factor", "n_shared_experts")
    assert (v3.experts.scale, v3.experts.shared_d_ff) == (2.5, 8)
    assert read("deepseek_v3_half_experts", "first_k_dense_replace").experts is None  # 3 of 2
    assert read("deepseek_v2_lite", "n_shared_experts").experts.shared_d_ff == 16


def test_settings_of_rope_can_be_ignored_by_name(tmp_path):
    rotary(finetuned=True)(tmp_path / "known")
    load_pretrained(tmp_path / "known")
    rotary(colour="red")(tmp_path / "model")
    load_pretrained(tmp_path / "model", ignore=("colour",))


def test_all_strange_settings_are_named_at_once(tmp_path):
    setting("logit_cap", 3.0)(tmp_path / "model")
    found = json.loads((tmp_path / "model" / "config.json").read_text()) | {"other": 1}
    (tmp_path / "model" / "config.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"ignore=\('logit_cap', 'other'\)"):
        load_pretrained(tmp_path / "model")


def test_files_of_an_index_may_be_in_a_folder_below(tmp_path):
    folder = copy(tmp_path / "model", "llama_sharded_bf16")
    (folder / "sub").mkdir()
    path = folder / "model.safetensors.index.json"
    found = json.loads(path.read_text())
    for name in set(found["weight_map"].values()):
        (folder / name).rename(folder / "sub" / name)
    found["weight_map"] = {k: f"sub/{v}" for k, v in found["weight_map"].items()}
    path.write_text(json.dumps(found))
    load_pretrained(folder)


def test_snapshots_lead_to_blobs_alone(tmp_path):
    folder = copy(tmp_path / "snapshots" / "abc")
    (folder / "model.safetensors").rename(tmp_path / "secret")
    (folder / "model.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="got a link to elsewhere"):
        load_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors"):
        load_pretrained(folder)


def test_harmless_differences_are_accepted(tmp_path):
    """Old names of settings, links of a cache, frequencies, a tied head that is stored as well."""
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    copy(folder, "llama3_rope")
    found = json.loads((folder / "config.json").read_text())
    scaling = found.pop("rope_parameters")
    found["rope_theta"], found["rope_scaling"] = scaling.pop("rope_theta"), scaling
    scaling["type"] = scaling.pop("rope_type")
    found["torch_dtype"] = found.pop("dtype")
    found["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(found))
    arrays = load_file(folder / "model.safetensors")
    arrays["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(2, np.float32)
    save_file(arrays, blobs / "123")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(blobs / "123")
    model = load_pretrained(folder)
    expected = load_pretrained(GOLDEN / "llama3_rope")
    assert model.config == dataclasses.replace(expected.config, tie_embeddings=True)
