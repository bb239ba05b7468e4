"""Rotary embedding against complex multiplication, and its relative-position property."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import attention as reference

from attention import long_context, rope

LAYOUTS = ("half", "interleaved")
rotate = jax.jit(rope.rotate, static_argnames="layout")
tables = jax.jit(rope.tables, static_argnames=("dim", "base"))


def exact_tables(positions, dim, base=10_000.0):
    angles = np.asarray(positions)[..., None] * base ** (-2.0 * np.arange(dim // 2) / dim)
    return jnp.asarray(np.cos(angles)), jnp.asarray(np.sin(angles))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rotation_equals_complex_multiplication(layout, precision):
    x = np.random.default_rng(0).normal(size=(3, 8))
    positions = [0, 5, 1000]
    y = rotate(jnp.asarray(x), *exact_tables(positions, 8), layout=layout)
    assert y.dtype == precision
    expected = [
        reference.rotate(row, position, layout=layout)
        for row, position in zip(x, positions, strict=True)
    ]
    tolerance = {"float32": 1e-6, "float64": 1e-14}[precision]
    np.testing.assert_allclose(y, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_tables_equal_the_cosines_and_sines_of_the_paper(base):
    positions = jnp.array([[0, 1, 63], [64, 500, 999]])
    cos, sin = tables(positions, 8, base)
    expected_cos, expected_sin = exact_tables(positions, 8, base)
    assert cos.shape == sin.shape == (2, 3, 4)
    # An angle of at most 999 is rounded to 3e-5, and so is theta_k before.
    np.testing.assert_allclose(cos, expected_cos, atol=2e-4, rtol=0)
    np.testing.assert_allclose(sin, expected_sin, atol=2e-4, rtol=0)
    np.testing.assert_allclose(cos[0, :2], expected_cos[0, :2], atol=3e-7, rtol=0)


def test_frequencies_are_powers_of_the_base():
    expected = [100.0 ** (-2 * k / 6) for k in range(3)]
    np.testing.assert_allclose(rope.frequencies(6, 100.0), expected, rtol=1e-6)


def test_half_precision_is_rotated_with_single_precision_angles():
    x = jnp.ones((1, 4), jnp.bfloat16)
    y = rotate(x, *tables(jnp.array([257]), 4))
    assert y.dtype == jnp.bfloat16
    # Position 257 is not a bfloat16; rounding it to 256 would turn the pair by a radian.
    expected = reference.rotate(np.ones(4), 257)
    np.testing.assert_allclose(np.asarray(y[0], float), expected, atol=2e-2, rtol=0)


def test_layouts_differ_by_a_permutation_of_the_columns():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 8)))
    cos, sin = exact_tables([1, 2, 3], 8)
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])
    half = rotate(x[:, order], cos, sin, layout="half")
    interleaved = rotate(x, cos, sin, layout="interleaved")
    np.testing.assert_array_equal(interleaved[:, order], half)
    assert jnp.max(jnp.abs(interleaved - rotate(x, cos, sin, layout="half"))) > 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
@given(query=st.integers(0, 500), key=st.integers(0, 500), shift=st.integers(0, 500))
def test_scores_depend_on_the_distance_only(layout, x64, query, key, shift):
    q, k = np.random.default_rng(2).normal(size=(2, 8))

    def score(i, j):
        rotated = rotate(jnp.stack([q, k]), *exact_tables([i, j], 8), layout=layout)
        return float(rotated[0] @ rotated[1])

    assert abs(score(query, key) - score(query + shift, key + shift)) < 1e-11
    if query != key:
        assert abs(score(query, key) - score(key, key)) > 1e-9


@pytest.mark.parametrize("layout", LAYOUTS)
@given(position=st.integers(0, 10_000))
def test_rotation_keeps_the_norm(layout, x64, position):
    x = jnp.asarray(np.random.default_rng(3).normal(size=8))
    y = rotate(x, *exact_tables(position, 8), layout=layout)
    np.testing.assert_allclose(jnp.linalg.norm(y), jnp.linalg.norm(x), rtol=1e-14)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_position_zero_is_not_rotated(layout):
    x = jnp.arange(8.0)
    np.testing.assert_array_equal(rotate(x, *tables(jnp.array(0), 8), layout=layout), x)


@pytest.mark.parametrize("dim", [0, -2, 5])
def test_odd_or_empty_dimensions_are_refused(dim):
    with pytest.raises(ValueError, match=f"dim: expected an even number > 0.*got {dim}"):
        rope.frequencies(dim)
    with pytest.raises(ValueError, match=f"dim: .*got {dim}"):
        rope.tables(jnp.arange(3), dim)


def test_unknown_layout_is_refused():
    unchecked = inspect.unwrap(rope.rotate)  # without the type checks of the test suite
    with pytest.raises(ValueError, match="layout: "):
        unchecked(jnp.ones(4), jnp.ones(2), jnp.zeros(2), "interleave")


def test_yarn_of_deepseek_and_llama3(x64):
    yarn = rope.Yarn(40.0, 4096, mscale=0.707, mscale_all_dim=0.707)
    ours = rope.frequencies(64, 10_000.0, float, yarn)
    np.testing.assert_allclose(ours, reference.yarn_frequencies(64, 1e4, 40.0, 4096), rtol=1e-12)
    assert rope.amplitude(yarn) == 1.0
    assert abs(long_context.score_factor(yarn) - 1.5896) < 1e-4
    assert (
        abs(long_context.score_factor(rope.Yarn(40.0, mscale=1.0, mscale_all_dim=1.0)) - 1.8739)
        < 1e-4
    )
    plain = rope.Yarn(16.0)
    assert long_context.score_factor(plain) == 1.0
    assert abs(rope.amplitude(plain) - (0.1 * np.log(16.0) + 1.0)) < 1e-12
    assert rope.amplitude(rope.Yarn(1.0)) == 1.0
    cos, sin = rope.tables(jnp.array([3]), 8, 10_000.0, float, plain)
    np.testing.assert_allclose(cos**2 + sin**2, rope.amplitude(plain) ** 2, rtol=1e-12)
    ours = rope.frequencies(128, 500_000.0, float, rope.Llama3())
    exact = reference.llama3_frequencies(128, 5e5, 8.0, 1.0, 4.0, 8192)
    np.testing.assert_allclose(ours, exact, rtol=1e-12)
    half = rope.frequencies(8, 100.0, float, rope.Linear(2.0))
    np.testing.assert_allclose(half, 0.5 * rope.frequencies(8, 100.0, float), rtol=1e-12)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 4), (2, 8)])
def test_layouts_are_converted_without_changing_scores(start, stop, x64):
    rng = np.random.default_rng(0)
    x, weights = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, 5), (2, 5, 24)))
    cos, sin = tables(jnp.array([3, 8]), (stop or 8) - start)

    def scores(weights, layout):
        q, k = (
            rope.rotate((row @ w).reshape(3, 8)[:, start:stop], cos[i], sin[i], layout)
            for i, (row, w) in enumerate(zip(x, weights, strict=True))
        )
        return jnp.sum(q * k, axis=-1)

    turned = rope.convert(weights, 8, "half", "interleaved", start, stop)
    np.testing.assert_allclose(scores(weights, "half"), scores(turned, "interleaved"), atol=1e-12)
    back = rope.convert(turned, 8, "interleaved", "half", start, stop)
    np.testing.assert_array_equal(back, weights)


def test_part_of_a_head_rotates():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8)), jnp.float32)
    cos, sin = tables(jnp.array([1, 2, 3]), 4)
    y = rope.rotate_part(x, cos, sin)
    np.testing.assert_array_equal(y[:, 4:], x[:, 4:])
    np.testing.assert_array_equal(y[:, :4], rope.rotate(x[:, :4], cos, sin))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rope.Linear(0.0), "factor: expected more than 0, got 0"),
        (lambda: rope.Yarn(2.0, beta_fast=1.0), "beta_fast: expected more than beta_slow"),
        (lambda: rope.Llama3(high=1.0), "high: expected more than low"),
        (lambda: rope.check(8, "half", "yarn"), "scaling: expected Linear, Llama3, Yarn or None"),
        (lambda: rope.convert(jnp.ones((2, 9)), 4, "half", "interleaved"), "width: expected a div"),
    ],
)
def test_bad_scalings_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
