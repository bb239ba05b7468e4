"""Fourier transforms along the last axis that stay on their devices.

XLA gathers the operand of a transform on every device, whichever of its axes are divided. Where a
mesh is known (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`), each device here transforms the
rows it has: examples are divided along its axis "data", the channels, the last axis but one, along
"model", as far as such axes are there and divide.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType, PartitionSpec


def rfft(x: Array, size: int, *, batch: bool = False) -> Array:
    """As `jnp.fft.rfft` of x [..., L]; with `batch` the first axis is one of examples."""
    return _rows(jnp.fft.rfft, x, size, batch)


def irfft(x: Array, size: int, *, batch: bool = False) -> Array:
    """As `jnp.fft.irfft` of x [..., F]; with `batch` the first axis is one of examples."""
    return _rows(jnp.fft.irfft, x, size, batch)


def _rows(function: Callable[[Array, int], Array], x: Array, size: int, batch: bool) -> Array:
    mesh = jax.sharding.get_abstract_mesh()
    names = {
        name: mesh.shape[name]
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Auto and mesh.shape[name] > 1
    }
    if not names:
        return function(x, size)
    where = PartitionSpec(*_axes(x.shape, names, batch))
    mapped = jax.shard_map(
        lambda rows: function(rows, size), in_specs=where, out_specs=where, axis_names={*names}
    )
    return mapped(x)


def _axes(shape: tuple[int, ...], names: dict[str, int], batch: bool) -> list[str | None]:
    """The axis of the mesh along which each axis is divided; what stays whole is on all devices."""
    axes: list[str | None] = [None] * len(shape)
    places = [("model", len(shape) - 2), *([("data", 0)] if batch and len(shape) > 2 else [])]
    for name, place in places:
        if place >= 0 and name in names and int(shape[place]) % names[name] == 0:
            axes[place] = name
    return axes
