"""The 5/3 wavelet against loops over its lifting steps, its inverse, and what it does to noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import wavelet


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def lift(x):
    """Both bands of a vector, by loops; indices beyond the ends are mirrored."""
    n, size = len(x) // 2, len(x)
    mirrored = lambda i: x[2 * (size - 1) - i if i >= size else i]  # noqa: E731
    high = [x[2 * k + 1] - (x[2 * k] + mirrored(2 * k + 2)) / 2 for k in range(n)]
    low = [x[2 * k] + (high[max(k - 1, 0)] + high[k]) / 4 for k in range(n)]
    return np.sqrt(2) * np.array(low), np.array(high) / np.sqrt(2)


def bands(image):
    """LL, LH, HL, HH of [H, W]."""
    rows = [np.stack(part, axis=0) for part in zip(*map(lift, image.T), strict=True)]
    return [np.stack(part) for half in rows for part in zip(*map(lift, half.T), strict=True)]


@pytest.mark.sample(3)
@pytest.mark.parametrize("shape", [(2, 8, 4, 1), (1, 6, 10, 3), (2, 2, 2, 1)])
def test_bands_are_those_of_the_lifting_steps(shape, precision):
    x = draw(*shape)
    y = wavelet.forward(jnp.asarray(x))
    assert y.shape == (shape[0], shape[1] // 2, shape[2] // 2, 4 * shape[3])
    bound = 1e-12 if precision == "float64" else 2e-6
    for b in range(shape[0]):
        for c in range(shape[3]):
            for k, band in enumerate(bands(x[b, :, :, c])):
                np.testing.assert_allclose(y[b, :, :, k * shape[3] + c], band, atol=bound)


@pytest.mark.sample(1)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_inverse_is_exact(levels, precision):
    x = jnp.asarray(draw(2, 16, 8, 3))
    y = wavelet.forward(x, levels)
    assert y.shape == (2, 16 // 2**levels, 8 // 2**levels, 3 * 4**levels)
    bound = 1e-13 if precision == "float64" else 3e-6
    np.testing.assert_allclose(jax.jit(wavelet.inverse, static_argnums=1)(y, levels), x, atol=bound)
    z = jnp.asarray(draw(2, 2, 2, 64))
    np.testing.assert_allclose(wavelet.forward(wavelet.inverse(z, 2), 2), z, atol=10 * bound)


def test_slopes_have_no_detail_and_noise_stays_nearly_white(x64):
    rows, columns = np.mgrid[:16, :16]
    y = wavelet.forward(jnp.asarray(1.0 + 2.0 * rows - columns)[None, ..., None])
    np.testing.assert_allclose(y[0, :-1, :-1, 1:], 0.0, atol=1e-12)  # but for the mirrored end
    np.testing.assert_allclose(y[0, 1:-1, 1:-1, 0], 2 * (1 + 2 * rows - columns)[2:-2:2, 2:-2:2])
    noise = wavelet.forward(jnp.asarray(draw(1, 512, 512, 1)))
    deviations = np.asarray(noise).std(axis=(0, 1, 2))
    assert np.all((deviations > 0.7) & (deviations < 1.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: wavelet.forward(jnp.ones((1, 6, 4, 1)), 2),
            "x: expected sizes that are",
        ),
        (lambda: wavelet.inverse(jnp.ones((1, 2, 2, 6))), "y: expected channels in multiples of 4"),
        (lambda: wavelet.forward(jnp.ones((1, 6, 4, 1)), 0), "levels: expected a whole number"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
