"""Sums over conjugate poles against the fractions themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import ssm as reference

from ssm import cauchy

conjugate_sums = jax.jit(cauchy.conjugate_sums, static_argnums=2, static_argnames="block")


def poles(n=5, sums=3, seed=0):
    generator = np.random.default_rng(seed)
    w = -generator.uniform(0.02, 0.5, n) + 1j * generator.uniform(0, 3, n)
    v = generator.normal(size=(sums, n)) + 1j * generator.normal(size=(sums, n))
    return v, w


def pair(z, dtype=None):
    return jnp.asarray(z.real, dtype), jnp.asarray(z.imag, dtype)


@pytest.mark.sample(5)
@pytest.mark.parametrize("length", [1, 2, 7, 16, 33, 400])
def test_sums_are_those_of_the_fractions(length, precision):
    """The zero frequency and, for even lengths, Nyquist included."""
    v, w = poles()
    re, im = conjugate_sums(pair(v, precision), pair(w, precision), length, block=16)
    assert re.shape == (3, length // 2 + 1) and re.dtype == precision
    expected = np.array([reference.pole_sums(row, w, length) for row in v])
    tolerance = {"float32": 5e-6, "float64": 1e-13}[precision]
    atol = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(re + 1j * im, expected, atol=atol, rtol=0)


def test_blocks_do_not_change_the_sums(x64):
    v, w = poles()
    whole = conjugate_sums(pair(v), pair(w), 100, block=51)
    for block in (1, 7, 50):
        for got, expected in zip(
            conjugate_sums(pair(v), pair(w), 100, block=block), whole, strict=True
        ):
            np.testing.assert_allclose(got, expected, atol=1e-13)


def test_memory_is_that_of_a_block():
    """Temporaries of 64 modes at 16384 frequencies: far below the table of all fractions."""
    channels, n, length = 8, 64, 2**14
    shapes = [jax.ShapeDtypeStruct((channels, 1, n), jnp.float32)] * 2
    shapes += [jax.ShapeDtypeStruct((channels, n), jnp.float32)] * 2
    compiled = (
        jax.jit(lambda a, b, c, d: cauchy.conjugate_sums((a, b), (c, d), length))
        .lower(*shapes)
        .compile()
    )
    table = 8 * channels * n * (length // 2)
    assert compiled.memory_analysis().temp_size_in_bytes < table / 8


def test_gradients_against_the_fractions(x64):
    v, w = poles()
    g = np.random.default_rng(1).normal(size=(2, 3, 17))

    def ours(*parts):
        re, im = cauchy.conjugate_sums(parts[:2], parts[2:], 33, block=8)
        return jnp.sum(g[0] * re + g[1] * im)

    half = np.pi * np.arange(17) / 33

    def direct(*parts):
        v, w = parts[0] + 1j * parts[1], parts[2] + 1j * parts[3]
        pole = 1j * np.sin(half) - np.cos(half) * w[:, None]
        other = 1j * np.sin(half) - np.cos(half) * jnp.conj(w)[:, None]
        value = jnp.sum(v[..., None] / pole + jnp.conj(v)[..., None] / other, axis=1)
        return jnp.sum(g[0] * value.real + g[1] * value.imag)

    arguments = (*pair(v), *pair(w))
    got, expected = (jax.jit(jax.grad(f, range(4)))(*arguments) for f in (ours, direct))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)
