"""Trigonometric polynomials and their autocorrelation against explicit sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import fourier

from fourier_density import angles, series

# Horner's rule at order 13: about N eps of the sum of |a_k| (< 30).
TOLERANCE = {"float32": 5e-5, "float64": 1e-12}
evaluate = jax.jit(series.evaluate)
autocorrelation = jax.jit(series.autocorrelation)
wrap = jax.jit(angles.wrap)


def pair(a):
    return jnp.asarray(a.real), jnp.asarray(a.imag)


def direct(a, x):
    return sum(c * np.exp(1j * np.pi * k * x) for k, c in enumerate(a))


@pytest.mark.parametrize("order", [0, 1, 13])
def test_horner_equals_the_direct_sum(order, precision):
    a, x = fourier.random_coefficients(order, order), np.linspace(-3.0, 3.0, 61)
    u, v = evaluate(*pair(a), jnp.asarray(x))
    assert u.dtype == v.dtype == precision
    np.testing.assert_allclose(u + 1j * v, direct(a, x), atol=TOLERANCE[precision], rtol=0)


def test_points_broadcast_against_a_batch_of_coefficients(x64):
    a, x = fourier.random_coefficients(3, 4, (2, 3)), np.linspace(-1, 1, 5)[:, None, None]
    u, v = evaluate(*pair(a), jnp.asarray(x))
    assert u.shape == (5, 2, 3)
    for i, j in np.ndindex(2, 3):
        expected = direct(a[i, j], x[:, 0, 0])
        np.testing.assert_allclose(u[:, i, j] + 1j * v[:, i, j], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("order", [0, 1, 13])
def test_autocorrelation_equals_the_double_loop(order, precision):
    a = fourier.random_coefficients(20 + order, order)
    re, im = autocorrelation(*pair(a))
    expected = fourier.autocorrelation(a)
    np.testing.assert_allclose(re + 1j * im, expected, atol=TOLERANCE[precision], rtol=0)


def test_autocorrelation_is_not_the_conjugate_one_of_the_paper(x64):
    a = fourier.random_coefficients(5, 4)
    _, im = autocorrelation(*pair(a))
    expected = fourier.autocorrelation(a).imag
    assert np.max(np.abs(expected)) > 0.1
    assert np.max(np.abs(im + expected)) > 0.2
    _, mirrored = autocorrelation(*pair(a.conj()))
    np.testing.assert_allclose(mirrored, -expected, atol=1e-12, rtol=0)


def test_autocorrelation_of_a_batch_is_the_batch_of_autocorrelations(x64):
    a = fourier.random_coefficients(6, 3, (2, 2))
    re, im = autocorrelation(*pair(a))
    for index in np.ndindex(2, 2):
        expected = fourier.autocorrelation(a[index])
        np.testing.assert_allclose(re[index] + 1j * im[index], expected, atol=1e-12, rtol=0)


def test_small_lags_keep_their_relative_accuracy_in_single_precision():
    a = np.array([1.0, 0.5, 0.0, 1e-12])
    re, _ = autocorrelation(*pair(a))
    np.testing.assert_allclose(re[3], 1e-12, rtol=1e-6)  # an FFT leaves about 1e-7


@given(numerator=st.integers(-1023, 1023), turns=st.integers(-1000, 1000))
def test_wrapping_is_exact_and_of_period_two(numerator, turns):
    x = np.float32(numerator / 1024.0)
    assert float(wrap(jnp.float32(x + 2 * turns))) == x


@given(x=st.floats(-1e6, 1e6, width=32))
def test_wrapped_points_lie_on_the_circle_and_differ_by_whole_turns(x):
    wrapped = float(wrap(jnp.float32(x)))
    assert -1.0 <= wrapped <= 1.0
    assert (x - wrapped) % 2.0 == 0.0


def test_unit_keeps_full_accuracy_far_from_the_origin():
    x = jnp.float32(100_000.25)  # exactly representable; pi x in float32 is off by 1e-2
    cos, sin = jax.jit(angles.unit)(x)
    np.testing.assert_allclose([cos, sin], [np.sqrt(0.5)] * 2, atol=2e-7, rtol=0)


@pytest.mark.sample(4)
@pytest.mark.parametrize("order", [63, 64, 300])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_long_series_equal_the_direct_sum(order, batch, precision):
    a, x = fourier.random_coefficients(order, order, batch), np.linspace(-3.0, 3.0, 61)
    x = x.astype(np.float32).astype(np.float64)  # exact in both precisions
    a, x = a / np.sqrt(order + 1), x[(...,) + (None,) * len(batch)]
    u, v = evaluate(*pair(a), jnp.asarray(x))
    assert u.dtype == precision
    expected = np.stack([direct(row, x[:, 0]) for row in a], -1) if batch else direct(a, x)
    # Powers of z come from exact angles, so that the error does not grow like N eps.
    tolerance = {"float32": 4e-6, "float64": 2e-12}[precision]
    np.testing.assert_allclose(u + 1j * v, expected, atol=tolerance, rtol=0)


def test_angles_of_high_multiples_are_exact():
    x = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    # The polynomial is about 3 where r is up to 1/2: two roundings of 6e-8, and the others.
    for m in (1, 7, 511):
        cos, sin = jax.jit(angles.unit, static_argnums=1)(x, m)
        angle = np.pi * (m * x.astype(np.float64) % 2.0)
        np.testing.assert_allclose(cos, np.cos(angle), atol=2e-7, rtol=0)
        np.testing.assert_allclose(sin, np.sin(angle), atol=2e-7, rtol=0)


@pytest.mark.parametrize("order", [5, 80])
@pytest.mark.parametrize("count", [7, 5000])
def test_gradients_equal_the_moments_of_the_cotangents(order, count, x64):
    """d/d re_k sum_i g_i Re A(x_i) = sum_i g_i cos(pi k x_i), and so on."""
    rng = np.random.default_rng(order)
    a, x = fourier.random_coefficients(order, order), rng.uniform(-1, 1, count)
    g, h = rng.normal(size=(2, count))

    def value(re, im, x):
        u, v = series.evaluate(re, im, x)
        return jnp.sum(g * u + h * v)

    by_re, by_im, by_x = jax.jit(jax.grad(value, (0, 1, 2)))(*pair(a), jnp.asarray(x))
    k = np.arange(order + 1)
    z = np.exp(1j * np.pi * np.outer(x, k))
    scale = np.sqrt(count)
    np.testing.assert_allclose(by_re, g @ z.real + h @ z.imag, atol=1e-12 * scale, rtol=0)
    np.testing.assert_allclose(by_im, h @ z.real - g @ z.imag, atol=1e-12 * scale)
    slope = z @ (1j * np.pi * k * a)
    np.testing.assert_allclose(
        by_x, g * slope.real + h * slope.imag, atol=1e-9, rtol=0
    )  # 1e4 large


def test_forward_and_second_derivatives_exist(x64):
    a, x = fourier.random_coefficients(3, 4), jnp.asarray(0.3)
    curve = lambda x: series.evaluate(*pair(a), x)[0]  # noqa: E731
    k = np.arange(5)
    expected = (-((np.pi * k) ** 2) * a * np.exp(1j * np.pi * k * x)).sum().real
    np.testing.assert_allclose(jax.jacfwd(jax.grad(curve))(x), expected, rtol=1e-12)
    _, change = jax.jvp(
        lambda re: series.evaluate(re, pair(a)[1], x)[0], pair(a)[:1], (jnp.asarray(k * 1.0),)
    )
    np.testing.assert_allclose(change, np.sum(k * np.cos(np.pi * k * x)), rtol=1e-12)
