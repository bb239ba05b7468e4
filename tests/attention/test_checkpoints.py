"""Public checkpoints: logits of transformers' own, round trips, and what is refused."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from safetensors.numpy import load_file

import attention
from attention import (
    ExpertsConfig,
    GroupedConfig,
    LatentConfig,
    TransformerConfig,
    generate,
    hf_config,
    load_pretrained,
    rope,
    save_pretrained,
    transformer,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "transformers"
NAMES = sorted(folder.name for folder in GOLDEN.iterdir())
BOUNDS = {"float32": 1e-4, "float64": 2e-5}


def close(found, expected, bound):
    assert np.max(np.abs(np.asarray(found, np.float64) - expected)) <= bound


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name, x64):
    """Of whole sequences, of positions from 300 on, padded on the left, token by token."""
    expected = np.load(GOLDEN / name / "expected.npz")
    tokens, steps = jnp.asarray(expected["tokens"]), expected["tokens"].shape[1]
    for dtype, bound in BOUNDS.items():
        model = load_pretrained(GOLDEN / name, dtype=dtype)
        assert model.params["embedding"].dtype == dtype
        apply = jax.jit(transformer.apply, static_argnames="config")
        close(apply(model.params, tokens, model.config), expected[dtype], bound)
        far = jnp.broadcast_to(300 + jnp.arange(steps), tokens.shape)
        close(apply(model.params, tokens, model.config, far), expected["offset"], bound)
        mask, places = expected["live"].astype(bool), jnp.asarray(expected["places"])
        found = apply(model.params, jnp.asarray(expected["padded"]), model.config, places, mask)
        close(found[:, 4:], expected["left"], bound)

        state = transformer.init_state(model.config, 2, 16, dtype)
        state, found = transformer.prefill(model.params, tokens[:, :6], state, model.config)
        parts = [found]
        state, found = transformer.extend(model.params, tokens[:, 6:9], state, model.config)
        parts.append(found)
        prepared = transformer.prepare(model.params, model.config)
        step = jax.jit(transformer.step, static_argnames="config")
        for t in range(9, steps):
            state, found = step(prepared, state, tokens[:, t], model.config)
            parts.append(found[:, None])
        close(jnp.concatenate(parts, axis=1), expected[dtype], bound)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", NAMES)
def test_greedy_continuations_are_those_of_transformers(name):
    expected = np.load(GOLDEN / name / "expected.npz")
    model = load_pretrained(GOLDEN / name, dtype=jnp.float32)
    found = generate(model.params, model.config, expected["tokens"], 12)
    np.testing.assert_array_equal(found, expected["greedy"])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_what_was_loaded(name, tmp_path):
    """Every tensor of the file, bit by bit, and every setting that says what is computed."""
    model = load_pretrained(GOLDEN / name)
    settings = {key: model.settings[key] for key in ("max_position_embeddings", "eos_token_id")}
    save_pretrained(tmp_path, model.params, model.config, **settings)
    written = json.loads((tmp_path / "config.json").read_text())
    assert hf_config.read(written) == model.config
    for key, value in written.items():
        known = model.settings.get(key, value)
        if key == "rope_parameters":
            assert value == {k: v for k, v in known.items() if k in value}
        elif name == "deepseek_v3" and key in ("architectures", "model_type"):
            assert "V2" in str(value) or "v2" in str(value)  # the same without experts
        elif key not in ("first_k_dense_replace", "n_group", "topk_group"):
            assert value == known, key
    theirs = {}
    for path in (GOLDEN / name).glob("*.safetensors"):
        theirs |= load_file(path)
    ours = load_file(tmp_path / "model.safetensors")
    assert set(ours) == set(theirs)
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype
        np.testing.assert_array_equal(value, theirs[key])
    again = load_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_a_checkpoint_is_written_in_several_files(tmp_path):
    model = load_pretrained(GOLDEN / "deepseek_v2_lite")
    save_pretrained(tmp_path, model.params, model.config)
    save_pretrained(tmp_path, model.params, model.config, shard_bytes=10_000)
    assert not (tmp_path / "model.safetensors").exists()
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    again = load_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


@pytest.mark.slow
def test_interleaved_heads_are_written_in_the_order_of_llama(tmp_path):
    """The model stays the same, though its columns move."""
    mixer = GroupedConfig(16, 4, 2, rope_layout="interleaved", bias=True)
    config = TransformerConfig(30, 2, mixer, d_ff=24)
    params = transformer.init(jax.random.key(0), config)
    params = jax.tree.map(lambda p: p + 0.3 * jnp.sin(jnp.arange(p.size).reshape(p.shape)), params)
    save_pretrained(tmp_path, params, config)
    again, tokens = load_pretrained(tmp_path), jnp.arange(12)[None]
    assert again.config.mixer == dataclasses.replace(mixer, rope_layout="half", head_dim=4)
    expected = transformer.apply(params, tokens, config)
    close(transformer.apply(again.params, tokens, again.config), expected, 1e-5)


def test_dtype_and_devices_are_the_callers(tmp_path):
    """Parts of stacked and transposed parameters go where they are asked for."""
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((len(jax.devices()),), ("model",), axis_types=auto)
    explicit = jax.make_mesh((1,), ("model",))
    whole = jax.sharding.NamedSharding(explicit, jax.sharding.PartitionSpec())
    with pytest.raises(ValueError, match=r"sharding: expected .* got Explicit"):
        load_pretrained(GOLDEN / "llama", sharding=whole)
    plain = load_pretrained(GOLDEN / "deepseek_v2_groups", dtype=jnp.bfloat16)

    def place(path, shape):
        spec = [None] * len(shape)
        if path[0] == "expert_layers" and shape[-1] % mesh.size == 0:
            spec[-1] = "model"
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

    spread = load_pretrained(GOLDEN / "deepseek_v2_groups", jnp.bfloat16, place)
    jax.tree.map(np.testing.assert_array_equal, spread.params, plain.params)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(spread.params))
    assert load_pretrained(GOLDEN / "llama_sharded_bf16").params["head"].dtype == jnp.bfloat16


def test_corrections_of_experts_keep_their_precision(tmp_path):
    """Their differences are finer than bfloat16, in which the rest is stored."""
    model = load_pretrained(GOLDEN / "deepseek_v3_half_experts", dtype=jnp.bfloat16)
    fine = 7.9 + jnp.linspace(0.0, 0.05, 8)[None]
    ffn = {**model.params["expert_layers"]["ffn"], "correction": fine}
    layers = {**model.params["expert_layers"], "ffn": ffn}
    params = {**model.params, "expert_layers": layers}
    save_pretrained(tmp_path, params, model.config)
    stored = load_file(tmp_path / "model.safetensors")
    kinds = {name: value.dtype for name, value in stored.items()}
    assert kinds.pop("model.layers.1.mlp.gate.e_score_correction_bias") == np.float32
    assert set(map(str, kinds.values())) == {"bfloat16"}
    for again in (load_pretrained(tmp_path), load_pretrained(tmp_path, dtype=jnp.bfloat16)):
        found = again.params["expert_layers"]["ffn"]["correction"]
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, fine)
        assert again.params["embedding"].dtype == jnp.bfloat16


def test_settings_do_not_contradict_the_decoder(tmp_path):
    model = load_pretrained(GOLDEN / "mistral_window")
    decided = {"sliding_window": 3, "rope_scaling": {}, "hidden_act": "gelu", "mlp_bias": True}
    for name, value in decided.items():
        with pytest.raises(ValueError, match=f"{name}: expected no such setting"):
            save_pretrained(tmp_path / "no", model.params, model.config, **{name: value})
    with pytest.raises(ValueError, match=r"eos_tokenid: not known for mistral, got 3$"):
        save_pretrained(tmp_path / "no", model.params, model.config, eos_tokenid=3)
    assert not (tmp_path / "no").exists()


def test_other_files_of_a_directory_are_left_alone(tmp_path):
    model = load_pretrained(GOLDEN / "llama")
    (tmp_path / "model_mine.safetensors").write_bytes(b"mine")
    save_pretrained(tmp_path, model.params, model.config, shard_bytes=10_000)
    save_pretrained(tmp_path, model.params, model.config)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model_mine.safetensors", "model.safetensors", "config.json"}


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    """In the third file of several, where the disk is full; the next one tidies up."""
    model = load_pretrained(GOLDEN / "llama")
    save_pretrained(tmp_path, model.params, model.config, shard_bytes=10_000)
    written, save = [], safetensors.numpy.save_file

    def failing(tensors, path, metadata):
        written.append(path)
        if len(written) == 3:
            raise OSError("no space left")
        save(tensors, path, metadata)

    other = jax.tree.map(lambda leaf: leaf + 1, model.params)
    monkeypatch.setattr(safetensors.numpy, "save_file", failing)
    with pytest.raises(OSError, match="no space left"):
        save_pretrained(tmp_path, other, model.config, shard_bytes=10_000)
    again = load_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    monkeypatch.undo()
    save_pretrained(tmp_path, other, model.config)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(tmp_path).params, other)


def test_double_precision_needs_to_be_on():
    with pytest.raises(ValueError, match="dtype: expected jax_enable_x64 to be set for float64"):
        load_pretrained(GOLDEN / "llama", dtype=jnp.float64)


SPREAD = """
import sys
sys.path.insert(0, {root!r})
import jax, numpy as np
from attention import load_pretrained
mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))

def place(path, shape):
    spec = [None] * len(shape)
    if shape[-1] % 8 == 0:
        spec[-1] = "model"
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

folder = {folder!r}
found, plain = load_pretrained(folder, sharding=place), load_pretrained(folder)
jax.tree.map(np.testing.assert_array_equal, found.params, plain.params)
gate = found.params["expert_layers"]["ffn"]["gate"]
assert gate.sharding.shard_shape(gate.shape)[-1] == gate.shape[-1] // 8
"""


def test_parameters_are_spread_over_eight_devices():
    text = SPREAD.format(
        root=str(Path(__file__).parents[2]), folder=str(GOLDEN / "deepseek_v3_half_experts")
    )
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", text], check=True, env={**os.environ, **flags})


GROUPED = GroupedConfig(16, 4)
EXPERTS = ExpertsConfig(4, 2, 8, shared_d_ff=16)


@pytest.mark.parametrize(
    ("mixer", "rest", "message"),
    [
        (dataclasses.replace(GROUPED, rope_base=None), {}, "rope_base: expected rotary"),
        (dataclasses.replace(GROUPED, query_dim=3), {}, "query_dim: expected none, as Llama"),
        (dataclasses.replace(GROUPED, rope_dims=2), {}, "rope_dims: expected all of a head"),
        (GROUPED, {"experts": EXPERTS}, "experts: expected none with grouped-query"),
        (GroupedConfig(16, 4, window=3, bias=True), {}, "bias, ffn_bias: expected none with a win"),
        (
            dataclasses.replace(
                GROUPED, rope_scaling=rope.Yarn(4.0, mscale=1.0, mscale_all_dim=1.0)
            ),
            {},
            "mscale_all_dim: expected none with grouped",
        ),
        (LatentConfig(window=3), {}, "window: expected none"),
        (LatentConfig(norm_eps=1e-5), {}, "mixer.norm_eps: expected norms with 1e-06"),
        (LatentConfig(latent_norm=False), {}, "mixer.norm_eps: expected norms with 1e-06"),
        (LatentConfig(rope_layout="half"), {"ffn_bias": True}, "ffn_bias: expected none for Deep"),
        (
            LatentConfig(),
            {"experts": dataclasses.replace(EXPERTS, shared_d_ff=None)},
            "experts.shared_d_ff: expected a multiple of 8, got None",
        ),
        (LatentConfig(rope_layout="half"), {"experts": EXPERTS}, "experts: expected softmax"),
        (
            LatentConfig(),
            {"experts": dataclasses.replace(EXPERTS, scoring="sigmoid")},
            "experts.groups: expected some",
        ),
    ],
)
def test_decoders_that_none_of_the_models_is_are_not_written(mixer, rest, message, tmp_path):
    config = TransformerConfig(20, 2, mixer, d_ff=8, **rest)
    params = jax.eval_shape(lambda: transformer.init(jax.random.key(0), config))
    with pytest.raises(ValueError, match=message):
        save_pretrained(tmp_path / "no", params, config)
    assert not (tmp_path / "no").exists()


def test_parameters_that_do_not_fit_are_not_written(tmp_path):
    model = load_pretrained(GOLDEN / "llama")
    broken = {**model.params, "final_norm": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"params: final_norm: expected \(16,\), got \(3,\)"):
        save_pretrained(tmp_path, broken, model.config)
    with pytest.raises(ValueError, match="params: expected no more for this config"):
        save_pretrained(tmp_path, {**model.params, "more": jnp.ones(3)}, model.config)
    with pytest.raises(ValueError, match=r"params: head: expected .* got none"):
        save_pretrained(
            tmp_path, {k: v for k, v in model.params.items() if k != "head"}, model.config
        )
    assert attention.checkpoints.Model._fields == ("config", "params", "settings")


PEAK = """
import sys
sys.path.insert(0, {root!r})
import jax, jax.numpy as jnp
from attention import load_pretrained

def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

load_pretrained({small!r})
before = memory("VmRSS")
model = load_pretrained({large!r})
size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
print(size, memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_no_more_than_a_parameter_is_held_twice(tmp_path):
    """A fifth more than the parameters at the peak, and some tens of megabytes in any case."""
    config = TransformerConfig(500, 16, GroupedConfig(512, 8, 4), d_ff=2048)
    shapes = jax.eval_shape(lambda: transformer.init(jax.random.key(0), config))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    save_pretrained(tmp_path, params, config)
    root, small = str(Path(__file__).parents[2]), str(GOLDEN / "llama")
    text = PEAK.format(root=root, small=small, large=str(tmp_path))
    out = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True
    ).stdout
    size, peak = map(int, out.split())
    assert size > 230e6
    assert peak <= 1.2 * size + 6e7
