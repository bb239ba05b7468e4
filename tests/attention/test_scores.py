"""Grouped scaled dot-product attention against loops over batch, head and query."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import attention as reference

from attention import scores

attend = jax.jit(scores.attend, static_argnames="scale")
QUERIES, KEYS = 3, 5


def inputs(kv_heads, seed=0):
    """d_k = 4 and d_v = 6, so that a swapped axis shows."""
    rng = np.random.default_rng(seed)
    shapes = ((2, 4, QUERIES, 4), (2, kv_heads, KEYS, 4), (2, kv_heads, KEYS, 6))
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes)


def random_mask(*shape):
    return np.random.default_rng(4).uniform(size=shape) < 0.6


def test_attention_equals_the_loops(kv_heads, precision, tolerance):
    q, k, v = inputs(kv_heads)
    out = attend(q, k, v)
    assert out.dtype == precision
    np.testing.assert_allclose(out, reference.attend(q, k, v), atol=tolerance, rtol=0)


def test_masked_attention_equals_the_loops(kv_heads, precision, tolerance):
    q, k, v = inputs(kv_heads)
    mask = random_mask(2, QUERIES, KEYS)
    expected = reference.attend(q, k, v, mask)
    np.testing.assert_allclose(attend(q, k, v, mask), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("shape", [(QUERIES, KEYS), (1, QUERIES, KEYS), (2, 1, KEYS), (KEYS,)])
def test_masks_broadcast_over_batch_and_queries(shape):
    q, k, v = inputs(2)
    mask = random_mask(*shape)
    expected = reference.attend(q, k, v, np.broadcast_to(mask, (2, QUERIES, KEYS)))
    np.testing.assert_allclose(attend(q, k, v, mask), expected, atol=2e-5, rtol=0)


def test_scale_replaces_the_default(precision, tolerance):
    q, k, v = inputs(2)
    expected = reference.attend(q, k, v, scale=0.3)
    np.testing.assert_allclose(attend(q, k, v, scale=0.3), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kv", [2, 1])
def test_grouped_heads_equal_repeated_key_value_heads(kv, x64):
    q, k, v = inputs(kv)
    full = attend(q, jnp.repeat(k, 4 // kv, axis=1), jnp.repeat(v, 4 // kv, axis=1))
    np.testing.assert_allclose(attend(q, k, v), full, atol=1e-12, rtol=0)


def test_rows_without_a_key_are_zero_and_their_gradients_finite():
    q, k, v = inputs(2)
    mask = random_mask(2, QUERIES, KEYS)
    mask[0, 1] = False

    def loss(q, k, v):
        return jnp.sum(scores.attend(q, k, v, jnp.asarray(mask)) ** 2)

    out = attend(q, k, v, mask)
    np.testing.assert_array_equal(out[0, :, 1], 0.0)
    assert jnp.all(jnp.any(out[1] != 0, axis=-1))
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)
    assert all(jnp.all(jnp.isfinite(g)) for g in gradients)
    np.testing.assert_array_equal(gradients[0][0, :, 1], 0.0)
    assert jnp.max(jnp.abs(gradients[0][0, :, 0])) > 1e-3


def test_masked_keys_have_no_influence_and_no_gradient():
    q, k, v = inputs(2)
    mask = np.ones((QUERIES, KEYS), bool)
    mask[:, 2] = False
    poisoned = k.at[:, :, 2].set(1e4), v.at[:, :, 2].set(-1e4)
    np.testing.assert_array_equal(attend(q, *poisoned, mask), attend(q, k, v, mask))

    def loss(k, v):
        return jnp.sum(scores.attend(q, k, v, jnp.asarray(mask)) ** 2)

    for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(k, v):
        np.testing.assert_array_equal(gradient[:, :, 2], 0.0)
        assert jnp.max(jnp.abs(gradient[:, :, 1])) > 1e-3


def test_huge_scores_do_not_overflow():
    q, k, v = inputs(2)
    out = attend(1e10 * q, 1e10 * k, v)  # scores of 1e20: a hard argmax
    assert jnp.all(jnp.isfinite(out))
    np.testing.assert_allclose(out, reference.attend(1e10 * q, 1e10 * k, v), atol=1e-6, rtol=0)


def test_half_precision_keeps_its_dtype_and_sums_in_single_precision():
    q, k, v = (z.astype(jnp.bfloat16) for z in inputs(2))
    out = attend(q, k, v)
    assert out.dtype == jnp.bfloat16
    expected = reference.attend(*(np.asarray(z, np.float64) for z in (q, k, v)))
    # Inputs, weights and outputs carry 8 bits; values reach 3.
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, atol=4e-2, rtol=0)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 3, 2, 4), (1, 2, 5, 4), (1, 2, 5, 4)), "q: expected a multiple of 2 .* got 3 heads"),
        (((1, 2, 2, 4), (1, 2, 5, 6), (1, 2, 5, 4)), r"k, v: .*q \(1, 2, 2, 4\).*k \(1, 2, 5, 6\)"),
        (((1, 2, 2, 4), (1, 2, 5, 4), (1, 2, 6, 4)), r"k, v: .*v \(1, 2, 6, 4\)"),
        (((1, 2, 2, 4), (1, 2, 5, 4), (1, 1, 5, 4)), r"k, v: .*v \(1, 1, 5, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, message):
    unchecked = inspect.unwrap(scores.attend)  # without the type checks of the test suite
    with pytest.raises(ValueError, match=message):
        unchecked(*(jnp.ones(shape) for shape in shapes))


@pytest.mark.sample(2)
@pytest.mark.parametrize("window", [None, 1, 5, 9])
@pytest.mark.parametrize("time", [7, 8, 9, 13])
def test_causal_blocks_skip_what_no_query_sees(time, window, kv_heads, x64):
    rng = np.random.default_rng(time)
    q, k, v = (jnp.asarray(rng.normal(size=(2, n, time, 6))) for n in (4, kv_heads, kv_heads))
    steps = np.arange(time)
    keep = np.tile(reference.causal(steps, steps, window), (2, 1, 1))
    attend = jax.jit(functools.partial(scores.causal, window=window, block=4))
    np.testing.assert_allclose(attend(q, k, v), reference.attend(q, k, v, keep), atol=1e-13)
    dense = lambda *x: jnp.sum(scores.attend(*x, jnp.asarray(keep)) ** 2)  # noqa: E731
    blocked = lambda *x: jnp.sum(attend(*x) ** 2)  # noqa: E731
    for first, second in zip(
        *(jax.jit(jax.grad(f, (0, 1, 2)))(q, k, v) for f in (dense, blocked)), strict=True
    ):
        np.testing.assert_allclose(first, second, atol=1e-11)


def test_causal_blocks_take_half_the_operations():
    shape = jax.ShapeDtypeStruct((1, 2, 4096, 32), jnp.float32)

    def flops(block):
        function = functools.partial(scores.causal, block=block)
        return jax.jit(function).lower(shape, shape, shape).compile().cost_analysis()["flops"]

    assert flops(512) < 0.6 * flops(4096)
