"""Chunked prefill, and padding on either side, against whole sequences read alone."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import decoder_params
from reference import attention as reference

from attention import (
    GroupedConfig,
    LatentConfig,
    Mixer,
    TransformerConfig,
    generate,
    generation,
    grouped,
    latent,
    masks,
    transformer,
)

SIZES = {"d_model": 16, "n_heads": 4}
LATENT = SIZES | {"latent_dim": 6, "nope_dim": 4, "rope_dim": 4, "value_dim": 5}
LAYERS = {
    "gqa": GroupedConfig(**SIZES, n_kv_heads=2),
    "mha-window": GroupedConfig(**SIZES, window=4),
    "materialised": LatentConfig(**LATENT, form="materialised"),
    "absorbed": LatentConfig(**LATENT, query_dim=5, form="absorbed"),
    "chosen": LatentConfig(**LATENT),
    "mla-window": LatentConfig(**LATENT, window=3),
}


def decoder(name, **options):
    config = TransformerConfig(11, 2, LAYERS[name], d_ff=24, tie_embeddings=False, **options)
    return config, decoder_params(config)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 11, shape))


def logits(config):
    return jax.jit(functools.partial(transformer.apply, config=config))


@pytest.mark.sample("13-gqa", "13-absorbed")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("slots", [13, 40])
def test_chunks_equal_the_whole(name, slots, x64):
    config, params = decoder(name)
    tokens = draw(2, 13)
    state = transformer.init_state(config, 2, slots, float)
    extend = jax.jit(functools.partial(transformer.extend, config=config))
    outputs = []
    for start, stop in ((0, 3), (3, 4), (4, 11)):
        state, y = extend(params, tokens[:, start:stop], state)
        outputs.append(y)
    step = jax.jit(functools.partial(transformer.step, config=config))
    prepared = transformer.prepare(params, config)
    for t in (11, 12):
        state, y = step(prepared, state, tokens[:, t])
        outputs.append(y[:, None])
    whole = logits(config)(params, tokens)
    np.testing.assert_allclose(jnp.concatenate(outputs, axis=1), whole, atol=1e-11)
    np.testing.assert_array_equal(state[0].length, [13, 13])


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_chunks_of_different_lengths_continue_as_if_alone(name, x64):
    config, params = decoder(name)
    tokens, extend = draw(2, 12), functools.partial(transformer.extend, config=config)
    state = transformer.init_state(config, 2, 16, float)
    state, first = extend(params, tokens[:, :5], state, lengths=jnp.array([5, 2]), last=True)
    state, second = extend(params, tokens[:, 5:9], state, lengths=jnp.array([0, 4]), last=True)
    state, third = extend(params, tokens[:, 9:], state)
    rows = [tokens[0, [0, 1, 2, 3, 4, 9, 10, 11]], tokens[1, [0, 1, 5, 6, 7, 8, 9, 10, 11]]]
    for i, (row, read) in enumerate(zip(rows, (5, 2), strict=True)):
        alone = logits(config)(params, row[None])[0]
        np.testing.assert_allclose(first[i], alone[read - 1], atol=1e-11)
        np.testing.assert_allclose(third[i], alone[-3:], atol=1e-11)
    np.testing.assert_allclose(second[1], logits(config)(params, rows[1][None])[0, 5], atol=1e-11)


@pytest.mark.slow
def test_quantised_chunks_are_near_the_whole(x64):
    plain, small = LatentConfig(**LATENT), LatentConfig(**LATENT, quantised=True)
    whole, config = (TransformerConfig(11, 2, c, d_ff=24) for c in (plain, small))
    params, tokens = decoder_params(whole), draw(2, 9)
    exact = logits(whole)(params, tokens)
    for form in latent.FORMS:
        config = TransformerConfig(11, 2, LatentConfig(**LATENT, quantised=True, form=form))
        config = TransformerConfig(11, 2, config.mixer, d_ff=24)
        state = transformer.init_state(config, 2, 9, float)
        state, _ = transformer.extend(params, tokens[:, :4], state, config)
        _, y = transformer.extend(params, tokens[:, 4:], state, config)
        assert 0 < np.abs(y - exact[:, 4:]).max() < 0.02 * np.abs(exact).max(), form


@pytest.mark.sample("gqa", "chosen")
@pytest.mark.parametrize("name", ["gqa", "mha-window", "chosen", "mla-window"])
def test_prompts_read_in_chunks_are_continued_alike(name):
    config, params = decoder(name)
    prompts, lengths = draw(3, 10), np.array([10, 2, 7])
    whole = generate(params, config, prompts, 6, lengths=lengths)
    for chunk in (1, 4, 5, 50):
        again = generate(params, config, prompts, 6, lengths=lengths, chunk=chunk)
        np.testing.assert_array_equal(again, whole)
    assert len(np.unique(whole)) > 2


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["gqa", "mha-window", "chosen", "mla-window"])
def test_padding_on_the_left_changes_nothing(name, x64):
    """Positions count live tokens; what stands before them is masked."""
    config, params = decoder(name)
    row, padded = draw(1, 6), jnp.concatenate([draw(1, 3, seed=1), draw(1, 6)], axis=1)
    positions = jnp.maximum(jnp.arange(9) - 3, 0)[None]
    mask = jnp.arange(9)[None] >= 3
    apply = logits(config)
    alone, y = apply(params, row), apply(params, padded, positions=positions, mask=mask)
    np.testing.assert_allclose(y[:, 3:], alone, atol=1e-12)
    assert np.all(np.isfinite(y))
    right = jnp.concatenate([row, draw(1, 3, seed=1)], axis=1)
    y = apply(params, right, mask=jnp.arange(9)[None] < 6)
    np.testing.assert_allclose(y[:, :6], alone, atol=1e-12)


@pytest.mark.parametrize("name", ["gqa", "chosen"])
def test_masks_of_other_shapes_and_of_floats_are_refused(name):
    config, params = decoder(name)
    tokens, causal = draw(2, 6), np.tril(np.ones((6, 6), bool))
    apply = functools.partial(transformer.apply, params, tokens, config)
    for mask in (causal, np.ones(6, bool), np.ones((3, 6), bool), np.ones((2, 5, 6), bool)):
        with pytest.raises(ValueError, match=r"mask: expected \[B, S\] = \(2, 6\) or \[B, T, S\]"):
            apply(mask=jnp.asarray(mask))
    with pytest.raises(ValueError, match=r"mask: expected \[B, S\] = \(1, 6\)"):
        transformer.apply(params, tokens[:1], config, mask=jnp.ones((2, 6), bool))
    with pytest.raises(ValueError, match="mask: expected booleans"):
        apply(mask=jnp.zeros((2, 6)))
    whole = apply()
    np.testing.assert_allclose(apply(mask=jnp.asarray(causal)[None]), whole, atol=1e-5)
    np.testing.assert_allclose(apply(mask=jnp.ones((2, 6), int)), whole, atol=1e-5)


def test_positions_of_other_shapes_are_refused_and_a_row_serves_all():
    positions_of, x = inspect.unwrap(masks.positions_of), jnp.zeros((2, 6, 4))
    for positions in (np.arange(6), np.ones((2, 4), int), np.ones((3, 6), int)):
        with pytest.raises(ValueError, match=r"positions: expected \[B, T\] = \(2, 6\), got"):
            positions_of(x, positions)
    with pytest.raises(ValueError, match="positions: expected numbers, got booleans; a mask is"):
        positions_of(x, np.ones((2, 6), bool))
    expected = np.tile(np.arange(6), (2, 1))
    for positions in (None, jnp.arange(6)[None], jnp.asarray(expected)):
        np.testing.assert_array_equal(positions_of(x, positions), expected)


@pytest.mark.parametrize("name", ["gqa", "mha-window", "chosen"])
def test_positions_in_any_order_mean_the_same_sequence(name, x64):
    config, params = decoder(name)
    tokens, order = draw(1, 7), np.array([3, 0, 6, 1, 5, 2, 4])
    whole = logits(config)(params, tokens)
    mixed = logits(config)(params, tokens[:, order], positions=jnp.asarray(order)[None])
    np.testing.assert_allclose(mixed, whole[:, order], atol=1e-12)


@pytest.mark.parametrize("name", ["gqa", "chosen"])
def test_a_row_of_padding_is_finite_and_leaves_the_others_alone(name, x64):
    config, params = decoder(name)
    tokens, mask = draw(2, 5), jnp.array([[False] * 5, [True] * 5])

    def loss(params):
        y = transformer.apply(params, tokens, config, mask=mask)
        return jnp.sum(y[1] ** 2), y

    gradients, y = jax.jit(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(y[1], logits(config)(params, tokens[1:])[0], atol=1e-12)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((gradients, y)))


@pytest.mark.slow
def test_masks_of_tokenizers_stand_for_lengths():
    config, params = decoder("chosen")
    prompts = draw(2, 5)
    left = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    expected = [greedy(params, row[m > 0], config) for row, m in zip(prompts, left, strict=True)]
    np.testing.assert_array_equal(generate(params, config, prompts, 4, mask=left), expected)
    moved, lengths = generation.right_padded(prompts, left[:, ::-1])
    np.testing.assert_array_equal(moved, prompts)
    np.testing.assert_array_equal(lengths, [3, 5])


def greedy(params, prompt, config):
    known = [int(token) for token in prompt]
    for _ in range(4):
        y = transformer.apply(params, jnp.array([known]), config)
        known.append(int(jnp.argmax(y[0, -1])))
    return known[-4:]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1]], r"mask: expected the shape \(2, 3\) of prompts, got \(1, 2\)"),
        ([[1, 1, 1], [0, 0, 0]], "mask: expected live tokens in row 1, got none"),
        ([[1, 0, 1], [1, 1, 1]], "mask: expected live tokens side by side, got gaps"),
    ],
)
def test_impossible_masks_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        generation.right_padded(np.ones((2, 3), int), mask)


@pytest.mark.slow
def test_impossible_chunks_are_refused():
    config, params = decoder("gqa")
    tokens = draw(1, 4)
    with pytest.raises(ValueError, match="chunk: expected a whole number of at least 1, got 0"):
        generate(params, config, tokens, 1, chunk=0)
    with pytest.raises(ValueError, match="mask, lengths: expected one of them, got both"):
        generate(params, config, tokens, 1, mask=np.ones((1, 4)), lengths=[4])
    lame = Mixer(*grouped.mixer(LAYERS["gqa"])[:6])
    with pytest.raises(ValueError, match="mixer: expected one that reads chunks"):
        transformer.extend(params, tokens, (), config, mixer=lame)
    for name in ("gqa", "chosen"):
        config, params = decoder(name)
        state = transformer.init_state(config, 1, 5)
        state, _ = transformer.extend(params, tokens, state, config)
        with pytest.raises(ValueError, match="capacity: expected at least 8 slots for 4 tokens"):
            transformer.extend(params, tokens, state, config)
        _, y = jax.jit(functools.partial(transformer.extend, config=config))(params, tokens, state)
        assert np.all(np.isnan(y))


def test_last_logits_are_those_of_the_last_live_token(x64):
    config, params = decoder("gqa")
    tokens, lengths = draw(2, 6), jnp.array([6, 3])
    state = transformer.init_state(config, 2, 6, float)
    _, every = transformer.prefill(params, tokens, state, config, lengths)
    _, last = transformer.prefill(params, tokens, state, config, lengths, last=True)
    np.testing.assert_allclose(last, jnp.stack([every[0, 5], every[1, 2]]), atol=1e-13)
    np.testing.assert_allclose(
        every[0], reference.decoder(params, np.asarray(tokens), config)[0], atol=1e-10
    )
