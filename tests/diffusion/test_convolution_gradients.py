"""Convolutions whose gradients stay quick inside loops: the same numbers as XLA's own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import convolution

ORDER = convolution.ORDER


def arrays(kernel=(3, 3), channels=(2, 5), size=(4, 6), dtype=jnp.float64):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (3, *size, channels[0]), dtype)
    return x, jax.random.normal(keys[1], (*kernel, *channels), dtype)


def loops(x, w):
    """The sum as it is defined, in float64."""
    x, w = np.asarray(x), np.asarray(w)
    h, k = w.shape[0] // 2, w.shape[1] // 2
    padded = np.pad(x, ((0, 0), (h, h), (k, k), (0, 0)))
    y = np.zeros((*x.shape[:3], w.shape[3]))
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            y += padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ w[i, j]
    return y


@pytest.mark.sample(1)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (5, 3)])
def test_it_is_the_sum_over_places_with_its_gradients(kernel):
    with jax.enable_x64(True):
        x, w = arrays(kernel)
        np.testing.assert_allclose(convolution.same(x, w), loops(x, w), atol=1e-12)
        u = jax.random.normal(jax.random.key(2), (*x.shape[:3], w.shape[3]))
        ours = jax.grad(lambda x, w: jnp.vdot(convolution.same(x, w), u), (0, 1))(x, w)
        step = 1e-6
        for place, (value, gradient) in enumerate(zip((x, w), ours, strict=True)):
            direction = jax.random.normal(jax.random.key(3), value.shape)
            ends = []
            for sign in (1, -1):
                moved = [x, w]
                moved[place] = value + sign * step * direction
                ends.append(np.vdot(loops(*moved), u))
            expected = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(jnp.vdot(gradient, direction), expected, rtol=1e-7)


def test_loops_batches_and_second_derivatives():
    with jax.enable_x64(True):
        x, w = arrays(channels=(3, 3))
        many = jnp.stack([0.3 * w, 0.2 * w])

        def value(convolve, x, many):
            return jnp.sum(jax.lax.scan(lambda h, w: (convolve(h, w), None), x, many)[0] ** 2)

        def own(x, w):
            return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=ORDER)

        for function in (
            lambda f: jax.grad(lambda m: value(f, x, m))(many),
            lambda f: jax.vmap(jax.grad(lambda x, m: value(f, x[None], m)), (0, None))(x, many),
            lambda f: jax.grad(lambda s: jnp.sum(jax.grad(lambda m: value(f, x, m))(s * many)))(
                1.0
            ),
        ):
            expected = function(own)
            np.testing.assert_allclose(function(convolution.same), expected, rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({}, True),
        ({"strides": (2, 2)}, False),
        ({"kernel_dilation": 2}, False),
        ({"kernel_size": (2, 2)}, False),
        ({"padding": "VALID"}, False),
        ({"feature_group_count": 2}, False),
    ],
)
def test_linen_gets_its_own_numbers_whatever_it_asks_for(options, own, monkeypatch):
    x = arrays()[0].astype(jnp.float32)
    options = {"features": 4, "kernel_size": (3, 3), **options}
    plain = nn.Conv(**options)
    params = plain.init(jax.random.key(0), x)
    expected = plain.apply(params, x)
    calls, same = [], convolution.same
    monkeypatch.setattr(convolution, "same", lambda *a: calls.append(1) or same(*a))
    ours = nn.Conv(**options, conv_general_dilated=convolution.convolve)
    np.testing.assert_allclose(ours.apply(params, x), expected, atol=1e-6)
    assert bool(calls) == own


def test_gradients_in_a_loop_are_ordinary_convolutions_on_cpus_and_native_elsewhere():
    x, w = arrays(channels=(3, 3), dtype=jnp.float32)

    def loss(w):
        return jnp.sum(jax.lax.scan(lambda h, _: (convolution.same(h, w), None), x, None, 2)[0])

    traced = jax.jit(jax.grad(loss)).trace(w)
    usual = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    for platform, alone in (("cpu", True), ("cuda", False)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
        assert len(lines) >= 3
        assert all(usual in line for line in lines) == alone
