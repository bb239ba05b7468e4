"""What does not fit is refused by name, or gives NaN that stays, where it cannot be known."""

import functools
import inspect
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import decoder_params

import attention
from attention import (
    GroupedConfig,
    LatentConfig,
    TransformerConfig,
    cache,
    checks,
    generate,
    generation,
    grouped,
    latent,
    live,
    scores,
    transformer,
)
from attention.sampling import Sampling

LATENT = {"latent_dim": 6, "nope_dim": 4, "rope_dim": 4, "value_dim": 5}
LAYERS = {
    "gqa": GroupedConfig(16, 4, 2),
    "gqa-window": GroupedConfig(16, 4, 2, window=8),
    "mla": LatentConfig(16, 4, **LATENT),
    "mla-window": LatentConfig(16, 4, **LATENT, window=8),
    "int8": LatentConfig(16, 4, **LATENT, quantised=True),
}


GOLDEN = Path(__file__).parents[1] / "golden" / "transformers"
LIVE = inspect.unwrap(live.attend)  # without the type checks of the suite


def module(name):
    return grouped if name.startswith("gqa") else latent


def layer(name, batch=1, time=9):
    config = LAYERS[name]
    params = module(name).init(jax.random.key(0), config)
    x = jax.random.normal(jax.random.key(1), (batch, time, 16))
    return config, params, x


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("chunk", [3, 4, 6])
def test_overflowing_chunks_are_nan_and_stay_so(name, chunk):
    """Of four slots, behind a window of eight too, which would still see what is lost."""
    config, params, x = layer(name, time=12)
    whole = module(name).apply(params, x, config)
    extend = jax.jit(functools.partial(module(name).extend, config=config))
    step = jax.jit(functools.partial(module(name).step, config=config))
    state, seen = module(name).init_state(1, 4, config=config), 0
    with pytest.raises(ValueError, match="capacity: expected at least"):
        module(name).extend(params, x[:, :5], state, config=config)
    if chunk > 4:
        with pytest.raises(ValueError, match="capacity: expected at least 6 slots for a chunk"):
            extend(params, x[:, :6], state)
        return
    bound = 0.1 if name == "int8" else 1e-5
    while seen + chunk <= 12:
        state, y = extend(params, x[:, seen : seen + chunk], state)
        if seen + chunk <= 4:
            np.testing.assert_allclose(y, whole[:, seen : seen + chunk], atol=bound)
        else:
            assert np.all(np.isnan(y))
        seen += chunk
    _, y = step(params, state, x[:, 0])
    assert np.all(np.isnan(y))


@pytest.mark.parametrize("name", ["gqa", "mla"])
def test_a_chunk_without_room_for_its_padding_spoils_what_follows(name):
    config, params, x = layer(name)
    extend = jax.jit(functools.partial(module(name).extend, config=config))
    state = module(name).init_state(1, 6, config=config)
    state, _ = extend(params, x[:, :3], state)
    state, y = extend(params, x[:, 3:7], state, lengths=jnp.array([1]))
    assert np.all(np.isnan(y))
    _, y = jax.jit(functools.partial(module(name).step, config=config))(params, state, x[:, 7])
    assert np.all(np.isnan(y))


def test_prompts_longer_than_a_small_ring_are_refused():
    for name in ("gqa-window", "mla-window"):
        config, params, x = layer(name)
        state = module(name).init_state(1, 4, config=config)
        with pytest.raises(ValueError, match="capacity: expected at least 9 slots for the prompt"):
            module(name).prefill(params, x, state, config=config)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("held", "given"), [(1, 3), (3, 1)])
def test_caches_of_other_examples_are_refused(name, held, given):
    config, params, x = layer(name, batch=given)
    state = module(name).init_state(held, 9, config=config)
    message = f"state: expected a cache of {given} examples, as x has, got {held}"
    for call in (
        lambda: module(name).prefill(params, x, state, config=config),
        lambda: module(name).extend(params, x, state, config=config),
        lambda: module(name).step(params, state, x[:, 0], config=config),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("name", ["gqa", "mla"])
@pytest.mark.parametrize("function", ["prefill", "extend"])
def test_lengths_that_cannot_be(name, function):
    config, params, x = layer(name, batch=2, time=3)
    state = module(name).init_state(2, 9, config=config)
    unchecked = inspect.unwrap(getattr(module(name), function))  # without the suite's type checks
    read = functools.partial(unchecked, config=config)
    for lengths, message in (
        ([4, 1], r"lengths: expected values in \[0, 3\], got \[4 1\]"),
        ([1, -3], r"lengths: expected values in \[0, 3\], got \[ 1 -3\]"),
        ([1], "lengths: expected 2 whole numbers, got int32"),
        ([1.0, 2.0], "lengths: expected 2 whole numbers, got float32"),
    ):
        with pytest.raises(ValueError, match=message):
            read(params, x, state, jnp.array(lengths))
    _, y = jax.jit(read)(params, x, state, jnp.array([4, 1]))
    assert np.all(np.isnan(y[0])) and np.all(np.isfinite(y[1]))


@pytest.mark.slow
@pytest.mark.parametrize("form", latent.FORMS)
@pytest.mark.parametrize("quantised", [False, True])
def test_chunks_and_steps_have_gradients_under_jit(form, quantised, x64):
    """Those of the latents that are not rounded; of rounded ones finite."""
    config = LatentConfig(16, 4, **LATENT, form=form, quantised=quantised)
    params, x = latent.init(jax.random.key(0), config), layer("mla", time=5)[2].astype(float)
    params = jax.tree.map(lambda leaf: leaf.astype(float), params)

    def streamed(params):
        state = latent.init_state(1, 5, float, config=config)
        state, first = latent.extend(params, x[:, :2], state, config=config)
        state, second = latent.extend(params, x[:, 2:4], state, config=config)
        _, third = latent.step(latent.prepare(params, config), state, x[:, 4], config=config)
        return jnp.sum(first**2) + jnp.sum(second**2) + jnp.sum(third**2)

    gradients = jax.jit(jax.grad(streamed))(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    if not quantised:
        whole = jax.grad(lambda p: jnp.sum(latent.apply(p, x, config) ** 2))(params)
        for first, second in zip(*map(jax.tree.leaves, (gradients, whole)), strict=True):
            np.testing.assert_allclose(first, second, atol=1e-11)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_the_error_of_int8_in_every_precision(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2000, 11)), dtype)
    whole, scale = cache.quantise(x, (7, 4))
    assert scale.dtype == jnp.float32 and np.abs(np.asarray(whole, int)).max() == 127
    error = np.abs(np.asarray(cache.restore(whole, scale, (7, 4)), float) - np.asarray(x, float))
    for group in (np.s_[:, :7], np.s_[:, 7:]):
        largest = np.abs(np.asarray(x, float)[group]).max(axis=1, keepdims=True)
        assert np.all(error[group] <= largest / 254 * (1 + 1e-5))


def test_layers_and_tokens_that_do_not_fit():
    config = TransformerConfig(11, 3, LAYERS["gqa"], d_ff=24)
    params = decoder_params(TransformerConfig(11, 2, LAYERS["gqa"], d_ff=24))
    tokens = jnp.array([[1, 2, 3]])
    for call in (
        lambda: transformer.apply(params, tokens, config),
        lambda: transformer.prepare(params, config),
        lambda: generate(params, config, tokens, 2),
        lambda: generate(params, config, tokens, 2, chunk=2),
    ):
        with pytest.raises(ValueError, match=r"params: expected .*3.*, got .*2"):
            call()
    config = TransformerConfig(11, 2, LAYERS["gqa"], d_ff=24)
    for bad in (11, -1):
        wrong = tokens.at[0, 1].set(bad)
        with pytest.raises(ValueError, match=rf"tokens: expected values in \[0, 11\), got {bad}"):
            transformer.apply(params, wrong, config)
        both = jnp.concatenate([wrong, tokens])
        y = jax.jit(functools.partial(transformer.apply, config=config))(params, both)
        assert np.all(np.isnan(y[0, 1:])) and np.all(np.isfinite(y[1]))


def test_derivatives_cut_values_as_values_are_cut():
    q, k, length = jnp.ones((1, 2, 1, 4)), jnp.ones((1, 2, 6, 4)), jnp.array([3])
    attend = functools.partial(live.attend, value_dim=3)
    y, tangent = jax.jvp(lambda q: attend(q, k, k, length), (q,), (q,))
    assert y.shape == tangent.shape == attend(q, k, k, length).shape == (1, 2, 1, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: inspect.unwrap(scores.attend)(x[:1], x, x), "k, v: expected matching shapes"),
        (
            lambda x: inspect.unwrap(scores.attend)(x, x, x, jnp.zeros((3, 3))),
            "mask: expected bool, True where",
        ),
        (
            lambda x: inspect.unwrap(scores.causal)(x, x[:, :, :2], x[:, :, :2]),
            "k: expected the 3 tokens of q",
        ),
        (lambda x: scores.causal(x, x, x, block=0), "block: expected a whole number of at least"),
        (lambda x: LIVE(x, x[:1], x[:1], jnp.array([1])), r"keys: expected \[2, K, S, 4\]"),
        (lambda x: LIVE(x, x, x, jnp.array([1])), "length: expected 2 numbers"),
        (
            lambda x: live.attend(x, x, x, jnp.array([1, 1]), block=0),
            "block: expected a whole number",
        ),
        (lambda x: GroupedConfig(rope_base=-5.0), "rope_base: expected a finite number above 1"),
        (lambda x: GroupedConfig(n_heads=True), "n_heads: expected a whole number of at least 1"),
        (lambda x: LatentConfig(norm_eps=-1.0), "norm_eps: expected at least 0, got -1.0"),
        (lambda x: TransformerConfig(norm_eps=-1.0), "norm_eps: expected at least 0"),
        (
            lambda x: generation.right_padded(np.ones((1, 2), int), [[np.nan, 1.0]]),
            "mask: expected bool, or 0 and 1",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((2, 2, 3, 4)))


def test_types_are_refused_by_name_without_the_type_checks_of_the_suite():
    code = """
from attention import GroupedConfig, LatentConfig, TransformerConfig
for make in (
    lambda: GroupedConfig(window=2.5),
    lambda: LatentConfig(n_heads=4.0),
    lambda: TransformerConfig(mixer="mla"),
    lambda: LatentConfig(rope_layout="x"),
):
    try:
        make()
    except ValueError as error:
        print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "window: expected a whole number of at least 1, got 2.5",
        "n_heads: expected a whole number of at least 1, got 4.0",
        "mixer: expected one of ['GroupedConfig', 'LatentConfig', 'TiedConfig', "
        "'GroupedLatentConfig'], got 'mla'",
        "rope_layout: expected one of ('half', 'interleaved'), got 'x'",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": float("nan")}, "temperature: expected 0 or more, got nan"),
        ({"lengths": [True]}, r"lengths: expected 1 values in \[1, 2\]"),
        ({"lengths": [1.0]}, r"lengths: expected 1 values in \[1, 2\]"),
        ({"chunk": 2.5}, "chunk: expected a whole number of at least 1, got 2.5"),
        ({"top_k": 2.5}, "top_k: expected a whole number of at least 1, got 2.5"),
        ({"max_new_tokens": 2.5}, "max_new_tokens: expected a whole number of at least 1"),
        ({"prompts": np.array([["a"]])}, "prompts: expected integers"),
        ({"prompts": [[1, 2], [3]]}, "prompts: expected rows of one length"),
    ],
)
def test_bad_input_to_generation_is_refused_by_name(options, message):
    config = TransformerConfig(11, 1, LAYERS["gqa"], d_ff=24)
    given = {"prompts": np.array([[1, 2]]), "max_new_tokens": 1} | options
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(generate)(decoder_params(config), config, **given)


@pytest.mark.parametrize("tokens", [[1, 2], [[0.5, 1.0]], [[1, 11]], [[1, 2], [3]]])
def test_errors_of_scores_name_what_is_scored(tokens):
    config = TransformerConfig(11, 1, LAYERS["gqa"], d_ff=24)
    with pytest.raises(ValueError, match="tokens: expected"):
        inspect.unwrap(generation.score)(decoder_params(config), config, tokens)


def test_tokens_have_the_axes_of_the_function():
    config = TransformerConfig(11, 1, LAYERS["gqa"], d_ff=24)
    params = decoder_params(config)
    with pytest.raises(ValueError, match=r"tokens: expected some \[B, T\], got shape \(1, 0\)"):
        inspect.unwrap(transformer.apply)(params, jnp.ones((1, 0), int), config)
    for tokens in ([1, 2], [[[1]]]):
        with pytest.raises(ValueError, match=r"tokens: expected some \[B, T\], got shape"):
            inspect.unwrap(transformer.apply)(params, jnp.asarray(tokens), config)
    state = transformer.init_state(config, 1, 4, jnp.float32)
    with pytest.raises(ValueError, match=r"tokens: expected some \[B\], got shape \(1, 1\)"):
        inspect.unwrap(transformer.step)(params, state, jnp.asarray([[1]]), config)


@pytest.mark.parametrize("tokens", [[[0.5, 1.0]], [[True, False]]])
def test_tokens_are_whole_numbers(tokens):
    config = TransformerConfig(11, 1, LAYERS["gqa"], d_ff=24)
    with pytest.raises(ValueError, match="tokens: expected whole numbers, got"):
        inspect.unwrap(transformer.embed)(decoder_params(config), jnp.asarray(tokens), config)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_generation_is_a_program_of_its_own(transform):
    config = TransformerConfig(11, 1, LAYERS["gqa"], d_ff=24)
    params = decoder_params(config)
    with pytest.raises(ValueError, match=r"prompts: expected numbers, got a traced array"):
        transform(lambda x: generation.generate(params, config, x, 2))(jnp.ones((2, 3), int))


OTHERS = {
    "attention": (LAYERS["mla"], r"\['key'\] \(1, .*\), got none"),
    "heads": (replace(LAYERS["gqa"], head_dim=6), r"\['key'\] \(1, .*\), got \(1, .*\)"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_parameters_of_another_configuration_are_refused_by_name(other):
    mixer, message = OTHERS[other]
    config = TransformerConfig(11, 1, LAYERS["gqa"], d_ff=24)
    params, prompts = decoder_params(replace(config, mixer=mixer)), jnp.ones((1, 2), int)
    for call in (
        lambda: transformer.apply(params, prompts, config),
        lambda: generation.generate(params, config, prompts, 2),
        lambda: generation.generate(params, config, prompts, 2, chunk=1),
        lambda: next(generation.stream(params, config, prompts, 2)),
        lambda: generation.score(params, config, prompts),
    ):
        with pytest.raises(ValueError, match=f"params: expected those that `init` .*{message}"):
            call()


def test_a_number_is_no_key():
    with pytest.raises(ValueError, match=r"key: expected a random key such as .*, got 0"):
        inspect.unwrap(Sampling.check)(Sampling(0.8), 11, 0)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_logits_that_are_nan_give_no_token(temperature):
    config = TransformerConfig(11, 2, LAYERS["gqa"], d_ff=24)
    params = decoder_params(config)
    spoilt = {**params, "final_norm": params["final_norm"] * jnp.nan}
    options = {"temperature": temperature, "key": jax.random.key(0)}
    assert np.all(generate(spoilt, config, [[1, 2]], 3, **options) == -1)
    assert np.all(np.array(list(generation.stream(spoilt, config, [[1, 2]], 3, **options))) == -1)
    assert np.all(generate(params, config, [[1, 2]], 3, **options) >= 0)


def test_arguments_in_the_place_of_others_and_states_of_others_are_named():
    config = TransformerConfig(11, 2, LAYERS["gqa"], d_ff=24)
    params, tokens = decoder_params(config), jnp.ones((1, 4), int)
    apply = checks.of_parameters(transformer.init)(lambda params, tokens, config: None)
    init = inspect.unwrap(transformer.init)
    for given in ((config, tokens, params), (tokens, params, config)):
        with pytest.raises(ValueError, match="params: expected what `init` takes or makes, got"):
            apply(*given)
    with pytest.raises(ValueError, match="config: expected what `init` takes or makes, got dict"):
        apply(params, tokens, params)
    apply(params, tokens, config)
    with pytest.raises(ValueError, match="config: expected a TransformerConfig, got PRNGKeyArray"):
        init(config, jax.random.key(0))
    other = replace(config, mixer=LAYERS["mla"])
    state = transformer.init_state(other, 1, 8)
    for function in (transformer.prefill, transformer.extend):
        with pytest.raises(ValueError, match="state: expected one that `init_state` makes"):
            function(params, tokens, state, config)
    prepared = transformer.prepare(params, config)
    for wrong in (state, transformer.init_state(config, 1, 8)[:1]):
        with pytest.raises(ValueError, match="state: expected one that `init_state` makes"):
            transformer.step(prepared, wrong, tokens[:, 0], config)


def test_sizes_in_the_place_of_a_configuration_are_named():
    with pytest.raises(ValueError, match="config: expected a TransformerConfig, got int"):
        inspect.unwrap(transformer.init_state)(2, 16, TransformerConfig())


def test_a_dtype_that_is_none_is_named():
    with pytest.raises(ValueError, match="dtype: expected one of floats, got float17"):
        attention.load_pretrained(GOLDEN / "llama", dtype="float17")
