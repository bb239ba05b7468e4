"""Decoding and prompts of every variant of attention against the memory's speed, in one process.

    python benchmarks/attention.py [--contexts 1000 2000 8000] [--slots 8192] [--rounds 5]
    python benchmarks/attention.py --only decoding capacity prompts skipping memory
    python benchmarks/attention.py --only peers --torch path/to/python  # with transformers

The decoders of the experiment attention/decoding at preset cpu: 4 layers, d = 512, 8 heads of 64,
SwiGLU of 1408, batch 1, float32 (MLA: d_c = 256, d_r = 32), and its roofline. `taskset -c 0` in
front takes one core. Below it, the cost of a short context in a large cache, of a prompt by MLA
against MHA, of a causal prompt against all pairs, and the memory of a prompt of 16k tokens.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)

import jax
import jax.numpy as jnp

from attention import generate, scores, transformer
from benchmarks.timing import compiled, fastest
from experiments.attention import decoding as experiment

NAMES = ("MHA", "GQA", "MQA", "MLA absorbed")
CONFIG = experiment.PRESETS["cpu"]


def decoding(options):
    speed = experiment.machine(options.rounds)
    print(f"\nmemory {speed[0] / 1e9:.1f} GB/s, products {speed[1] / 1e9:.0f} GFLOP/s\n")
    print("| | context | ms/token | roofline ms | of roofline |")
    print("| --- | --- | --- | --- | --- |")
    for context in options.contexts:
        runs = [experiment.Decoding(CONFIG, name, context, options.slots) for name in NAMES]
        for name, seconds in zip(NAMES, fastest(options.rounds, *runs), strict=True):
            least = experiment.roofline(CONFIG, name, context, speed)
            print(
                f"| {name} | {context} | {1e3 * seconds:.2f} | {1e3 * least:.2f} "
                f"| {seconds / least:.2f} |",
                flush=True,
            )


def capacity(options):
    print("\n| | 1000 tokens in 1024 slots, ms | in 8192 slots | ratio |")
    print("| --- | --- | --- | --- |")
    for name in NAMES:
        runs = [experiment.Decoding(CONFIG, name, 1000, slots) for slots in (1024, 8192)]
        short, large = fastest(options.rounds, *runs)
        print(f"| {name} | {1e3 * short:.2f} | {1e3 * large:.2f} | {large / short:.2f} |")


def prompts(options, lengths=(512, 2048)):
    print("\n| | prompt | ms | of MHA |")
    print("| --- | --- | --- | --- |")
    for length in lengths:
        rows = {}
        for name in NAMES:
            config = CONFIG.decoder(name)
            params = transformer.init(jax.random.key(0), config)
            state = transformer.init_state(config, 1, length)
            tokens = jnp.zeros((1, length), jnp.int32)
            function = functools.partial(transformer.prefill, config=config)
            rows[name] = compiled(function, params, tokens, state)[0]
        times = dict(zip(rows, fastest(options.rounds, *rows.values()), strict=True))
        for name, seconds in times.items():
            print(f"| {name} | {length} | {1e3 * seconds:.0f} | {seconds / times['MHA']:.2f} |")


def skipping(options, length=4096):
    q = jax.random.normal(jax.random.key(0), (1, 8, length, 64))
    runs = [
        compiled(functools.partial(scores.causal, block=block), q, q, q)[0]
        for block in (length, scores.BLOCK)
    ]
    every, causal = fastest(options.rounds, *runs)
    print(f"\ncausal attention of {length} tokens: {1e3 * causal:.0f} ms, ", end="")
    print(f"all pairs {1e3 * every:.0f} ms, {every / causal:.2f} times as much")


def memory(options, length=16_384):
    print("\n| | prompt | read | peak RSS, GB |")
    print("| --- | --- | --- | --- |")
    for name in NAMES:
        for chunk in (None, 1024):
            command = [sys.executable, __file__, "--peak", name, str(length), str(chunk or 0)]
            root = str(Path(__file__).parent.parent)
            environment = {**os.environ, "PYTHONPATH": root}
            done = subprocess.run(command, check=True, capture_output=True, env=environment)
            peak = float(done.stdout.split()[-1])
            how = "at once" if chunk is None else f"in chunks of {chunk}"
            print(f"| {name} | {length} | {how} | {peak:.2f} |", flush=True)


def peak(name, length, chunk):
    config = CONFIG.decoder(name)
    params = transformer.init(jax.random.key(0), config)
    tokens = generate(params, config, jnp.zeros((1, length), jnp.int32), 1, chunk=chunk or None)
    jax.block_until_ready(tokens)
    # Not `getrusage`, which starts from the peak of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9)


def peers(options):
    if options.torch is None:
        return
    script = Path(__file__).with_name("torch_decoding.py")
    contexts = [str(context) for context in options.contexts]
    print("\n| | context | Transformers, ms/token | ours | ratio | elements cached there |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in NAMES:
        command = [options.torch, str(script), name.split()[0], *contexts]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        for row in map(json.loads, done.stdout.splitlines()):
            context, theirs = row["context"], row["seconds"]
            slots = max(context, options.slots)
            (ours,) = fastest(
                options.rounds, experiment.Decoding(CONFIG, name, context, slots), turn=0.5
            )
            print(
                f"| {name} | {context} | {1e3 * theirs:.1f} | {1e3 * ours:.2f} "
                f"| {theirs / ours:.1f} | {row['elements']} |",
                flush=True,
            )


PARTS = {f.__name__: f for f in (decoding, capacity, prompts, skipping, memory, peers)}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contexts", type=int, nargs="+", default=[1000, 2000, 8000])
    parser.add_argument("--slots", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--torch", help="a Python with torch and transformers, to compare with")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        peak(arguments.peak[0], int(arguments.peak[1]), int(arguments.peak[2]))
    else:
        for part in arguments.only:
            PARTS[part](arguments)
