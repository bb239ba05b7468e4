"""Attention masks against explicit loops."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import attention as reference

from attention import masks

WINDOWS = st.one_of(st.none(), st.integers(1, 6))
POSITIONS = st.lists(st.integers(0, 20), min_size=4, max_size=4)


@given(queries=POSITIONS, keys=POSITIONS, window=WINDOWS)
def test_causal_mask_equals_the_loop(queries, keys, window):
    keep = masks.causal(jnp.array(queries), jnp.array(keys), window)
    assert keep.dtype == bool
    np.testing.assert_array_equal(keep, reference.causal(queries, keys, window))


@given(rows=st.lists(POSITIONS, min_size=3, max_size=3), window=WINDOWS)
def test_causal_mask_of_a_batch_is_that_of_its_rows(rows, window):
    keep = masks.causal(jnp.array(rows), jnp.array(rows), window)
    for row, kept in zip(rows, keep, strict=True):
        np.testing.assert_array_equal(kept, reference.causal(row, row, window))


@pytest.mark.parametrize("window", [1, 2, 3])
def test_a_window_counts_the_query_itself(window):
    keep = masks.causal(jnp.arange(6), jnp.arange(6), window)
    np.testing.assert_array_equal(keep.sum(-1), np.minimum(np.arange(6) + 1, window))
    assert jnp.all(jnp.diagonal(keep))


@given(lengths=st.lists(st.integers(0, 5), min_size=3, max_size=3))
def test_valid_keeps_the_first_slots(lengths):
    keep = masks.valid(jnp.array(lengths), 5)
    np.testing.assert_array_equal(keep, [[slot < n for slot in range(5)] for n in lengths])


@pytest.mark.parametrize("window", [0, -1])
def test_empty_windows_are_refused(window):
    with pytest.raises(ValueError, match=f"window: expected at least 1 key, got {window}"):
        masks.causal(jnp.arange(3), jnp.arange(3), window)
