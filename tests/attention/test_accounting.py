"""Parameters and operations of decoders: formulas against arrays, counts against programs."""

import functools

import jax
import jax.numpy as jnp
import pytest

from attention import GroupedConfig, LatentConfig, TransformerConfig, accounting, transformer
from experiments.harness.estimate import matrix_flops


def test_numbers_of_parameters_are_those_of_the_formulas():
    d, heads, hidden, layers = 64, 4, 64, 3
    latent = LatentConfig(d, heads, 32, query_dim=24, nope_dim=16, rope_dim=8, value_dim=12)
    compressed = d * 24 + 24 * heads * 24 + d * 40 + 32 * heads * 28 + heads * 12 * d + 32 + 24
    for mixer, expected in (
        (GroupedConfig(d, heads, 2), 2 * d * heads * 16 + 2 * d * 2 * 16),
        (latent, compressed),
    ):
        counts = accounting.parameters(TransformerConfig(32, layers, mixer, d_ff=hidden))
        assert counts["attention"] == layers * expected
        assert counts["feed_forward"] == layers * (3 * d * hidden + 2 * d)
        assert counts["rest"] == 32 * d + d


MIXERS = {
    "gqa": GroupedConfig(64, 4, 2),
    "wide": GroupedConfig(64, 4, 1, head_dim=24),
    "mla": LatentConfig(64, 4, 32, nope_dim=16, rope_dim=8, value_dim=12, form="materialised"),
    "absorbed": LatentConfig(
        64, 4, 32, query_dim=24, nope_dim=16, rope_dim=8, value_dim=12, form="absorbed"
    ),
}


@pytest.mark.parametrize("name", MIXERS)
def test_operations_are_those_of_the_traced_program(name):
    """The program multiplies all pairs of a short sequence, half of which do not attend."""
    time, config = 16, TransformerConfig(32, 3, MIXERS[name], d_ff=48, remat="none")
    params = jax.eval_shape(functools.partial(transformer.init, config=config), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((1, time), jnp.int32)
    program = functools.partial(transformer.apply, config=config)
    counted = matrix_flops(jax.make_jaxpr(program)(params, tokens))
    ours = accounting.operations(config, time)
    all_pairs = ours["attention"] * time * time // (time * (time + 1) // 2)
    assert counted == sum(ours.values()) - ours["attention"] + all_pairs


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", MIXERS)
def test_operations_of_a_step_are_those_of_the_traced_program(name):
    slots, config = 16, TransformerConfig(32, 3, MIXERS[name], d_ff=48)
    params = transformer.init(jax.random.key(0), config)
    prepared = transformer.prepare(params, config)
    state = transformer.init_state(config, 1, slots)
    step = functools.partial(transformer.step, config=config)
    jaxpr = jax.make_jaxpr(step)(prepared, state, jnp.zeros((1,), jnp.int32))
    parts = accounting.operations(config, 1, slots - 1)  # of all slots, as a block holds them
    more = 0
    if name in ("mla", "absorbed"):  # values are read with the rotated keys behind them
        more = 3 * 2 * slots * 4 * 8
    assert matrix_flops(jaxpr) == sum(parts.values()) + more


def test_windows_and_forms_change_the_pairs():
    window = TransformerConfig(32, 1, GroupedConfig(64, 4, window=3))
    assert accounting.operations(window, 5)["attention"] == 4 * 64 * (1 + 2 + 3 + 3 + 3)
    assert accounting.operations(window, 1, 100)["attention"] == 4 * 64 * 3
    # DeepSeek-V2: 640 and 2176 operations for a pair and a head.
    v2 = TransformerConfig(
        32,
        1,
        LatentConfig(5120, 128, 512, query_dim=1536, nope_dim=128, rope_dim=64, value_dim=128),
    )
    pairs = 100 * 101 // 2
    assert accounting.operations(v2, 100)["attention"] == 640 * 128 * pairs
    assert accounting.operations(v2, 100, form="absorbed")["attention"] == 2176 * 128 * pairs
    chunk = accounting.operations(v2, 200, 1000)  # above the crossover of 171
    assert chunk["expansion"] == 1200 * 2 * 128 * 512 * 256
    assert accounting.operations(v2, 100, 1000)["expansion"] == 100 * 2 * 128 * 512 * 256


def test_impossible_counts_are_refused():
    config = TransformerConfig(32, 1)
    with pytest.raises(ValueError, match="tokens, context: expected >= 1 and >= 0, got 0 and 0"):
        accounting.operations(config, 0)
    latent = TransformerConfig(32, 1, LatentConfig())
    with pytest.raises(ValueError, match=r"form: expected one of .*, got 'naive'"):
        accounting.operations(latent, 2, form="naive")
