"""DSS against the formulas of its paper in double precision."""

import jax
import numpy as np
import pytest

from ssm import dss, s4d

H, M, L = 3, 4, 25
kernel = jax.jit(dss.kernel, static_argnums=1)
DT = np.array([1e-3, 0.1, 1.0])


def numbers(growth=0.0):
    rng = np.random.default_rng(4)
    Lambda = rng.uniform(-1.0, growth, (H, M)) + 1j * rng.uniform(0.0, 20.0, (H, M))
    return Lambda, rng.normal(size=(H, M)) + 1j * rng.normal(size=(H, M))


def exponential(Lambda, W, length):
    z = DT[:, None] * Lambda
    powers = np.exp(z[..., None] * np.arange(length))
    return np.einsum("hm,hml->hl", W * np.expm1(z) / Lambda, powers).real


def softmax(Lambda, W, length):
    exponents = DT[:, None, None] * Lambda[..., None] * np.arange(length)
    exponents = exponents - exponents.real.max(axis=-1, keepdims=True)
    rows = np.exp(exponents) / np.exp(exponents).sum(axis=-1, keepdims=True)
    return np.einsum("hm,hml->hl", W / Lambda, rows).real


def near(value, expected, bound):
    np.testing.assert_allclose(value, expected, atol=bound * np.max(np.abs(expected)), rtol=0)


@pytest.mark.parametrize("length", [1, 2, L, L - 1])
def test_exponential_kernels(length, precision):
    bound = 1e-12 if precision == "float64" else 2e-6
    one = dss.from_weights(*numbers(), np.zeros(H), DT)
    near(kernel(one, length), exponential(*numbers(), length), bound)


@pytest.mark.sample(6)
@pytest.mark.parametrize("growth", [0.0, 1.0])
@pytest.mark.parametrize("length", [1, 2, L, L - 1])
def test_softmax_kernels_also_of_growing_modes(length, growth, precision):
    bound = 1e-12 if precision == "float64" else 3e-6
    one = dss.from_weights(*numbers(growth), np.zeros(H), DT, length)
    near(kernel(one, length), softmax(*numbers(growth), length), bound)


@pytest.mark.parametrize("values", [exponential, softmax])
def test_signals_are_convolved_and_added(values, x64):
    D, u = np.array([0.5, -1.0, 0.0]), np.random.default_rng(1).normal(size=(2, L, H))
    one = dss.from_weights(*numbers(), D, DT, None if values is exponential else L)
    K = values(*numbers(), L)
    expected = [[np.convolve(K[h], row[:, h])[:L] for h in range(H)] for row in u]
    near(dss.apply(one, u), np.moveaxis(np.array(expected), 1, 2) + D * u, 1e-12)


def test_softmax_of_fast_growth_neither_overflows_nor_vanishes():
    Lambda, W = np.full((1, 1), 30.0 + 1.0j), np.ones((1, 1))
    one = dss.from_weights(Lambda, W, np.zeros(1), np.ones(1), 1000)
    values = np.asarray(kernel(one, 1000))[0]
    near(
        values[-2:], np.array([np.exp(-30.0 - 1.0j) / (30.0 + 1.0j), 1 / (30.0 + 1.0j)]).real, 1e-5
    )
    assert np.isfinite(values).all()
    gradient = jax.jit(jax.grad(lambda s: dss.kernel(s, 1000).sum()))(one)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("length", [None, L])
def test_they_are_s4d_with_other_weights(length, x64):
    one = dss.from_weights(*numbers(), np.zeros(H), DT, length)
    near(
        jax.jit(s4d.kernel, static_argnums=1)(dss.as_s4d(one), L), np.asarray(kernel(one, L)), 1e-11
    )


def test_a_shorter_softmax_kernel_is_the_beginning_of_the_normalised_one(x64):
    one = dss.from_weights(*numbers(0.5), np.zeros(H), DT, L)
    near(kernel(one, 7), np.asarray(kernel(one, L))[:, :7], 1e-15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Lambda": np.zeros(3)}, r"Lambda: expected shape \[H, M\], got \(3,\)"),
        ({"W": np.zeros((H, M + 1))}, r"W: expected shape \(3, 4\), got \(3, 5\)"),
        ({"dt": -DT}, "dt: expected positive"),
        ({"length": 0}, "length: expected at least 1, got 0"),
        ({"length": 5, "Lambda": np.zeros((H, M))}, "softmax has no pole at zero"),
        (
            {"length": 5, "Lambda": np.full((H, M), 2j * np.pi / 5), "dt": np.ones(H)},
            "softmax divides by the sum of .* over 5 steps, which vanishes",
        ),
    ],
)
def test_bad_systems_are_refused_by_name(change, message):
    arguments = dict(zip(("Lambda", "W"), numbers(), strict=True)) | {"D": np.zeros(H), "dt": DT}
    with pytest.raises(ValueError, match=message):
        dss.from_weights(**(arguments | change))


def test_bad_lengths_and_configurations_are_refused_by_name():
    one = dss.from_weights(*numbers(), np.zeros(H), DT, L)
    with pytest.raises(ValueError, match=f"at least 1 and at most the stored {L}, got {L + 1}"):
        dss.kernel(one, L + 1)
    with pytest.raises(ValueError, match="normalization: expected one of exp, softmax"):
        dss.Config(1, 8, normalization="none")
    with pytest.raises(ValueError, match="modes: expected a whole number of at least 1"):
        dss.Config(1, 8, 0)


def test_growing_modes_stream_within_the_range_of_floats_and_are_refused_beyond():
    parts = (np.array([[1.0 + 2.0j, -0.5 + 1.0j]]), np.ones((1, 2)), np.zeros(1), np.array([0.1]))
    one = dss.from_weights(*parts, 400)  # grows by e^40
    u = np.random.default_rng(0).normal(size=(1, 400, 1))
    prefill, apply = jax.jit(dss.prefill), jax.jit(dss.apply)
    _, y = prefill(one, u, s4d.init_state(dss.as_s4d(one), 1))
    near(y, np.asarray(apply(one, u)), 2e-5)
    long = dss.from_weights(*parts, 700)
    assert np.isfinite(apply(long, u)).all()
    state, prepared, first = dss.init_state(one, u.shape[0]), dss.prepare(one), []
    for t in range(3):
        state, value = dss.step(prepared, state, jax.numpy.asarray(u[:, t]))
        first.append(value)
    near(np.stack(first, 1), np.asarray(y)[:, :3], 2e-5)
    for call in (dss.prepare, dss.as_s4d):
        with pytest.raises(ValueError, match=r"Lambda: a state that grows by e\^70 over 700 steps"):
            call(long)
