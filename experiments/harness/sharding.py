"""One mesh of devices, and how weights and batches lie on it; one device is the same code as many.

The mesh has two axes. Batches are cut along "data". Weights are cut along "model" by the rules
that stand beside each network (`attention.partition`, `diffusion.partition`, `ssm.partition`);
with `fsdp` they and the optimizer's moments are cut along "data" as well. The compiler derives all
else (GSPMD, arXiv 2105.04663; full sharding: ZeRO, arXiv 1910.02054), so that what is computed
depends on the global batch alone.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.harness.errors import UsageError

# Patterns on `jax.tree_util.keystr` of a leaf, and the mesh axis of each of its last axes.
Rules = Sequence[tuple[str, tuple[str | None, ...]]]
Partition = Callable[[int], Rules]  # the size of the axis "model" -> rules


@dataclass(frozen=True)
class Layout:
    """How devices are used; no part of a configuration, since results do not depend on it.

    Attributes:
        data: devices among which a batch is divided; None takes all that `model` leaves.
        model: devices among which weights are divided by the rules of the network.
        fsdp: divide weights and moments among the data devices too.
    """

    data: int | None = None
    model: int = 1
    fsdp: bool = False

    def __post_init__(self):
        if self.model < 1 or (self.data is not None and self.data < 1):
            raise UsageError(
                f"mesh.data, mesh.model: expected at least 1, got {self.data}, {self.model}"
            )

    def sizes(self, devices: int) -> tuple[int, int]:
        """Of both axes.

        Raises:
            UsageError: they do not make up that many devices.
        """
        data = devices // self.model if self.data is None else self.data
        if data * self.model != devices:
            asked = f"mesh.model {self.model}: expected a divisor of the number of devices"
            if self.data is not None:
                asked = (
                    f"mesh.data {data} x mesh.model {self.model}: expected the number of devices"
                )
            raise UsageError(f"{asked}, {devices}; JAX_NUM_CPU_DEVICES sets that of CPUs")
        return data, self.model


DEFAULT = Layout()


def make_mesh(layout: Layout = DEFAULT) -> Mesh:
    """All devices of all hosts along the axes "data" and "model".

    Raises:
        UsageError: the layout does not fit them.
    """
    sizes = layout.sizes(jax.device_count())
    return jax.make_mesh(sizes, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def check_batch(batch: int, mesh: Mesh) -> None:
    """Refuse a batch that does not divide among the data devices.

    Raises:
        UsageError: it does not.
    """
    count = mesh.shape["data"]
    if batch % count:
        raise UsageError(
            f"training.batch_size: expected a multiple of {count} devices, got {batch}"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def placements(
    shapes: Any, mesh: Mesh, partition: Partition | None = None, *, fsdp: bool = False
) -> Any:
    """The sharding of every leaf of a state.

    Args:
        shapes: pytree of arrays or `jax.ShapeDtypeStruct`.
        partition: rules of the network. The first pattern found in a leaf's name says how its last
            axes lie; axes that do not divide stay whole. Moments are named like their weights.
        fsdp: cut what is left along "data": the largest axis that divides, the first axis, along
            which layers are stacked, last.

    Raises:
        UsageError: the network cannot be divided so.
    """
    try:
        rules = partition(mesh.shape["model"]) if partition is not None else ()
    except ValueError as error:
        raise UsageError(str(error)) from None

    def place(path: Any, leaf: Any) -> NamedSharding:
        axes = _axes(jax.tree_util.keystr(path), leaf.shape, mesh, rules)
        axes = _fully(axes, leaf.shape, mesh) if fsdp else axes
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map_with_path(place, shapes)


def _axes(name: str, shape: tuple[int, ...], mesh: Mesh, rules: Rules) -> tuple[str | None, ...]:
    found = next((axes for pattern, axes in rules if re.search(pattern, name)), ())
    found = found[max(0, len(found) - len(shape)) :]
    whole = (None,) * (len(shape) - len(found)) + tuple(found)
    return tuple(
        axis if axis and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(whole, shape, strict=True)
    )


def _fully(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh
) -> tuple[str | None, ...]:
    free = [i for i, axis in enumerate(axes) if axis is None and shape[i] % mesh.shape["data"] == 0]
    if not free:
        return axes
    chosen = max(free, key=lambda i: (i > 0, shape[i], i))
    return (*axes[:chosen], "data", *axes[chosen + 1 :])


def within(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, traced where the mesh is known, for what the compiler does not divide."""

    @functools.wraps(function)
    def wrapped(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return function if mesh.size == 1 else wrapped
