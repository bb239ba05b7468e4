"""Jit as all experiments use it."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from experiments.harness import sharding

Step = Callable[..., Any]


def compile_step(step: Step, where: Any = None, mesh: Any = None) -> Step:
    """Jit that gives the state's memory to the new state.

    Args:
        where: placements of the state, of arrays on a `mesh`; by default all is left to the
            compiler.
    """
    more: dict[str, Any] = (
        {} if mesh is None else {"out_shardings": (where, sharding.replicated(mesh))}
    )
    return jax.jit(step, donate_argnums=0, compiler_options=options(), **more)


def compile_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Jit with the options of `compile_step`."""
    return jax.jit(function, compiler_options=options())


@functools.cache
def options() -> dict[str, str] | None:
    """Of the compiler.

    On CPUs with a library of small kernels beside XLA's own, convolutions stay with the latter,
    whose gradients are a fifth quicker.
    """
    if jax.default_backend() != "cpu":
        return None
    dots = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
    try:
        jax.jit(lambda x: x + 1, compiler_options=dots)(0)
    except jax.errors.JaxRuntimeError:  # a version of XLA without that option
        return None
    return dots
