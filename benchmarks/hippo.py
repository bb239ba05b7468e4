"""A step of LegS by its structure beside the same step with dense matrices.

    python benchmarks/hippo.py [--length 2048] [--rounds 5] [--sizes 64 256]

Both read a signal by the bilinear rule in single precision inside one `lax.scan`: one with
a recurrence of scalars (`ssm.legs`), the other with a matrix-vector product and a
triangular solve. Times are the smallest of several rounds, in alternation, in one process;
compilation is not counted. CPU time is that of all threads. Errors are relative to the largest
coefficient in double precision.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)

import jax
import jax.numpy as jnp
import numpy as np

from ssm import hippo, online


def structured(signal, n):
    memory = online.projector("legs", n, dtype=signal.dtype)
    return jax.lax.scan(memory.step, memory.init(), signal)[1]


def dense(signal, n):
    A, B = (jnp.asarray(part, jnp.float32) for part in hippo.transition("legs", n))
    identity = jnp.eye(n, dtype=jnp.float32)

    def body(carry, u):
        k, c = carry
        right = c + (0.5 * (A @ c) + B * u) / k
        c = jax.scipy.linalg.solve_triangular(identity - 0.5 * A / k, right, lower=True)
        return (k + 1.0, c), c

    return jax.lax.scan(body, (jnp.float32(1.0), jnp.zeros(n, jnp.float32)), signal)[1]


def main(length, rounds, sizes):
    signal = jnp.asarray(np.random.default_rng(0).normal(size=length), jnp.float32)
    print("| N | structured steps/s | dense steps/s | ratio | of CPU time | errors |")
    print("| --- | --- | --- | --- | --- | --- |")
    for n in sizes:
        both = [jax.jit(lambda u, f=f, n=n: f(u, n)) for f in (structured, dense)]
        ours, plain = (np.asarray(f(signal), np.float64) for f in both)
        wall, cpu = [[], []], [[], []]
        for _ in range(rounds):
            for side, f in enumerate(both):
                start, start_cpu = time.perf_counter(), time.process_time()
                jax.block_until_ready(f(signal))
                wall[side].append(time.perf_counter() - start)
                cpu[side].append(time.process_time() - start_cpu)
        (ours_s, plain_s), (ours_cpu, plain_cpu) = (map(min, part) for part in (wall, cpu))
        with jax.enable_x64(True):
            exact = np.asarray(online.project(np.asarray(signal, np.float64), "legs", n))
        errors = [np.abs(states - exact).max() / np.abs(exact).max() for states in (ours, plain)]
        print(
            f"| {n} | {length / ours_s:.0f} | {length / plain_s:.0f} | {plain_s / ours_s:.1f} "
            f"| {plain_cpu / ours_cpu:.1f} | {errors[0]:.1e}, {errors[1]:.1e} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256])
    arguments = parser.parse_args()
    main(arguments.length, arguments.rounds, arguments.sizes)
