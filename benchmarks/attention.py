"""Decoding against the memory's speed: milliseconds per token of every variant, in one process.

    python benchmarks/attention.py [--contexts 1000 2000 8000] [--slots 8192] [--rounds 5]

A decoder of 4 layers, d = 512, 8 heads of 64, SwiGLU of 1408, batch 1, float32 (MLA: d_c = 256,
d_r = 32). The roofline is the largest of two times: what has to be read (weights and live cache) at
the speed of reading a large array, and what has to be computed (only MLA's attention counts) at
the speed of a large matrix product, both measured here with all cores. Below it, the cost of a
short context in a large cache, and of a prompt by MLA against MHA.
"""

import argparse
import functools
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)

import jax
import jax.numpy as jnp

from attention import GroupedConfig, LatentConfig, TransformerConfig, cache_bytes, transformer
from benchmarks.timing import compiled, fastest

MIXERS = {
    "MHA": GroupedConfig(512, 8, 8),
    "GQA": GroupedConfig(512, 8, 2),
    "MQA": GroupedConfig(512, 8, 1),
    "MLA": LatentConfig(512, 8, 256, None, 64, 32, 64),
}


def decoder(name):
    return TransformerConfig(256, 4, MIXERS[name], d_ff=1408)


def machine(rounds):
    """Bytes and operations per second."""
    x, a = jnp.ones(2**26), jnp.ones((2048, 2048))
    read, product = fastest(rounds, compiled(jnp.sum, x)[0], compiled(jnp.matmul, a, a)[0])
    return x.nbytes / read, 2 * 2048**3 / product


class Decoding:
    """Single tokens at a place of the context; the state stays where it is."""

    def __init__(self, name, slots, context):
        config = decoder(name)
        params = transformer.init(jax.random.key(0), config)
        self.prepared = jax.jit(functools.partial(transformer.prepare, config=config))(params)
        state = transformer.init_state(config, 1, slots)
        length = jnp.full((1,), context, jnp.int32)
        self.state = tuple(one._replace(length=length + 0) for one in state)
        self.length, self.tokens = length, jnp.zeros((1,), jnp.int32)
        self.step = jax.jit(functools.partial(transformer.step, config=config), donate_argnums=1)

    def __call__(self):
        state, logits = self.step(self.prepared, self.state, self.tokens)
        self.state = tuple(one._replace(length=self.length + 0) for one in state)
        return logits


def roofline(name, context, speed):
    config = decoder(name)
    params = jax.eval_shape(functools.partial(transformer.init, config=config), jax.random.key(0))
    weights = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
    bytes_ = weights + cache_bytes(config, 1, context)
    operations = 0
    if name == "MLA":
        one = MIXERS[name]
        operations = 2 * 4 * context * one.n_heads * (2 * one.latent_dim + one.rope_dim)
    return max(bytes_ / speed[0], operations / speed[1])


def decoding(contexts, slots, rounds):
    speed = machine(rounds)
    print(f"\nmemory {speed[0] / 1e9:.1f} GB/s, products {speed[1] / 1e9:.0f} GFLOP/s\n")
    print("| | context | ms/token | roofline ms | of roofline |")
    print("| --- | --- | --- | --- | --- |")
    for context in contexts:
        runs = {name: Decoding(name, slots, context) for name in MIXERS}
        for name, seconds in zip(runs, fastest(rounds, *runs.values()), strict=True):
            least = roofline(name, context, speed)
            print(
                f"| {name} | {context} | {1e3 * seconds:.2f} | {1e3 * least:.2f} "
                f"| {seconds / least:.2f} |",
                flush=True,
            )
    print("\n| | 1000 tokens in 1024 slots, ms | in 8192 slots | ratio |")
    print("| --- | --- | --- | --- |")
    for name in MIXERS:
        short, large = fastest(rounds, Decoding(name, 1024, 1000), Decoding(name, 8192, 1000))
        print(
            f"| {name} | {1e3 * short:.2f} | {1e3 * large:.2f} | {large / short:.2f} |", flush=True
        )


def prompts(rounds, lengths=(512, 2048)):
    print("\n| | prompt | ms | of MHA |")
    print("| --- | --- | --- | --- |")
    for length in lengths:
        rows = {}
        for name in MIXERS:
            config = decoder(name)
            params = transformer.init(jax.random.key(0), config)
            state = transformer.init_state(config, 1, length)
            tokens = jnp.zeros((1, length), jnp.int32)
            function = functools.partial(transformer.prefill, config=config)
            rows[name] = compiled(function, params, tokens, state)[0]
        times = dict(zip(rows, fastest(rounds, *rows.values()), strict=True))
        for name, seconds in times.items():
            print(f"| {name} | {length} | {1e3 * seconds:.0f} | {seconds / times['MHA']:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contexts", type=int, nargs="+", default=[1000, 2000, 8000])
    parser.add_argument("--slots", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    decoding(arguments.contexts, arguments.slots, arguments.rounds)
    prompts(arguments.rounds)
