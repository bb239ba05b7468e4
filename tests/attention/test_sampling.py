"""Sampling, stopping, streams and scores, against plain loops over full forward passes."""

import inspect
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import decoder_config, decoder_params
from reference import attention as reference

from attention import (
    GroupedConfig,
    LatentConfig,
    TransformerConfig,
    generate,
    generation,
    sampling,
    transformer,
)
from attention.sampling import Sampling

PROMPTS = np.random.default_rng(0).integers(0, 11, (2, 5))


def kept(logits, top_k=None, top_p=None, min_p=None):
    """Tokens that may be drawn, one distribution at a time."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])[: top_k or len(logits)]
    weights = [np.exp(logits[token] - max(logits)) for token in order]
    share = [weight / sum(weights) for weight in weights]
    allowed, before = set(), 0.0
    for token, part in zip(order, share, strict=True):
        enough = top_p is not None and before >= top_p
        if not enough and (min_p is None or part >= min_p * share[0]):
            allowed.add(token)
        before += part
    return allowed | {order[0]}


@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("top_p", [None, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("min_p", [None, 0.0, 0.2, 1.0])
def test_likely_tokens_are_kept(top_k, top_p, min_p):
    logits = np.random.default_rng(3).normal(size=(6, 11)) * 2.0
    found = sampling.keep(jnp.asarray(logits), Sampling(1.0, top_k, top_p, min_p))
    for row, mine in zip(logits, np.asarray(found), strict=True):
        assert set(np.flatnonzero(mine)) == kept(row, top_k, top_p, min_p)


def test_ties_do_not_widen_what_is_kept():
    found = sampling.keep(jnp.zeros((1, 10)), Sampling(1.0, None, 0.35, None))
    assert int(found.sum()) == 4


def test_the_whole_share_keeps_everything():
    """Where the sums of single precision reach 1 far before the last tokens, too."""
    logits = 2.0 * jax.random.normal(jax.random.key(0), (4, 128_000))
    for share in (1.0, jnp.float32(1.0)):
        assert jnp.all(sampling.keep(logits, Sampling(1.0, top_p=share)))


def test_draws_follow_the_distribution_that_is_left():
    """Frequencies over 4000 draws within four standard deviations."""
    logits = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.06, 0.04]))
    draws = sampling.choose(
        jnp.tile(logits, (4000, 1)), jax.random.key(0), Sampling(1.0, None, 0.85)
    )
    share = np.bincount(np.asarray(draws), minlength=5) / 4000
    expected = np.array([4, 3, 2, 0, 0]) / 9
    assert np.all(np.abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / 4000))


@pytest.mark.sample(1)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_draws_unlikely_tokens_too(dtype):
    """One token of 0.7, 2000 of the rest: noise of half precision would hardly reach those."""
    logits = jnp.zeros((1, 2001)).at[0, 0].set(np.log(0.7 / 0.3 * 2000)).astype(dtype)
    share = float(jax.nn.softmax(logits.astype(jnp.float32))[0, 0])
    draws = sampling.choose(jnp.tile(logits, (4000, 1)), jax.random.key(0), Sampling(1.0))
    found = float(np.mean(np.asarray(draws) == 0))
    assert abs(found - share) < 4 * np.sqrt(share * (1 - share) / 4000)


def test_examples_end_with_their_stop_token():
    config = decoder_config(2, tie_embeddings=False)
    params = decoder_params(config)
    plain = np.asarray(generate(params, config, PROMPTS, 8))
    stop = [int(plain[0, 3]), int(plain[1, 5])]
    found = np.asarray(generate(params, config, PROMPTS, 8, stop=stop, pad=9))
    for mine, full in zip(found, plain, strict=True):
        end = int(np.flatnonzero(np.isin(full, stop))[0])
        np.testing.assert_array_equal(mine[: end + 1], full[: end + 1])
        assert np.all(mine[end + 1 :] == 9)
    one = generate(params, config, PROMPTS[:1], 8, stop=int(plain[0, 0]), pad=9)
    np.testing.assert_array_equal(one[0], [plain[0, 0], *[9] * 7])


@pytest.mark.sample(1)
@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "top_p": 0.9, "chunk": 3}])
def test_a_stream_is_what_is_generated(options):
    config = decoder_config(2, tie_embeddings=False)
    params, key = decoder_params(config), jax.random.key(5)
    lengths = [3, 5]
    whole = np.asarray(generate(params, config, PROMPTS, 6, lengths=lengths, key=key, **options))
    parts = generation.stream(params, config, PROMPTS, 6, lengths=lengths, key=key, **options)
    np.testing.assert_array_equal(np.stack(list(parts), axis=1), whole)
    stop = [int(whole[0, 2]), int(whole[1, 1])]
    asked = {"lengths": lengths, "key": key, "stop": stop, **options}
    ended = np.asarray(generate(params, config, PROMPTS, 6, **asked))
    parts = np.stack(list(generation.stream(params, config, PROMPTS, 6, **asked)), axis=1)
    assert parts.shape[1] < 6  # all had ended
    np.testing.assert_array_equal(parts, ended[:, : parts.shape[1]])


def test_a_stream_refuses_at_once():
    config = decoder_config(2)
    with pytest.raises(ValueError, match="max_new_tokens: expected a whole number"):
        generation.stream(None, config, PROMPTS, 0)


def test_scores_are_log_likelihoods_of_the_forward_pass():
    config = decoder_config(2, tie_embeddings=False)
    params = decoder_params(config)
    logits = np.asarray(reference.decoder(params, PROMPTS, config), np.float64)
    log = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    expected = np.take_along_axis(log[:, :-1], PROMPTS[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(generation.score(params, config, PROMPTS), expected, atol=1e-5)
    expected[0, 2:] = 0.0
    found = generation.score(params, config, PROMPTS, lengths=[3, 5])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    moved = PROMPTS.copy()
    moved[0] = np.roll(moved[0], 2)
    found = generation.score(params, config, moved, mask=mask)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_prompts_of_many_lengths_share_programs():
    """Fifty lengths from 33 to 48 tokens and any key or temperature: one program."""
    config, rng = decoder_config(2, tie_embeddings=False), np.random.default_rng(4)
    params = decoder_params(config)
    before = generation._generate._cache_size()
    for index in range(50):
        prompt = rng.integers(0, 11, (1, 33 + index % 16))
        options = {"temperature": 0.1 * index, "key": jax.random.key(index), "top_p": 0.9}
        found = generate(params, config, prompt, 3, **options)
    assert generation._generate._cache_size() == before + 1
    expected = reference.greedy(params, prompt[0], 3, config)
    np.testing.assert_array_equal(generate(params, config, prompt, 3)[0], expected)
    assert found.shape == (1, 3)


@pytest.mark.parametrize(
    ("time", "wide"),
    [(1, 16), (16, 16), (17, 24), (24, 24), (25, 32), (33, 48), (49, 64), (65, 96), (1000, 1024)],
)
def test_prompts_are_padded_to_few_lengths(time, wide):
    assert generation._padded(np.zeros((1, time), int)).shape == (1, wide)


MIXERS = {
    "MHA": {"n_kv_heads": 4},
    "GQA": {"n_kv_heads": 2},
    "MQA": {"n_kv_heads": 1},
    "window": {"window": 7},
    "MLA": LatentConfig(8, 4, 6, nope_dim=4, rope_dim=2, value_dim=4),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", MIXERS)
def test_256_greedy_steps_are_those_of_full_forward_passes(name):
    """In one full pass over prompt and answer every token is the most likely after those before."""
    mixer = MIXERS[name]
    if isinstance(mixer, LatentConfig):
        config = TransformerConfig(11, 2, mixer, d_ff=16, tie_embeddings=False)
        params = transformer.init(jax.random.key(0), config)
        params = jax.tree.map(lambda leaf: 3.0 * leaf, params)
    else:
        config = decoder_config(4, mixer, tie_embeddings=False)
        params = decoder_params(config)
    tokens = np.asarray(generate(params, config, PROMPTS, 256))
    whole = np.concatenate([PROMPTS, tokens], axis=1)
    logits = np.asarray(transformer.apply(params, jnp.asarray(whole), config))[:, 4:-1]
    mine = np.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    assert np.max(logits.max(axis=-1) - mine) <= 1e-4  # equal up to ties within rounding
    assert np.mean(logits.argmax(axis=-1) == tokens) > 0.995
    assert len(np.unique(tokens)) > 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_p": 0.0}, r"top_p: expected a share in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p: expected a share in \(0, 1\], got 1.5"),
        ({"min_p": -0.1}, r"min_p: expected a share in \[0, 1\], got -0.1"),
        ({"stop": [11]}, r"stop: expected tokens in \[0, 11\), got \[11\]"),
        ({"stop": -1}, r"stop: expected tokens in \[0, 11\), got -1"),
        ({"pad": -1}, r"pad: expected a whole number of at least 0, got -1"),
    ],
)
def test_settings_outside_their_range_are_refused(options, message):
    config = decoder_config(2)
    with pytest.raises(ValueError, match=message):
        generate(None, config, PROMPTS, 1, **options)


def test_a_single_token_has_no_score():
    with pytest.raises(ValueError, match="tokens: expected at least 2"):
        generation.score(None, decoder_config(2), [[1]])


def test_filters_without_a_temperature_are_told_to_have_no_effect():
    with pytest.warns(UserWarning, match="top_k, top_p, min_p: no effect at temperature 0"):
        Sampling(top_p=0.5).check(11, None)


@pytest.mark.parametrize("swapped", ["config", "model", "stop"])
def test_arguments_in_the_place_of_others_are_named(swapped):
    config = TransformerConfig(11, 1, GroupedConfig(16, 4, 2), d_ff=24)
    params, prompts = decoder_params(config), np.ones((1, 2), int)
    model = types.SimpleNamespace(params=params)
    plain = inspect.unwrap(generate)  # without the type checks of the suite
    calls = {
        "config": (lambda: plain(config, params, prompts, 2), "config: expected a Transf"),
        "model": (lambda: plain(model, config, prompts, 2), r"params: expected .* `.params`"),
        "stop": (lambda: plain(params, config, prompts, 2, stop="a"), "stop: expected tokens"),
    }
    call, message = calls[swapped]
    with pytest.raises(ValueError, match=message):
        call()
