"""Time of denoising networks: U-ViT beside U-Net, both compiled; ours beside diffusers'.

    python benchmarks/unet.py [--torch path/to/python] [--rounds 8]

A step is forward, backward and Adam; a call is forward alone. Networks are compared by operations
of matrix products and convolutions, which are printed. Beside diffusers' `UNet2DModel` stand our
U-Net of about as many operations, and the very same network as our loader of its checkpoints runs
it. `--torch` names a Python of its own with torch and diffusers; both sides take turns.
"""

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import diffusers_config, diffusers_unet
from experiments.diffusion import denoising, train
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import compiling, estimate, training
from experiments.harness.training import TrainingConfig

HERE = Path(__file__).parent
SHAPES = {
    "16 x 16": {"size": 16, "channels": (32, 64), "layers": 2, "batch": 64, "colours": 1},
    "32 x 32": {"size": 32, "channels": (32, 64, 64), "layers": 1, "batch": 16, "colours": 3},
}


def like(shape):
    """Our U-Net of about as many operations as diffusers'."""
    channels, layers = shape["channels"], shape["layers"]
    return NetworkConfig(
        "unet",
        channels[0],
        3 * layers + 2,
        multipliers=tuple(c // channels[0] for c in channels),
        blocks=(layers,) * (len(channels) - 1),
    )


AXES = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}  # of weights in a file, in the order of JAX


def loss(apply, params, batch, key):
    """The error of a prediction of the input, as on the other side."""
    return jnp.mean(jnp.square(apply(params, batch, jnp.zeros(len(batch))) - batch)), {}


def settings_of(shape):
    """Of `UNet2DModel`, as torch_unet.py makes it."""
    plain = len(shape["channels"]) - 1
    return {
        "in_channels": shape["colours"],
        "out_channels": shape["colours"],
        "block_out_channels": shape["channels"],
        "layers_per_block": shape["layers"],
        "down_block_types": ["DownBlock2D"] * plain + ["AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D"] + ["UpBlock2D"] * plain,
        "norm_num_groups": shape["channels"][0] // 4,
        "attention_head_dim": shape["channels"][-1],
    }


class Ours:
    """The training step of the experiments, and a call, of a network (params, x, level) -> v."""

    def __init__(self, init, apply, size, batch, colours):
        settings = TrainingConfig(steps=1000, batch_size=batch, weight_decay=0.0, ema=0.0)
        problem = training.Problem(init, functools.partial(loss, apply), None, None)
        self.state = jax.jit(lambda: training.init_state(problem, settings))()
        self.batch = jax.random.normal(jax.random.key(0), (batch, size, size, colours))
        step = compiling.compile_step(training.make_step(problem, settings))
        start = time.perf_counter()
        self.step = step.lower(self.state, self.batch).compile()
        self.compiled = time.perf_counter() - start
        level = jnp.zeros(batch)
        self.call = compiling.compile_call(lambda params: apply(params, self.batch, level))
        forward = jax.make_jaxpr(lambda p: apply(p, self.batch, level))(self.state.params)
        self.flops = estimate.matrix_flops(forward)
        self.parameters = estimate.count(self.state.params)

    @classmethod
    def of(cls, network, size, batch, colours):
        """A network of the experiments."""
        init = denoising.make_init(network, (size, size, colours))
        return cls(init, network.network().apply, size, batch, colours)

    @classmethod
    def same(cls, shape):
        """Diffusers' own network, as it is read from its checkpoints."""
        config = diffusers_config.checked_config(settings_of(shape))
        model = diffusers_unet.DiffusersUNet(config, {})

        def init(key):
            return {
                name: 0.1 * jax.random.normal(key, np.empty(size).transpose(AXES[len(size)]).shape)
                for name, size in diffusers_config.shapes(config).items()
            }

        return cls(init, model.apply, shape["size"], shape["batch"], shape["colours"])

    def run(self, job, count):
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            if job == "step":
                self.state, values = self.step(self.state, self.batch)
                jax.block_until_ready(values)
            else:
                jax.block_until_ready(self.call(self.state.params))
            seconds.append(time.perf_counter() - start)
        return seconds


class Torch:
    """diffusers' network in a process of its own."""

    def __init__(self, python, shape):
        shape = {**shape, "threads": len(os.sched_getaffinity(0))}
        self.process = subprocess.Popen(
            [python, str(HERE / "torch_unet.py"), json.dumps(shape)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.parameters, self.flops = map(int, self.process.stdout.readline().split())

    def run(self, job, count):
        self.process.stdin.write(f"{job} {count}\n")
        return [float(value) for value in self.process.stdout.readline().split()]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compete(rivals, job, rounds, block=3):
    """The fastest tenth of the runs of every rival, which take turns."""
    for rival in rivals:
        rival.run(job, 2)
    times = [[] for _ in rivals]
    for _ in range(rounds):
        for kept, rival in zip(times, rivals, strict=True):
            kept += rival.run(job, block)
    return [float(np.quantile(kept, 0.1)) for kept in times]


def row(name, job, rivals, rounds):
    """First over second, and the same by operations; above 1 the first is quicker."""
    first, second = compete(rivals, job, rounds)
    gigaflops = [rival.flops / 1e9 for rival in rivals]
    by_work = second / first * gigaflops[0] / gigaflops[1]
    cells = [name, job, f"{gigaflops[0]:.2f}", f"{gigaflops[1]:.2f}"]
    cells += [f"{1e3 * first:.1f}", f"{1e3 * second:.1f}", f"{second / first:.2f}"]
    print(f"| {' | '.join([*cells, f'{by_work:.2f}'])} |", flush=True)


def heading(first, second):
    print(
        f"\n| network | job | {first}, GFLOP a call | {second} | {first}, ms | {second}, ms "
        "| speed | at equal operations |\n" + "| --- " * 8 + "|"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", help="Python of an environment with torch and diffusers")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} threads, load {os.getloadavg()[0]:.1f}")
    heading("U-ViT", "U-Net")
    for size, width, batch in ((16, 32, 64), (32, 32, 16)):
        unet = NetworkConfig("unet", width, 6, multipliers=(1, 2), blocks=(2,))
        # A layer of the U-ViT has about 12/22 of the operations of a block that attends.
        uvit = dataclasses.replace(unet, kind="uvit", depth=11)
        rivals = [Ours.of(network, size, batch, 1) for network in (uvit, unet)]
        for job in ("step", "call"):
            row(f"{size} x {size}", job, rivals, options.rounds)
    if options.torch:
        heading("ours", "diffusers")
        for name, shape in SHAPES.items():
            theirs = Torch(options.torch, shape)
            size = shape["size"], shape["batch"], shape["colours"]
            for kind, ours in (("UNet", Ours.of(like(shape), *size)), ("same", Ours.same(shape))):
                for job in ("step", "call"):
                    row(f"{name}, {kind}", job, [ours, theirs], options.rounds)
            theirs.close()
    cpu = train.PRESETS["cpu"]
    seconds = Ours.of(cpu.network, 8, cpu.training.batch_size, 1).compiled
    print(f"\ncompile of the training step of diffusion/train --preset cpu: {seconds:.1f} s")


if __name__ == "__main__":
    main()
