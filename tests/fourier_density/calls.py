"""One compiled program per method and shape: faster than operation by operation."""

import functools

import jax


@functools.partial(jax.jit, static_argnames="method")
def call(density, method, *arguments):
    return getattr(density, method)(*arguments)
