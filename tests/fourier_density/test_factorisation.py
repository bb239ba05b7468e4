"""Spectral factors, cepstra, entropy and divergence against roots and quadrature."""

import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import call
from reference import fourier

from fourier_density import PeriodicDensity, RealLineDensity, factorisation


def pair(a):
    return jnp.asarray(a.real), jnp.asarray(a.imag)


factor = jax.jit(factorisation.spectral_factor)


@pytest.mark.parametrize("order", [0, 1, 5, 31])
def test_factor_has_the_autocorrelation_and_no_root_inside(order, x64):
    a = fourier.random_coefficients(order, order)
    c = fourier.autocorrelation(a)
    re, im = factor(*pair(c))
    b = np.asarray(re) + 1j * np.asarray(im)
    np.testing.assert_allclose(fourier.autocorrelation(b), c, atol=1e-13 * c[0].real, rtol=0)
    assert b[0].real > 0 and abs(b[0].imag) < 1e-14
    assert order == 0 or np.min(np.abs(np.roots(b[::-1]))) > 1 - 1e-9
    log_constant, _ = fourier.minimum_phase(a)
    np.testing.assert_allclose(np.log(b[0].real), float(log_constant), atol=1e-12, rtol=0)


def test_factor_of_a_batch_is_the_batch_of_factors(x64):
    a = fourier.random_coefficients(7, 3, (2, 3))
    c = np.array([[fourier.autocorrelation(row) for row in rows] for rows in a])
    re, im = factor(*pair(c))
    assert re.shape == (2, 3, 4)
    one = factor(*pair(c[1, 2]))
    np.testing.assert_allclose([re[1, 2], im[1, 2]], one, atol=1e-13, rtol=0)


def test_what_is_not_an_autocorrelation_has_no_factor(x64):
    re, _ = factor(jnp.array([1.0, 0.9]), jnp.zeros(2))  # 1 + 1.8 cos is negative somewhere
    assert jnp.all(jnp.isnan(re))


@pytest.mark.parametrize("order", [1, 5, 31])
def test_cepstrum_equals_the_power_sums_of_the_roots(order, x64):
    a = fourier.random_coefficients(order, order)
    b = factor(*pair(fourier.autocorrelation(a)))
    re, im = factorisation.cepstrum(*b, order + 3)
    expected = fourier.cepstrum(a, order + 3)
    np.testing.assert_allclose(re + 1j * im, expected, atol=1e-11, rtol=0)


@pytest.mark.sample(2)
@pytest.mark.parametrize(("order", "floor"), [(0, 0.0), (1, 0.0), (5, 0.2), (13, 0.0), (31, 0.0)])
def test_entropy_equals_quadrature(order, floor, x64):
    a = fourier.random_coefficients(order, order)
    value = call(PeriodicDensity(a, floor), "entropy")
    np.testing.assert_allclose(value, fourier.entropy(a, floor), atol=1e-10, rtol=0)


def test_entropy_of_a_density_with_roots_on_the_circle(x64):
    """P = (1 + cos pi x) / 2 has entropy 2 log 2 - 1; (1 + z)^2 has a root of order four."""
    value = call(PeriodicDensity([1.0, 1.0]), "entropy")
    np.testing.assert_allclose(value, 2 * np.log(2) - 1, atol=1e-7, rtol=0)
    a = np.array([1.0, 2.0, 1.0])
    value = call(PeriodicDensity(a), "entropy")
    np.testing.assert_allclose(value, fourier.entropy(a), atol=1e-6, rtol=0)


@pytest.mark.sample(2)
@pytest.mark.parametrize("power", [2, 8, 16])
def test_entropy_next_to_roots_of_high_multiplicity(power, precision):
    a = np.array([math.comb(power, k) for k in range(power + 1)], float)  # (1 + z)^power
    value = call(PeriodicDensity(a), "entropy")
    bound = 1e-9 if precision == "float64" else 2e-5
    np.testing.assert_allclose(value, fourier.entropy(a), atol=bound, rtol=0)


@pytest.mark.sample(1)
@pytest.mark.parametrize("root", [1.0, np.exp(0.7j)])
def test_divergence_from_a_density_with_a_multiple_root(root, x64):
    """E log|1 - z / r|^2 = -2 Re sum_m E[z^m] / (m r^m) for every root on the circle."""
    a, b = fourier.random_coefficients(3, 4), np.poly([root] * 4)[::-1]
    moments, m = fourier.gamma(a)[1:], np.arange(1, 5)
    log_scale = np.log(0.5 / np.sum(np.abs(b) ** 2))
    exact = log_scale - 8.0 * np.sum((moments.conj() / (m * root**m)).real)
    value = call(PeriodicDensity(a), "kl_divergence", PeriodicDensity(b))
    expected = fourier.expected_log(a, a) - exact
    # A sum over 8192 points, up to 2 m p(root) / 8192 = 1e-3 p(root) off, with p below 2 here.
    np.testing.assert_allclose(value, expected, atol=2e-3, rtol=0)
    gradient = jax.jit(jax.grad(lambda d, e: d.kl_divergence(e), argnums=(0, 1)))(
        PeriodicDensity(a), PeriodicDensity(b)
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_entropy_in_single_precision():
    a = fourier.random_coefficients(5, 13)
    value = call(PeriodicDensity(a), "entropy")
    assert value.dtype == "float32"
    np.testing.assert_allclose(value, fourier.entropy(a), atol=2e-5, rtol=0)


@pytest.mark.sample(1)
@pytest.mark.parametrize("orders", [(5, 13), (13, 5), (4, 4)])
def test_divergence_equals_quadrature(orders, x64):
    a, b = (fourier.random_coefficients(40 + i, order) for i, order in enumerate(orders))
    value = call(PeriodicDensity(a), "kl_divergence", PeriodicDensity(b, 0.1))
    expected = fourier.expected_log(a, a) - fourier.expected_log(a, b, other_floor=0.1)
    np.testing.assert_allclose(value, expected, atol=1e-10, rtol=0)
    assert abs(call(PeriodicDensity(a), "kl_divergence", PeriodicDensity(2j * a))) < 1e-12


def test_gradients_of_entropy_and_divergence_equal_finite_differences(x64):
    a, b = fourier.random_coefficients(1, 4), fourier.random_coefficients(2, 4)
    a[0] += 6.0  # roots far from the circle, where the quadrature of log p is exact
    direction = fourier.random_coefficients(3, 4)
    step = 1e-5  # central differences of values good to 1e-13: error about 1e-8
    gradient = jax.jit(jax.grad(lambda d: d.entropy()))(PeriodicDensity(a))
    exact = jnp.sum(gradient.re * direction.real + gradient.im * direction.imag)
    ends = [fourier.entropy(a + sign * step * direction) for sign in (1, -1)]
    assert abs(exact) > 1e-3
    np.testing.assert_allclose(exact, (ends[0] - ends[1]) / (2 * step), atol=1e-7, rtol=0)

    divergence = jax.jit(jax.grad(lambda d, e: e.kl_divergence(d)))
    gradient = divergence(PeriodicDensity(a), PeriodicDensity(b))
    exact = jnp.sum(gradient.re * direction.real + gradient.im * direction.imag)
    ends = [-fourier.expected_log(b, a + sign * step * direction) for sign in (1, -1)]
    np.testing.assert_allclose(exact, (ends[0] - ends[1]) / (2 * step), atol=1e-7, rtol=0)


def test_convolution_multiplies_the_moments(x64):
    a, b = fourier.random_coefficients(1, 4), fourier.random_coefficients(2, 6)
    both = call(PeriodicDensity(a, 0.1), "convolve", PeriodicDensity(b))
    expected = fourier.gamma(a, 0.1)[1:] * fourier.gamma(b)[1:5]
    np.testing.assert_allclose(call(both, "moments"), expected, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="other: expected a PeriodicDensity, got RealLineDensity"):
        PeriodicDensity(a).convolve(RealLineDensity(b, 0.0, 1.0))
    with pytest.raises(ValueError, match="other: expected a PeriodicDensity, got a number"):
        PeriodicDensity(a).convolve(3)


def test_rotation_moves_the_density(x64):
    a, x = fourier.random_coefficients(1, 5), np.linspace(-1, 1, 9)
    turned = call(PeriodicDensity(a, 0.1), "rotate", 0.7)
    np.testing.assert_allclose(
        call(turned, "prob", x), fourier.density(a, x - 0.7, 0.1), atol=1e-13, rtol=0
    )


def test_entropies_and_divergences_of_a_large_batch():
    """Of sizes at which the compiler divides loops among threads."""
    re, im = jax.random.normal(jax.random.key(3), (2, 5000, 3))
    density = PeriodicDensity(jax.lax.complex(re + 2.0, im))
    other = jax.tree.map(lambda leaf: leaf[::-1], density)
    found = density.entropy(), density.kl_divergence(other), density.cdf(0.2)
    few = jax.tree.map(lambda leaf: leaf[-7:], density)
    expected = few.entropy(), few.kl_divergence(jax.tree.map(lambda leaf: leaf[-7:], other))
    for got, want in zip(found, (*expected, few.cdf(0.2)), strict=True):
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got[-7:], want, rtol=1e-5, atol=1e-5)  # sums of 8192 points


TWO_FACTORS = """
import jax, fourier_density
re, im = jax.random.normal(jax.random.key(0), (2, 2000, 4))
density = fourier_density.PeriodicDensity(jax.lax.complex(re + 1.0, im))
print(density.kl_divergence(jax.tree.map(lambda leaf: leaf[::-1], density)).min() >= -1e-5)
"""


def test_a_large_batch_of_divergences_comes_to_an_end():
    """With the compiler's defaults, under which two solves by LAPACK wait for each other."""
    assert by_defaults(TWO_FACTORS) == "True\n"


MANY_SUMS = """
import jax, numpy as np
from fourier_density import PeriodicDensity
parts = np.random.default_rng(0).normal(size=(2, 33_000, 4))
a = parts[0] + 1j * parts[1]
a /= np.sqrt((np.abs(a) ** 2).sum(1, keepdims=True))
gamma = np.stack([(a[:, k:] * a[:, : 4 - k].conj()).sum(1) for k in (1, 2, 3)], axis=1)
n = np.arange(1, 4)
sign = 1.0 - 2.0 * (n % 2)
mean = gamma.imag @ (2 * sign / (n * np.pi))
variance = 1 / 3 + gamma.real @ (4 * sign / (n * np.pi) ** 2) - mean**2
rough = np.pi**2 * (np.abs(gamma) ** 2 @ n**2)
one = PeriodicDensity(a.astype(np.complex64))
for found, exact in ((one.mean(), mean), (one.variance(), variance), (one.regulariser(), rough)):
    print(np.abs(found - exact).max() < 1e-4)
values, pull = jax.vjp(lambda one: one.variance(), one)
few = PeriodicDensity(a[-50:].astype(np.complex64))
(slope,), (other,) = pull(values), jax.vjp(lambda one: one.variance(), few)[1](values[-50:])
pairs = zip(jax.tree.leaves(slope), jax.tree.leaves(other))
print(all(np.abs(x[-50:] - y).max() < 1e-4 for x, y in pairs if x.ndim > 1))
"""


def test_sums_over_a_large_batch_are_right():
    """With the compiler's defaults, under which jaxlib 0.10.2 gets sums of products wrong."""
    assert by_defaults(MANY_SUMS) == "True\n" * 4


def by_defaults(code):
    """What a program prints that starts without the suite's settings."""
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**plain, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.stdout or done.stderr
