"""Multi-head latent attention: three computations, its cache, and what breaks the identity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import decoder_params
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import attention as reference

from attention import LatentConfig, TransformerConfig, cache, generate, latent, rope, transformer

SMALL = {
    "d_model": 12,
    "n_heads": 3,
    "latent_dim": 7,
    "nope_dim": 5,
    "rope_dim": 4,
    "value_dim": 6,
}
CONFIGS = {
    "plain": LatentConfig(**SMALL),
    "query": LatentConfig(**SMALL, query_dim=5, rope_layout="half"),
    "window": LatentConfig(**SMALL, window=3),
    "none": LatentConfig(**SMALL, rope_base=None),
}


def layer_params(config, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: latent.init(key, config), jax.random.key(0))
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 12**-0.5 + (leaf.ndim == 1))  # noqa: E731
    return jax.tree.map(draw, shapes)


def signal(time, batch=2, seed=1, width=12):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, time, width)))


def near(value, expected, bound):
    np.testing.assert_allclose(value, expected, atol=bound * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_is_its_equations(name, precision):
    config = CONFIGS[name]
    params, x = layer_params(config), signal(6)
    wide = reference.to_float64(params)
    positions = np.array([[0, 1, 2, 3, 4, 5], [3, 4, 7, 8, 20, 21]])
    mask = np.ones((2, 6), bool)
    mask[1, 1] = False
    bound = 1e-12 if precision == "float64" else 3e-6
    apply = jax.jit(functools.partial(latent.apply, config=config))
    near(apply(params, x), reference.latent_layer(wide, np.asarray(x, float), config), bound)
    expected = reference.latent_layer(
        wide, np.asarray(x, float), config, positions, np.tile(mask[:, None], (1, 6, 1))
    )
    near(apply(params, x, positions=positions, mask=jnp.asarray(mask)), expected, bound)


@pytest.mark.slow
@given(
    heads=st.integers(1, 3),
    latent_dim=st.integers(1, 8),
    query=st.sampled_from([None, 1, 4]),
    nope=st.integers(1, 5),
    half_rope=st.integers(1, 3),
    value=st.integers(1, 5),
    queries=st.integers(1, 4),
    more=st.integers(0, 5),
    window=st.sampled_from([None, 1, 3]),
)
@settings(max_examples=15, deadline=None)
def test_absorbed_is_materialised_in_values_and_gradients(
    heads, latent_dim, query, nope, half_rope, value, queries, more, window
):
    with jax.enable_x64(True):
        config = LatentConfig(
            12,
            heads,
            latent_dim,
            query_dim=query,
            nope_dim=nope,
            rope_dim=2 * half_rope,
            value_dim=value,
            window=window,
        )
        params, x = layer_params(config), signal(queries + more)
        positions = jnp.broadcast_to(jnp.arange(queries + more), x.shape[:2])
        keep = latent.masks.causal(positions[:, more:], positions, window)
        weights = signal(queries, seed=5)

        def scalar(params, x, form):
            q = latent.queries(params, x[:, more:], positions[:, more:], config)
            entries = latent.latents(params, x, positions, config)
            y = latent.merge(params, latent.attend(params, q, entries, keep, config, form))
            return jnp.sum(weights * y), y

        both = [
            jax.jit(jax.grad(functools.partial(scalar, form=form), (0, 1), has_aux=True))(params, x)
            for form in latent.FORMS
        ]
    for first, second in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-10)


def test_absorbed_in_single_precision():
    config = LatentConfig(64, 4, 32, query_dim=24, nope_dim=16, rope_dim=8, value_dim=16)
    params = latent.init(jax.random.key(0), config)
    x = signal(50, width=64).astype(jnp.float32)
    both = [
        jax.jit(
            functools.partial(
                latent.apply,
                config=LatentConfig(
                    64, 4, 32, query_dim=24, nope_dim=16, rope_dim=8, value_dim=16, form=f
                ),
            )
        )
        for f in latent.FORMS
    ]
    near(both[0](params, x), np.asarray(both[1](params, x)), 2e-5)


def test_a_rotation_of_the_expanded_key_breaks_the_identity(x64):
    """The negative control of the post: R_t W_UK depends on the position, W_UK does not."""
    config = CONFIGS["plain"]
    params, x = layer_params(config), signal(6)
    positions = jnp.broadcast_to(jnp.arange(6), (2, 6))
    keys, _ = latent.halves(params, config)
    plain, _ = latent.queries(params, x, positions, config)
    entries = latent.latents(params, x, positions, config)[..., : config.latent_dim]
    expanded = jnp.einsum("bsc,hnc->bhsn", entries, keys)

    def scores(first, second):
        return jnp.einsum("bhtn,bhsn->bhts", first, second)

    whole = jnp.einsum("bhtc,bsc->bhts", latent.absorb((plain, plain[..., :0]), keys), entries)
    np.testing.assert_allclose(whole, scores(plain, expanded), atol=1e-12)
    turn = lambda y: rope.rotate(y[..., :4], *rope.tables(positions[:, None], 4, 10.0))  # noqa: E731
    rotated = scores(turn(plain), turn(expanded))
    query = jnp.concatenate([turn(plain), plain[..., 4:]], axis=-1)
    absorbed = jnp.einsum("bhtn,hnc,bsc->bhts", query[..., :4], keys[:, :4], entries)
    assert np.abs(rotated - absorbed).max() > 0.1 * np.abs(rotated).max()


def streamed(config, params, x, prompt, capacity, lengths=None):
    layer = latent.mixer(config)
    state = layer.init_state(x.shape[0], capacity, x.dtype)
    state, first = layer.prefill(params, x[:, :prompt], state, lengths)
    prepared = layer.prepare(params)
    body = lambda s, now: layer.step(prepared, s, now)  # noqa: E731
    state, rest = jax.lax.scan(body, state, x[:, prompt:].swapaxes(0, 1))
    return state, jnp.concatenate([first, rest.swapaxes(0, 1)], axis=1)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("time", "prompt"), [(9, 4), (10, 7)])
def test_prefill_and_steps_equal_apply_in_values_and_gradients(name, time, prompt, precision):
    config = CONFIGS[name]
    params, x, weights = layer_params(config), signal(time), signal(time, seed=3)

    def scalar(params, x, view):
        y = view(params, x)
        return jnp.sum(weights * y), y

    views = (
        functools.partial(latent.apply, config=config),
        lambda params, x: streamed(config, params, x, prompt, time)[1],
    )
    both = [
        jax.jit(jax.grad(functools.partial(scalar, view=view), (0, 1), has_aux=True))(params, x)
        for view in views
    ]
    bound = 1e-11 if precision == "float64" else 1e-5
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(both[0]))
    for first, second in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(first, second, atol=bound * scale)


@pytest.mark.slow
def test_prompts_of_different_lengths_continue_as_if_alone(x64):
    config = CONFIGS["query"]
    params, x = layer_params(config), signal(9)
    lengths = jnp.array([2, 5])
    _, y = streamed(config, params, x, 5, 9, lengths)
    for i, n in enumerate((2, 5)):
        alone = jnp.concatenate([x[i : i + 1, :n], x[i : i + 1, 5:]], axis=1)
        expected = latent.apply(params, alone, config)[0, n:]
        np.testing.assert_allclose(y[i, 5:], expected, atol=1e-12)


def test_the_form_follows_the_length_of_the_queries():
    v2 = LatentConfig(5120, 128, 512, query_dim=1536, nope_dim=128, rope_dim=64, value_dim=128)
    assert v2.cache_elements == 576
    assert 170 < v2.crossover < 172
    assert (v2.choose(170), v2.choose(172)) == ("absorbed", "materialised")
    assert LatentConfig(5120, 128, 512, form="absorbed").choose(10_000) == "absorbed"
    assert LatentConfig(64, 4, 8, nope_dim=8, value_dim=8).crossover == float("inf")


def test_the_cache_is_one_array_of_latents():
    config = LatentConfig(64, 4, 32, nope_dim=16, rope_dim=8, value_dim=16)
    state = latent.init_state(3, 10, jnp.bfloat16, config=config)
    assert state.latents.shape == (3, 1, 10, 40) and state.latents.dtype == jnp.bfloat16
    assert len(jax.tree.leaves(state)) == 2
    windowed = LatentConfig(64, 4, 32, nope_dim=16, rope_dim=8, value_dim=16, window=4)
    assert latent.init_state(3, 10, config=windowed).capacity == 4


@pytest.mark.slow
def test_an_int8_cache_has_a_bounded_error(x64):
    parts, x = (7, 4), signal(50, width=11)
    whole, scale = cache.quantise(x, parts)
    assert whole.dtype == jnp.int8
    error = np.abs(cache.restore(whole, scale, parts) - x)
    for group in (np.s_[..., :7], np.s_[..., 7:]):
        largest = np.abs(x[group]).max(axis=-1, keepdims=True)
        assert np.all(error[group] <= largest / 254 * (1 + 1e-12))
    zero = cache.restore(*cache.quantise(0.0 * x, parts), parts)
    assert not np.any(zero)
    plain, small = LatentConfig(**SMALL), LatentConfig(**SMALL, quantised=True)
    params, x = layer_params(plain), signal(9)
    _, exact = streamed(plain, params, x, 4, 9)
    state, y = streamed(small, params, x, 4, 9)
    assert state.latents.dtype == jnp.int8 and state.scale.shape == (2, 1, 9, 2)
    assert 0 < np.abs(y - exact).max() < 0.02 * np.abs(exact).max()
    _, chunk = latent.extend(
        params, x[:, :3], latent.init_state(2, 9, x.dtype, config=small), config=small
    )
    assert np.abs(chunk - exact[:, :3]).max() < 0.02 * np.abs(exact).max()


@pytest.mark.slow
def test_yarn_multiplies_scores_by_the_square_of_its_factor(x64):
    yarn = rope.Yarn(40.0, 4096, mscale=0.707, mscale_all_dim=0.707)
    config = LatentConfig(**SMALL, rope_scaling=yarn)
    assert abs(config.scale * 9**0.5 - 1.5896) < 1e-4  # DeepSeek-V2: (0.0707 ln 40 + 1)^2
    params, x = layer_params(config), signal(5)
    still = latent.apply(params, x, config)
    assert np.abs(still - latent.apply(params, x, CONFIGS["plain"])).max() > 1e-3
    np.testing.assert_allclose(streamed(config, params, x, 2, 5)[1], still, atol=1e-12)


@pytest.mark.slow
def test_a_decoder_of_latent_layers_generates():
    config = TransformerConfig(
        11, 2, LatentConfig(16, 2, 6, query_dim=5, nope_dim=4, rope_dim=4, value_dim=5), d_ff=24
    )
    params = decoder_params(config)
    prompts = np.array([[1, 2, 3, 4], [5, 6, 7, 0]])
    tokens = generate(params, config, prompts, 6, lengths=np.array([4, 3]))
    for row, prompt in zip(tokens, ([1, 2, 3, 4], [5, 6, 7]), strict=True):
        known = list(prompt)
        for token in row:
            logits = transformer.apply(params, jnp.array([known]), config)[0, -1]
            assert int(jnp.argmax(logits)) == int(token)
            known.append(int(token))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_heads": 0}, "n_heads: expected a whole number of at least 1, got 0"),
        ({"query_dim": 0}, "query_dim: expected a whole number of at least 1, got 0"),
        ({"rope_dim": 3}, "rope_dim: expected an even number, got 3"),
        ({"window": 0}, "window: expected a whole number of at least 1, got 0"),
        ({"form": "naive"}, "form: expected one of .*, got 'naive'"),
    ],
)
def test_bad_sizes_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        LatentConfig(**options)


def test_full_caches_are_refused_or_give_nan():
    config = CONFIGS["plain"]
    params, layer = layer_params(config), latent.mixer(config)
    x = signal(4).astype(jnp.float32)
    state, _ = layer.prefill(params, x, layer.init_state(2, 4, x.dtype))
    prepared = layer.prepare(params)
    with pytest.raises(ValueError, match="capacity: expected at least 5 slots for 4 tokens"):
        layer.step(prepared, state, x[:, 0])
    _, y = jax.jit(layer.step)(prepared, state, x[:, 0])
    assert np.isnan(y).all()
    with pytest.raises(ValueError, match="capacity: expected at least 4 slots"):
        layer.prefill(params, x, layer.init_state(2, 3, x.dtype))
