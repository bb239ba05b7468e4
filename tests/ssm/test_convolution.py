"""Convolutions against double sums; what goes wrong on a circle that is too small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import ssm as reference

from ssm import block_convolution, convolution


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(("length", "taps"), [(1, 1), (1, 9), (40, 40), (33, 12), (12, 33)])
def test_causal_convolution_is_the_double_sum(length, taps):
    u, kernel = random(length), random(taps, seed=1)
    got = jax.jit(convolution.causal)(u, kernel)
    np.testing.assert_allclose(got, reference.convolution(u, kernel), atol=2e-5)


@pytest.mark.parametrize(("length", "taps"), [(1, 1), (16, 16), (31, 31), (50, 7), (7, 50)])
def test_both_directions(length, taps, precision):
    u, forward, backward = random(length), random(taps, seed=1), random(taps, seed=2)
    got = jax.jit(convolution.bidirectional)(*(x.astype(precision) for x in (u, forward, backward)))
    ahead = reference.convolution(u, forward)
    past = reference.convolution(u[::-1], np.concatenate([[0.0], backward]))[::-1]
    assert got.dtype == precision
    atol = 1e-5 if precision == "float32" else 1e-12
    np.testing.assert_allclose(got, ahead + past, atol=atol)


def test_a_circle_of_l_points_lets_the_end_leak_into_the_beginning(x64):
    u, kernel = random(32), random(32, seed=1)
    right = reference.convolution(u, kernel)
    np.testing.assert_allclose(convolution.causal(u, kernel), right, atol=1e-12)
    short = np.fft.irfft(np.fft.rfft(u) * np.fft.rfft(kernel), 32)
    assert np.abs(short - right).max() > 1.0
    wrapped = np.convolve(u, kernel)[32:]
    np.testing.assert_allclose(short[:31] - right[:31], wrapped, atol=1e-12)


def test_leading_axes_broadcast_and_short_floats_are_widened():
    u, kernel = random(2, 3, 20), random(3, 20, seed=1)
    got = convolution.causal(jnp.asarray(u, jnp.bfloat16), kernel)
    assert got.shape == (2, 3, 20) and got.dtype == jnp.float32
    exact = np.asarray(jnp.asarray(u, jnp.bfloat16), np.float64)
    for i, j in np.ndindex(2, 3):
        expected = reference.convolution(exact[i, j], kernel[j])
        np.testing.assert_allclose(got[i, j], expected, atol=1e-5)


@pytest.mark.parametrize(("taps", "size"), [(1, 4), (16, 4), (13, 5), (5, 8)])
def test_streams_of_blocks_are_the_whole_convolution(taps, size, x64):
    u, kernel = random(2, 3, 5 * size), random(3, taps, seed=1)
    prepared = block_convolution.blocks(kernel, size)
    pieces = jnp.moveaxis(jnp.asarray(u).reshape(2, 3, 5, size), 2, 0)
    tail = block_convolution.start(prepared, (2,))
    _, out = jax.lax.scan(lambda tail, u: block_convolution.stream(prepared, tail, u), tail, pieces)
    got = jnp.moveaxis(out, 0, 2).reshape(2, 3, -1)
    np.testing.assert_allclose(got, convolution.causal(u, kernel), atol=1e-12)


def test_gradients_are_correlations(x64):
    u, kernel, weight = random(9), random(6, seed=1), random(9, seed=2)
    loss = jax.grad(lambda u, k: jnp.sum(weight * convolution.causal(u, k)), argnums=(0, 1))
    by_u, by_kernel = jax.jit(loss)(jnp.asarray(u), jnp.asarray(kernel))
    full = np.correlate(weight, kernel, "full")[5:]
    np.testing.assert_allclose(by_u, full, atol=1e-13)
    expected = [np.sum(weight[j:] * u[: 9 - j]) for j in range(6)]
    np.testing.assert_allclose(by_kernel, expected, atol=1e-13)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convolution.causal(np.ones(3) * 1j, np.ones(3)), "u: expected real numbers, got"),
        (lambda: convolution.causal(np.ones(3), np.ones(0)), r"kernel: expected at least one samp"),
        (lambda: convolution.causal(1.0, np.ones(3)), r"u: expected .* got shape \(\)"),
        (
            lambda: block_convolution.blocks(np.ones(3), 0),
            "size: expected at least 1 sample, got 0",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_block_of_another_size_is_refused():
    prepared = block_convolution.blocks(np.ones(8), 4)
    with pytest.raises(ValueError, match="u: expected blocks of 4 samples, got 5"):
        block_convolution.stream(prepared, block_convolution.start(prepared), jnp.ones(5))
