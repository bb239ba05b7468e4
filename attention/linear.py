"""Weight matrices: how they start, and their product with activations."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def linear(
    x: Float[Array, "*batch d"],
    weight: Float[Array, "d e"],
    bias: Array | None = None,
    dtype: Any = None,
) -> Float[Array, "*batch e"]:
    """Affine map x @ weight + bias, with the leading axes of x folded into one.

    The gradient of an unfolded product contracts two axes at once, which XLA runs about three
    times slower on a CPU; folding costs nothing elsewhere.

    Args:
        dtype: of the sums; that of x by default.
    """
    folded = x.reshape(-1, x.shape[-1])
    folded = jnp.matmul(folded, weight.astype(x.dtype), preferred_element_type=dtype)
    folded = folded if bias is None else folded + bias.astype(folded.dtype)
    return folded.reshape(*x.shape[:-1], weight.shape[-1])


def fan_in_normal(key: Array, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Array]:
    """Named matrices [d, e] of independent normals with standard deviation d^(-1/2).

    All come from one draw, so that one generator is compiled instead of one per matrix.
    """
    sizes = [math.prod(shape) for shape in shapes.values()]
    draw = jax.random.normal(key, (sum(sizes),))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return {
        name: jnp.reshape(draw[start : start + size], shape) * shape[0] ** -0.5
        for (name, shape), start, size in zip(shapes.items(), starts, sizes, strict=True)
    }


def zero_biases(shapes: Mapping[str, tuple[int, int]]) -> dict[str, Array]:
    """Biases [e] of matrices [d, e], named after them."""
    return {f"{name}_bias": jnp.zeros(shape[1]) for name, shape in shapes.items()}
