"""What a GPU adds: fused attention beside XLA's, and steps of the paper presets with their memory.

    python benchmarks/gpu.py [--only attention steps] [--limit 90]

    attention  causal attention in bfloat16 of 16 384 tokens in all, 16 heads, by every kernel
               that serves here; errors are relative to the same in float32 from the same numbers
    steps      the largest program of paper presets, each in a process of its own: what the
               compiler says it needs, what the device counted at the peak, and the speed

Operations are those of matrix products and convolutions; of causal attention half of all pairs.
A step of training runs on constant numbers; its speed does not depend on them.
"""

import argparse
import functools
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)

import jax
import jax.numpy as jnp
import numpy as np

from attention import kernels, scores
from benchmarks.timing import compiled, fastest
from experiments import catalog
from experiments.harness import compiling, config, estimate

SHAPES = {"MHA": (128, 128), "MLA": (192, 128)}  # keys, values
ROWS = (
    ("attention/language_model", "paper"),
    ("attention/language_model", "paper", "--dtype", "bfloat16"),
    ("attention/ablation", "paper"),
    ("attention/recall", "paper"),
    ("diffusion/train", "paper", "--training.batch_size", "64"),
    ("diffusion/train", "paper_uvit_128", "--training.batch_size", "32"),
    ("diffusion/distill", "paper", "--training.batch_size", "64"),
    ("ssm/sequential_images", "paper"),
    ("ssm/listops", "paper"),
    ("ssm/language_model", "paper"),
)


def causal(form, *parts):
    """By a kernel, or in float32."""
    if form == "exact":
        return scores.causal(*(part.astype(jnp.float32) for part in parts))
    return kernels.causal(*parts, kernel=form)


def squares(form, *parts):
    """Something to differentiate."""
    return jnp.sum(causal(form, *parts).astype(jnp.float32) ** 2)


def attention(options, heads=16, tokens=16_384):
    columns = ("forward ms", "TFLOP/s", "with gradient ms", "TFLOP/s", "errors")
    heading("keys, values", "tokens", "kernel", *columns)
    for (name, (wide, narrow)), length in itertools.product(SHAPES.items(), options.lengths):
        batch = max(tokens // length, 1)
        keys = jax.random.split(jax.random.key(0), 3)
        parts = [
            jax.random.normal(key, (batch, heads, length, width), jnp.bfloat16)
            for key, width in zip(keys, (wide, wide, narrow), strict=True)
        ]
        problem = kernels.Problem(length, wide, narrow, jnp.bfloat16)
        device = kernels.Device.here()
        forms = [f for f in ("xla", "cudnn") if kernels.refusal(f, problem, device) is None]
        products = batch * heads * length**2 * (wide + narrow)  # half of the pairs, 2 each
        calls = {
            form: [
                compiled(functools.partial(causal, form), *parts)[0],
                compiled(jax.grad(functools.partial(squares, form), (0, 1, 2)), *parts)[0],
            ]
            for form in ("exact", *forms)
        }
        values = {form: [pair[0](), *pair[1]()] for form, pair in calls.items()}
        times = fastest(options.rounds, *(call for form in forms for call in calls[form]))
        for form, ahead, back in zip(forms, times[::2], times[1::2], strict=True):
            speeds = (products / ahead / 1e12, 3 * products / back / 1e12)
            errors = ", ".join(
                f"{error(*p):.0e}" for p in zip(values[form], values["exact"], strict=True)
            )
            cells = [f"{name} {wide}, {narrow}", f"{batch} x {length}", form]
            cells += [f"{1e3 * ahead:.3f}", f"{speeds[0]:.0f}"]
            cells += [f"{1e3 * back:.3f}", f"{speeds[1]:.0f}", errors]
            row(*cells)


def heading(*cells):
    print(f"\n| {' | '.join(cells)} |\n" + "| --- " * len(cells) + "|")


def row(*cells):
    print(f"| {' | '.join(cells)} |", flush=True)


def error(value, exact):
    """Root of the mean square, relative."""
    value, exact = (np.asarray(x, np.float64) for x in (value, exact))
    return np.sqrt(np.mean((value - exact) ** 2) / np.mean(exact**2))


def constant(shape):
    """An array of a shape, or keys."""
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), shape.shape)
    return jnp.full(
        shape.shape, 0 if jnp.issubdtype(shape.dtype, jnp.integer) else 1e-2, shape.dtype
    )


def one_step(name, preset, overrides, turns=10):
    """The largest program of a preset: bytes, seconds, operations."""
    found = catalog.get(name)
    programs = found.optional("programs")(config.parse(found.preset(preset), overrides))
    counts = {
        title: estimate.matrix_flops(jax.make_jaxpr(one.function)(*one.arguments)) * one.calls
        for title, one in programs.items()
    }
    title = max(counts, key=counts.get)
    one = programs[title]
    options = compiling.options() if one.donate else None
    began = time.perf_counter()
    program = one.lower().compile(compiler_options=options)
    seconds = time.perf_counter() - began
    told = estimate.peak_bytes(program)
    arguments = [jax.tree.map(constant, part) for part in one.arguments]
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        out = program(*arguments)
        jax.block_until_ready(out)
        times.append(time.perf_counter() - start)
        if one.donate == (0,):
            arguments[0] = out[0] if isinstance(out, tuple) else out
        elif one.donate:
            raise SystemExit(f"{title}: donates {one.donate}")
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", float("nan"))
    flops = counts[title] / one.calls
    weights = jax.tree.leaves(getattr(one.arguments[0], "params", one.arguments[0]))
    return [
        title,
        f"{sum(leaf.size for leaf in weights) / 1e6:.1f}",
        f"{told / 1e9:.2f}",
        f"{peak / 1e9:.2f}",
        f"{told / peak:.2f}",
        f"{seconds:.0f}",
        f"{1e3 * min(times):.1f}",
        f"{flops / min(times) / 1e12:.1f}",
    ]


def steps(options):
    heading(
        "experiment", "program", "million weights", "estimated GB", "peak GB", "ratio", "compile s",
        "ms", "TFLOP/s"
    )  # fmt: skip
    for name, preset, *overrides in ROWS:
        command = [sys.executable, __file__, "--step", name, preset, *overrides]
        title = " ".join([name, preset, *overrides])
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=options.limit)
        except subprocess.TimeoutExpired:
            print(f"{title}: more than {options.limit} s", file=sys.stderr, flush=True)
            continue
        if done.returncode:
            print(f"{title}: {done.stderr[-600:]}", file=sys.stderr, flush=True)
        else:
            row(title, *json.loads(done.stdout.splitlines()[-1]))


PARTS = {part.__name__: part for part in (attention, steps)}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        print(json.dumps(one_step(*sys.argv[2:4], sys.argv[4:])))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096, 16_384])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=90, help="seconds for one step")
    options = parser.parse_args()
    if len(options.only) > 1:  # each in a process of its own, with all of the memory
        for part in options.only:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", part]
            subprocess.run(command, check=True)
    else:
        PARTS[options.only[0]](options)
