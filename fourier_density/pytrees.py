"""Frozen dataclasses as JAX pytrees whose class is part of the tree structure.

JAX compares classes registered by `jax.tree_util.register_dataclass` (so by
`flax.struct.dataclass`) by their fields alone: two classes with equally many are one structure,
and a compiled function may serve an object of the other class. Nodes registered here compare
their class.
"""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
from jax.tree_util import GetAttrKey

Class = TypeVar("Class", bound=type)


def static(**options: Any) -> Any:
    """A field that is part of the structure: hashable, compared by ==, not traced."""
    return dataclasses.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def dataclass(cls: Class) -> Class:
    """Make a class a frozen dataclass and a pytree node of its own.

    JAX rebuilds objects with placeholders, without running `__init__`.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)
    data = [f.name for f in fields if not f.metadata.get("static")]
    fixed = [f.name for f in fields if f.metadata.get("static")]

    def flatten_with_keys(value: Any):
        children = tuple((GetAttrKey(name), getattr(value, name)) for name in data)
        return children, tuple(getattr(value, name) for name in fixed)

    def flatten(value: Any):
        children, constants = flatten_with_keys(value)
        return tuple(child for _, child in children), constants

    def unflatten(constants: Any, children: Any) -> Any:
        value = object.__new__(cls)
        for name, part in zip((*data, *fixed), (*children, *constants), strict=True):
            object.__setattr__(value, name, part)
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
