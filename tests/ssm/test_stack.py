"""The deep model: its parts by hand, streaming through all layers, its Linen shells."""

import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attention
from attention import transformer
from ssm import dss, gated, layers, norms, rtf, s4, s4d, s5, ssd, stack

D, B, T = 4, 2, 9
MIXER = s4d.mixer(s4d.Config(D, modes=2))
CONFIG = stack.Config(channels=D, outputs=3, inputs=2, layers=3)


def signal(seed=0, length=T):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(B, length, 2)), float)


def streamed(model, params, u, split=4):
    state, first = model.prefill(params, u[:, :split], model.init_state(B, 0, float))
    prepared = model.prepare(params)
    body = lambda x, now: model.step(prepared, x, now)  # noqa: E731
    _, rest = jax.lax.scan(body, state, u[:, split:].swapaxes(0, 1))
    return jnp.concatenate([first, rest.swapaxes(0, 1)], axis=1)


def other_statistics(params):
    """With running statistics of batch norms that are not those they start from."""

    def change(leaf, moves):
        return leaf + 0.3 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape) * moves

    return jax.tree.map(change, params, norms.is_statistic(params))


@pytest.mark.slow
def test_one_layer_is_its_formula(x64):
    config = stack.Config(channels=D, outputs=3, inputs=2, layers=1, activation="gelu")
    model = stack.model(config, MIXER)
    params = model.init(jax.random.key(0))
    u = signal()
    x = u @ params["encoder"]["matrix"]
    weights = jax.tree.map(lambda leaf: leaf[0], params["layers"])

    def normalised(z):
        z = np.asarray(z)
        return (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)

    z = MIXER.apply(weights["mixer"], jnp.asarray(normalised(x)))
    x = x + nn.gelu(z) @ weights["out"]["matrix"]
    expected = normalised(x) @ np.asarray(params["head"]["matrix"])
    np.testing.assert_allclose(jax.jit(model.apply)(params, u), expected, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["none", "mean", "last"])
@pytest.mark.parametrize(
    ("norm", "prenorm", "activation"),
    [
        ("layer", True, "glu"),
        ("rms", False, "gelu"),
        ("layer", False, "glu"),
        ("batch", True, "glu"),
    ],
)
def test_streaming_is_the_whole_signal_cut_short(norm, prenorm, activation, pooling, x64):
    config = stack.Config(
        D, 3, inputs=2, layers=2, norm=norm, prenorm=prenorm, activation=activation, pooling=pooling
    )
    model = stack.model(config, MIXER)
    params, u = other_statistics(model.init(jax.random.key(1))), signal()
    y = jax.jit(functools.partial(streamed, model))(params, u)
    whole = jax.jit(model.apply)
    if pooling == "none":
        np.testing.assert_allclose(y, whole(params, u), atol=1e-12)
        return
    padded = jax.jit(lambda u, n: model.apply(params, u, lengths=n))
    for n in range(1, T + 1):
        np.testing.assert_allclose(y[:, n - 1], padded(u, jnp.full(B, n)), atol=1e-12)
    np.testing.assert_allclose(y[:, -1], whole(params, u), atol=1e-12)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "mixer",
    [
        s4.mixer(s4.Config(D, T, 4)),
        dss.mixer(dss.Config(D, T, 2, normalization="softmax")),
        s5.mixer(s5.Config(D, modes=2)),
    ],
)
def test_every_mixer_streams_through_the_stack(mixer, x64):
    model = stack.model(CONFIG, mixer)
    params, u = model.init(jax.random.key(2)), signal()
    y = jax.jit(functools.partial(streamed, model))(params, u)
    np.testing.assert_allclose(y, jax.jit(model.apply)(params, u), atol=1e-10)


@pytest.mark.sample(1)
@pytest.mark.parametrize("lengths", [(0, 5), (9, 1)])
def test_prefixes_of_different_lengths_continue_as_if_alone(lengths, x64):
    model = stack.model(stack.Config(D, 3, inputs=2, layers=2, pooling="mean"), MIXER)
    params, u, more = model.init(jax.random.key(3)), signal(), signal(1, 1)[:, 0]
    state, _ = jax.jit(model.prefill)(params, u, model.init_state(B, 0, float), np.array(lengths))
    _, y = model.step(model.prepare(params), state, more)
    for i, n in enumerate(lengths):
        alone = jnp.concatenate([u[i, :n], more[i][None]])[None]
        np.testing.assert_allclose(y[i], model.apply(params, alone)[0], atol=1e-12)


def test_an_unstable_layer_is_named_before_it_is_stepped():
    model = stack.model(stack.Config(2, 2, inputs=1, layers=2), rtf.mixer(rtf.Config(2, 16, 3)))
    params = model.init(jax.random.key(0))
    mixers = params["layers"]["mixer"]
    ready = model.prepare(params)["layers"]["mixer"]
    traced = jax.jit(model.prepare)(params)["layers"]["mixer"]
    for one, other in zip(jax.tree.leaves(ready), jax.tree.leaves(traced), strict=True):
        np.testing.assert_array_equal(one, other)
    outside = mixers["denominator"].at[1, 0, 0].set(-1.5)
    params["layers"]["mixer"] = {**mixers, "denominator": outside}
    with pytest.raises(ValueError, match=r"layer 1: .*pole of modulus 1\.5"):
        model.prepare(params)
    jax.jit(model.prepare)(params)  # traced: cannot be known


@pytest.mark.slow
def test_tokens_and_two_directions_and_irregular_steps():
    tokens = jnp.arange(2 * T).reshape(B, T) % 5
    config = stack.Config(channels=D, outputs=5, vocabulary=5, layers=2)
    both_ways = s5.mixer(s5.Config(D, modes=2, bidirectional=True))
    model = stack.model(config, both_ways)
    params = model.init(jax.random.key(0))
    steps = jnp.ones((B, T))
    apply = jax.jit(model.apply)
    y = apply(params, tokens)
    assert y.shape == (B, T, 5)
    np.testing.assert_allclose(apply(params, tokens, steps=steps), y, atol=1e-6)
    assert np.abs(apply(params, tokens, steps=2.0 * steps) - y).max() > 1e-3
    with pytest.raises(ValueError, match="backward: a bidirectional system"):
        model.prepare(params)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_padding_is_not_read_from_behind(pooling, x64):
    config = stack.Config(D, 3, inputs=2, layers=2, pooling=pooling)
    model = stack.model(config, s5.mixer(s5.Config(D, modes=2, bidirectional=True)))
    params, u = model.init(jax.random.key(0)), signal()
    y = jax.jit(lambda u, n: model.apply(params, u, lengths=n))(u, jnp.array([5, T]))
    for i, n in enumerate((5, T)):
        np.testing.assert_allclose(y[i], model.apply(params, u[i : i + 1, :n])[0], atol=1e-12)
    with pytest.raises(ValueError, match=r"lengths: expected 1 to 9, got \[0, 9\]"):
        model.apply(params, u, lengths=np.array([0, T]))
    with pytest.raises(ValueError, match=r"lengths: expected one for each of \[B, T\]"):
        model.apply(params, u[0], lengths=np.array([3]))


def test_dropout_has_the_right_share_and_mean_and_only_with_a_key():
    x = jnp.ones((200, 500))
    kept = np.asarray(stack._drop(jax.random.key(0), x, 0.25))
    np.testing.assert_allclose(np.mean(kept == 0.0), 0.25, atol=5e-3)  # 3.7 standard deviations
    np.testing.assert_allclose(np.unique(kept), [0.0, 1.0 / 0.75], rtol=1e-6)
    config = stack.Config(channels=D, outputs=3, inputs=2, layers=2, dropout=0.5)
    model = stack.model(config, MIXER)
    params, u = model.init(jax.random.key(0)), signal()
    apply = jax.jit(model.apply)
    plain = apply(params, u)
    np.testing.assert_array_equal(plain, apply(params, u))
    one, same, other = (apply(params, u, key=jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - plain).max() > 1e-2 and np.abs(one - other).max() > 1e-2


@pytest.mark.slow
def test_remat_changes_nothing_but_memory(x64):
    u = signal()
    config = {"channels": D, "outputs": 3, "inputs": 2, "layers": 2}
    models = [stack.model(stack.Config(**config, remat=r), MIXER) for r in (False, True)]
    params = models[0].init(jax.random.key(0))
    gradients = [
        jax.jit(jax.grad(lambda p, m=m: jnp.sum(m.apply(p, u) ** 2)))(params) for m in models
    ]
    for ours, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-12, atol=1e-12)
        assert np.any(ours != 0)


def test_depth_is_not_unrolled():
    def size(n):
        model = stack.model(stack.Config(D, 3, inputs=2, layers=n), MIXER)
        params = model.init(jax.random.key(0))
        return len(str(jax.make_jaxpr(model.apply)(params, signal())))

    assert size(12) < 1.05 * size(2)


SHELLS = (
    (layers.S4(s4.Config(D, T, 4)), s4.mixer(s4.Config(D, T, 4))),
    (layers.S4D(s4d.Config(D, 2)), MIXER),
    (layers.DSS(dss.Config(D, T, 2)), dss.mixer(dss.Config(D, T, 2))),
    (layers.S5(s5.Config(D, 2)), s5.mixer(s5.Config(D, 2))),
    (
        layers.Mamba2(ssd.Config(D, expand=1, head_dim=4)),
        ssd.mixer(ssd.Config(D, expand=1, head_dim=4)),
    ),
    (layers.GatedRTF(gated.Config(D, T, 2)), gated.mixer(gated.Config(D, T, 2))),
    (layers.Stack(CONFIG, MIXER), stack.model(CONFIG, MIXER)),
)


@pytest.mark.slow
@pytest.mark.parametrize(("shell", "functions"), SHELLS)
def test_shells_only_own_the_parameters(shell, functions):
    u = signal() if isinstance(shell, layers.Stack) else jnp.tile(signal(), 2)
    variables = jax.jit(shell.init)(jax.random.key(0), u)
    weights = variables["params"]["weights"]
    ours, theirs = (
        jax.tree.map(jnp.shape, tree) for tree in (weights, functions.init(jax.random.key(0)))
    )
    assert ours == theirs
    y = jax.jit(shell.apply)(variables, u)
    np.testing.assert_array_equal(y, jax.jit(functions.apply)(weights, u))
    start = shell.init_state(B)
    state, first = shell.apply(variables, u[:, :4], start, method="prefill")
    np.testing.assert_allclose(first, y[:, :4], atol=1e-5)
    prepared = shell.apply(variables, method="prepare")
    _, fifth = shell.step(prepared, state, u[:, 4])
    np.testing.assert_allclose(fifth, y[:, 4], atol=1e-5)


def test_the_linen_stack_draws_dropout_only_in_training():
    model = layers.Stack(stack.Config(D, 3, inputs=2, dropout=0.5), MIXER)
    variables = model.init(jax.random.key(0), signal())
    plain = model.apply(variables, signal())
    trained = model.apply(variables, signal(), train=True, rngs={"dropout": jax.random.key(1)})
    assert np.abs(trained - plain).max() > 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers: expected a whole number of at least 1, got 0"),
        ({"vocabulary": 5}, "inputs, vocabulary: expected one of them, got 2 and 5"),
        ({"norm": "group"}, "norm: expected one of layer, rms, batch, got 'group'"),
        ({"activation": "relu"}, "activation: expected one of glu, gelu"),
        ({"pooling": "max"}, "pooling: expected one of none, mean, last"),
        ({"dropout": 1.0}, r"dropout: expected a share in \[0, 1\), got 1.0"),
    ],
)
def test_bad_configurations_are_refused_by_name(change, message):
    arguments = {"channels": D, "outputs": 3, "inputs": 2} | change
    with pytest.raises(ValueError, match=message):
        stack.Config(**arguments)


def test_a_model_reads_one_number_a_step_unless_told_otherwise():
    assert [stack.Config(D, 3).inputs, stack.Config(D, 3, vocabulary=5).inputs] == [1, None]


def test_what_is_no_mixer_and_no_configuration_is_refused():
    with pytest.raises(ValueError, match=r"mixer: expected one such as .*, got s4d"):
        inspect.unwrap(stack.model)(CONFIG, "s4d")
    with pytest.raises(ValueError, match=r"config: expected a stack\.Config, got Mixer"):
        inspect.unwrap(stack.model)(MIXER, CONFIG)
    with pytest.raises(ValueError, match=r"mixer: expected one of 4 channels: u: .* L, 8\]"):
        stack.init(jax.random.key(0), CONFIG, s4d.mixer(s4d.Config(8, modes=2)))
    with pytest.raises(ValueError, match="batch: expected a whole number of at least 1, got -1"):
        stack.model(CONFIG, MIXER).init_state(-1)
    one = stack.model(CONFIG, MIXER)
    params = one.prepare(one.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"u: expected shape \[B, 2\], got \(3, 1, 2\)"):
        one.step(params, one.init_state(3), jnp.ones((3, 1, 2)))


def test_bad_signals_are_refused_by_name():
    model = stack.model(CONFIG, MIXER)
    params = model.init(jax.random.key(0))
    for u in (np.zeros((B, T, 3)), np.zeros((B, T, 2), complex)):
        with pytest.raises(ValueError, match=r"u: expected a real signal \[..., 2\]"):
            model.apply(params, u)
    with pytest.raises(ValueError, match="lengths: only pooled heads"):
        model.apply(params, signal(), lengths=jnp.array([3, 4]))
    words = stack.model(stack.Config(D, 3, vocabulary=5), MIXER)
    for wrong in (5, -1):
        tokens, weights = jnp.full((1, 3), wrong), words.init(jax.random.key(0))
        with pytest.raises(ValueError, match=f"u: expected 0 to 4, got {wrong} to {wrong}"):
            words.apply(weights, tokens)
        assert np.isnan(jax.jit(words.apply)(weights, tokens)).all()
    many = stack.model(stack.Config(D, 3, inputs=None, vocabulary=200), MIXER)
    weights, tokens = many.init(jax.random.key(0)), np.array([[1, 2, 3]])
    expected = many.apply(weights, tokens)
    np.testing.assert_array_equal(many.apply(weights, tokens.astype(np.int8)), expected)
    with pytest.raises(ValueError, match="u: expected tokens, whole numbers, got float32"):
        words.apply(words.init(jax.random.key(0)), np.zeros((B, T), np.float32))
    with pytest.raises(ValueError, match="state: expected shape"):
        model.step(model.prepare(params), model.init_state(B + 1, 0), signal()[:, 0])
    with pytest.raises(ValueError, match=r"prepared: expected what prepare\(params\) returns"):
        model.step(params, model.init_state(B, 0), signal()[:, 0])


def test_a_batch_norm_takes_the_batch_in_training_and_its_running_mean_otherwise(x64):
    rng = np.random.default_rng(0)
    x = jnp.asarray(2.0 + 3.0 * rng.normal(size=(5, 7, D)), float)
    weights = norms.init("batch", D) | {"gain": jnp.arange(1.0, D + 1), "bias": jnp.ones(D)}
    flat = np.asarray(x).reshape(-1, D)
    scaled = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * np.arange(1.0, D + 1) + 1.0
    y = norms.apply(weights, x, train=True)
    np.testing.assert_allclose(np.asarray(y).reshape(-1, D), scaled, atol=1e-12)
    still = np.asarray(x) / np.sqrt(1.0 + 1e-5) * np.arange(1.0, D + 1) + 1.0
    np.testing.assert_allclose(norms.apply(weights, x), still, atol=1e-12)
    # Steps that do not count change nothing, wherever they stand.
    counts = jnp.arange(7)[None, :, None] < jnp.array([7, 7, 3, 1, 5])[:, None, None]
    flat = np.asarray(x)[np.broadcast_to(counts[..., 0], x.shape[:2])]
    masked = norms.apply(weights, jnp.where(counts, x, 99.0), counts, train=True)
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * np.arange(1.0, D + 1) + 1.0
    np.testing.assert_allclose(
        np.asarray(masked)[np.broadcast_to(counts[..., 0], x.shape[:2])], expected, atol=1e-12
    )


def test_descent_with_a_tenth_keeps_running_statistics(x64):
    rng = np.random.default_rng(1)
    weights = norms.init("batch", D)
    mean, variance = np.zeros(D), np.ones(D)
    for _ in range(3):
        x = jnp.asarray(1.0 + 2.0 * rng.normal(size=(4, 6, D)), float)
        loss = lambda weights, x=x: jnp.sum(norms.apply(weights, x, train=True) ** 3)  # noqa: E731
        gradient = jax.jit(jax.grad(loss))(weights)
        for name in ("mean", "variance"):
            weights = {**weights, name: weights[name] - 0.1 * gradient[name]}
        flat = np.asarray(x).reshape(-1, D)
        mean = 0.9 * mean + 0.1 * flat.mean(0)
        variance = 0.9 * variance + 0.1 * flat.var(0, ddof=1)
    np.testing.assert_allclose(weights["mean"], mean, atol=1e-12)
    np.testing.assert_allclose(weights["variance"], variance, atol=1e-12)


@pytest.mark.slow
def test_gradients_through_a_batch_norm_are_those_of_its_formula(x64):
    """All but those of the running statistics, which are defined."""
    model = stack.model(stack.Config(D, 2, inputs=2, layers=2, norm="batch", remat=True), MIXER)
    params, u = model.init(jax.random.key(0)), signal()
    moving = norms.is_statistic(params)
    assert sum(jax.tree.leaves(moving)) == 4  # two layers' in one leaf, and the final norm's

    def loss(params):
        return jnp.sum(jnp.sin(model.apply(params, u, train=True)))

    gradient = jax.jit(jax.grad(loss))(params)
    rng = np.random.default_rng(0)
    along = jax.tree.map(
        lambda leaf, fixed: jnp.asarray(rng.normal(size=leaf.shape) * (not fixed), float),
        *(params, moving),
    )
    step = 1e-6
    up, down = (
        loss(jax.tree.map(lambda p, d, s=s: p + s * step * d, params, along)) for s in (1, -1)
    )
    expected = sum(
        jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, along)), strict=True)
    )
    assert float((up - down) / (2 * step)) == pytest.approx(float(expected), rel=1e-6)
    assert "variance" in gradient["layers"]["norm"]


def half(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)


@pytest.mark.parametrize("norm", ["layer", "rms", "batch"])
def test_half_precision_stays_half_between_layers(norm):
    """Mixers widen what they read; what stands around them does not."""
    model = stack.model(stack.Config(D, 3, inputs=2, layers=2, norm=norm), MIXER)
    params, u = model.init(jax.random.key(0)), signal().astype(jnp.float32)
    y = jax.jit(model.apply)(half(params), half(u))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(float), model.apply(params, u), atol=0.1)


def test_a_decoder_of_half_precision_takes_a_mixer_of_states():
    config = attention.TransformerConfig(13, 2, attention.GroupedConfig(D, 2), d_ff=8)
    mixer = attention.Mixer(**MIXER._asdict())
    how = {"config": config, "mixer": mixer}
    params = half(transformer.init(jax.random.key(0), config, mixer=mixer))
    tokens = jnp.arange(2 * T).reshape(B, T) % 13
    logits = transformer.apply(params, tokens, **how)
    state = transformer.init_state(config, B, T, jnp.bfloat16, mixer=mixer)
    state, first = transformer.prefill(params, tokens[:, :5], state, **how)
    _, second = transformer.step(params, state, tokens[:, 5], **how)
    np.testing.assert_allclose(first.astype(float), logits[:, :5].astype(float), atol=0.1)
    np.testing.assert_allclose(second.astype(float), logits[:, 5].astype(float), atol=0.1)
