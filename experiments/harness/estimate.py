"""Memory and arithmetic of an experiment's programs before anything runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from experiments.harness import compiling, placing, sharding


@dataclass(frozen=True)
class Program:
    """A function with the shapes it will be called with.

    Attributes:
        function: to be compiled.
        arguments: pytrees of `jax.ShapeDtypeStruct`.
        donate: positions of donated arguments.
        calls: how often a run calls it.
        partition: how weights in donated arguments are divided among devices.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donate: tuple[int, ...] = ()
    calls: int = 1
    partition: sharding.Partition | None = None

    def lower(
        self,
        platforms: tuple[str, ...] | None = None,
        layout: sharding.Layout = sharding.DEFAULT,
    ) -> Any:
        """Trace and lower, for other platforms if named, for a layout of all devices here."""
        mesh = sharding.make_mesh(layout)
        function, arguments = self.function, self.arguments
        if mesh.size > 1:
            function = sharding.within(mesh, function)
            arguments = [self._placed(i, mesh, layout.fsdp) for i in range(len(arguments))]
        traced = jax.jit(function, donate_argnums=self.donate).trace(*arguments)
        return traced.lower(lowering_platforms=platforms)

    def _placed(self, index: int, mesh: Any, fsdp: bool) -> Any:
        """An argument on a mesh: donated ones hold weights, others batches."""
        shapes = self.arguments[index]
        if index in self.donate:
            where = sharding.placements(shapes, mesh, self.partition, fsdp=fsdp)
        else:
            where = placing.placements_of_batch(shapes, mesh)
        return placing.described(shapes, where)


def estimate(
    programs: dict[str, Program], layout: sharding.Layout = sharding.DEFAULT
) -> list[dict[str, Any]]:
    """Compile each program for the default device and read the compiler's own accounts.

    Returns:
        A row a program: bytes of arguments, outputs and temporaries on a device (outputs that
        alias donated arguments counted once), operations of matrix products and convolutions a
        call and in all, of all devices together.
    """
    table = []
    for name, program in programs.items():
        options = compiling.options() if program.donate else None  # as training steps are
        compiled = program.lower(layout=layout).compile(compiler_options=options)
        memory = compiled.memory_analysis()
        flops = matrix_flops(jax.make_jaxpr(program.function)(*program.arguments))
        table.append(
            {
                "program": name,
                "argument_bytes": memory.argument_size_in_bytes,
                "temporary_bytes": memory.temp_size_in_bytes,
                "peak_bytes": peak_bytes(compiled),
                "flops": flops,
                "calls": program.calls,
                "total_flops": flops * program.calls,
            }
        )
    return table


def peak_bytes(compiled: Any) -> int:
    """What a compiled program holds at once, by the compiler: donated arguments count once."""
    memory = compiled.memory_analysis()
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + fresh + memory.temp_size_in_bytes


def matrix_flops(jaxpr: Any) -> int:
    """Floating-point operations of all matrix products and convolutions, 2 each, loops multiplied.

    The compiler's own count takes the body of a loop once, which makes a scan over layers look
    one layer deep. A `while` loop of unknown length counts once here too; of branches counts the
    one with the most.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            left = equation.invars[0].aval.shape
            size = math.prod(left[axis] for axis in contracted)
            total += 2 * size * math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "ragged_dot_general":  # every row meets one matrix
            rows, columns = equation.invars[0].aval.shape, equation.outvars[0].aval.shape[-1]
            total += 2 * math.prod(rows) * columns
        if equation.primitive.name == "conv_general_dilated":
            total += _convolution_flops(equation)
        repeats = equation.params["length"] if equation.primitive.name == "scan" else 1
        leaves = jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns"))
        inner = [matrix_flops(p) for p in leaves if hasattr(p, "eqns")]
        alone = equation.primitive.name == "cond"
        total += repeats * (max(inner, default=0) if alone else sum(inner))
    return total


def _convolution_flops(equation: Any) -> int:
    """Of one convolution; products with the zeros that a dilation puts in do not count."""
    kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    dilation = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(out) * math.prod(kernel) // features // dilation


def count(tree: Any) -> int:
    """Number of elements of a pytree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
