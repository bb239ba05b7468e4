"""Data parallelism: one mesh axis over all devices; one device is the same code as eight."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.harness.errors import UsageError


def data_mesh() -> Mesh:
    """All devices along one axis, "data"."""
    count = len(jax.devices())
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))


def check_batch(batch: int, mesh: Mesh) -> None:
    """Refuse a batch that does not divide among the devices.

    Raises:
        UsageError: it does not.
    """
    if batch % mesh.size:
        raise UsageError(
            f"training.batch_size: expected a multiple of {mesh.size} devices, got {batch}"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Place host arrays so that each device holds its part of the first axis."""
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
