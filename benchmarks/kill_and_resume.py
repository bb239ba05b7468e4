"""Kill training with SIGKILL at random moments, restart it, compare the final weights.

    python benchmarks/kill_and_resume.py [--kills 20] [--seed 0]

One run of a small language model is left alone; another is killed again and again (during
start-up, steps, evaluation or saving, wherever the clock falls) and restarted by the same
command until it ends. Weights, optimizer state and averaged weights must agree bit for bit, and
so must every recorded loss.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "--model.d_model 32 --model.n_layers 2 --model.n_heads 2 --model.context 32"
TRAINING = "--training.steps 400 --training.checkpoint_every 8 --training.ema 0.9"
REST = "--training.eval_every 50 --training.log_every 1 --windows 8 --new_bytes 8"
COMMAND = f"run attention/language_model {MODEL} {TRAINING} {REST} --model.n_kv_heads 1".split()


def work(directory):
    from experiments.__main__ import main

    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.exit(main([*COMMAND, "--workdir", directory]))


def saved(directory):
    """Steps of the finished checkpoints."""
    folder = directory / "checkpoints"
    names = [p.name for p in folder.iterdir()] if folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def outcome(directory):
    """Every array of the last checkpoint, as bytes, and the rows without timings."""
    import jax
    import orbax.checkpoint as ocp

    from experiments.harness.run import load

    step = saved(directory)[-1]
    state = ocp.StandardCheckpointer().restore((directory / f"checkpoints/{step}/state").absolute())
    rows = [{k: v for k, v in r.items() if k != "steps_per_second"} for r in load(directory).rows]
    return step, [leaf.tobytes() for leaf in jax.tree.leaves(state)], rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = ROOT / "runs" / "kill_and_resume"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("forkserver")
    modules = ["experiments.commands", "experiments.attention.language_model", "tensorboardX"]
    context.set_forkserver_preload(modules)

    def start(name):
        process = context.Process(target=work, args=(str(folder / name),))
        process.start()
        return process, time.monotonic()

    process, _ = start("warm")  # fills the compilation cache
    process.join()
    process, began = start("whole")
    rows = folder / "whole" / "metrics.jsonl"
    while process.is_alive() and not (rows.exists() and rows.stat().st_size):
        time.sleep(0.02)
    first = time.monotonic() - began
    process.join()
    length = time.monotonic() - began
    print(f"uninterrupted: first row after {first:.1f} s, end after {length:.1f} s", flush=True)
    # Some starts die before their first step, the others after at most a tenth of the training.
    window = (0.5 * first, first + 0.1 * (length - first))
    generator, kills, starts = random.Random(options.seed), 0, 0
    while True:
        process, began = start("killed")
        starts += 1
        if kills < options.kills:
            process.join(generator.uniform(*window))
        else:
            process.join()
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        print(f"kill {kills} at checkpoints {saved(folder / 'killed')}", flush=True)
    one, other = outcome(folder / "whole"), outcome(folder / "killed")
    names = ("last step", "weights, optimizer, average", "recorded rows")
    for name, a, b in zip(names, one, other, strict=True):
        print(f"{name}: {'identical' if a == b else 'DIFFERENT'}")
    print(f"{kills} kills, {starts} starts, last exit {process.exitcode}")
    sys.exit(one != other or kills < options.kills)


if __name__ == "__main__":
    main()
