"""Generation against the argmax of full forward passes, and its sampling options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from attention_cases import decoder_config, decoder_params
from reference import attention as reference

from attention import Mixer, generate, grouped, sampling
from attention.sampling import Sampling

PROMPTS = np.random.default_rng(0).integers(0, 11, (2, 5))


@functools.partial(jax.jit, static_argnames="top_k")
def choose(logits, key, temperature, top_k=None, top_p=None, min_p=None):
    return sampling.choose(logits, key, Sampling(temperature, top_k, top_p, min_p))


@pytest.mark.sample(2)
def test_greedy_generation_is_the_argmax_of_the_full_forward_pass(kv_heads):
    config = decoder_config(kv_heads, tie_embeddings=False)  # tied random weights repeat
    params = decoder_params(config)
    tokens = generate(params, config, PROMPTS, 6)
    assert (tokens.shape, tokens.dtype) == ((2, 6), "int32")
    expected = [reference.greedy(params, prompt, 6, config) for prompt in PROMPTS]
    np.testing.assert_array_equal(tokens, expected)
    assert len(np.unique(tokens)) > 2


def test_ragged_prompts_are_continued_as_if_alone():
    config = decoder_config(2, {"window": 4})
    params, lengths = decoder_params(config), [2, 5]
    tokens = generate(params, config, PROMPTS, 6, lengths=lengths)
    expected = [
        reference.greedy(params, prompt[:length], 6, config)
        for prompt, length in zip(PROMPTS, lengths, strict=True)
    ]
    np.testing.assert_array_equal(tokens, expected)
    padded = PROMPTS.copy()
    padded[0, 2:] = (padded[0, 2:] + 1) % 11
    np.testing.assert_array_equal(generate(params, config, padded, 6, lengths=lengths), tokens)


def test_sampling_draws_from_the_tempered_softmax():
    logits = jnp.array([2.0, 0.0, 1.0, -1.0])
    draws = choose(jnp.tile(logits, (4000, 1)), jax.random.key(0), 0.5, None)
    expected = np.exp(2.0 * np.asarray(logits, float))
    expected = 4000 * expected / expected.sum()
    counts = np.bincount(draws, minlength=4)
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3
    assert scipy.stats.chisquare(counts, np.roll(expected, 1)).pvalue < 1e-9


def test_top_k_samples_the_most_likely_tokens_only():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=11))
    draws = choose(jnp.tile(logits, (500, 1)), jax.random.key(2), 5.0, 3)
    assert set(np.asarray(draws).tolist()) == set(np.argsort(np.asarray(logits))[-3:].tolist())


def test_top_k_of_tied_logits_samples_k_tokens():
    draws = choose(jnp.zeros((500, 11)), jax.random.key(2), 1.0, 3)
    assert len(np.unique(draws)) == 3


def test_temperature_zero_is_greedy_and_ignores_the_key():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(20, 11)))
    for seed in (0, 1):
        draws = choose(logits, jax.random.key(seed), 0.0, None)
        np.testing.assert_array_equal(draws, jnp.argmax(logits, -1))


def test_sampled_generation_stays_among_the_top_k_of_the_forward_pass():
    config = decoder_config(2)
    params = decoder_params(config)
    options = {"temperature": 3.0, "top_k": 3}
    tokens = generate(params, config, PROMPTS, 6, key=jax.random.key(3), **options)
    whole = np.concatenate([PROMPTS, tokens], axis=1)
    logits = reference.decoder(params, whole, config)[:, PROMPTS.shape[1] - 1 : -1]
    rank = np.sum(logits > np.take_along_axis(logits, np.asarray(tokens)[..., None], -1), -1)
    assert rank.max() < 3
    assert rank.max() > 0  # it does sample
    again, other = (
        generate(params, config, PROMPTS, 6, key=jax.random.key(seed), **options) for seed in (3, 4)
    )
    np.testing.assert_array_equal(again, tokens)
    assert np.any(other != tokens)


def test_the_single_most_likely_token_is_greedy():
    config = decoder_config(2)
    params = decoder_params(config)
    sampled = generate(params, config, PROMPTS, 6, temperature=1.0, top_k=1, key=jax.random.key(0))
    np.testing.assert_array_equal(sampled, generate(params, config, PROMPTS, 6))


def counting_mixer(config):
    """The grouped mixer, counting how often its step is traced."""
    mixer, traces = grouped.mixer(config.mixer), []

    def step(*arguments):
        traces.append(1)
        return mixer.step(*arguments)

    return Mixer(**{**mixer._asdict(), "step": step}), traces


def test_repeated_calls_compile_once_and_take_a_custom_mixer():
    config = decoder_config(2)
    params = decoder_params(config)
    mixer, traces = counting_mixer(config)
    first = generate(params, config, PROMPTS, 6, mixer=mixer)
    np.testing.assert_array_equal(first, generate(params, config, PROMPTS, 6))
    traced = len(traces)
    assert traced > 0
    for seed in range(3):
        options = {"temperature": 0.5 * seed, "lengths": [1 + seed, 5], "mixer": mixer}
        key = jax.random.key(seed)
        generate(params, config, (PROMPTS + seed) % 11, 6, key=key, **options)
    assert len(traces) == traced


@pytest.mark.parametrize(
    ("prompts", "count", "options", "message"),
    [
        ([1, 2], 1, {}, r"prompts: expected a non-empty \[B, T\], got shape \(2,\)"),
        (np.zeros((2, 0), int), 1, {}, r"prompts: expected a non-empty.*\(2, 0\)"),
        ([[1, 11]], 1, {}, r"prompts: expected tokens in \[0, 11\), got \[1, 11\]"),
        ([[-1, 1]], 1, {}, r"prompts: expected tokens in \[0, 11\), got \[-1, 1\]"),
        pytest.param(
            [[0.5, 1.0]],
            1,
            {},
            "prompts: ",
        ),
        ([[1, 2]], 1, {"lengths": [0]}, r"lengths: expected 1 values in \[1, 2\], got \[0\]"),
        ([[1, 2]], 1, {"lengths": [3]}, r"lengths: expected 1 values in \[1, 2\], got \[3\]"),
        ([[1, 2]], 1, {"lengths": [1, 1]}, r"lengths: expected 1 values"),
        ([[1, 2]], 0, {}, "max_new_tokens: expected a whole number of at least 1, got 0"),
        ([[1, 2]], 1, {"temperature": -1.0}, r"temperature: .*got -1\.0"),
        ([[1, 2]], 1, {"temperature": 1.0}, "key: expected a random key for a temp"),
        ([[1, 2]], 1, {"top_k": 0}, r"top_k: expected a whole number of at least 1, got 0"),
        ([[1, 2]], 1, {"top_k": 12}, r"top_k: expected 1\.\.11, got 12"),
    ],
)
def test_bad_input_is_refused_by_name(prompts, count, options, message):
    config = decoder_config(2)
    with pytest.raises(ValueError, match=message):
        generate(None, config, prompts, count, **options)
