"""Fourier transforms along the last axis that stay on their devices.

XLA gathers the operand of a transform on every device, whichever of its axes are divided. Where a
mesh is known (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`), each device here transforms the
rows it has: the first of three or more axes is divided along "data", the channels, the last axis
but one, along "model", as far as such axes are there and divide.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, PartitionSpec


def rfft(x: Array, size: int) -> Array:
    """As `jnp.fft.rfft`."""
    return _rows(jnp.fft.rfft, x, size)


def irfft(x: Array, size: int) -> Array:
    """As `jnp.fft.irfft`."""
    return _rows(jnp.fft.irfft, x, size)


def _rows(function: Callable[[Array, int], Array], x: Array, size: int) -> Array:
    axes = _axes(x.shape)
    if not any(axes):
        return function(x, size)
    where, names = PartitionSpec(*axes), {axis for axis in axes if axis is not None}
    mapped = jax.shard_map(
        lambda rows: function(rows, size), in_specs=where, out_specs=where, axis_names=names
    )
    return mapped(x)


def _axes(shape: tuple[int, ...]) -> list[str | None]:
    """The axis of the mesh along which each axis is divided."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True)) if not mesh.empty else {}
    axes: list[str | None] = [None] * len(shape)
    for place, name in ((0, "data"), (len(shape) - 2, "model")):
        known = kinds.get(name) == AxisType.Auto and mesh.shape[name] > 1
        there = place == len(shape) - 2 >= 0 if name == "model" else len(shape) > 2
        if known and there and shape[place] % mesh.shape[name] == 0:
            axes[place] = name
    return axes
