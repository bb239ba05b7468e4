"""Grouped latents and latent queries against the layers that they are made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import attention as reference

from attention import (
    GroupedConfig,
    GroupedLatentConfig,
    LatentConfig,
    TransformerConfig,
    accounting,
    cache_bytes,
    grouped,
    grouped_latent,
    latent,
    transformer,
)

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 13, (2, 9)))
GLA = GroupedLatentConfig(12, 4, 2, 5, nope_dim=3, rope_dim=4, value_dim=6)
WINDOWED = dataclasses.replace(GLA, window=4, rope_layout="half")
MFA = GroupedConfig(12, 4, 1, head_dim=8, query_dim=5)


def random(tree):
    """Weights and gains that are special nowhere."""
    keys = iter(jax.random.split(jax.random.key(3), 50))
    return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(next(keys), p.shape), tree)


@pytest.mark.parametrize("config", [GLA, WINDOWED], ids=["all", "window"])
def test_a_layer_of_grouped_latents_is_the_loop_over_tokens_and_heads(config, x64):
    """Whole, as a prompt with a chunk behind it, and token by token, where it is absorbed."""
    params = random(grouped_latent.init(jax.random.key(0), config))
    x = jax.random.normal(jax.random.key(1), (2, 9, 12))
    expected = reference.grouped_latent_layer(jax.tree.map(np.asarray, params), x, config)
    one = grouped_latent.mixer(config)
    np.testing.assert_allclose(one.apply(params, x), expected, atol=1e-12)
    state, first = one.prefill(params, x[:, :4], one.init_state(2, 9, jnp.float64))
    state, second = one.extend(params, x[:, 4:7], state)
    np.testing.assert_allclose(first, expected[:, :4], atol=1e-12)
    np.testing.assert_allclose(second, expected[:, 4:7], atol=1e-12)
    step = jax.jit(one.step)
    for t in (7, 8):
        state, y = step(one.prepare(params), state, x[:, t])
        np.testing.assert_allclose(y, expected[:, t], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("config", [GLA, WINDOWED], ids=["all", "window"])
def test_grouped_latents_are_mla_for_each_group(config, x64):
    """Sums over groups of layers with one latent, half of the heads and the key of all."""
    c, half = config, config.n_heads // config.n_latents
    params = random(grouped_latent.init(jax.random.key(0), config))
    x = jax.random.normal(jax.random.key(1), (2, 9, 12))
    one = LatentConfig(
        c.d_model,
        half,
        c.latent_dim,
        query_dim=None,
        nope_dim=c.nope_dim,
        rope_dim=c.rope_dim,
        value_dim=c.value_dim,
        rope_layout=c.rope_layout,
        window=c.window,
    )
    down, key = jnp.split(params["down"], [c.n_latents * c.latent_dim], axis=1)
    expected = 0.0
    for g, latents in enumerate(jnp.split(down, c.n_latents, axis=1)):
        wide = half * (c.nope_dim + c.rope_dim)
        part = {
            "query": params["query"][:, g * wide : (g + 1) * wide],
            "down": jnp.concatenate([latents, key], axis=1),
            "norm": params["norm"][g],
            "up": params["up"][g],
            "output": params["output"][g * half * c.value_dim : (g + 1) * half * c.value_dim],
        }
        expected = expected + latent.apply(part, x, one)
    np.testing.assert_allclose(grouped_latent.mixer(c).apply(params, x), expected, atol=1e-12)


@pytest.mark.slow
def test_latent_queries_are_a_product_of_two_matrices(x64):
    params = random(grouped.init(jax.random.key(0), MFA))
    x = jax.random.normal(jax.random.key(1), (2, 9, 12))
    whole = {"query": params["query_down"] @ params["query_up"]}
    whole |= {name: params[name] for name in ("key", "value", "output")}
    expected = grouped.apply(whole, x, dataclasses.replace(MFA, query_dim=None))
    np.testing.assert_allclose(grouped.apply(params, x, MFA), expected, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("config", [GLA, WINDOWED, MFA], ids=["gla", "window", "mfa"])
def test_caches_give_what_whole_sequences_give(config, x64):
    """Prompts, chunks and single tokens, absorbed where there is a latent."""
    decoder = TransformerConfig(13, 2, config, d_ff=16, tie_embeddings=False)
    params = random(transformer.init(jax.random.key(0), decoder))
    expected = transformer.apply(params, TOKENS, decoder)
    state = transformer.init_state(decoder, 2, 9, jnp.float64)
    state, first = transformer.prefill(params, TOKENS[:, :4], state, decoder)
    state, second = transformer.extend(params, TOKENS[:, 4:7], state, decoder)
    parts = [first, second]
    for t in (7, 8):
        state, found = transformer.step(params, state, TOKENS[:, t], decoder)
        parts.append(found[:, None])
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), expected, atol=1e-10)
    slots = 9 if config.window is None else config.window
    assert cache_bytes(decoder, 2, 9) == 2 * 2 * slots * config.cache_elements * 4


@pytest.mark.slow
def test_gradients_go_through_the_cache_of_single_tokens(x64):
    """An absorbed step differentiates as the whole sequence does."""
    params = random(grouped_latent.init(jax.random.key(0), GLA))
    x = jax.random.normal(jax.random.key(1), (2, 5, 12))
    one = grouped_latent.mixer(GLA)

    def last(params):
        state, _ = one.prefill(params, x[:, :4], one.init_state(2, 5, jnp.float64))
        return jnp.sum(jnp.sin(one.step(params, state, x[:, 4])[1]))

    found = jax.grad(last)(params)
    expected = jax.grad(lambda params: jnp.sum(jnp.sin(one.apply(params, x)[:, 4])))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), found, expected)


@pytest.mark.parametrize("config", [GLA, MFA], ids=["gla", "mfa"])
def test_operations_are_those_of_the_arrays(config):
    """Two for each weight and token, beside the attention; of latents the expansion apart."""
    decoder = TransformerConfig(13, 2, config, d_ff=16)
    gains = 2 * config.n_latents * config.latent_dim if config is GLA else 0
    count = accounting.parameters(decoder)["attention"] - gains
    found = accounting.operations(decoder, tokens=5)
    assert found["projections"] + found["expansion"] == 2 * 5 * count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_latents": 3}, "n_latents: expected a divisor of n_heads = 4, got 3"),
        ({"latent_dim": 0}, "latent_dim: expected a whole number of at least 1"),
        ({"rope_dim": 5}, "rope_dim: expected an even number"),
        ({"norm_eps": -1.0}, "norm_eps: expected at least 0, got -1.0"),
    ],
)
def test_impossible_sizes_of_grouped_latents_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GLA, **options)


def test_latent_queries_need_a_width():
    with pytest.raises(ValueError, match="query_dim: expected a whole number of at least 1, got 0"):
        GroupedConfig(query_dim=0)
