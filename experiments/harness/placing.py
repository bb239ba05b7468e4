"""Arrays put onto the devices of a mesh, whole or by the rows that a host has, and read back."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.harness import sharding


def described(shapes: Any, where: Any) -> Any:
    """`jax.ShapeDtypeStruct`s with their placements."""
    return jax.tree.map(
        lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, where
    )


def put(tree: Any, where: NamedSharding) -> Any:
    """Place arrays that every host has whole."""
    if jax.process_count() == 1:
        return jax.device_put(tree, where)

    def place(leaf: Any) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, where, lambda index: whole[index])

    return jax.tree.map(place, tree)


def placements_of_batch(shapes: Any, mesh: Mesh) -> Any:
    """Every leaf cut along its first axis, or whole where that does not divide."""

    def place(leaf: Any) -> NamedSharding:
        cut = leaf.ndim > 0 and leaf.shape[0] % mesh.shape["data"] == 0
        return NamedSharding(mesh, PartitionSpec("data") if cut else PartitionSpec())

    return jax.tree.map(place, shapes)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Place a batch that every host has whole, so that each device holds its part of the rows."""
    return put(batch, NamedSharding(mesh, PartitionSpec("data")))


def rows(batch: int, mesh: Mesh) -> slice:
    """The rows of a batch that this host's devices hold, between the first and the last of them."""
    where = NamedSharding(mesh, PartitionSpec("data"))
    places = where.addressable_devices_indices_map((batch,)).values()
    held = [index[0].indices(batch) for index in places if index is not None]
    return slice(min(start for start, _, _ in held), max(stop for _, stop, _ in held))


def put_rows(part: Any, batch: int, mesh: Mesh) -> Any:
    """Place a batch of which this host has its `rows`."""
    where, first = NamedSharding(mesh, PartitionSpec("data")), rows(batch, mesh).start

    def place(leaf: np.ndarray) -> jax.Array:
        def cut(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(batch)
            return leaf[start - first : stop - first]

        return jax.make_array_from_callback((batch, *leaf.shape[1:]), where, cut)

    return jax.tree.map(place, part)


def whole(tree: Any, mesh: Mesh) -> Any:
    """Whole copies on this host's first device, for what is computed on one device."""
    if mesh.size == 1:
        return tree
    copied = jax.jit(lambda t: t, out_shardings=sharding.replicated(mesh))(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), copied)
