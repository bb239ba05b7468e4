"""Convolutions in time by the fast Fourier transform: causal, in both directions.

Notation
    u  signal [..., L]
    k  kernel [..., K]: k_0 acts on the present sample
    y  y_l = sum_j k_j u_{l-j}, [..., L]

A product of spectra is a convolution on a circle. It is the one on the line only if the circle
has room for the result, n >= L + K - 1 points; with n = L the end of the signal leaks into its
beginning.

Source: https://kexue.fm/archives/10162.
"""

from typing import Any

import jax.numpy as jnp
import scipy.fft
from jaxtyping import Array

from ssm import fourier


def causal(u: Any, kernel: Any) -> Array:
    """y_l = sum_{j <= l} k_j u_{l-j}.

    Args:
        u: real [..., L].
        kernel: real [..., K]; leading axes broadcast. Taps beyond L do nothing.

    Returns:
        [..., L], in single precision at least.

    Raises:
        ValueError: complex or empty arguments.

    >>> causal(jnp.array([1.0, 0.0, 2.0]), jnp.array([1.0, 0.5])).round(3).tolist()
    [1.0, 0.5, 2.0]

    Source: https://kexue.fm/archives/10180, equation 2, by https://kexue.fm/archives/10162,
    equations 14 and 17.
    """
    u, kernel = samples("u", u), samples("kernel", kernel)
    length = u.shape[-1]
    kernel = kernel[..., :length]
    return _multiply(u, kernel, fast(length + kernel.shape[-1] - 1))[..., :length]


def bidirectional(u: Any, forward: Any, backward: Any) -> Array:
    """y_l = sum_{j >= 0} f_j u_{l-j} + sum_{j >= 0} b_j u_{l+1+j}, with one product of spectra.

    Args:
        u: real [..., L].
        forward, backward: real [..., K] each; the present sample belongs to `forward`.

    Source: derived from https://kexue.fm/archives/10180, equation 2: the sum of two, one of
    them backwards.
    """
    u, forward, backward = (
        samples("u", u),
        samples("forward", forward),
        samples("backward", backward),
    )
    length = u.shape[-1]
    ahead, back = forward[..., :length], backward[..., : length - 1]
    size = fast(length + ahead.shape[-1] + back.shape[-1] - 1)
    gap = size - ahead.shape[-1] - back.shape[-1]
    shape = jnp.broadcast_shapes(ahead.shape[:-1], back.shape[:-1])
    dtype = jnp.result_type(ahead, back)
    parts = [ahead, jnp.zeros((gap,), dtype), back[..., ::-1]]
    circle = jnp.concatenate(
        [jnp.broadcast_to(part, (*shape, part.shape[-1])) for part in parts], axis=-1
    )
    return _multiply(u, circle, size)[..., :length]


def samples(name: str, x: Any) -> Array:
    """A real signal of one sample at least, in single precision at least.

    Raises:
        ValueError: complex or empty, by that name.
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"{name}: expected real numbers, got {x.dtype}")
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"{name}: expected at least one sample, got shape {x.shape}")
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))  # there are no shorter FFTs


def fast(least: int) -> int:
    """The smallest length of at least `least` with small prime factors only, for fast FFTs."""
    size = scipy.fft.next_fast_len(least, real=True)
    assert size is not None
    return size


def _multiply(u: Array, kernel: Array, size: int) -> Array:
    """Circular convolution on that many points."""
    batch = u.ndim > kernel.ndim
    spectrum = fourier.rfft(u, size, batch=batch) * fourier.rfft(kernel, size)
    return fourier.irfft(spectrum, size, batch=batch)
