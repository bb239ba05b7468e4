"""Sums of powers against direct sums and, for a million steps, against mpmath."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from reference import ssm as reference

from ssm import vandermonde

kernel = jax.jit(vandermonde.kernel, static_argnums=2)


def system(n=6, seed=0):
    generator = np.random.default_rng(seed)
    Lambda = -generator.uniform(0.01, 1.0, n) + 1j * generator.uniform(-20, 20, n)
    weights = generator.normal(size=n) + 1j * generator.normal(size=n)
    dt = generator.uniform(0.01, 0.1, n)
    # Values of single precision, exact in both: rounding a frequency moves far phases.
    return Lambda.astype(np.complex64).astype(complex), weights, dt.astype(np.float32).astype(float)


def pair(z, dtype=None):
    return jnp.asarray(z.real, dtype), jnp.asarray(z.imag, dtype)


@pytest.mark.sample(8)
@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 100, 257])
def test_kernels_are_the_direct_sums(length, precision):
    Lambda, weights, dt = system()
    modes = vandermonde.held(*pair(Lambda, precision), jnp.asarray(dt, precision))
    got = kernel(pair(weights, precision), modes, length)
    assert got.shape == (length,) and got.dtype == precision
    expected = reference.power_sums(weights, np.exp(dt * Lambda), length).real
    tolerance = {"float32": 1e-6, "float64": 1e-13}[precision]
    np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(weights).sum(), rtol=0)


def test_modes_of_multipliers_are_those_of_the_exponential(x64):
    Lambda, weights, dt = system()
    multipliers = np.exp(dt * Lambda)
    modes = vandermonde.modes(*pair(multipliers))
    got = kernel(pair(weights), modes, 50)
    expected = reference.power_sums(weights, multipliers, 50).real
    np.testing.assert_allclose(got, expected, atol=1e-13)


@pytest.mark.parametrize("length", [1, 5, 64, 99])
def test_moments_are_the_direct_sums(length, x64):
    Lambda, _, dt = system()
    u = np.random.default_rng(1).normal(size=(2, length))
    modes = vandermonde.held(*pair(Lambda), jnp.asarray(dt))
    re, im = jax.jit(vandermonde.moments)(u, jax.tree.map(lambda x: x[None], modes))
    powers = np.exp(np.outer(dt * Lambda, np.arange(length)))
    np.testing.assert_allclose(re + 1j * im, u @ powers.T, atol=1e-12)


def test_a_million_steps_of_fast_modes_in_single_precision():
    """Phases up to 1e6 radians, from single-precision parameters taken as exact."""
    n = 64
    frequency = np.float32(n / np.pi * (n / (2 * np.arange(n // 2) + 1) - 1))  # S4D-Inv
    decay, dt = np.float32(-1e-2 * np.ones(n // 2)), np.float32(1e-3)
    modes = vandermonde.held(*(jnp.asarray(x) for x in (decay, frequency, dt)))
    ones = jnp.ones(n // 2, jnp.float32)
    got = kernel((ones, 0 * ones), modes, 2**20)
    assert np.isfinite(got).all()
    mpmath.mp.dps = 40
    for step in (0, 1, 12_345, 400_000, 777_777, 2**20 - 1):
        time = mpmath.mpf(step) * mpmath.mpf(float(dt))
        terms = [
            mpmath.exp(time * float(a)) * mpmath.cos(time * float(w))
            for a, w in zip(decay, frequency, strict=True)
        ]
        # Relative to the largest value of the kernel, n / 2 at step 0.
        assert abs(float(got[step]) - float(sum(terms))) < 1e-6 * n / 2, step


def test_steps_times_frequencies_keep_twice_the_digits():
    generator = np.random.default_rng(0)
    im = generator.uniform(1.0, 1e4, 200).astype(np.float32)
    dt = generator.uniform(1e-4, 1.0, 200).astype(np.float32)
    high, low = jax.jit(vandermonde._turns)(im, dt)
    exact = im.astype(np.float64) * dt.astype(np.float64) / (2 * np.pi)
    got = np.asarray(high, np.float64) + np.asarray(low, np.float64)
    np.testing.assert_allclose(got, exact, rtol=1e-13)


def test_gradients_against_float64_sums(x64):
    Lambda, weights, dt = system()
    g = np.random.default_rng(2).normal(size=40)

    def ours(re, im, dt, w_re, w_im):
        return g @ vandermonde.kernel((w_re, w_im), vandermonde.held(re, im, dt), 40)

    def direct(re, im, dt, w_re, w_im):
        z = (re + 1j * im) * dt
        powers = jnp.exp(z[:, None] * np.arange(40))
        return g @ jnp.real((w_re + 1j * w_im) @ powers)

    arguments = (*pair(Lambda), jnp.asarray(dt), *pair(weights))
    got, expected = (jax.jit(jax.grad(f, range(5)))(*arguments) for f in (ours, direct))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9, rtol=1e-10)


@pytest.mark.parametrize("lambda_", [0.0, -1e-4, -50.0, 0.5, 1e3j])
def test_gradients_stay_finite(lambda_):
    re, im = pair(np.array([lambda_], complex), jnp.float32)

    def total(re, im, dt):
        one = jnp.ones(1, jnp.float32)
        return jnp.sum(vandermonde.kernel((one, one), vandermonde.held(re, im, dt), 65))

    slopes = jax.jit(jax.grad(total, (0, 1, 2)))
    for dt in (1e-4, 1.0):
        for slope in slopes(re, im, jnp.float32(dt)):
            assert np.isfinite(slope).all()


def test_no_length_is_refused():
    with pytest.raises(ValueError, match="length: expected at least 1, got 0"):
        vandermonde.kernel(pair(np.ones(2, complex)), vandermonde.modes(*pair(np.ones(2) + 0j)), 0)


@pytest.mark.parametrize("exponent", [0, 1, 4095, 4096, 16_385])
def test_single_powers_of_bilinear_modes_keep_their_phase(exponent):
    """Powers of (1 + z)/(1 - z), with z of the single-precision numbers, by mpmath."""
    re = np.float32([-1e-3, -1e-3, 0.0, -0.5, 1e-3, -2.0])
    im = np.float32([0.0, 3.7, 911.0, 2000.0, -123.4, 2000.3])
    dt = np.float32(1e-3)
    modes = jax.jit(vandermonde.bilinear)(*map(jnp.asarray, (re, im, dt)))
    powers = jax.jit(vandermonde.power)(modes, np.int32(exponent))
    with mpmath.workdps(40):
        pairs = zip(re, im, strict=True)
        z = [mpmath.mpf(float(dt)) * mpmath.mpc(float(a), float(b)) / 2 for a, b in pairs]
        exact = np.array([complex(((1 + v) / (1 - v)) ** exponent) for v in z])
    np.testing.assert_allclose(powers[0] + 1j * powers[1], exact, atol=2e-6, rtol=0)


def test_split_multipliers_stay_on_their_circle_for_thousands_of_steps():
    """Powers in double precision of the sum of both parts, against the exact exponential."""
    rng = np.random.default_rng(1)
    re, im = -np.float32(rng.uniform(0.1, 1.0, 50)), np.float32(rng.uniform(-2e3, 2e3, 50))
    dt = np.float32(1e-3)
    held = vandermonde.held(*(jnp.asarray(x) for x in (re, im)), jnp.asarray(dt))
    both = [np.asarray(x, float) for pair in jax.jit(vandermonde.split)(held) for x in pair]
    ours = (both[0] + both[2]) + 1j * (both[1] + both[3])
    exact = np.exp(np.float64(dt) * (re.astype(float) + 1j * im.astype(float)))
    np.testing.assert_allclose(ours, exact, atol=5e-10)
    rounded = exact.astype(np.complex64)
    drift = [np.abs(a.astype(complex) ** 2000 - exact**2000).max() for a in (ours, rounded)]
    assert drift[0] < 1e-6 < 2e-5 < drift[1]
