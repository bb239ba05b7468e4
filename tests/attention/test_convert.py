"""Decoders made into others: exact ones, nearest ones, moved columns."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention import (
    GroupedConfig,
    LatentConfig,
    TransformerConfig,
    cache_bytes,
    convert,
    generate,
    latent,
    rope,
    transformer,
)

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 13, (2, 9)))


def decoder(mixer, seed=0):
    config = TransformerConfig(13, 2, mixer, d_ff=16, tie_embeddings=False)
    params = transformer.init(jax.random.key(seed), config)
    return jax.tree.map(lambda leaf: leaf.astype(jnp.zeros(0).dtype), params), config


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 4])
def test_grouped_query_attention_is_mla(groups, window, x64):
    """Whole sequences, chunks and single tokens, materialised and absorbed; caches as large."""
    params, config = decoder(
        GroupedConfig(12, 4, groups, head_dim=5, rope_base=None, window=window)
    )
    made, latents = convert.to_latent(params, config)
    assert cache_bytes(latents, 2, 9) == cache_bytes(config, 2, 9)
    expected = transformer.apply(params, TOKENS, config)
    for form in (None, *latent.FORMS):
        one = dataclasses.replace(latents, mixer=dataclasses.replace(latents.mixer, form=form))
        np.testing.assert_allclose(transformer.apply(made, TOKENS, one), expected, atol=1e-12)
        state = transformer.init_state(one, 2, 9, jnp.float64)
        state, first = transformer.prefill(made, TOKENS[:, :4], state, one)
        state, second = transformer.extend(made, TOKENS[:, 4:8], state, one)
        state, third = transformer.step(made, state, TOKENS[:, 8], one)
        found = jnp.concatenate([first, second, third[:, None]], axis=1)
        np.testing.assert_allclose(found, expected, atol=1e-12)
    made_init = transformer.init(jax.random.key(1), latents)
    assert jax.tree.structure(made_init) == jax.tree.structure(made)
    np.testing.assert_array_equal(
        generate(made, latents, TOKENS, 5), generate(params, config, TOKENS, 5)
    )


@pytest.mark.slow
def test_int8_latents_need_no_rotary_part():
    params, config = decoder(GroupedConfig(12, 4, 2, head_dim=5, rope_base=None))
    made, latents = convert.to_latent(params, config)
    one = dataclasses.replace(latents, mixer=dataclasses.replace(latents.mixer, quantised=True))
    expected = transformer.apply(made, TOKENS, latents)
    state = transformer.init_state(one, 2, 9)
    state, _ = transformer.prefill(made, TOKENS[:, :8], state, one)
    _, found = transformer.step(made, state, TOKENS[:, 8], one)
    np.testing.assert_allclose(found, expected[:, 8], atol=0.05)


def layers(params, config):
    """D U of every layer, float64."""
    mixer = params["layers"]["mixer"]
    down, up = (np.asarray(mixer[name], np.float64) for name in ("down", "up"))
    return [d @ u for d, u in zip(down[..., : config.mixer.latent_dim], up, strict=True)]


@pytest.mark.sample(1)
@pytest.mark.parametrize("weighted", [False, True])
def test_fewer_latents_are_the_nearest_ones(weighted, x64):
    """The error is that of the singular values left out, of numpy's SVD, and no rank loses none."""
    params, config = decoder(GroupedConfig(12, 4, 2, head_dim=5, rope_base=None))
    made, latents = convert.to_latent(params, config)
    moments = convert.moments(params, TOKENS, config) if weighted else None
    for rank in (1, 5, 11):
        cut, small = convert.truncate(made, latents, rank, moments)
        assert small.mixer.cache_elements == rank
        pairs = zip(layers(made, latents), layers(cut, small), strict=True)
        for index, (whole, near) in enumerate(pairs):
            root = np.eye(12)
            if moments is not None:
                values, vectors = np.linalg.eigh(np.asarray(moments[index], np.float64))
                root = vectors @ np.diag(np.sqrt(np.maximum(values, 0.0))) @ vectors.T
            left = np.linalg.svd(root @ whole, compute_uv=False)[rank:]
            error = np.linalg.norm(root @ (whole - near))
            np.testing.assert_allclose(error, np.linalg.norm(left), rtol=1e-9, atol=1e-12)
    # d = 12 keys and values together have no more than 12 independent columns of 20.
    cut, small = convert.truncate(made, latents, 12, moments)
    expected = transformer.apply(params, TOKENS, config)
    np.testing.assert_allclose(transformer.apply(cut, TOKENS, small), expected, atol=1e-10)


def test_moments_are_of_what_layers_read(x64):
    """The first layer reads normalised embeddings."""
    params, config = decoder(GroupedConfig(12, 4, 2, head_dim=6))
    found = convert.moments(params, TOKENS, config)
    x = np.asarray(params["embedding"], np.float64)[np.asarray(TOKENS).ravel()]
    x = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + config.norm_eps)
    np.testing.assert_allclose(found[0], x.T @ x / len(x), atol=1e-12)
    assert found.shape == (2, 12, 12)


MIXERS = {
    "grouped": GroupedConfig(12, 4, 2, head_dim=6, bias=True),
    "partial": GroupedConfig(12, 4, 2, head_dim=6, rope_dims=4),
    "latent queries of groups": GroupedConfig(12, 4, 1, head_dim=6, query_dim=5, bias=True),
    "latent": LatentConfig(12, 4, 5, nope_dim=3, rope_dim=4, value_dim=3, bias=True),
    "latent queries": LatentConfig(12, 4, 5, query_dim=7, nope_dim=3, rope_dim=4, value_dim=3),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", MIXERS)
def test_rotary_conventions_are_the_same_decoder(name, x64):
    params, config = decoder(MIXERS[name])
    params = jax.tree.map(
        lambda p: p + 0.1 * jnp.sin(1.0 + jnp.arange(p.size)).reshape(p.shape), params
    )
    other = {"half": "interleaved", "interleaved": "half"}[config.mixer.rope_layout]
    moved, changed = convert.change_layout(params, config, other)
    assert changed.mixer.rope_layout == other
    expected = transformer.apply(params, TOKENS, config)
    np.testing.assert_allclose(transformer.apply(moved, TOKENS, changed), expected, atol=1e-12)
    wrong = transformer.apply(params, TOKENS, changed)
    assert np.max(np.abs(wrong - expected)) > 1e-3
    again, back = convert.change_layout(moved, changed, config.mixer.rope_layout)
    assert back == config
    jax.tree.map(np.testing.assert_array_equal, again, params)
    same, _ = convert.change_layout(params, config, config.mixer.rope_layout)
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: inspect.unwrap(convert.change_layout)(*latents(), "foo"),
            "layout: expected one of .* got 'foo'",
        ),
        (lambda: convert.to_latent(*decoder(LatentConfig(12, 4))), "mixer: expected grouped-query"),
        (lambda: convert.to_latent(*decoder(GroupedConfig(12, 2))), "rope_base: expected none"),
        (
            lambda: convert.average_heads(*decoder(LatentConfig(12, 4)), 2),
            "mixer: expected grouped",
        ),
        (
            lambda: convert.average_heads(*decoder(GroupedConfig(16, 4)), 3),
            "kv_heads: expected a divisor of 4, got 3",
        ),
        (
            lambda: convert.to_latent(*decoder(GroupedConfig(12, 2, rope_base=None, bias=True))),
            "bias, query_dim: expected neither",
        ),
        (lambda: convert.truncate(*decoder(LatentConfig(12, 4)), 3), "mixer: expected MLA without"),
        (lambda: convert.truncate(*latents(), 0), "rank: expected a whole number of at least 1"),
        (lambda: convert.truncate(*latents(), 13), "rank: expected at most 12, keys .*, got 13"),
        (
            lambda: convert.truncate(*latents(), 3, jnp.ones((2, 3, 3))),
            r"moments: expected \(2, 12, 12\), got \(2, 3, 3\)",
        ),
    ],
)
def test_what_cannot_be_converted_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
def test_half_precision_is_converted_too():
    params, config = decoder(GroupedConfig(12, 4, 2, head_dim=5, rope_base=None))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    moments = convert.moments(half, TOKENS, config)
    assert moments.dtype == jnp.float32
    small, one = convert.truncate(*convert.to_latent(half, config), 10, moments)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(small))
    assert np.isfinite(np.asarray(transformer.apply(small, TOKENS, one), np.float32)).all()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_averaged_heads_are_those_of_repeated_ones(heads, bias, x64):
    """Where the heads of a group are the same already, nothing changes."""
    params, config = decoder(GroupedConfig(12, 4, heads, head_dim=4, bias=bias))
    config_of_more = dataclasses.replace(
        config, mixer=GroupedConfig(12, 4, 4, head_dim=4, bias=bias)
    )
    mixer = dict(params["layers"]["mixer"])
    for name in [name for name in mixer if name.startswith(("key", "value"))]:
        mixer[name] = mixer[name] + 0.1 * jnp.arange(mixer[name].shape[-1])
    fewer = {**params, "layers": {**params["layers"], "mixer": dict(mixer)}}
    for name in [name for name in mixer if name.startswith(("key", "value"))]:
        each = mixer[name].reshape(*mixer[name].shape[:-1], heads, 4)
        mixer[name] = jnp.repeat(each, 4 // heads, axis=-2).reshape(*mixer[name].shape[:-1], 16)
    more = {**params, "layers": {**params["layers"], "mixer": mixer}}
    made, one = convert.average_heads(more, config_of_more, heads)
    assert one == config
    expected = transformer.apply(more, TOKENS, config_of_more)
    np.testing.assert_allclose(transformer.apply(made, TOKENS, one), expected, atol=1e-12)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-12), made, fewer)


def latents():
    return convert.to_latent(*decoder(GroupedConfig(12, 2, rope_base=None)))


def test_what_is_not_rotated_has_no_factor_of_rotation(x64):
    """YaRN's factor of the scores goes with the rotation, in either kind of attention."""
    scaling = rope.Yarn(40.0, 4096, mscale=0.707, mscale_all_dim=0.707)
    without = GroupedConfig(12, 4, 2, head_dim=5, rope_base=None)
    mixer = dataclasses.replace(without, rope_scaling=scaling)
    assert mixer.scale == without.scale and mixer.scale < GroupedConfig(12, 4, 2, head_dim=4).scale
    params, config = decoder(mixer)
    made, latents = convert.to_latent(params, config)
    expected = transformer.apply(params, TOKENS, config)
    np.testing.assert_allclose(transformer.apply(made, TOKENS, latents), expected, atol=1e-12)


def test_biases_of_the_latents_are_truncated_with_them(x64):
    mixer = LatentConfig(
        12, 3, 8, nope_dim=4, rope_dim=4, value_dim=4, bias=True, latent_norm=False
    )
    params, config = decoder(mixer)
    stack = params["layers"]["mixer"]
    stack["down_bias"] = jnp.sin(1.0 + jnp.arange(stack["down_bias"].size)).reshape(2, -1)
    expected = transformer.apply(params, TOKENS, config)
    same, _ = convert.truncate(params, config, 8)
    np.testing.assert_allclose(transformer.apply(same, TOKENS, config), expected, atol=1e-12)
    fewer, changed = convert.truncate(params, config, 4)
    assert fewer["layers"]["mixer"]["down_bias"].shape == (2, 8) and changed.mixer.latent_dim == 4
    assert np.isfinite(transformer.apply(fewer, TOKENS, changed)).all()
