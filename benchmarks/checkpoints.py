"""What verified checkpoints cost beside orbax alone: seconds to save and to restore, as ratios.

Both write the same state of random float32 arrays, in turns; a save ends when all is on disk.

python -m benchmarks.checkpoints [--megabytes 100] [--rounds 9]
"""

import argparse
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


def plain(folder: Path, values: Any) -> tuple[float, float]:
    """Orbax alone."""
    writer = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
    began = time.perf_counter()
    writer.save(folder / "1", args=ocp.args.StandardSave(values))
    writer.wait_until_finished()
    saved = time.perf_counter()
    jax.block_until_ready(writer.restore(folder / "1", args=ocp.args.StandardRestore(values)))
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
    times: dict[str, list[tuple[float, float]]] = {"plain": [], "verified": []}
    for index in range(options.rounds + 1):
        for function in (plain, verified):
            folder = Path(tempfile.mkdtemp())
            found = function(folder, values)
            shutil.rmtree(folder)
            if index:  # the first round compiles and fills caches
                times[function.__name__].append(found)
    print(f"{options.megabytes} MB, medians of {options.rounds} rounds")
    print("| | orbax alone, s | verified, s | median ratio |")
    print("| --- | --- | --- | --- |")
    for index, name in enumerate(("save", "restore")):
        one, other = ([t[index] for t in times[kind]] for kind in ("plain", "verified"))
        ratio = statistics.median(b / a for a, b in zip(one, other, strict=True))
        print(
            f"| {name} | {statistics.median(one):.3f} | {statistics.median(other):.3f} "
            f"| {ratio:.3f} |"
        )


if __name__ == "__main__":
    main()
