"""Time and memory of every kernel against length and state size, beside the floor of an FFT.

Reproduces: the comparison of S4's kernel with others in arXiv 2111.00396, table 2, and the memory
and latency against state size of RTF (arXiv 2405.06147, figure 1, tables 6 and 7), with this
library's kernels on this machine. The floor is a real FFT of the padded signal there and back,
which no convolution avoids.
"""

import functools
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import figures
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from ssm import dss, rtf, s4, s4d, s5

KERNELS = ("floor", "s4", "s4d", "dss", "s5", "rtf")


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        kernels: what to time, some of `KERNELS`; "s5" is no kernel but a layer's scan of a signal.
        lengths: kernel lengths L.
        sizes: state sizes N, even and below the shortest length.
        channels: number of channels H.
        rounds: timed calls of each kernel, of which the fastest counts.
    """

    kernels: tuple[str, ...] = KERNELS
    lengths: tuple[int, ...] = (1024, 4096)
    sizes: tuple[int, ...] = (16, 64)
    channels: int = 32
    rounds: int = 5

    def __post_init__(self):
        for name in self.kernels:
            if name not in KERNELS:
                raise ValueError(f"kernels: expected some of {', '.join(KERNELS)}, got {name!r}")
        if not (self.lengths and self.sizes) or min(*self.lengths, *self.sizes) < 2:
            raise ValueError("lengths, sizes: expected numbers of at least 2")
        if any(n % 2 or n >= min(self.lengths) for n in self.sizes):
            raise ValueError(
                f"sizes: expected even numbers below {min(self.lengths)}, got {self.sizes}"
            )
        if self.channels < 1 or self.rounds < 1:
            raise ValueError("channels, rounds: expected at least 1")


TIMED = True  # nothing may run beside it
PRESETS = {
    "quick": Config(),
    "cpu": Config(lengths=tuple(2**k for k in range(10, 17)), sizes=(4, 16, 64, 256), channels=128),
    "paper": Config(
        lengths=tuple(2**k for k in range(11, 21, 2)), sizes=(4, 16, 64, 256, 1024), channels=128
    ),
}


def program(kernel: str, size: int, length: int, channels: int) -> Program:
    """A kernel as a function of what is trained."""
    half = size // 2
    if kernel == "floor":
        signal = jax.ShapeDtypeStruct((channels, 2 * length), jnp.float32)
        return Program(lambda u: jnp.fft.irfft(jnp.fft.rfft(u), 2 * length), (signal,))
    module, config = {
        "s4": lambda: (s4, s4.Config(channels, length, size)),
        "s4d": lambda: (s4d, s4d.Config(channels, half)),
        "dss": lambda: (dss, dss.Config(channels, length, half, normalization="softmax")),
        "s5": lambda: (s5, s5.Config(channels, half)),
        "rtf": lambda: (rtf, rtf.Config(channels, length, size)),
    }[kernel]()
    params = jax.eval_shape(functools.partial(module.init, config=config), jax.random.key(0))
    if kernel == "s5":
        signal = jax.ShapeDtypeStruct((length, channels), jnp.float32)
        return Program(module.mixer(config).apply, (params, signal))
    return Program(lambda p: module.kernel(module.system(p, config), length), (params,))


def main(config: Config, run: Run) -> dict[str, Any]:
    """Measure every kernel at every place; what is recorded already is not repeated."""
    jobs = [
        (kernel, length, size)
        for length in config.lengths
        for kernel in config.kernels
        for size in (config.sizes if kernel != "floor" else config.sizes[:1])
    ]
    done = {row["step"] for row in run.tracker.rows()}
    for step, (kernel, length, size) in enumerate(jobs):
        if step not in done:
            measured = _measure(program(kernel, size, length, config.channels), config.rounds)
            run.tracker.log(step, kernel=kernel, length=length, n=size, **measured)
            run.check_stop()
    return _slopes(config, run.tracker.rows())


def _measure(one: Program, rounds: int) -> dict[str, float]:
    """Milliseconds of the fastest call, and MiB of temporaries by the compiler's account."""
    generator = np.random.default_rng(0)
    arguments = jax.tree.map(
        lambda x: jnp.asarray(-np.abs(generator.normal(size=x.shape)), x.dtype), one.arguments
    )
    compiled = jax.jit(one.function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    memory: Any = compiled.memory_analysis()
    return {
        "milliseconds": 1e3 * min(seconds),
        "mebibytes": memory.temp_size_in_bytes / 2**20,
    }


def _slopes(config: Config, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Exponents of time in N at the largest length, and the floors at the largest place."""
    result: dict[str, Any] = {}
    last, largest = config.lengths[-1], config.sizes[-1]
    floor = next(
        (r["milliseconds"] for r in rows if (r["kernel"], r["length"]) == ("floor", last)), None
    )
    for kernel in config.kernels:
        here = [r for r in rows if (r["kernel"], r["length"]) == (kernel, last)]
        here.sort(key=lambda row: row["n"])
        if len(here) > 1:
            ends = here[0], here[-1]
            grown = ends[1]["milliseconds"] / ends[0]["milliseconds"]
            result[f"{kernel}_exponent"] = float(
                np.log(grown) / np.log(ends[1]["n"] / ends[0]["n"])
            )
        if floor is not None and kernel != "floor" and here:
            result[f"{kernel}_floors"] = here[-1]["milliseconds"] / floor
    return {"largest_size": largest, "largest_length": last, **result}


def draw(record: Record):
    """Time and memory against length and against size, the other at its largest."""
    figure, axes = figures.new(rows=2, columns=2)
    config, names = record.config, {"n": "N", "length": "L"}
    largest = {"n": config["sizes"][-1], "length": config["lengths"][-1]}
    labels = {"length": "length L", "n": "size of the state N"}
    panels = zip((("length", "n"), ("n", "length")), axes.T, strict=True)
    for (moving, fixed), column in panels:
        for kernel, style in zip(config["kernels"], figures.styles(), strict=False):
            rows = [r for r in record.rows if r["kernel"] == kernel]
            rows.sort(key=lambda row: row[moving])
            if kernel == "floor":  # knows no N
                style = {"color": "#555555", "linewidth": 3.5, "alpha": 0.5}
            if kernel != "floor" or moving == "n":
                rows = [r for r in rows if r[fixed] == largest[fixed]]
            if kernel == "floor" and moving == "n":
                rows = [{**rows[0], "n": n} for n in (config["sizes"][0], largest["n"])]
            label = "FFT there and back" if kernel == "floor" else figures.spelled(kernel)
            for axis, key in zip(column, ("milliseconds", "mebibytes"), strict=True):
                values = [max(row[key], 1e-2) for row in rows]
                axis.plot([row[moving] for row in rows], values, label=label, **style)
        for axis, name in zip(column, ("time (ms)", "temporaries (MiB)"), strict=True):
            title = f"{names[fixed]} = {largest[fixed]}"
            axis.set(xlabel=labels[moving], ylabel=name, title=title)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
    figures.legend_below(figure)
    return figure


def table(record: Record) -> str:
    """Every measurement, and how many floors it is."""
    floors = {r["length"]: r["milliseconds"] for r in record.rows if r["kernel"] == "floor"}
    lines = ["| L | kernel | N | ms | floors | MiB |", "| --- | --- | --- | --- | --- | --- |"]
    for row in sorted(record.rows, key=lambda row: row["step"]):
        floor = floors.get(row["length"])
        ratio = "" if floor is None else f"{row['milliseconds'] / floor:.2f}"
        size = "" if row["kernel"] == "floor" else row["n"]
        lines.append(
            f"| {row['length']} | {row['kernel']} | {size} | {row['milliseconds']:.2f} | {ratio} "
            f"| {row['mebibytes']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": "none: random parameters"}


def programs(config: Config) -> dict[str, Program]:
    """Each kernel at the largest place."""
    place = (config.sizes[-1], config.lengths[-1], config.channels)
    return {kernel: program(kernel, *place) for kernel in config.kernels}


def _floors(record: Record, kernel: str) -> float | None:
    """Five floors over the time at N = 64."""
    if record.config["channels"] < 32:
        return None
    place = ("length", record.result["largest_length"])
    times = {
        (r["kernel"], r["n"]): r["milliseconds"] for r in record.rows if r[place[0]] == place[1]
    }
    floor = next((t for (name, _), t in times.items() if name == "floor"), None)
    ours = times.get((kernel, 64))
    return None if floor is None or ours is None else 5.0 * floor / ours


def _memory_growth(record: Record) -> float | None:
    rows = [r for r in record.rows if r["kernel"] == "s4"]
    if len(rows) < 2:
        return None
    ends = [pick(rows, key=lambda r: r["n"] * r["length"]) for pick in (min, max)]
    product = (ends[1]["n"] * ends[1]["length"]) / (ends[0]["n"] * ends[0]["length"])
    return product / (ends[1]["mebibytes"] / ends[0]["mebibytes"])


def _growth(record: Record, key: str, kernel: str = "rtf") -> float | None:
    """From the smallest to the largest size at the largest length."""
    length = record.result["largest_length"]
    rows = [r for r in record.rows if (r["kernel"], r["length"]) == (kernel, length)]
    ends = [pick(rows, key=lambda r: r["n"]) for pick in (min, max)] if rows else []
    return ends[1][key] / ends[0][key] if len({r["n"] for r in ends}) == 2 else None


def _beside_s5(record: Record) -> float | None:
    """How much more the time of S5's layer grows than that of RTF's kernel."""
    ours, other = (_growth(record, "milliseconds", kernel) for kernel in ("rtf", "s5"))
    return None if ours is None or other is None else other / ours


CLAIMS = (
    Claim(
        id="kernel_cost.s4",
        statement="five floors over the time of S4's kernel at N = 64, largest length, above 1",
        source="the project's own bound; no published value",
        measure=functools.partial(_floors, kernel="s4"),
        paper=1.0,
        kind="ordering",
    ),
    Claim(
        id="kernel_cost.memory",
        statement="how much faster than the temporaries of S4's kernel its size N L grew, from the "
        "smallest to the largest place, above 1: no table of all poles and frequencies",
        source="arXiv 2111.00396, theorem 3: O(N + L) memory",
        measure=_memory_growth,
        paper=1.0,
        kind="ordering",
    ),
    Claim(
        id="kernel_cost.rtf_time",
        statement="time of RTF's kernel at the largest size over that at the smallest, at the "
        "largest length",
        source="arXiv 2405.06147, table 7: 17.963 ms at e = 8 over 17.824 ms at e = 1, length 2^17",
        measure=functools.partial(_growth, key="milliseconds"),
        paper=17.963 / 17.824,
        tolerance=0.1,
        kind="value",
    ),
    Claim(
        id="kernel_cost.rtf_memory",
        statement="temporaries of RTF's kernel at the largest size over those at the smallest, at "
        "the largest length",
        source="arXiv 2405.06147, table 6: 7010 MB at n = 2^8 and at 2^10, length 2^17",
        measure=functools.partial(_growth, key="mebibytes"),
        paper=1.0,
        tolerance=0.02,
    ),
    Claim(
        id="kernel_cost.rtf_beside_s5",
        statement="how much more the time of a layer of S5 grows from the smallest to the largest "
        "size than that of RTF's kernel, above 1",
        source="arXiv 2405.06147, table 7: S5 7.6 times from e = 1 to 8 at length 2^17, RTF 1.01",
        measure=_beside_s5,
        paper=1.0,
        kind="ordering",
    ),
)
