"""One grouped-query layer against the reference; the limits MHA and MQA; decoding."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import layer_config, layer_params
from reference import attention as reference

from attention import GroupedConfig, grouped

apply = jax.jit(grouped.apply, static_argnames="config")
prefill = jax.jit(grouped.prefill, static_argnames="config")
step = jax.jit(grouped.step, static_argnames="config")
TIME = 6


def case(config, time=TIME):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, time, config.d_model)))
    return layer_params(config), x


def check(config, tolerance, **context):
    params, x = case(config)
    out = apply(params, x, config=config, **context)
    expected = reference.layer(params, np.asarray(x, np.float64), config, **context)
    np.testing.assert_allclose(out, expected, atol=tolerance, rtol=0)


def test_layer_equals_the_reference(kv_heads, precision, tolerance):
    check(layer_config(kv_heads), tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {"rope_layout": "interleaved", "rope_base": 100.0},
        {"window": 2},
        {"head_dim": 6},
    ],
)
def test_options_of_the_layer_equal_the_reference(options, precision, tolerance):
    check(layer_config(2, **options), tolerance)


def test_layer_without_rotation_equals_the_reference(precision, tolerance):
    check(layer_config(2, rope_base=None), tolerance)


def test_positions_and_masks_equal_the_reference(precision, tolerance):
    positions = np.array([[3, 4, 5, 6, 7, 8], [0, 0, 1, 2, 3, 4]])
    mask = np.random.default_rng(2).uniform(size=(2, TIME, TIME)) < 0.7
    check(layer_config(2, window=3), tolerance, positions=positions, mask=mask)


def test_padding_mask_hides_keys_from_every_query():
    config = layer_config(2)
    params, x = case(config)
    mask = np.array([[False, True, True, True, True, True], [True] * TIME])
    expected = reference.layer(
        params, np.asarray(x, np.float64), config, mask=np.repeat(mask[:, None], TIME, 1)
    )
    out = apply(params, x, config=config, mask=mask)
    np.testing.assert_allclose(out, expected, atol=2e-5, rtol=0)
    np.testing.assert_array_equal(out[0, 0], 0.0)  # sees no key at all


def widened(params, groups, width):
    """The same heads with every key/value head written out once per query head."""

    def repeat(weight):
        heads = weight.reshape(weight.shape[0], -1, width)
        return jnp.repeat(heads, groups, axis=1).reshape(weight.shape[0], -1)

    return {**params, "key": repeat(params["key"]), "value": repeat(params["value"])}


@pytest.mark.parametrize("kv", [1, 2])
def test_grouped_layer_is_multi_head_with_repeated_key_value_heads(kv, x64):
    params, x = case(layer_config(kv))
    full = apply(widened(params, 4 // kv, 4), x, config=layer_config(4))
    np.testing.assert_allclose(apply(params, x, config=layer_config(kv)), full, atol=1e-12, rtol=0)


def test_grouped_layer_with_equal_heads_is_multi_query(x64):
    params, x = case(layer_config(1))
    grouped_out = apply(widened(params, 2, 4), x, config=layer_config(2))
    out = apply(params, x, config=layer_config(1))
    np.testing.assert_allclose(out, grouped_out, atol=1e-12, rtol=0)


def test_layouts_agree_after_permuting_the_projections(x64):
    half, interleaved = layer_config(2), layer_config(2, rope_layout="interleaved")
    params, x = case(half)
    order = np.array([0, 2, 1, 3])  # evens, then odds, within every head of 4

    def permuted(weight):
        heads = weight.reshape(weight.shape[0], -1, 4)[..., order]
        return heads.reshape(weight.shape)

    turned = {**params, "query": permuted(params["query"]), "key": permuted(params["key"])}
    out = apply(params, x, config=interleaved)
    np.testing.assert_allclose(out, apply(turned, x, config=half), atol=1e-12, rtol=0)
    assert jnp.max(jnp.abs(out - apply(params, x, config=half))) > 1e-3


def test_output_depends_on_relative_positions_only(precision, tolerance):
    config = layer_config(2)
    params, x = case(config)
    positions = jnp.tile(jnp.arange(TIME), (2, 1))
    near, far = (apply(params, x, positions=positions + offset, config=config) for offset in (0, 9))
    np.testing.assert_allclose(near, apply(params, x, config=config), atol=tolerance, rtol=0)
    np.testing.assert_allclose(far, near, atol=tolerance, rtol=0)


def test_the_future_has_no_influence():
    config = layer_config(2)
    params, x = case(config)
    changed = apply(params, x.at[:, 4:].add(1.0), config=config)
    out = apply(params, x, config=config)
    np.testing.assert_array_equal(changed[:, :4], out[:, :4])
    assert jnp.all(jnp.any(changed[:, 4:] != out[:, 4:], axis=-1))


def decode(params, x, prompt, config, capacity=8):
    state = grouped.init_state(x.shape[0], capacity, x.dtype, config=config)
    state, y = grouped.prefill(params, x[:, :prompt], state, config=config)
    body = lambda state, x_t: grouped.step(params, state, x_t, config=config)  # noqa: E731
    state, rest = jax.lax.scan(body, state, x[:, prompt:].swapaxes(0, 1))
    return state, jnp.concatenate([y, rest.swapaxes(0, 1)], axis=1)


@pytest.mark.sample(1)
@pytest.mark.parametrize(("kv", "time", "prompt"), [(4, 5, 2), (2, 5, 3), (2, 6, 3), (1, 6, 2)])
def test_prefill_and_steps_equal_apply_in_values_and_gradients(
    kv, time, prompt, precision, tolerance
):
    config = layer_config(kv, window=4)
    params, x = case(config, time)
    weights = jnp.asarray(np.random.default_rng(3).normal(size=x.shape))

    def parallel(params, x):
        y = grouped.apply(params, x, config)
        return jnp.mean(weights * y), y

    def recurrent(params, x):
        y = decode(params, x, prompt, config)[1]
        return jnp.mean(weights * y), y

    results = [
        jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(params, x)
        for f in (parallel, recurrent)
    ]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=0)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(results[1][1]))


def test_ragged_prompts_continue_as_if_alone(precision, tolerance):
    config = layer_config(2)
    params, x = case(config)
    lengths = np.array([2, 4])
    state = grouped.init_state(2, 8, x.dtype, config=config)
    state, _ = prefill(params, x[:, :4], state, jnp.asarray(lengths), config=config)
    rows = jnp.arange(2)
    for offset in range(2):
        state, y = step(params, state, x[rows, lengths + offset], config=config)
        expected = apply(params, x, config=config)[rows, lengths + offset]
        np.testing.assert_allclose(y, expected, atol=tolerance, rtol=0)
    np.testing.assert_array_equal(state.length, lengths + 2)


def test_mixer_is_the_module_functions_with_the_configuration_bound():
    config = layer_config(2)
    mixer = grouped.mixer(config)
    assert grouped.mixer(layer_config(2)) is mixer  # equal configurations compile once
    params, x = case(config)
    bound = jax.jit(mixer.apply)(params, x)
    np.testing.assert_array_equal(bound, apply(params, x, config=config))
    assert mixer.init_state(2, 7, jnp.bfloat16).keys.shape == (2, 2, 7, 4)
    shapes = jax.eval_shape(mixer.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize("head_dim", [None, 6])
def test_sizes_and_scales_of_the_projections(head_dim):
    config = GroupedConfig(d_model=64, n_heads=4, n_kv_heads=2, head_dim=head_dim)
    width = head_dim or 16
    params = grouped.init(jax.random.key(0), config)
    shapes = {name: weight.shape for name, weight in params.items()}
    narrow, wide = (64, 2 * width), (64, 4 * width)
    assert shapes == {"query": wide, "key": narrow, "value": narrow, "output": wide[::-1]}
    assert config.cache_elements == 2 * 2 * width
    for weight in params.values():  # 700 numbers or more: the deviation is good to 10 %
        np.testing.assert_allclose(jnp.std(weight), weight.shape[0] ** -0.5, rtol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 0}, "d_model: expected a whole number of at least 1, got 0"),
        ({"n_heads": 0}, "n_heads: expected a whole number of at least 1, got 0"),
        pytest.param(
            {"n_kv_heads": 0},
            "n_kv_heads: expected .*got 0",
        ),
        pytest.param(
            {"head_dim": 0},
            "head_dim: expected .*got 0",
        ),
        ({"n_kv_heads": 3}, "n_kv_heads: expected a divisor of n_heads = 4, got 3"),
        ({"n_heads": 5}, "n_heads: expected a divisor of d_model = 16, got 5"),
        pytest.param(
            {"n_heads": 32},
            "n_heads: expected a divisor of d_model = 16, got 32",
        ),
        ({"head_dim": 3}, "head_dim: expected an even number with RoPE, got 3"),
        ({"window": 0}, "window: expected a whole number of at least 1, got 0"),
        pytest.param(
            {"rope_layout": "interleave"},
            "rope_layout: .*interleave",
        ),
    ],
)
def test_bad_sizes_are_refused_by_name(options, message):
    config = object.__new__(GroupedConfig)  # fields without the type checks of the test suite
    fields = {"d_model": 16, "n_heads": 4, "n_kv_heads": None, "head_dim": None}
    fields |= {"rope_base": 1e4, "rope_layout": "half", "window": None} | options
    config.__dict__.update(fields)
    with pytest.raises(ValueError, match=f"^{message}"):
        inspect.unwrap(GroupedConfig.__post_init__)(config)
