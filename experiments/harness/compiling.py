"""Jit as all experiments use it."""

import functools
import importlib.metadata
import os
from collections.abc import Callable, MutableMapping
from typing import Any

import jax

from experiments.harness import sharding

Step = Callable[..., Any]
FUSIONS = "xla_cpu_experimental_ynn_fusion_type"
# From the first release with wrong sums to the last that is known to have the flag: XLA ends a
# program that gives it a flag it does not know.
WRONG_SUMS = (0, 10, 2), (0, 11, 2)


def use_right_sums(environment: MutableMapping[str, str] = os.environ) -> None:
    """Leave sums on CPUs to XLA itself; to be called before its first use.

    The library of small kernels beside it gets some sums wrong: jaxlib 0.10.2 those of products
    with small matrices from 32 769 rows on (jax issue 39103), jaxlib 0.11.2 what is divided twice
    by the square root of one. Nothing changes where `XLA_FLAGS` chooses the fusions.
    """
    version = importlib.metadata.version("jaxlib").split(".")[:3]
    flags = environment.get("XLA_FLAGS", "")
    if not all(part.isdigit() for part in version) or FUSIONS in flags:
        return
    first, last = WRONG_SUMS
    if first <= tuple(map(int, version)) <= last:
        environment["XLA_FLAGS"] = f"{flags} --{FUSIONS}=individual_dot".strip()


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
    dots = {FUSIONS: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
    try:
        jax.jit(lambda x: x + 1, compiler_options=dots)(0)
    except jax.errors.JaxRuntimeError:  # a version of XLA without that option
        return None
    return dots
