"""Several devices against one, and lowering for accelerators at the shapes of DeepSeek-V2-Lite."""

import functools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from attention import GroupedConfig, LatentConfig, TransformerConfig, kernels, transformer

SHARDED = """
    import functools
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from attention import GroupedConfig, LatentConfig, TransformerConfig, transformer

    assert len(jax.devices()) == 8
    mesh = jax.make_mesh((2, 4), ("batch", "heads"), axis_types=(AxisType.Auto,) * 2)
    columns = {"query", "key", "value", "up", "query_up", "gate"}
    rows = {"output", "down"}

    def place(path, leaf):
        names = [entry.key for entry in path if hasattr(entry, "key")]
        latent = "mixer" in names and names[-1] == "down"
        if names[-1] in columns and leaf.ndim == 3:
            return NamedSharding(mesh, P(None, None, "heads"))
        if names[-1] in rows and not latent and leaf.ndim == 3:
            return NamedSharding(mesh, P(None, "heads", None))
        return NamedSharding(mesh, P())

    def cached(leaf):
        if leaf.ndim == 4 and leaf.shape[1] % 4 == 0:
            return NamedSharding(mesh, P("batch", "heads"))
        return NamedSharding(mesh, P("batch"))

    for name, mixer in {
        "mha": GroupedConfig(32, 4), "gqa": GroupedConfig(32, 4, 2), "mqa": GroupedConfig(32, 4, 1),
        "mla": LatentConfig(32, 4, 16, query_dim=12, nope_dim=8, rope_dim=4, value_dim=8),
    }.items():
        config = TransformerConfig(32, 2, mixer, d_ff=64)
        params = transformer.init(jax.random.key(0), config)
        tokens = jnp.asarray(np.random.default_rng(0).integers(0, 32, (4, 9)))
        state = transformer.init_state(config, 4, 16)

        def run(params, tokens, state):
            whole = transformer.apply(params, tokens, config)
            loss = lambda p: jnp.sum(transformer.apply(p, tokens, config) ** 2)
            gradient = jax.grad(loss)(params)
            state, first = transformer.prefill(params, tokens[:, :5], state, config)
            state, chunk = transformer.extend(params, tokens[:, 5:7], state, config)
            prepared = transformer.prepare(params, config)
            state, last = transformer.step(prepared, state, tokens[:, 7], config)
            return whole, gradient, first, chunk, last, state

        one = jax.jit(run)(params, tokens, state)
        spread = (
            jax.tree.map(jax.device_put, params, jax.tree_util.tree_map_with_path(place, params)),
            jax.device_put(tokens, NamedSharding(mesh, P("batch"))),
            jax.tree.map(lambda leaf: jax.device_put(leaf, cached(leaf)), state),
        )
        many = jax.jit(run)(*spread)
        assert not many[0].sharding.is_fully_replicated, name
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
            bound = 1e-5 * max(1.0, float(np.abs(np.asarray(a)).max()))
            np.testing.assert_allclose(np.asarray(b), np.asarray(a), atol=bound, err_msg=name)
    print("equal")
"""


@pytest.mark.slow
def test_eight_devices_compute_what_one_does():
    """Heads on four, the batch on two."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHARDED)],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["equal"], done.stderr[-3000:]


LITE = LatentConfig(2048, 16, 512, nope_dim=128, rope_dim=64, value_dim=128)
MIXERS = {
    "mha": GroupedConfig(2048, 16, head_dim=128),
    "gqa": GroupedConfig(2048, 16, 4, head_dim=128),
    "mqa": GroupedConfig(2048, 16, 1, head_dim=128, window=512),
    "mla": LITE,
    "absorbed": LatentConfig(
        2048, 16, 512, nope_dim=128, rope_dim=64, value_dim=128, form="absorbed"
    ),
    "int8": LatentConfig(2048, 16, 512, nope_dim=128, rope_dim=64, value_dim=128, quantised=True),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("name", MIXERS)
def test_every_program_lowers_for_accelerators(name, platform):
    """Traced and lowered here, for there; a compiler for them is not at hand."""
    config = TransformerConfig(1024, 2, MIXERS[name], d_ff=1024)

    def half(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), tree)

    params = half(jax.eval_shape(lambda key: transformer.init(key, config), jax.random.key(0)))
    state = jax.eval_shape(lambda: transformer.init_state(config, 2, 4096, jnp.bfloat16))
    prepared = jax.eval_shape(functools.partial(transformer.prepare, config=config), params)
    tokens = jax.ShapeDtypeStruct((2, 2048), jnp.int32)
    one = jax.ShapeDtypeStruct((2,), jnp.int32)

    def loss(params, tokens):
        return jnp.sum(transformer.apply(params, tokens, config).astype(jnp.float32))

    programs = {
        "train": (jax.value_and_grad(loss), (params, tokens)),
        "prefill": (transformer.prefill, (params, tokens, state)),
        "extend": (transformer.extend, (params, tokens, state)),
        "step": (transformer.step, (prepared, state, one)),
    }
    for label, (function, arguments) in programs.items():
        bound = function if label == "train" else functools.partial(function, config=config)
        lowered = jax.jit(bound).trace(*arguments).lower(lowering_platforms=(platform,))
        assert "stablehlo" in lowered.as_text()[:20_000], label


@pytest.mark.parametrize("name", ["mha", "gqa", "mla"])
def test_the_kernel_for_tpus_lowers_with_its_gradient(name):
    config, time = MIXERS[name], 2048
    groups = config.kv_heads if isinstance(config, GroupedConfig) else config.n_heads
    widths = (128, 128) if isinstance(config, GroupedConfig) else (192, 128)
    q, k, v = (
        jax.ShapeDtypeStruct((2, heads, time, width), jnp.bfloat16)
        for heads, width in ((16, widths[0]), (groups, widths[0]), (groups, widths[1]))
    )

    def loss(q, k, v):
        return jnp.sum(kernels.splash_causal(q, k, v, None, 0.1).astype(jnp.float32))

    lowered = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, v).lower(lowering_platforms=("tpu",))
    assert lowered.as_text().count("tpu_custom_call") >= 3  # forward, two backward
