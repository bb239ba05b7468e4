"""Sums over poles at the frequencies of a bilinear system, without the pole at Nyquist.

Notation
    w     dt lambda / 2 of one mode of each conjugate pair [..., M]
    v     weights [..., K, M]: K sums over the same poles
    s, c  sin and cos of theta/2 with theta = 2 pi j / L, j = 0..L/2
    S     S_j = sum_n v_n / (i s - c w_n) + conj(v_n) / (i s - c conj(w_n))

The bilinear transform puts lambda into g = (2/dt) (1 - z)/(1 + z), infinite at z = -1. On the
circle, z = exp(-i theta), it is g = (2/dt) i s/c; multiplied by c nothing is infinite. The two
fractions of a pair have the real numerators and the common denominator

    (i s X - c Y) / D,   X = 2 Re v,  Y = 2 Re(v conj w),  D = c^2 |w|^2 - s^2 - 2 i s c Re w

so the sums are products of real matrices, X and Y with the real and imaginary parts of 1/D.
Frequencies come in blocks, and the memory is that of one block.

Source: S4 (arXiv 2111.00396), appendix C.3; https://kexue.fm/archives/10162.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

Pair = tuple[Array, Array]

BLOCK = 256


def half_angles(length: int, dtype: jnp.dtype) -> Pair:
    """(s, c) for j = 0..L/2; c from the distance to Nyquist, so that it keeps its digits there.

    Source: half the angles of the points of https://kexue.fm/archives/10162, equation 15.
    """
    j = jnp.arange(length // 2 + 1)
    s = jnp.sin(jnp.pi * (j.astype(dtype) / length))
    c = jnp.sin(jnp.pi * ((length - 2 * j).astype(dtype) / (2 * length)))
    return s, c


def conjugate_sums(
    v: Pair,
    w: Pair,
    length: int,
    block: int = BLOCK,
    then: Callable[..., Any] | None = None,
    apart: Array | None = None,
) -> Any:
    """S_j at the frequencies of a real transform of `length` points.

    Args:
        v: real and imaginary parts [..., K, M].
        w: real and imaginary parts [..., M], with real parts <= 0; a pole at a frequency itself
            adds nothing there.
        length: L.
        block: frequencies at once: the memory is (leading axes) M block.
        then: what to make of the sums of a block [..., K, J] and its (s, c) [J], arrays
            [..., J]: then only that is kept.
        apart: numbers of each pair [..., Q, M]: the pair nearest to each frequency, by the
            imaginary part, is left out of the sums, and `then` gets its numbers [..., Q, J].

    Returns:
        Parts of S [..., K, L/2 + 1], or of what `then` makes.

    Source: derived from arXiv 2111.00396, theorem 3 and appendix C.3 (Cauchy's matrix).
    """
    x = 2.0 * v[0]
    y = 2.0 * (v[0] * w[0][..., None, :] + v[1] * w[1][..., None, :])
    numerators = jnp.concatenate([x, y], axis=-2)  # [..., 2K, M]
    square = w[0] ** 2 + w[1] ** 2
    size = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)[..., None]
    real = w[0][..., None]
    borders = None if apart is None else _borders(jax.lax.stop_gradient(w[1]))

    def sums(angles: Pair) -> Any:
        s, c = angles
        near = (c * size - s) * (c * size + s)
        cross = 2.0 * s * c * real
        power = near**2 + cross**2
        # A pole at the frequency itself counts as zero: callers put the limit there.
        out = power == 0
        found: tuple[Array, ...] = ()
        if apart is not None and borders is not None:
            nearest = (s > c * borders[0]) & (s <= c * borders[1])
            found = (_matmul(apart, nearest.astype(apart.dtype)),)
            out, cross = out | nearest, jnp.where(nearest, 0.0, cross)
        power = jnp.where(out, 1.0, power)
        x_re, y_re = jnp.split(_matmul(numerators, jnp.where(out, 0.0, near) / power), 2, axis=-2)
        x_im, y_im = jnp.split(_matmul(numerators, cross / power), 2, axis=-2)
        result = (-s * x_im - c * y_re, s * x_re - c * y_im)
        return result if then is None else then(result, angles, *found)

    angles = half_angles(length, v[0].dtype)
    count = angles[0].shape[0]
    if count <= block:
        return sums(angles)
    # Beyond the last frequency: any harmless angle.
    padding = (0, -count % block)
    s, c = (jnp.pad(a, padding, constant_values=1.0).reshape(-1, block) for a in angles)

    def join(part: Array) -> Array:
        part = jnp.moveaxis(part, 0, -2)
        return part.reshape(*part.shape[:-2], -1)[..., :count]

    return jax.tree.map(join, jax.lax.map(sums, (s, c)))


def _borders(im: Array) -> Pair:
    """The lower and the upper s/c between which each pole is the nearest, by |im|: [..., M, 1]."""
    y = jnp.abs(im)
    order = jnp.argsort(y, axis=-1)
    y = jnp.take_along_axis(y, order, axis=-1)
    middle = 0.5 * (y[..., 1:] + y[..., :-1])
    edge = jnp.ones_like(y[..., :1])
    back = jnp.argsort(order, axis=-1)
    both = (
        jnp.concatenate([-edge, middle], axis=-1),
        jnp.concatenate([middle, 1e30 * edge], axis=-1),
    )
    lower, upper = (jnp.take_along_axis(part, back, axis=-1)[..., None] for part in both)
    return lower, upper


_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
