"""Convolutions in time by the fast Fourier transform: causal, in both directions, in blocks.

Notation
    u  signal [..., L]
    k  kernel [..., K]: k_0 acts on the present sample
    y  y_l = sum_j k_j u_{l-j}, [..., L]
    T  samples of a block

A product of spectra is a convolution on a circle. It is the one on the line only if the circle
has room for the result, n >= L + K - 1 points; with n = L the end of the signal leaks into its
beginning.

Source: https://kexue.fm/archives/10162; uniformly partitioned convolution: Wefers, "Partitioned
convolution algorithms for real-time auralization" (2015), chapter 5.
"""

from typing import Any, NamedTuple

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
    u, kernel = _real("u", u), _real("kernel", kernel)
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
    u, forward, backward = _real("u", u), _real("forward", forward), _real("backward", backward)
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


def _real(name: str, x: Any) -> Array:
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"{name}: expected real numbers, got {x.dtype}")
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"{name}: expected at least one sample, got shape {x.shape}")
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))  # there are no shorter FFTs


def fast(least: int) -> int:
    """The next length with small factors only."""
    size = scipy.fft.next_fast_len(least, real=True)
    assert size is not None
    return size


def _multiply(u: Array, kernel: Array, size: int) -> Array:
    """Circular convolution on that many points."""
    batch = u.ndim > kernel.ndim
    spectrum = fourier.rfft(u, size, batch=batch) * fourier.rfft(kernel, size)
    return fourier.irfft(spectrum, size, batch=batch)


class Tail(NamedTuple):
    """What a stream carries from block to block.

    Attributes:
        spectra: of the last K/T blocks of the signal, newest first [..., K/T, T+1].
        pending: the part of the output that reaches into the next block [..., T].
    """

    spectra: Array
    pending: Array


def blocks(kernel: Any, size: int) -> Array:
    """Spectra of the kernel [..., K] cut into blocks of `size` = T taps, [..., K/T, T+1].

    Raises:
        ValueError: size < 1; as `causal`.

    Source: Wefers, "Partitioned convolution algorithms" (2015), chapter 5.
    """
    if size < 1:
        raise ValueError(f"size: expected at least 1 sample, got {size}")
    kernel = _real("kernel", kernel)
    padding = [(0, 0)] * (kernel.ndim - 1) + [(0, -kernel.shape[-1] % size)]
    cut = jnp.pad(kernel, padding).reshape(*kernel.shape[:-1], -1, size)
    return jnp.fft.rfft(cut, 2 * size)


def start(prepared: Array, batch: tuple[int, ...] = ()) -> Tail:
    """Silence before the first block of a stream through `blocks`.

    Args:
        prepared: what `blocks` gave.
        batch: axes of the signal before the kernel's own.
    """
    spectra = jnp.zeros((*batch, *prepared.shape), prepared.dtype)
    pending = jnp.zeros((*spectra.shape[:-2], spectra.shape[-1] - 1), spectra.real.dtype)
    return Tail(spectra, pending)


def stream(prepared: Array, tail: Tail, u: Array) -> tuple[Tail, Array]:
    """The next block of the output of `causal` from the next T samples [..., T]: a scan body.

    A block costs one transform of 2 T points each way and K/T products of spectra.

    Raises:
        ValueError: a block of another length than the prepared one.

    Source: Wefers, "Partitioned convolution algorithms" (2015), chapter 5.
    """
    size = tail.pending.shape[-1]
    if u.shape[-1] != size:
        raise ValueError(f"u: expected blocks of {size} samples, got {u.shape[-1]}")
    newest = jnp.fft.rfft(_real("u", u), 2 * size)[..., None, :]
    newest = jnp.broadcast_to(newest, (*tail.spectra.shape[:-2], 1, size + 1))
    spectra = jnp.concatenate([newest, tail.spectra[..., :-1, :]], axis=-2)
    y = jnp.fft.irfft(jnp.sum(prepared * spectra, axis=-2), 2 * size)
    return Tail(spectra, y[..., size:]), tail.pending + y[..., :size]
