"""Series of rational functions and polynomials modulo a denominator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from ssm import rational, rtf, stability
from tests.reference import ssm as reference


def coefficients(rng, size, radius=0.95):
    """Denominators with poles spread over angles, none clustered; many: by their coefficients."""
    half = size // 2
    if size > 40:
        a = rng.uniform(-1, 1, size)
        return a / np.abs(a).sum() * radius ** np.arange(1, size + 1)
    angles = np.pi * (np.arange(half) + rng.uniform(0.2, 0.8, half)) / max(half, 1)
    upper = radius * rng.uniform(0.8, 1.0, half) * np.exp(1j * angles)
    real = radius * rng.uniform(-1, 1, size % 2)
    return np.poly(np.concatenate([upper, upper.conj(), real])).real[1:]


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 5, 63, 64, 1000])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_powers_of_z_are_those_of_the_companion_matrix(size, exponent, x64):
    a = coefficients(np.random.default_rng(size), size)
    # Row vectors times the companion matrix are polynomials times z.
    power = np.linalg.matrix_power(reference.companion(a), exponent)[-1]
    np.testing.assert_allclose(rational.power(jnp.asarray(a), exponent), power, atol=1e-12)


def test_reciprocal_and_remainder(x64):
    rng = np.random.default_rng(0)
    a = np.stack([coefficients(rng, 7) for _ in range(3)])
    for terms in (1, 2, 3, 8, 21):
        g = rational.reciprocal(jnp.asarray(a), terms)
        for row, below in zip(g, a, strict=True):
            exact = reference.series([1.0], below, terms)
            np.testing.assert_allclose(row, exact, atol=1e-13 * np.abs(exact).max())
    p = rng.normal(size=(3, 13))
    for row, above, below in zip(
        rational.remainder(jnp.asarray(p), jnp.asarray(a)), p, a, strict=True
    ):
        _, rest = np.polydiv(above, np.append(1.0, below))
        np.testing.assert_allclose(row, np.pad(rest, (7 - len(rest), 0)), atol=1e-11)


@pytest.mark.parametrize("size", [1, 2, 8, 33, 65, 200])
@pytest.mark.parametrize("radius", [0.5, 0.95, 1.0])
def test_response_is_the_series(size, radius, precision):
    rng = np.random.default_rng(size)
    a, b = coefficients(rng, size, radius), rng.normal(size=size)
    for length in (1, 2, 31, 300):
        values = jax.jit(rational.response, static_argnums=2)(
            jnp.asarray(b), jnp.asarray(a), length
        )
        a32, b32 = (np.asarray(jnp.asarray(x), float) for x in (a, b))
        exact = reference.series(b32, a32, length)
        bound = 1e-11 if precision == "float64" else 2e-5
        np.testing.assert_allclose(values, exact, atol=bound * np.abs(exact).max())


def test_growing_poles_and_broadcasting(x64):
    rng = np.random.default_rng(1)
    a = np.array([[-1.001, 0.0], [-2.004, 1.005]])
    b = rng.normal(size=(3, 2, 2))
    for length in (7, 2302):
        values = rational.response(jnp.asarray(b), jnp.asarray(a), length)
        for i in range(3):
            for j in range(2):
                exact = reference.series(b[i, j], a[j], length)
                np.testing.assert_allclose(values[i, j], exact, atol=1e-11 * np.abs(exact).max())


@pytest.mark.slow
@given(seed=st.integers(0, 2**16), size=st.integers(1, 9), more=st.integers(1, 40))
@settings(max_examples=25)
def test_what_is_left_after_some_terms(seed, size, more):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        a, b = coefficients(rng, size), rng.normal(size=size)
        rest = rational.after(jnp.asarray(b), jnp.asarray(a), more)
        exact = reference.series(b, a, more + 30)
        later = reference.series(rest, a, 30)
    np.testing.assert_allclose(later, exact[more:], atol=1e-11 * np.abs(exact).max())


@pytest.mark.sample(1)
@pytest.mark.parametrize("size", [3, 66])
def test_gradients(size, x64):
    rng = np.random.default_rng(2)
    a, b = jnp.asarray(coefficients(rng, size)), jnp.asarray(rng.normal(size=size))
    for function in (rational.response, rational.after):
        compiled = jax.jit(lambda b, a, f=function: f(b, a, 90))
        check_grads(compiled, (b, a), 1, ["rev"], 1e-5, 1e-5, 1e-6)


FILTERS = {
    "butter": lambda: scipy.signal.butter(8, 0.1),
    "band": lambda: scipy.signal.butter(4, [0.1, 0.2], "band"),
    "chebyshev": lambda: scipy.signal.cheby1(8, 1, 0.3),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", FILTERS)
def test_poles_that_stand_together(name, precision):
    """Low-pass filters: as accurate as the recurrence in the same precision, stored or not."""
    above, below = FILTERS[name]()
    a, b = below[1:], above[1:] - above[0] * below[1:]
    one = rtf.from_coefficients([b / np.abs(b).max()], [a], [0.0])
    b, a = (np.asarray(part, float)[0] for part in (one.numerator, one.denominator))
    exact = np.append(0.0, reference.series(b, a, 399))
    bound = 1e-9 if precision == "float64" else 2e-2
    plain, stored = rtf.kernel(one, 400)[0], rtf.kernel(rtf.truncated(one, 401), 400)[0]
    np.testing.assert_allclose(plain, exact, atol=0.2 * bound * np.abs(exact).max())
    np.testing.assert_allclose(stored, exact, atol=5.0 * bound * np.abs(exact).max())


def test_an_unstable_pole_among_many_coefficients():
    a, b = np.zeros((1, 70)), np.eye(1, 70)
    a[0, 0] = -1.5
    values = rtf.kernel(rtf.from_coefficients(b, a, [0.0]), 30)[0]
    np.testing.assert_allclose(values[1:], 1.5 ** np.arange(29), rtol=1e-6)


def test_stability_is_told_without_roots():
    rng = np.random.default_rng(0)
    poles = rng.uniform(0.1, 1.1, (200, 3)) * np.exp(1j * rng.uniform(0, np.pi, (200, 3)))
    rows = np.array([np.poly([*row, *row.conj(), 0.5]).real[1:] for row in poles])
    inside = np.abs(poles).max(axis=1) < 1.0
    assert 0 < inside.sum() < 200
    np.testing.assert_array_equal(stability.stable(rows), inside)
    equal = np.stack([np.poly(np.full(6, radius))[1:] for radius in (0.99, 1.01)])
    np.testing.assert_array_equal(stability.stable(equal), [True, False])
