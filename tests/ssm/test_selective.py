"""Selective state spaces: against sequential float64 loops, chunks, memory, gradients, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from reference import selective as reference
from reference import ssm as reference_ssm

from ssm import gated, rtf, selective, short_convolution, ssd


def numbers(rng, *shape):
    return rng.normal(size=shape)


def problem(seed, batch, length, inner=3, states=2):
    """u, dt, A, B, C, D and a start."""
    rng = np.random.default_rng(seed)
    u, dt = numbers(rng, batch, length, inner), rng.uniform(0, 2, (batch, length, inner))
    A = -rng.uniform(0.1, 3, (inner, states))
    B, C = numbers(rng, batch, length, states), numbers(rng, batch, length, states)
    return u, dt, A, B, C, numbers(rng, inner), numbers(rng, batch, inner, states)


def heads_problem(seed, batch, length, heads=4, width=2, groups=2, states=3):
    rng = np.random.default_rng(seed)
    x, dt = numbers(rng, batch, length, heads, width), rng.uniform(0, 2, (batch, length, heads))
    A = -rng.uniform(0.1, 3, heads)
    B, C = (numbers(rng, batch, length, groups, states) for _ in range(2))
    return x, dt, A, B, C, numbers(rng, heads), numbers(rng, batch, heads, width, states)


@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.integers(1, 17),
    st.integers(1, 20),
    st.sampled_from(selective.METHODS),
)
def test_selective_scan_is_the_loop(seed, batch, length, chunk, method):
    with jax.enable_x64(True):
        u, dt, A, B, C, D, start = problem(seed, batch, length)
        y, x = selective.scan(u, dt, A, B, C, D, start=start, method=method, chunk=chunk)
        for i in range(batch):
            z, last = reference.selective(u[i], dt[i], A, B[i], C[i], D, start[i])
            np.testing.assert_allclose(y[i], z, atol=1e-12 * max(1, np.abs(z).max()), rtol=0)
            np.testing.assert_allclose(x[i], last, atol=1e-12, rtol=1e-12)


@pytest.mark.slow
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.integers(1, 17),
    st.integers(1, 20),
    st.sampled_from([(4, 1), (4, 2), (3, 3)]),
)
def test_heads_scan_is_the_loop(seed, batch, length, chunk, sizes):
    with jax.enable_x64(True):
        one = heads_problem(seed, batch, length, heads=sizes[0], groups=sizes[1])
        x, dt, A, B, C, D, start = one
        y, final = ssd.scan(x, dt, A, B, C, D, start=start, chunk=chunk)
        for i in range(batch):
            z, last = reference.selective_heads(x[i], dt[i], A, B[i], C[i], D, start[i])
            np.testing.assert_allclose(y[i], z, atol=1e-11 * max(1, np.abs(z).max()), rtol=0)
            np.testing.assert_allclose(final[i], last, atol=1e-11, rtol=1e-11)


def test_one_channel_a_head_is_the_selective_scan(x64):
    """Where all states of a channel decay alike, both are the same system."""
    u, dt, A, B, C, D, start = problem(0, 2, 9, inner=3, states=4)
    A = np.broadcast_to(A[:, :1], A.shape)
    y, x = selective.scan(u, dt, A, B, C, D, start=start)
    z, final = ssd.scan(
        u[..., None],
        dt,
        A[:, 0],
        B[:, :, None],
        C[:, :, None],
        D,
        start=start[:, :, None],
        chunk=4,
    )
    np.testing.assert_allclose(y, z[..., 0], atol=1e-12)
    np.testing.assert_allclose(x, final[:, :, 0], atol=1e-12)


def leaves64(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


@pytest.mark.slow
def test_blocks_are_their_definitions(x64):
    u = jnp.asarray(np.random.default_rng(0).normal(size=(2, 11, 6)))
    config = selective.Config(6, states=3, rank=2, chunk=4)
    params = selective.init(jax.random.key(0), config)
    y = selective.mixer(config).apply(params, u)
    for row, one in zip(y, np.asarray(u), strict=True):
        expected = reference.mamba(leaves64(params), one, 2, 3)
        np.testing.assert_allclose(row, expected, atol=1e-11)
    config = ssd.Config(6, head_dim=3, states=3, groups=2, chunk=4)
    params = ssd.init(jax.random.key(0), config)
    y = ssd.mixer(config).apply(params, u)
    for row, one in zip(y, np.asarray(u), strict=True):
        expected = reference.mamba2(leaves64(params), one, 4, 2, 3)
        np.testing.assert_allclose(row, expected, atol=1e-11)
    config = gated.Config(6, 11, 4, init="montel", constraint="none")
    params = gated.mixer(config).init(jax.random.key(0))
    y = gated.mixer(config).apply(params, u)
    kernel = np.asarray(rtf.kernel(rtf.system(config.filter(), params["filter"]), 11))
    for row, one in zip(y, np.asarray(u), strict=True):
        expected = reference.gated_filter(leaves64(params), one, kernel)
        np.testing.assert_allclose(row, expected, atol=1e-11)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_short_convolutions_are_sums_of_taps(width, x64):
    rng = np.random.default_rng(width)
    params = {"weight": numbers(rng, width, 3), "bias": numbers(rng, 3)}
    params = jax.tree.map(jnp.asarray, params)
    u = numbers(rng, 2, 7, 3)
    y = short_convolution.apply(params, jnp.asarray(u))
    for row, one in zip(y, u, strict=True):
        expected = reference.taps(one, params["weight"], params["bias"])
        np.testing.assert_allclose(row, expected, atol=1e-13)
    kernel = np.asarray(params["weight"])[::-1, 1]
    channel = reference_ssm.convolution(u[0, :, 1], kernel) + float(params["bias"][1])
    np.testing.assert_allclose(y[0, :, 1], channel, atol=1e-13)


def test_initial_steps_and_decays_are_those_of_the_sources():
    config = selective.Config(32, states=5)
    params = selective.init(jax.random.key(0), config)
    np.testing.assert_allclose(
        np.exp(params["log_decay"]), np.tile(np.arange(1.0, 6), (64, 1)), rtol=1e-6
    )
    assert config.steps_rank == 2 and params["select"].shape == (64, 12)
    for bias, one in (
        (params["step"]["bias"], config),
        (ssd.init(jax.random.key(1), ssd.Config(32))["step_bias"], ssd.Config(32)),
    ):
        steps = np.log1p(np.exp(np.asarray(bias, np.float64)))
        assert (steps > one.dt_min * 0.99).all() and (steps < one.dt_max * 1.01).all()
    decays = np.exp(ssd.init(jax.random.key(2), ssd.Config(64, head_dim=2))["log_decay"])
    assert decays.min() > 1 and decays.max() < 16 and decays.std() > 2


@pytest.mark.parametrize(("channels", "width"), [(8, 16), (48, 32), (100, 8), (128, 64)])
def test_heads_are_as_wide_as_the_channels_allow(channels, width):
    config = ssd.Config(channels)
    assert config.per_head == width and config.heads * width == 2 * channels
    layer = ssd.mixer(config)
    params = jax.eval_shape(layer.init, jax.random.key(0))
    u = jax.ShapeDtypeStruct((1, 3, channels), np.float32)
    assert jax.eval_shape(layer.apply, params, u).shape == u.shape


@pytest.mark.slow
@pytest.mark.parametrize("method", selective.METHODS)
def test_gradients_are_finite_where_decays_underflow(method):
    """exp(dt A) of 1e4: zero, and no NaN behind it."""
    u, dt, A, B, C, D, start = (jnp.asarray(v, jnp.float32) for v in problem(1, 1, 12))

    def total(u, dt, A):
        y, x = selective.scan(u, dt, A, B, C, D, start=start, method=method, chunk=4)
        return jnp.sum(y**2) + jnp.sum(x)

    for leaf in jax.grad(total, (0, 1, 2))(u, 1e4 * dt, A):
        assert np.isfinite(leaf).all()

    x, dt, A, B, C, D, start = (jnp.asarray(v, jnp.float32) for v in heads_problem(1, 1, 12))

    def heads_total(x, dt, A):
        y, final = ssd.scan(x, dt, A, B, C, D, start=start, chunk=4)
        return jnp.sum(y**2) + jnp.sum(final)

    for leaf in jax.grad(heads_total, (0, 1, 2))(x, 1e4 * dt, A):
        assert np.isfinite(leaf).all()


@settings(max_examples=5)
@given(st.integers(0, 10**6))
def test_gradients_are_those_of_differences(seed):
    with jax.enable_x64(True):
        u, dt, A, B, C, D, start = problem(seed, 1, 7)
        weights = np.random.default_rng(seed).normal(size=u.shape)

        def total(dt, A, C):
            y, _ = selective.scan(u, dt, A, B, C, D, start=start, chunk=3)
            return jnp.sum(weights * y)

        check_grads(total, (dt, A, C), 1, ["rev"], atol=1e-6, rtol=1e-6)


def test_chunks_keep_states_at_their_ends_alone():
    """Temporaries of a gradient: far below the states of all steps."""
    length, inner, states = 1024, 32, 16
    shapes = [(1, length, inner)] * 2 + [(inner, states)] + [(1, length, states)] * 2
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def temporary(chunk, method):
        def total(u, dt, A, B, C):
            return jnp.sum(selective.scan(u, dt, A, B, C, method=method, chunk=chunk)[0] ** 2)

        compiled = jax.jit(jax.grad(total, (0, 1, 2, 3, 4))).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = 4 * length * inner * states
    assert temporary(32, "scan") < 0.5 * whole < 0.25 * temporary(length, "associative")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dt": np.ones((1, 5, 2))}, "u, dt: expected shapes"),
        ({"A": np.ones((2, 2))}, r"A: expected shape \[3, N\], got \(2, 2\)"),
        ({"B": np.ones((1, 5, 3))}, r"B, C: expected shape \(1, 5, 2\)"),
        ({"start": np.ones((1, 3, 3))}, r"start: expected shape \(1, 3, 2\)"),
        ({"method": "fft"}, "method: expected one of auto, scan, associative"),
        ({"u": np.ones((1, 5, 3)) + 1j}, "expected real numbers, got complex"),
        ({"D": np.ones(1)}, r"D: expected shape \(3,\), got \(1,\)"),
        ({"chunk": 0}, "chunk: expected at least 1, got 0"),
    ],
)
def test_bad_selective_arguments_are_refused(change, message):
    u, dt, A, B, C, _, _ = problem(0, 1, 5)
    arguments = {"u": u, "dt": dt, "A": A, "B": B, "C": C} | change
    with pytest.raises(ValueError, match=message):
        selective.scan(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dt": np.ones((1, 5, 2))}, "x, dt: expected shapes"),
        ({"A": np.ones(3)}, r"A: expected shape \(4,\), got \(3,\)"),
        ({"B": np.ones((1, 5, 3, 3))}, "B, C: expected shape"),
        ({"start": np.ones((1, 4, 2, 2))}, "start: expected shape"),
        ({"A": -np.ones(4) + 1j}, "expected real numbers, got complex"),
        ({"D": np.ones(1)}, r"D: expected shape \(4,\), got \(1,\)"),
        ({"chunk": 0}, "chunk: expected at least 1, got 0"),
    ],
)
def test_bad_arguments_of_heads_are_refused(change, message):
    x, dt, A, B, C, _, _ = heads_problem(0, 1, 5)
    with pytest.raises(ValueError, match=message):
        ssd.scan(**({"x": x, "dt": dt, "A": A, "B": B, "C": C} | change))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: selective.Config(0), "channels: expected a whole number of at least 1"),
        (lambda: selective.Config(4, rank=0), "rank: expected a whole number of at least 1"),
        (lambda: selective.Config(4, method="fft"), "method: expected one of auto"),
        (lambda: selective.Config(4, dt_min=1.0), "dt_min"),
        (lambda: ssd.Config(4, head_dim=3), "head_dim: expected a divisor of 8, got 3"),
        (lambda: ssd.Config(4, head_dim=2, groups=3), "groups: expected a divisor of 4, got 3"),
        (lambda: ssd.Config(4, head_dim=2, decay_min=0.0), "decay_min, decay_max"),
        (lambda: gated.Config(4, 8, 8), "size|length"),
        (lambda: gated.Config(4, 8, 2, width=0), "width: expected a whole number of at least 1"),
    ],
)
def test_impossible_blocks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
