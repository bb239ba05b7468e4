"""The key/value cache: slots, lengths, dtypes and bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import decoder_config

from attention import cache, transformer


@jax.jit
def append(state, keys, values):
    keys = cache.append(state.keys, keys, state.length)
    values = cache.append(state.values, values, state.length)
    return cache.KVCache(keys, values, state.length + 1)


def tokens(time, seed=0, batch=2):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=(batch, 3, time, 4)), jnp.float32) for _ in range(2))


def filled(lengths=(1, 4), capacity=6, dtype=jnp.float32):
    keys, values = tokens(4)
    empty = cache.empty(2, 3, capacity, 4, dtype)
    lengths = jnp.array(lengths)
    stored = (
        cache.fill(old, new, lengths) for old, new in ((empty.keys, keys), (empty.values, values))
    )
    return cache.KVCache(*stored, lengths), keys, values


def test_an_empty_cache_has_no_live_slot():
    state = cache.empty(2, 3, 5, 4, jnp.bfloat16)
    assert state.keys.shape == state.values.shape == (2, 3, 5, 4)
    assert state.keys.dtype == state.values.dtype == jnp.bfloat16
    assert (state.capacity, state.length.tolist()) == (5, [0, 0])


def test_filling_stores_the_prompt_from_slot_zero():
    state, keys, values = filled()
    np.testing.assert_array_equal(state.keys[:, :, :4], keys)
    np.testing.assert_array_equal(state.values[:, :, :4], values)
    np.testing.assert_array_equal(state.keys[:, :, 4:], 0.0)
    assert state.length.tolist() == [1, 4]


def test_appending_writes_behind_the_last_live_slot_of_every_example():
    state, keys, values = filled()
    new_keys, new_values = tokens(1, seed=1)
    for offset in range(2):
        state = append(state, new_keys + offset, new_values + offset)
    expected = np.zeros((2, 3, 6, 4), np.float32), np.zeros((2, 3, 6, 4), np.float32)
    for buffer, old, new in zip(expected, (keys, values), (new_keys, new_values), strict=True):
        buffer[:, :, :4] = old
        for example, length in enumerate((1, 4)):
            for offset in range(2):
                buffer[example, :, length + offset] = new[example, :, 0] + np.float32(offset)
    np.testing.assert_array_equal(state.keys, expected[0])
    np.testing.assert_array_equal(state.values, expected[1])
    assert state.length.tolist() == [3, 6]


def test_tokens_are_stored_in_the_dtype_of_the_cache():
    state, keys, _ = filled(dtype=jnp.bfloat16)
    state = append(state, *tokens(1))
    assert state.keys.dtype == state.values.dtype == jnp.bfloat16
    np.testing.assert_array_equal(state.keys[1, :, :4], keys[1].astype(jnp.bfloat16))


def test_a_full_cache_is_refused_or_gives_nan():
    cache.check_room(np.array([3, 5]), 1, 6)
    with pytest.raises(ValueError, match="capacity: expected at least 7 slots for 5 tokens and 2"):
        cache.check_room(np.array([3, 5]), 2, 6)
    cache.check_room(np.array([3, 5]), 9, 6, window=6)
    jax.jit(lambda n: cache.check_room(n, 6, 6))(np.array([3, 5]))
    with pytest.raises(ValueError, match="capacity: expected at least 9 slots for a chunk, got 6"):
        jax.jit(lambda n: cache.check_room(n, 9, 6))(np.array([3, 5]))
    y = cache.poison(jnp.ones((2, 3)), jnp.array([6, 7]), 6)
    assert np.isfinite(y[0]).all() and np.isnan(y[1]).all()


@pytest.mark.parametrize(("dtype", "itemsize"), [(jnp.float32, 4), (jnp.bfloat16, 2)])
@pytest.mark.parametrize("head_dim", [4, 6])
def test_cache_of_a_decoder_has_the_bytes_of_the_formula(kv_heads, head_dim, dtype, itemsize):
    config = decoder_config(kv_heads, {"head_dim": head_dim}, n_layers=3)
    state = transformer.init_state(config, 2, 7, dtype)
    layers, batch, capacity = 3, 2, 7
    expected = 2 * kv_heads * head_dim * layers * batch * capacity * itemsize
    assert sum(one.keys.nbytes + one.values.nbytes for one in state) == expected
    elements = config.mixer.cache_elements * layers * batch * capacity
    assert elements * itemsize == expected
    rest = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) - expected
    assert rest == sum(one.length.nbytes for one in state) == layers * batch * 4


def test_prompts_longer_than_the_cache_are_refused():
    with pytest.raises(ValueError, match=r"capacity: expected at least 4 slots .* got 3"):
        filled(capacity=3)


@pytest.mark.parametrize(
    ("batch", "capacity", "message"),
    [
        (0, 3, "batch: expected a whole number of at least 1, got 0"),
        (1, 0, "capacity: expected a whole number of at least 1, got 0"),
    ],
)
def test_empty_sizes_are_refused_by_name(batch, capacity, message):
    with pytest.raises(ValueError, match=message):
        cache.empty(batch, 2, capacity, 4, jnp.float32)
