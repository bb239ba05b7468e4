"""Memory and arithmetic of an experiment's programs before anything runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Program:
    """A function with the shapes it will be called with.

    Attributes:
        function: to be compiled.
        arguments: pytrees of `jax.ShapeDtypeStruct`.
        donate: positions of donated arguments.
        calls: how often a run calls it.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donate: tuple[int, ...] = ()
    calls: int = 1

    def lower(self, platforms: tuple[str, ...] | None = None) -> Any:
        """Trace and lower, for other platforms if named."""
        traced = jax.jit(self.function, donate_argnums=self.donate).trace(*self.arguments)
        return traced.lower(lowering_platforms=platforms)


def estimate(programs: dict[str, Program]) -> list[dict[str, Any]]:
    """Compile each program for the default device and read the compiler's own accounts.

    Returns:
        A row a program: bytes of arguments, outputs and temporaries (outputs that alias
        donated arguments counted once), floating-point operations a call and in all.
    """
    table = []
    for name, program in programs.items():
        compiled = program.lower().compile()
        memory = compiled.memory_analysis()
        costs = compiled.cost_analysis() or {}
        fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
        peak = memory.argument_size_in_bytes + fresh + memory.temp_size_in_bytes
        flops = float(costs.get("flops", float("nan")))
        table.append(
            {
                "program": name,
                "argument_bytes": memory.argument_size_in_bytes,
                "temporary_bytes": memory.temp_size_in_bytes,
                "peak_bytes": peak,
                "flops": flops,
                "calls": program.calls,
                "total_flops": flops * program.calls,
            }
        )
    return table


def count(tree: Any) -> int:
    """Number of elements of a pytree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
