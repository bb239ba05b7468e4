"""What decoders are made of, part by part, against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from reference import attention as reference

from attention import cache, experts, feed_forward, linear, masks, transformer
from attention.experts import ExpertsConfig
from attention.grouped import GroupedConfig
from attention.transformer import TransformerConfig


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("capacity", [4, 7])
def test_slots_hold_the_newest_positions(window, capacity):
    """A ring simulated token by token, with what each token may then attend to."""
    held = np.full(capacity, -1)
    for n in range(1, 12):
        held[(n - 1) % capacity] = n - 1
        found = np.asarray(cache.positions(jnp.array([n]), capacity))[0]
        np.testing.assert_array_equal(np.where(found < 0, -1, found), held)
        seen = [p >= 0 and (window is None or n - 1 - p < window) for p in held]
        keep = cache.keep(jnp.array([n]), capacity, window)
        np.testing.assert_array_equal(keep[0, 0], seen)


@pytest.mark.parametrize("window", [None, 3])
def test_chunks_attend_to_what_was_and_to_themselves(window):
    lengths, capacity = np.array([0, 2, 5]), 6
    chunk = lengths[:, None] + np.arange(3)
    keep = cache.keep_chunk(*map(jnp.asarray, (lengths,)), capacity, jnp.asarray(chunk), window)
    assert keep.shape == (3, 3, capacity + 3)
    for example, query in np.ndindex(3, 3):
        position = lengths[example] + query
        slots = [p if p < lengths[example] else None for p in range(capacity)]
        keys = [*slots, *chunk[example]]
        wanted = [
            p is not None and p <= position and (window is None or position - p < window)
            for p in keys
        ]
        np.testing.assert_array_equal(keep[example, query], wanted)


def test_lengths_behind_a_full_cache_stay_too_long():
    length, added = jnp.array([0, 3, 6]), jnp.array([2, 1, 1])
    np.testing.assert_array_equal(cache.extended(length, 3, added, 6), [2, 4, 9])
    assert [cache.is_ring(*case) for case in ((8, None), (8, 8), (8, 9))] == [False, True, False]


@pytest.mark.parametrize("window", [None, 2])
def test_masks_are_combined_over_keys_or_pairs(window):
    positions = jnp.asarray([[0, 1, 2, 3], [0, 0, 1, 2]])
    keys = np.array([[1, 1, 0, 1], [0, 1, 1, 1]], bool)
    pairs = draw(2, 4, 4) > 0
    plain = np.zeros((2, 4, 4), bool)
    for b, i, j in np.ndindex(2, 4, 4):
        plain[b, i, j] = reference.may_attend(int(positions[b, i]), int(positions[b, j]), window)
    np.testing.assert_array_equal(masks.combined(positions, None, window), plain)
    found = masks.combined(positions, jnp.asarray(keys), window)
    np.testing.assert_array_equal(found, plain & keys[:, None])
    found = masks.combined(positions, jnp.asarray(pairs), window)
    np.testing.assert_array_equal(found, plain & pairs)


def routed(score, merit, config):
    """The experts of one token and their weights, by sorting."""
    groups = config.groups or 1
    size, best = config.n_experts // groups, 1 if config.scoring == "softmax" else 2
    merits = [sorted(merit[g * size : (g + 1) * size])[::-1] for g in range(groups)]
    order = sorted(range(groups), key=lambda g: -sum(merits[g][:best]))
    kept = set(order[: config.chosen_groups or 1])
    allowed = [e for e in range(config.n_experts) if e // size in kept]
    chosen = sorted(allowed, key=lambda e: -merit[e])[: config.chosen]
    weights = np.array([score[e] for e in chosen])
    weights = weights / weights.sum() if config.normalise else weights
    return chosen, weights * config.scale


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.parametrize("normalise", [False, True])
def test_tokens_are_routed_as_by_sorting(scoring, groups, normalise, x64):
    kept = None if groups is None else 2
    config = ExpertsConfig(
        12, 3, 8, scoring=scoring, groups=groups, chosen_groups=kept, normalise=normalise, scale=2.5
    )
    params = {"router": jnp.asarray(draw(6, 12)), "correction": jnp.asarray(draw(12, seed=1))}
    x = draw(20, 6, seed=2)
    weights, chosen = experts.route(params, jnp.asarray(x), config)
    logits = x @ np.asarray(params["router"])
    for row, found, places in zip(logits, weights, chosen, strict=True):
        if scoring == "softmax":
            score = merit = np.exp(row) / np.exp(row).sum()
        else:
            score = 1.0 / (1.0 + np.exp(-row))
            merit = score + np.asarray(params["correction"])
        wanted, exact = routed(score, merit, config)
        np.testing.assert_array_equal(places, wanted)
        np.testing.assert_allclose(found, exact, rtol=1e-12)


@pytest.mark.parametrize("tokens", [1, 30])
def test_few_and_many_tokens_are_mixed_alike(tokens, x64):
    shapes = {"gate": (5, 4, 3), "up": (5, 4, 3), "down": (5, 3, 4)}
    params = {name: jnp.asarray(draw(*shape, seed=len(name))) for name, shape in shapes.items()}
    x, weights = draw(tokens, 4, seed=5), draw(tokens, 2, seed=6) ** 2
    chosen = np.random.default_rng(7).integers(0, 5, (tokens, 2))
    found = experts.mix(params, *map(jnp.asarray, (x, weights, chosen)))
    exact = np.zeros((tokens, 4))
    for t, k in np.ndindex(tokens, 2):
        one = {name: np.asarray(value)[chosen[t, k]] for name, value in params.items()}
        hidden = reference.silu(x[t] @ one["gate"]) * (x[t] @ one["up"])
        exact[t] += weights[t, k] * (hidden @ one["down"])
    np.testing.assert_allclose(found, exact, rtol=1e-11, atol=1e-11)


def test_matrices_start_as_independent_normals_of_their_fan_in():
    shapes = {"wide": (64, 128), "tall": (256, 32)}
    params = linear.fan_in_normal(jax.random.key(0), shapes)
    for name, shape in shapes.items():
        values = np.asarray(params[name]) * shape[0] ** 0.5
        assert values.shape == shape
        assert scipy.stats.kstest(values.ravel(), "norm").pvalue > 1e-3
    both = [np.asarray(value).ravel()[:4096] for value in params.values()]
    assert abs(np.corrcoef(both)[0, 1]) < 0.06
    assert {name: b.shape for name, b in linear.zero_biases(shapes).items()} == {
        "wide_bias": (128,),
        "tall_bias": (32,),
    }


def test_residual_projections_of_a_decoder_start_smaller():
    config = TransformerConfig(17, 8, GroupedConfig(64, 4, 2), d_ff=96)
    layers = transformer.init(jax.random.key(1), config)["layers"]
    for matrix, fan_in in ((layers["mixer"]["output"], 64), (layers["ffn"]["down"], 96)):
        np.testing.assert_allclose(np.std(matrix), (16 * fan_in) ** -0.5, rtol=0.02)
    np.testing.assert_allclose(np.std(layers["ffn"]["gate"]), 64**-0.5, rtol=0.02)


def test_dropout_keeps_the_mean_and_half_precision():
    x = jnp.full((200, 100), 3.0, jnp.bfloat16)
    found = feed_forward.drop(jax.random.key(0), x, 0.25)
    assert found.dtype == jnp.bfloat16
    values, counts = np.unique(np.asarray(found, np.float32), return_counts=True)
    np.testing.assert_allclose(values, [0.0, 4.0])
    assert abs(counts[0] / counts.sum() - 0.25) < 0.02
    np.testing.assert_array_equal(feed_forward.drop(None, x, 0.25), x)
    np.testing.assert_array_equal(feed_forward.drop(jax.random.key(0), x, 0.0), x)
