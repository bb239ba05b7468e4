"""Times of several functions in one process, in alternation, so that load meets all of them."""

import time

import jax


def fastest(rounds, *functions, turn=0.05):
    """Smallest time of each function, in seconds, taken in alternation.

    In its turn a function is called again for some 50 ms: the first call after another
    function's finds cold caches.
    """
    for function in functions:
        jax.block_until_ready(function())
    times = [[] for _ in functions]
    for _ in range(rounds):
        for function, kept in zip(functions, times, strict=True):
            end = time.perf_counter() + turn
            while True:
                start = time.perf_counter()
                jax.block_until_ready(function())
                now = time.perf_counter()
                kept.append(now - start)
                if now > end:
                    break
    return [min(kept) for kept in times]


def compiled(function, *arguments):
    """The compiled function of those arguments, without any, and what compiling took."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    return (lambda: program(*arguments)), seconds, program.memory_analysis().temp_size_in_bytes
