"""What samplers, upsample guidance and distillation add to the networks they call.

    python benchmarks/diffusion.py [--steps 64] [--rounds 5]

Samplers: one program against as many calls alone. The network is the MLP of the experiments (width
256, 3 blocks) on batches of 8 x 8 images; the calls alone are a scan that feeds each output to the
next, one program as well. Guidance: one guided call against one of the convolutional network
(48 channels, 3 blocks) on the same large images, both with the compiler options of the experiments;
a cell has n pixels, and 1 / n is what the call on the small ones should cost. Distillation: an
iteration with both optimisers and the average against the passes of its networks alone, gradients
of two by their weights and of two by their inputs; fresh samples for the fake denoiser are one more
call, which is not among them.
"""

import argparse
import functools
import sys
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)

import jax
import jax.numpy as jnp

from benchmarks.timing import fastest
from diffusion import guidance, layers, samplers, schedules
from experiments.diffusion import denoising, distill, distilling
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import compiling

METHODS = {"ddim": 1, "ancestral": 1, "dpmpp_2m": 1, "heun": 2}


def overhead(steps, rounds, batch):
    network = layers.MLP(256, 3)
    z = jax.random.normal(jax.random.key(0), (batch, 8, 8, 1))
    params = network.init(jax.random.key(1), z, jnp.zeros(batch))
    denoiser = functools.partial(network.apply, params)
    logsnrs = schedules.cosine(-10.0, 10.0)(jnp.linspace(1.0, 0.0, steps + 1))
    wide = jnp.broadcast_to(logsnrs[:, None], (steps + 1, batch))
    print(f"\nbatch {batch}, {steps} steps\n")
    print("| method | ms | calls alone, ms | ratio |\n| --- | --- | --- | --- |")
    for method, per_step in METHODS.items():
        calls = per_step * steps - (per_step - 1)
        levels = jnp.resize(wide, (calls, batch))
        alone = jax.jit(
            lambda z, levels=levels: jax.lax.scan(lambda x, y: (denoiser(x, y), None), z, levels)[0]
        )
        key = jax.random.key(2)
        run = functools.partial(samplers.sample, denoiser, z, logsnrs, method, "v", key)
        whole, least = fastest(rounds, run, lambda alone=alone: alone(z), turn=0.5)
        print(f"| {method} | {1e3 * whole:.1f} | {1e3 * least:.1f} | {whole / least:.3f} |")


def guided(size, batch, rounds):
    network = layers.Conv(48)
    z = jax.random.normal(jax.random.key(0), (batch, size, size, 1))
    logsnr = jnp.zeros(batch)
    params = network.init(jax.random.key(1), z, logsnr)
    denoiser = functools.partial(network.apply, params)
    plain = compiling.compile_call(denoiser)
    print(f"\nupsample guidance, {size} x {size}, batch {batch}\n")
    print("| factor | ms | plain call, ms | added | 1 / n |\n| --- | --- | --- | --- | --- |")
    for factor in (2, 3, 4):
        large = compiling.compile_call(guidance.upsample(denoiser, factor, prediction="v"))
        ours, alone = fastest(
            rounds, lambda large=large: large(z, logsnr), lambda: plain(z, logsnr), turn=0.5
        )
        added, cells = ours / alone - 1.0, 1.0 / factor**2
        print(f"| {factor} | {1e3 * ours:.1f} | {1e3 * alone:.1f} | {added:.3f} | {cells:.3f} |")


def distillation(kind, config, shape, batch, rounds):
    network = distilling.network_of(config)
    params = denoising.make_init(config, shape)(jax.random.key(0))
    model = distilling.Model(network, params)
    settings = replace(distill.TRAINING, batch_size=batch)
    how = distilling.how(distill.DISTILL, model, model, shape)
    step = compiling.compile_step(how.make_step(None, settings))
    states = [how.init_state(None, settings, *how.given)]
    index = distilling.indices(settings)
    y, sigma = jax.random.normal(jax.random.key(1), (4, batch, *shape)), jnp.full(batch, 0.5)

    def total(params, y):
        return jnp.sum(jnp.square(network(params, y, sigma)))

    @compiling.compile_call
    def passes(first, second, third, y):
        by_weights = [jax.grad(total)(first, y[0]), jax.grad(total)(second, y[1])]
        return by_weights, [jax.grad(total, 1)(second, y[2]), jax.grad(total, 1)(third, y[3])]

    def iterate():
        state, found = step(states.pop(), index)
        states.append(state)
        return found

    ours, alone = fastest(rounds, iterate, lambda: passes(params, params, params, y), turn=1.0)
    print(f"| {kind} | {1e3 * ours:.1f} | {1e3 * alone:.1f} | {ours / alone:.3f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for batch in (64, 512):
        overhead(arguments.steps, arguments.rounds, batch)
    for size in (24, 48):
        guided(size, 64, arguments.rounds)
    print("\n| distilled network | ms | passes alone, ms | ratio |\n| --- | --- | --- | --- |")
    small = distill.DIGITS.network
    distillation("MLP, 8 x 8, batch 128", small, (8, 8, 1), 128, arguments.rounds)
    distillation("MLP, 8 x 8, batch 1024", small, (8, 8, 1), 1024, arguments.rounds)
    unet = NetworkConfig("unet", 32, 1, multipliers=(1, 2), blocks=(1,))
    distillation("U-Net, 16 x 16, batch 64", unet, (16, 16, 1), 64, arguments.rounds)
