"""What verified checkpoints cost beside orbax alone: seconds to save and to restore, as ratios.

All write the same state of random float32 arrays, in turns; a save ends when all is on disk. Orbax
is taken with its own settings, which compress, and without compression, as ours are written.

python -m benchmarks.checkpoints [--megabytes 100] [--rounds 9]
"""

import argparse
import functools
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from experiments.harness.checkpoint import Checkpoints
from experiments.harness.memory import keep_freed_memory


def state(megabytes: int) -> dict[str, jax.Array]:
    """Arrays of 4 MB each."""
    keys = jax.random.split(jax.random.key(0), max(1, megabytes // 4))
    return {f"w{i}": jax.random.normal(key, (1000, 1000)) for i, key in enumerate(keys)}


def plain(folder: Path, values: Any, compress: bool) -> tuple[float, float]:
    """Orbax alone."""
    writer = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_compression=compress))
    how = ocp.checkpoint_utils.construct_restore_args(values)
    began = time.perf_counter()
    writer.save(folder / "1", args=ocp.args.PyTreeSave(values))
    writer.wait_until_finished()
    saved = time.perf_counter()
    args = ocp.args.PyTreeRestore(item=values, restore_args=how)
    jax.block_until_ready(writer.restore(folder / "1", args=args))
    restored = time.perf_counter()
    writer.close()
    return saved - began, restored - saved


def verified(folder: Path, values: Any) -> tuple[float, float]:
    """Ours."""
    writer = Checkpoints(folder, 1, "")
    began = time.perf_counter()
    writer.save(1, values)
    writer.finish(1, values)
    saved = time.perf_counter()
    jax.block_until_ready(writer.restore(values))
    restored = time.perf_counter()
    writer.close()
    return saved - began, restored - saved


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    keep_freed_memory()  # as the command line does
    values = jax.block_until_ready(state(options.megabytes))
    ways = {
        "orbax": functools.partial(plain, compress=True),
        "orbax, not compressed": functools.partial(plain, compress=False),
        "verified": verified,
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for index in range(options.rounds + 1):
        for name, function in ways.items():
            folder = Path(tempfile.mkdtemp())
            found = function(folder, values)
            shutil.rmtree(folder)
            if index:  # the first round compiles and fills caches
                times[name].append(found)
    print(f"{options.megabytes} MB, medians of {options.rounds} rounds")
    print("| | seconds to save | to restore | verified / this, save | restore |")
    print("| --- | --- | --- | --- | --- |")
    for name, found in times.items():
        cells = [f"{statistics.median(t[i] for t in found):.3f}" for i in (0, 1)]
        pairs = [*zip(times["verified"], found, strict=True)]
        cells += [f"{statistics.median(a[i] / b[i] for a, b in pairs):.2f}" for i in (0, 1)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
