"""Training tokens per second of the decoder, optionally beside a plain PyTorch GPT.

    python benchmarks/language_model_training.py [--torch ENV/bin/python] [--rounds 8]
    python benchmarks/language_model_training.py --choices  # what each decision is worth
    python benchmarks/language_model_training.py --seeds 5  # seeds in turn against at once

Both train the same shape on random bytes with AdamW and clipping, in alternating blocks of
steps, so that a change in the machine's load meets both. The ratio is of medians over all
steps; the ratio of the fastest tenths, less sensitive to other processes, stands beside it.
`taskset -c 0` in front takes one core. With `--choices` the same step is compiled otherwise: each
row changes one thing, and its number is how many times longer the median step then takes. With
`--seeds` so many seeds are trained by as many steps, in one program in turn, and in one vectorised.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)

from experiments.harness.memory import keep_freed_memory

keep_freed_memory()  # as the command line does

import jax
import numpy as np

from attention import transformer
from experiments.attention import language_model, next_token
from experiments.harness import compiling, seeds, training

# name: d_model, layers, heads, context, batch
SHAPES = {
    "0.35M": (96, 3, 6, 96, 16),
    "0.8M": (128, 4, 4, 64, 12),
    "10.7M": (384, 6, 6, 256, 4),
}


def problem_of(shape, mixer="mha", **options):
    """A problem without data, and how it is trained."""
    width, layers, heads, context, batch = shape
    model = language_model.ModelConfig(mixer, width, layers, heads, 1, context, **options)
    decoder = model.transformer()
    problem = training.Problem(
        init=lambda key: transformer.init(key, decoder),
        loss=lambda p, b, k: next_token.loss(p, b, k, decoder),
        batch=lambda step: None,
        evaluate=lambda params: {},
    )
    return problem, training.TrainingConfig(batch_size=batch, steps=100_000)


class Ours:
    def __init__(self, shape, compiler=compiling.compile_step, **options):
        problem, settings = problem_of(shape, **options)
        self.shape = (settings.batch_size, shape[3] + 1)
        self.state = training.init_state(problem, settings)
        self.step = compiler(training.make_step(problem, settings))
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    def run(self, steps):
        seconds, generator = [], np.random.default_rng(0)
        for _ in range(steps):
            start = time.perf_counter()
            tokens = generator.integers(0, 256, self.shape, np.int32)
            self.state, metrics = self.step(self.state, tokens)
            metrics["loss"].block_until_ready()
            seconds.append(time.perf_counter() - start)
        return seconds


class Torch:
    def __init__(self, python, shape, threads):
        width, layers, heads, context, batch = shape
        numbers = (256, width, layers, heads, context, batch, threads)
        script = Path(__file__).with_name("torch_nanogpt.py")
        self.process = subprocess.Popen(
            [python, str(script), *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.parameters = int(self.process.stdout.readline())

    def run(self, steps):
        self.process.stdin.write(f"{steps}\n")
        return [float(value) for value in self.process.stdout.readline().split()]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def summary(seconds, tokens):
    """Tokens per second at the median and at the fastest tenth of the steps."""
    return tokens / np.median(seconds), tokens / np.quantile(seconds, 0.1)


def plain(step):
    """Jit without the options of `compiling.compile_step`."""
    return jax.jit(step, donate_argnums=0)


def kept(step):
    """As `compiling.compile_step`, but the state's memory is not given to the new state."""
    return compiling.compile_call(step)


CHOICES = {
    "as trained": {},
    "the compiler's defaults": {"compiler": plain},
    "the state is not donated": {"compiler": kept},
    'remat="none"': {"remat": "none"},
    'remat="all"': {"remat": "all"},
    "an output head of its own": {"tie_embeddings": False},
    "no rotary embedding": {"rope": False},
}


def choices(rounds, names):
    """How many times longer a step takes, median over rounds, for every choice and shape."""
    print("| choice | " + " | ".join(names) + " |")
    print("| --- |" + " --- |" * len(names))
    columns = []
    for name in names:
        rivals = [Ours(SHAPES[name], **options) for options in CHOICES.values()]
        for rival in rivals:
            rival.run(2)
        block = 2 if name == "10.7M" else 8
        times = np.array([[np.median(rival.run(block)) for rival in rivals] for _ in range(rounds)])
        columns.append(np.median(times / times[:, :1], axis=0))
    for choice, *cells in zip(CHOICES, *columns, strict=True):
        print(f"| {choice} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")


class Together:
    """Several seeds; `vectorised` is None for as many steps of a single one."""

    def __init__(self, shape, mixer, count, vectorised):
        problem, settings = problem_of(shape, mixer)
        self.count, self.shape = count, (settings.batch_size, count, shape[3] + 1)
        self.alone = vectorised is None
        how = training.How(training.init_state, training.make_step)
        if not self.alone:
            how = seeds.how(problem, range(count), vectorised)
        self.state = how.init_state(problem, settings)
        self.step = compiling.compile_step(how.make_step(problem, settings))

    def run(self):
        tokens = np.random.default_rng(0).integers(0, 256, self.shape, np.int32)
        start = time.perf_counter()
        for i in range(self.count if self.alone else 1):
            self.state, metrics = self.step(self.state, tokens[:, i] if self.alone else tokens)
        metrics["loss"].block_until_ready()
        return time.perf_counter() - start


def several(count, rounds, names):
    """How many times longer a step of several seeds takes than as many of one."""
    print(f"| {count} seeds | one by one, ms | in one program, in turn | vectorised |")
    print("| --- | --- | --- | --- |")
    for name in names:
        for mixer in ("mha", "mla"):
            rivals = [Together(SHAPES[name], mixer, count, how) for how in (None, False, True)]
            for rival in rivals:
                rival.run()
            times = np.array([[rival.run() for rival in rivals] for _ in range(rounds)])
            ratios = np.median(times[:, 1:] / times[:, :1], axis=0)
            cells = [f"{1e3 * np.median(times[:, 0]):.0f}", *(f"{r:.2f}" for r in ratios)]
            print(f"| {mixer}, {name} | " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", help="Python of an environment with PyTorch")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", choices=SHAPES, help="one shape")
    parser.add_argument("--choices", action="store_true", help="compare decisions of ours instead")
    parser.add_argument("--seeds", type=int, help="compare ways to train so many of them instead")
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    print(f"{threads} threads, load {os.getloadavg()[0]:.1f}")
    names = [options.only] if options.only else list(SHAPES)
    if options.choices:
        return choices(options.rounds, names)
    if options.seeds:
        return several(options.seeds, options.rounds, names)
    titles = ["shape", "ours tok/s"]
    if options.torch:
        titles += ["torch tok/s", "ratio (median)", "ratio (fastest tenth)"]
    print(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}")
    for name in names:
        shape = SHAPES[name]
        block, tokens = (2 if name == "10.7M" else 8), shape[3] * shape[4]
        rivals = [Ours(shape)]
        if options.torch:
            rivals.append(Torch(options.torch, shape, threads))
        for rival in rivals:
            rival.run(2)
        times = [[], []]
        for _ in range(options.rounds):
            for seconds, rival in zip(times, rivals, strict=False):
                seconds += rival.run(block)
        ours = summary(times[0], tokens)
        cells = [f"{name} ({rivals[0].parameters / 1e6:.2f}M)", f"{ours[0]:.0f}"]
        if options.torch:
            rivals[1].close()
            theirs = summary(times[1], tokens)
            cells += [f"{theirs[0]:.0f}"]
            cells += [f"{mine / other:.2f}" for mine, other in zip(ours, theirs, strict=True)]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
