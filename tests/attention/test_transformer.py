"""The decoder against a layer-by-layer forward pass; its two views; mixers as arguments."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import decoder_config, decoder_params, layer_config
from reference import attention as reference

from attention import Mixer, TransformerConfig, feed_forward, transformer

apply = jax.jit(transformer.apply, static_argnames=("config", "mixer", "dtype", "logits_dtype"))
prefill = jax.jit(transformer.prefill, static_argnames=("config", "mixer"))
step = jax.jit(transformer.step, static_argnames=("config", "mixer"))
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 6))


def mean_mixer():
    """The running mean times a weight: the least causal mixer that has a state."""
    return Mixer(
        init=lambda key: {"weight": jax.random.normal(key, (16,))},
        apply=lambda params, x: params["weight"] * jnp.cumsum(x, 1) / _count(x.shape[1]),
        prepare=lambda params: {"prepared": 2.0 * params["weight"]},
        prefill=_mean_prefill,
        init_state=lambda batch, capacity, dtype: (jnp.zeros((batch, 16), dtype), jnp.zeros(batch)),
        step=_mean_step,
    )


def _count(time):
    return jnp.arange(1, time + 1)[:, None]


def _mean_prefill(params, x, state, lengths=None):
    total, seen = state
    y = params["weight"] * jnp.cumsum(x, 1) / _count(x.shape[1])
    return (total + x.sum(1), seen + x.shape[1]), y


def _mean_step(prepared, state, x):
    total, seen = state[0] + x, state[1] + 1
    return (total, seen), 0.5 * prepared["prepared"] * total / seen[:, None]


def test_decoder_equals_the_reference(kv_heads, precision, tolerance):
    config = decoder_config(kv_heads)
    params = decoder_params(config)
    logits = apply(params, TOKENS, config=config)
    assert (logits.shape, logits.dtype) == ((2, 6, 11), precision)
    expected = reference.decoder(params, TOKENS, config)
    np.testing.assert_allclose(logits, expected, atol=tolerance, rtol=0)


def test_untied_decoder_with_positions_and_mask_equals_the_reference(precision, tolerance):
    layer = {"window": 3, "rope_layout": "interleaved"}
    config = decoder_config(2, layer, tie_embeddings=False, norm_eps=1e-2)
    params = decoder_params(config)
    positions = TOKENS.cumsum(1)
    mask = np.random.default_rng(1).uniform(size=(2, 6, 6)) < 0.7
    logits = apply(params, TOKENS, config=config, positions=positions, mask=mask)
    expected = reference.decoder(params, TOKENS, config, positions, mask)
    np.testing.assert_allclose(logits, expected, atol=tolerance, rtol=0)


def loss(params, config):
    tokens = jnp.asarray(TOKENS)
    logits = transformer.apply(params, tokens[:, :-1], config)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1)
    return -jnp.mean(chosen)


def reference_loss(params, config):
    logits = reference.decoder(params, TOKENS[:, :-1], config)
    log_p = logits - np.log(np.sum(np.exp(logits), -1, keepdims=True))
    return -np.mean(np.take_along_axis(log_p, TOKENS[:, 1:, None], -1))


def test_gradient_equals_finite_differences_of_the_reference(kv_heads, x64):
    config = decoder_config(kv_heads)
    params = decoder_params(config)
    gradient = jax.jit(jax.grad(loss), static_argnames="config")(params, config)
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    norm = np.sqrt(sum(np.sum(d**2) for d in jax.tree.leaves(direction)))
    direction = jax.tree.map(lambda d: d / norm, direction)
    step = 1e-5  # central differences: an error of step^2 and 1e-15 / step
    ends = [
        reference_loss(
            jax.tree.map(lambda p, d, s=sign: p + s * step * d, params, direction), config
        )
        for sign in (1, -1)
    ]
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    exact = sum(float(jnp.vdot(g, d)) for g, d in pairs)
    assert abs(exact) > 1e-3
    np.testing.assert_allclose(exact, (ends[0] - ends[1]) / (2 * step), atol=2e-9, rtol=0)


def test_remat_gives_equal_gradients_from_less_memory(x64):
    params = decoder_params(decoder_config(2))
    gradients, kept = [], []
    for remat in ("none", "matmuls", "all"):
        config = decoder_config(2, remat=remat)
        gradients.append(jax.jit(jax.grad(loss), static_argnames="config")(params, config))
        residuals = jax.eval_shape(lambda p, c=config: jax.vjp(lambda q: loss(q, c), p)[1], params)
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(residuals)))
    for other in gradients[1:]:
        for a, b in zip(*map(jax.tree.leaves, (gradients[0], other)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12, rtol=0)
    assert kept[0] > 1.5 * kept[1] and kept[1] > kept[2]


def recurrent(params, tokens, prompt, config, lengths=None, mixer=None):
    """Logits of a prefill and one step per remaining token."""
    dtype = params["embedding"].dtype
    state = transformer.init_state(config, len(tokens), 8, dtype, mixer=mixer)
    state, logits = transformer.prefill(
        params, tokens[:, :prompt], state, config, lengths, mixer=mixer
    )
    prepared = transformer.prepare(params, config, mixer)

    def body(state, token):
        return transformer.step(prepared, state, token, config, mixer=mixer)

    _, rest = jax.lax.scan(body, state, jnp.asarray(tokens[:, prompt:].T))
    return jnp.concatenate([logits, rest.swapaxes(0, 1)], axis=1)


@pytest.mark.slow
@pytest.mark.parametrize(("time", "prompt"), [(5, 2), (6, 3)])
def test_prefill_and_steps_equal_apply_in_values_and_gradients(time, prompt, precision, tolerance):
    config = decoder_config(2)
    params, tokens = decoder_params(config), jnp.asarray(TOKENS[:, :time])
    weights = np.random.default_rng(3).normal(size=(2, time, 11)).astype(precision)

    def value(logits):
        return jnp.mean(weights * logits), logits

    views = (
        lambda params: value(transformer.apply(params, tokens, config)),
        lambda params: value(recurrent(params, tokens, prompt, config)),
    )
    results = [jax.jit(jax.value_and_grad(view, has_aux=True))(params) for view in views]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=0)


@pytest.mark.sample(2)
def test_ragged_prompts_continue_as_if_alone(kv_heads, precision, tolerance):
    config = decoder_config(kv_heads)
    params, lengths, rows = decoder_params(config), np.array([2, 4]), np.arange(2)
    expected = apply(params, TOKENS, config=config)
    state = transformer.init_state(config, 2, 8, precision)
    state, logits = prefill(params, TOKENS[:, :4], state, config, jnp.asarray(lengths))
    last = logits[rows, lengths - 1]
    np.testing.assert_allclose(last, expected[rows, lengths - 1], atol=tolerance, rtol=0)
    for offset in range(2):
        state, logits = step(params, state, TOKENS[rows, lengths + offset], config)
        want = expected[rows, lengths + offset]
        np.testing.assert_allclose(logits, want, atol=tolerance, rtol=0)


def test_a_custom_mixer_serves_both_views(x64):
    config, mixer = decoder_config(2), mean_mixer()
    params = decoder_params(config, mixer=mixer)
    assert set(params["layers"]["mixer"]) == {"weight"}
    logits = apply(params, TOKENS, config=config, mixer=mixer)
    run = jax.jit(functools.partial(recurrent, prompt=3, config=config, mixer=mixer))
    np.testing.assert_allclose(run(params, TOKENS), logits, atol=1e-12, rtol=0)
    attention = apply(decoder_params(config), TOKENS, config=config)
    assert jnp.max(jnp.abs(logits - attention)) > 1e-2


def test_activations_take_the_requested_dtype():
    config = decoder_config(2)
    params = decoder_params(config)
    logits = apply(params, TOKENS, config=config, dtype=jnp.bfloat16)
    assert logits.dtype == jnp.bfloat16
    wide = apply(params, TOKENS, config=config, dtype=jnp.bfloat16, logits_dtype=jnp.float32)
    assert wide.dtype == jnp.float32 and not (wide == wide.astype(jnp.bfloat16)).all()
    np.testing.assert_array_equal(wide.astype(jnp.bfloat16), logits)
    expected = reference.decoder(params, TOKENS, config)
    # Eight bits, logits of order three, some ten roundings on the way.
    np.testing.assert_allclose(np.asarray(logits, np.float64), expected, atol=0.15, rtol=0)


def test_rms_norm_and_swiglu_equal_the_reference(precision):
    tolerance = {"float32": 2e-6, "float64": 1e-14}[precision]
    rng = np.random.default_rng(4)
    x, gain = rng.normal(size=(3, 2, 8)), rng.normal(size=8)
    out = jax.jit(transformer.rms_norm, static_argnames="eps")(x, gain, 1e-2)
    expected = reference.rms_norm(x, gain, 1e-2)
    np.testing.assert_allclose(out, expected, atol=tolerance * np.max(np.abs(expected)), rtol=0)
    shapes = {"gate": (8, 12), "up": (8, 12), "down": (12, 8)}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    out = jax.jit(feed_forward.swiglu)(weights, x)
    # Values of order 100 here, hence relative to the largest.
    expected = reference.swiglu(weights, x)
    atol = tolerance * np.max(np.abs(expected))
    np.testing.assert_allclose(out, expected, atol=atol, rtol=0)


def test_rms_norm_of_small_half_precision_numbers_does_not_underflow():
    x = jnp.full((4,), 1e-5, jnp.float16)  # squares vanish in float16
    out = transformer.rms_norm(x, jnp.ones(4), 1e-12)
    assert out.dtype == jnp.float16
    np.testing.assert_allclose(np.asarray(out, float), 1.0, rtol=2e-2)


def test_initial_parameters_are_stacked_and_scaled():
    config = TransformerConfig(50, 3, layer_config(2, d_model=32), tie_embeddings=False)
    params = jax.jit(transformer.init, static_argnames="config")(jax.random.key(0), config)
    assert config.hidden == 96  # 8 * 32 / 3 = 85.3, rounded up to a multiple of 32
    assert params["head"].shape == (32, 50)
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(params["layers"]))
    layers = params["layers"]
    deviations = [
        (params["embedding"], 0.02),
        (layers["mixer"]["query"], 32**-0.5),
        (layers["mixer"]["output"], 32**-0.5 * 6**-0.5),
        (layers["ffn"]["gate"], 32**-0.5),
        (layers["ffn"]["down"], 96**-0.5 * 6**-0.5),
    ]
    for weight, expected in deviations:  # 1500 numbers or more: good to 2 %, four sigmas
        np.testing.assert_allclose(np.std(weight), expected, rtol=0.08)
    assert jnp.any(layers["ffn"]["up"][0] != layers["ffn"]["up"][1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab_size: expected a whole number of at least 1, got 0"),
        ({"n_layers": 0}, "n_layers: expected a whole number of at least 1, got 0"),
        pytest.param(
            {"d_ff": 0},
            "d_ff: expected a whole number of at least 1, got 0",
        ),
    ],
)
def test_bad_sizes_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        decoder_config(2, **options)


def test_an_unknown_choice_of_remat_is_refused():
    config = decoder_config(2)
    object.__setattr__(config, "remat", "some")  # past the type checks of the test suite
    with pytest.raises(ValueError, match=r"remat: expected one of .*got 'some'"):
        inspect.unwrap(TransformerConfig.__post_init__)(config)


def test_dropout_keeps_the_mean_and_falls_on_embeddings_and_both_parts_of_a_layer():
    config = decoder_config(2)
    params = transformer.init(jax.random.key(0), config)
    tokens = jnp.arange(12).reshape(2, 6) % config.vocab_size
    plain = transformer.apply(params, tokens, config)
    still = transformer.apply(params, tokens, config, dropout=0.3)
    np.testing.assert_array_equal(plain, still)  # without a key
    key = jax.random.key(1)
    dropped = transformer.apply(params, tokens, config, dropout=0.3, key=key)
    assert np.abs(dropped - plain).max() > 1e-3
    other = transformer.apply(params, tokens, config, dropout=0.3, key=jax.random.key(2))
    assert np.abs(dropped - other).max() > 1e-3
    x = feed_forward.drop(key, jnp.ones(40_000), 0.3)
    assert set(np.unique(x)) == {np.float32(0.0), np.float32(1 / 0.7)}
    assert float(x.mean()) == pytest.approx(1.0, abs=0.02)
    with pytest.raises(ValueError, match=r"dropout: expected a share in \[0, 1\), got 1.0"):
        transformer.apply(params, tokens, config, dropout=1.0, key=key)


def test_calls_outside_of_jit_are_traced_once():
    """Not at every call, which a new function under `lax.scan` would be."""
    config = decoder_config(2)
    params, tokens, traced = decoder_params(config), jnp.ones((1, 4), int), []
    plain = transformer.make_mixer(config.mixer)

    def noted(name):
        def function(*arguments):
            traced.append(name)
            return getattr(plain, name)(*arguments)

        return function

    mixer = plain._replace(apply=noted("apply"), prefill=noted("prefill"))
    state, counts = transformer.init_state(config, 1, 8), []
    for _ in range(3):
        transformer.apply(params, tokens, config, mixer=mixer)
        transformer.prefill(params, tokens, state, config, jnp.array([3]), mixer=mixer)
        counts.append(len(traced))
    assert counts[0] == counts[2] == 2
