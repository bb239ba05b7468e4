"""Conversions between predictions against their definitions, at every log-SNR up to 20."""

import itertools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import diffusion as reference

from diffusion import edm, losses, process

KINDS = get_args(process.Prediction)
LEVELS = np.array([-20.0, -12.0, -3.0, 0.0, 2.0, 11.0, 20.0])


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_alpha_and_sigma_have_all_their_digits(precision):
    levels = np.concatenate([LEVELS, [-60.0, 60.0]])
    alpha, sigma = process.alpha_sigma(jnp.asarray(levels))
    expected = np.array([reference.alpha_sigma(lam) for lam in levels])
    bound = 1e-13 if precision == "float64" else 3e-6
    np.testing.assert_allclose(alpha, expected[:, 0], rtol=bound)
    np.testing.assert_allclose(sigma, expected[:, 1], rtol=bound)
    slopes = jax.vmap(jax.grad(lambda lam: sum(process.alpha_sigma(lam))))(jnp.asarray(levels))
    assert np.all(np.isfinite(slopes))


@pytest.mark.parametrize(("source", "target"), list(itertools.product(KINDS, KINDS)))
def test_every_conversion_is_exact(source, target, precision):
    """Rounding is multiplied by what the formula divides by: that is what a kind can know."""
    x, eps = draw(len(LEVELS), 5), draw(len(LEVELS), 5, seed=1)
    z = process.diffuse(jnp.asarray(x), jnp.asarray(eps), jnp.asarray(LEVELS))
    value = np.array([reference.parts(*row, source) for row in zip(x, eps, LEVELS, strict=True)])
    expected = np.array([reference.parts(*row, target) for row in zip(x, eps, LEVELS, strict=True)])
    result = jax.jit(process.convert, static_argnames=("source", "target"))(
        jnp.asarray(value), z, jnp.asarray(LEVELS), source=source, target=target
    )
    assert result.dtype == precision
    assert np.all(np.isfinite(result))
    unit = 2e-15 if precision == "float64" else 1e-6
    # The error of one unit in the last place of z, said as x and as eps, and back in the target.
    for row, (got, want, lam) in enumerate(zip(result, expected, LEVELS, strict=True)):
        alpha, sigma = reference.alpha_sigma(lam)
        size = 3.0 * max(1.0, np.abs(value[row]).max() * sigma if source == "score" else 1.0)
        in_x = unit * size * max(1.0, sigma / alpha if source in ("eps", "score") else 1.0)
        in_x /= alpha if source in ("eps", "score") else 1.0
        factor = np.sqrt(process.error_factor(lam, "x", target))
        assert np.abs(got - want).max() <= in_x * max(factor, 1.0) * 3.0 + unit * np.abs(want).max()


def test_round_trips(precision):
    """Between -8 and 8 every kind can be had from every other."""
    levels = jnp.linspace(-8.0, 8.0, 17)
    x, eps = jnp.asarray(draw(17, 4)), jnp.asarray(draw(17, 4, seed=1))
    z = process.diffuse(x, eps, levels)
    bound = 1e-12 if precision == "float64" else 2e-4  # exp(4) units in the last place
    value = eps
    for source, target in itertools.pairwise(("eps", "v", "x", "score", "F", "D", "eps")):
        value = process.convert(value, z, levels, source, target)
    np.testing.assert_allclose(value, eps, atol=bound)
    narrow = jnp.linspace(-3.0, 3.0, 17)
    z = process.diffuse(x, eps, narrow)
    v = process.convert(eps, z, narrow, "eps", "v")
    again = process.convert(process.convert(v, z, narrow, "v", "x"), z, narrow, "x", "eps")
    np.testing.assert_allclose(again, eps, atol=1e-12 if precision == "float64" else 1e-5)


@given(lam=st.floats(-20, 20), source=st.sampled_from(KINDS), target=st.sampled_from(KINDS))
@settings(max_examples=40)
def test_squared_errors_convert(lam, source, target):
    with jax.enable_x64(True):
        z, value, off = (jnp.asarray(draw(1, 6, seed=seed)) for seed in range(3))
        first, second = (
            process.convert(one, z, lam, source, target) for one in (value, value + 1e3 * off)
        )
        ratio = float(jnp.sum((first - second) ** 2) / jnp.sum((1e3 * off) ** 2))
        np.testing.assert_allclose(ratio, process.error_factor(lam, source, target), rtol=1e-6)


def test_f_of_edm_is_minus_v_for_data_of_variance_one(x64):
    levels = jnp.asarray(LEVELS)
    x, eps = jnp.asarray(draw(7, 4)), jnp.asarray(draw(7, 4, seed=1))
    f = losses.target(x, eps, levels, "F", sigma_data=1.0)
    np.testing.assert_allclose(f, -losses.target(x, eps, levels, "v"), atol=1e-13)


def test_a_preconditioned_network_is_a_denoiser(x64):
    sigma = jnp.array([0.01, 0.5, 30.0])
    y, seen = jnp.asarray(draw(3, 4)), []

    def network(inside, noise):
        seen.append((inside, noise))
        return jnp.sin(inside)

    out = edm.precondition(network, 0.7)(y, sigma)
    s, d = np.asarray(sigma)[:, None], 0.7
    total = s**2 + d**2
    np.testing.assert_allclose(seen[0][0], y / np.sqrt(total), rtol=1e-13)
    np.testing.assert_allclose(seen[0][1], np.log(sigma) / 4, rtol=1e-13)
    expected = d**2 / total * y + s * d / np.sqrt(total) * np.sin(y / np.sqrt(total))
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    np.testing.assert_allclose(
        edm.scalings(sigma, d).weight, (total / (s * d) ** 2)[:, 0], rtol=1e-13
    )
    # What the network predicts, as F, and what the denoiser predicts, as x.
    lam = -2 * jnp.log(sigma)
    z = y * process.alpha_sigma(lam)[0][:, None]
    f = jnp.sin(y / np.sqrt(total))
    np.testing.assert_allclose(process.convert(f, z, lam, "F", "x", 0.7), out, rtol=1e-12)


def test_half_precision_keeps_its_dtype():
    x = jnp.asarray(draw(2, 3), jnp.bfloat16)
    z = process.diffuse(x, x, jnp.array([-1.0, 1.0]))
    assert z.dtype == jnp.bfloat16
    assert process.convert(x, z, 0.5, "v", "score").dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: process.convert(x, x, 0.0, "noise", "x"), r"source: expected one of .*'noise'"),
        (lambda x: process.convert(x, x, 0.0, "x", "u"), r"target: expected one of .*'u'"),
        (
            lambda x: process.convert(x[:, :1], x, 0.0, "x", "v"),
            r"value: expected the shape \(2, 3\) of z, got \(2, 1\)",
        ),
        (lambda x: process.diffuse(x, x, jnp.zeros(3)), r"logsnr: expected a number or \(2,\)"),
        (lambda x: process.diffuse(x, x, jnp.zeros((2, 1))), r"logsnr: expected a number or"),
        (lambda x: edm.scalings(1.0, 0.0), "sigma_data: expected a positive number, got 0.0"),
        (lambda x: edm.precondition(abs, -1.0), "sigma_data: expected a positive number"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((2, 3)))
