"""Convolutions of streams, block by block: uniformly partitioned convolution.

Notation
    u  signal [..., L], of which T samples come at once
    k  kernel [..., K], cut into K/T blocks

Source: Wefers, "Partitioned convolution algorithms for real-time auralization" (2015), chapter 5.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from ssm import convolution


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
    kernel = convolution.samples("kernel", kernel)
    padding = [(0, 0)] * (kernel.ndim - 1) + [(0, -kernel.shape[-1] % size)]
    cut = jnp.pad(kernel, padding).reshape(*kernel.shape[:-1], -1, size)
    return jnp.fft.rfft(cut, 2 * size)


def start(prepared: Array, batch: tuple[int, ...] = ()) -> Tail:
    """Silence before the first block of a stream through `blocks`.

    Args:
        prepared: what `blocks` gave.
        batch: axes of the signal before the kernel's own.

    Source: Wefers, "Partitioned convolution algorithms" (2015), chapter 5.
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
    newest = jnp.fft.rfft(convolution.samples("u", u), 2 * size)[..., None, :]
    newest = jnp.broadcast_to(newest, (*tail.spectra.shape[:-2], 1, size + 1))
    spectra = jnp.concatenate([newest, tail.spectra[..., :-1, :]], axis=-2)
    y = jnp.fft.irfft(jnp.sum(prepared * spectra, axis=-2), 2 * size)
    return Tail(spectra, y[..., size:]), tail.pending + y[..., :size]
