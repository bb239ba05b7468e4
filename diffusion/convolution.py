"""Convolution of images whose gradient is as quick inside a loop as outside.

XLA for CPUs runs a convolution on its fast kernels when batch, places and channels lie in the
usual order. JAX writes the gradients of a convolution with the axes in other roles; outside loops
the compiler moves them back, inside a loop it does not, and a gradient takes forty times as long.
Here gradients are written as convolutions of the usual kind, on CPUs only, behind a barrier that
keeps the transposition apart from the elementwise work before it.

Notation
    x, y   [B, H, W, C], [B, H, W, O]
    w      [h, k, C, O], h and k odd
    g      the gradient of y

    gradient of x   g * w turned by half, inputs and outputs exchanged
    gradient of w   x * g, with channels as batch and the batch as channels
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

ORDER = ("NHWC", "HWIO", "NHWC")


def _plain(x: Array, w: Array, padding: Any = "SAME") -> Array:
    return jax.lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=ORDER)


@jax.custom_vjp
def same(x: Array, w: Array) -> Array:
    """The convolution [B, H, W, O] with zeros around the image; gradients in reverse mode only."""
    return _plain(x, w)


def _forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, w), (x, w)


def _ordinary(x: Array, w: Array, g: Array) -> tuple[Array, Array]:
    """Both gradients as convolutions in the usual order of axes."""
    height, width = w.shape[0] // 2, w.shape[1] // 2
    x, g = jax.lax.optimization_barrier((x, g))
    around = ((height, height), (width, width))
    of_w = _plain(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), around).transpose(1, 2, 0, 3)
    return _plain(g, jnp.flip(w, (0, 1)).swapaxes(2, 3)), of_w


def _native(x: Array, w: Array, g: Array) -> tuple[Array, Array]:
    (of_x,) = jax.linear_transpose(lambda x: _plain(x, w), x)(g)
    (of_w,) = jax.linear_transpose(lambda w: _plain(x, w), w)(g)
    return of_x, of_w


def _backward(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    return jax.lax.platform_dependent(*kept, g, cpu=_ordinary, default=_native)


same.defvjp(_forward, _backward)


def convolve(x: Array, w: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """As `jax.lax.conv_general_dilated`, by `same` where that is what is asked for.

    For the field `conv_general_dilated` of `flax.linen.Conv`.
    """
    numbers = jax.lax.conv_dimension_numbers(x.shape, w.shape, options.get("dimension_numbers"))
    steps = (strides, options.get("lhs_dilation"), options.get("rhs_dilation"))
    if (
        x.ndim == 4
        and numbers == jax.lax.conv_dimension_numbers(x.shape, w.shape, ORDER)
        and all(step is None or set(step) == {1} for step in steps)
        and options.get("feature_group_count", 1) == 1
        and options.get("precision") is None
        and w.shape[0] % 2 == w.shape[1] % 2 == 1
        and padding == "SAME"
    ):
        return same(x, w)
    return jax.lax.conv_general_dilated(x, w, strides, padding, **options)
