"""Attention to a cache block by block: its values, rings, and no copies of the cache."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import decoder_params
from reference import attention as reference

from attention import (
    GroupedConfig,
    LatentConfig,
    TiedConfig,
    TransformerConfig,
    cache,
    cache_bytes,
    live,
    transformer,
)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), float)


@pytest.mark.sample(5)
@pytest.mark.parametrize("lengths", [(1, 7, 11), (1, 3, 5)])  # all slots at once, a loop
@pytest.mark.parametrize("block", [3, 4, 100])
@pytest.mark.parametrize("window", [None, 1, 4])
def test_blocks_equal_the_reference(lengths, block, window, kv_heads, precision):
    q, keys, values = draw(3, 4, 1, 6), draw(3, kv_heads, 11, 6), draw(3, kv_heads, 11, 5, seed=1)
    length = jnp.array(lengths)
    keep = np.zeros((3, 1, 11), bool)
    for i, n in enumerate(lengths):
        keep[i, 0, max(0, n - (window or n)) : n] = True
    attend = jax.jit(functools.partial(live.attend, window=window, block=block))
    expected = reference.attend(q, keys, values, keep)
    bound = 1e-13 if precision == "float64" else 3e-6
    np.testing.assert_allclose(attend(q, keys, values, length), expected, atol=bound)
    shared = functools.partial(live.attend, window=window, block=block, value_dim=5)
    expected = reference.attend(q, keys, keys[..., :5], keep)
    np.testing.assert_allclose(jax.jit(shared)(q, keys, None, length), expected, atol=bound)


@pytest.mark.parametrize("lengths", [(3, 9), (3, 5)])
@pytest.mark.parametrize("window", [None, 2])
def test_several_queries_see_what_their_positions_allow(lengths, window, kv_heads, x64):
    q, keys, values = draw(2, 4, 3, 6), draw(2, kv_heads, 11, 6), draw(2, kv_heads, 11, 5, seed=1)
    positions = np.stack([np.arange(n - 3, n) for n in lengths])
    keep = np.stack([reference.causal(row, np.arange(11), window) for row in positions])
    attend = jax.jit(functools.partial(live.attend, window=window, block=4))
    y = attend(q, keys, values, jnp.array(lengths), jnp.asarray(positions))
    np.testing.assert_allclose(y, reference.attend(q, keys, values, keep), atol=1e-13)


def test_derivatives_are_those_of_the_masked_softmax(x64):
    q, keys, values = draw(2, 4, 1, 6), draw(2, 2, 9, 6), draw(2, 2, 9, 5, seed=1)
    length = jnp.array([4, 9])
    loop = lambda *x: jnp.sum(live.attend(*x, length, block=4) ** 2)  # noqa: E731
    keep = cache.keep(length, 9)
    dense = lambda *x: jnp.sum(live.scores.attend(*x, keep) ** 2)  # noqa: E731
    ours, exact = (jax.jit(jax.grad(f, (0, 1, 2)))(q, keys, values) for f in (loop, dense))
    for first, second in zip(ours, exact, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-12)


@pytest.mark.parametrize("capacity", [3, 5])
def test_a_ring_holds_the_newest_positions(capacity):
    length = jnp.array([0, 1, 3, 5, 12])
    held = np.asarray(cache.positions(length, capacity))
    for row, n in zip(held, (0, 1, 3, 5, 12), strict=True):
        assert sorted(p for p in row if p >= 0) == list(range(max(0, n - capacity), n))
        assert all(p % capacity == j for j, p in enumerate(row) if p >= 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grouped", "latent"])
@pytest.mark.parametrize("prompt", [2, 9])
def test_a_window_needs_no_more_slots_than_its_size(kind, prompt, x64):
    """Longer prompts, and many steps round the ring, against the whole sequence at once."""
    layer = (
        GroupedConfig(16, 4, 2, window=4)
        if kind == "grouped"
        else LatentConfig(16, 4, 6, nope_dim=4, rope_dim=4, value_dim=4, window=4)
    )
    config = TransformerConfig(11, 2, layer, d_ff=24)
    params = jax.tree.map(lambda x: x.astype(float), transformer.init(jax.random.key(0), config))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 20)))
    whole = transformer.apply(params, tokens, config)
    lengths = jnp.array([prompt, prompt - 1])
    state = transformer.init_state(config, 2, 20, float)
    assert state[0].capacity == 4
    state, first = transformer.prefill(params, tokens[:, :prompt], state, config, lengths)
    np.testing.assert_allclose(first[0], whole[0, :prompt], atol=1e-10)
    prepared = transformer.prepare(params, config)
    step = jax.jit(functools.partial(transformer.step, config=config))
    for k in range(20 - prompt):
        now = jnp.stack([tokens[0, prompt + k], tokens[1, prompt - 1 + k]])
        state, logits = step(prepared, state, now)
        np.testing.assert_allclose(logits[0], whole[0, prompt + k], atol=1e-10)
        np.testing.assert_allclose(logits[1], whole[1, prompt - 1 + k], atol=1e-10)


MIXERS = {
    "mha": GroupedConfig(64, 4, 4, head_dim=64),
    "gqa": GroupedConfig(64, 4, 2, head_dim=64),
    "mqa": GroupedConfig(64, 4, 1, head_dim=64),
    "mla": LatentConfig(64, 4, 64, nope_dim=16, rope_dim=16, value_dim=16),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("batch", [1, 12])
@pytest.mark.parametrize("name", MIXERS)
def test_a_compiled_step_copies_no_cache(name, batch):
    """Donated caches are written in place: no copy of their size, little memory beside them."""
    slots = 8192
    config = TransformerConfig(32, 4, MIXERS[name], d_ff=64)
    params = jax.eval_shape(lambda key: transformer.init(key, config), jax.random.key(0))
    prepared = jax.eval_shape(functools.partial(transformer.prepare, config=config), params)
    make = functools.partial(transformer.init_state, config, batch, slots)
    state = jax.eval_shape(make)
    tokens = jax.ShapeDtypeStruct((batch,), jnp.int32)

    def many(prepared, state, tokens):
        def body(carry, _):
            state, tokens = carry
            state, logits = transformer.step(prepared, state, tokens, config)
            return (state, jnp.argmax(logits, axis=-1).astype(jnp.int32)), tokens

        return jax.lax.scan(body, (state, tokens), None, 5)

    single = jax.jit(functools.partial(transformer.step, config=config), donate_argnums=1)
    for program in (single, jax.jit(many, donate_argnums=1)):
        compiled = program.lower(prepared, state, tokens).compile()
        buffers = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 4]
        size = sum(leaf.size * 4 for leaf in buffers)
        assert compiled.memory_analysis().temp_size_in_bytes <= 0.05 * size
        shapes = {
            ",".join(map(str, leaf.shape)) for leaf in jax.tree.leaves(state) if leaf.ndim == 4
        }
        for line in compiled.as_text().splitlines():
            found = re.search(r"= f32\[([0-9,]*)\]\S* (copy|transpose)\(", line)
            assert found is None or found.group(1) not in shapes, line


def test_bytes_of_caches():
    for name, layer in MIXERS.items():
        config = TransformerConfig(32, 3, layer)
        for dtype in (jnp.float32, jnp.bfloat16):
            state = transformer.init_state(config, 2, 7, dtype)
            held = sum(
                x.nbytes for one in state for x in jax.tree.leaves(one._replace(length=None))
            )
            expected = layer.cache_elements * 3 * 2 * 7 * jnp.dtype(dtype).itemsize
            assert cache_bytes(config, 2, 7, dtype) == held == expected, name
    windowed = TransformerConfig(32, 3, GroupedConfig(64, 4, window=5))
    assert cache_bytes(windowed, 1, 100, jnp.float32) == 3 * 5 * 128 * 4
    small = TransformerConfig(
        32,
        3,
        LatentConfig(64, 4, 32, nope_dim=16, rope_dim=8, value_dim=16, quantised=True),
    )
    assert cache_bytes(small, 1, 10, jnp.float32) == 3 * 10 * (40 + 2 * 4)


@pytest.mark.parametrize(
    "mixer",
    [
        GroupedConfig(16, 4, 2),
        LatentConfig(16, 4, latent_dim=6, nope_dim=4, rope_dim=4, value_dim=5),
        LatentConfig(16, 4, latent_dim=6, nope_dim=4, rope_dim=4, value_dim=5, quantised=True),
        TiedConfig(16, 4, nope_dim=4, rope_dim=4, kind="gta"),
    ],
)
def test_steps_outside_of_jit_are_traced_once(mixer, monkeypatch):
    """Not at every call, which new functions in the loop over blocks would be."""
    add, traced, counts = live._add, [], []

    def noted(*arguments):
        traced.append(None)
        return add(*arguments)

    monkeypatch.setattr(live, "_add", noted)
    config = TransformerConfig(13, 2, mixer, d_ff=24)
    params, tokens = decoder_params(config), jnp.ones((1, 3), int)
    prepared, state = transformer.prepare(params, config), transformer.init_state(config, 1, 37)
    for _ in range(3):
        transformer.step(prepared, state, tokens[:, 0], config)
        transformer.extend(params, tokens, state, config)
        counts.append(len(traced))
    assert counts[0] == counts[2] > 0


@pytest.mark.parametrize("shape", [(2, 2, 9, 5), (2, 1, 8, 5), (1, 2, 8, 5)])
def test_values_of_other_slots_are_refused(shape):
    q, keys = draw(2, 4, 1, 6), draw(2, 2, 8, 6)
    with pytest.raises(ValueError, match=r"values: expected \(2, 2, 8, 'd_v'\), got"):
        inspect.unwrap(live.attend)(q, keys, draw(*shape), jnp.array([4, 8]))
