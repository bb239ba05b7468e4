"""One set of parameters as a convolution and as a recurrence: how far their outputs drift apart.

Reproduces: no figure. A deep model of each mixer reads a signal at once, and again as a prompt
followed by single steps; users of the original code report differences of a hundredth and more
after thousands of steps (state-spaces/s4, issues 52 and 115).
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
from experiments.harness.ledger import below
from experiments.harness.run import Record, Run
from ssm import dss, rtf, s4, s4d, s5, stack
from ssm.mixer import Mixer

KINDS = ("s4", "s4d", "dss", "s5", "rtf")
PRECISIONS = ("float32", "float64")


@dataclass(frozen=True)
class Config:
    """The models and the signal.

    Attributes:
        mixers: some of `KINDS`.
        length: number of steps of the signal.
        prompt: how many of them are read at once before the recurrence takes over.
        channels, layers, size: of the models: width, number of layers, state size N.
        batch: number of signals.
        seed: of parameters and signals.
    """

    mixers: tuple[str, ...] = KINDS
    length: int = 8192
    prompt: int = 1000
    channels: int = 8
    layers: int = 2
    size: int = 16
    batch: int = 1
    seed: int = 0

    def __post_init__(self):
        for name in self.mixers:
            if name not in KINDS:
                raise ValueError(f"mixers: expected some of {', '.join(KINDS)}, got {name!r}")
        if not 0 < self.prompt < self.length:
            raise ValueError(
                f"prompt: expected 1 to {self.length - 1} of the {self.length} steps, "
                f"got {self.prompt}"
            )
        if self.size < 2 or self.size % 2:
            raise ValueError(f"size: expected an even number of at least 2, got {self.size}")


PRESETS = {
    "quick": Config(mixers=("s4", "s5", "rtf")),
    "cpu": Config(channels=32, layers=4, size=64),
    "paper": Config(length=65_536, channels=256, layers=6, size=64, batch=8),
}


def model(kind: str, config: Config) -> Mixer:
    """A deep model as six functions."""
    d, half = config.channels, config.size // 2
    mixer = {
        "s4": lambda: s4.mixer(s4.Config(d, config.length, config.size)),
        "s4d": lambda: s4d.mixer(s4d.Config(d, half, init="legs")),
        "dss": lambda: dss.mixer(dss.Config(d, config.length, half, normalization="softmax")),
        "s5": lambda: s5.mixer(s5.Config(d, half)),
        "rtf": lambda: rtf.mixer(
            rtf.Config(d, config.length, config.size, init="uniform", constraint="l1")
        ),
    }[kind]()
    return stack.model(stack.Config(d, outputs=1, layers=config.layers), mixer)


def main(config: Config, run: Run) -> dict[str, Any]:
    """Both views of every model in both precisions."""
    jobs = [(kind, precision) for kind in config.mixers for precision in PRECISIONS]
    done = {row["step"] for row in run.tracker.rows()}
    for step, (kind, precision) in enumerate(jobs):
        if step not in done:
            with jax.enable_x64(precision == "float64"):
                run.tracker.log(step, mixer=kind, precision=precision, **_compare(kind, config))
            run.check_stop()
    rows = run.tracker.rows()
    return {
        f"largest_{precision}": max(r["error"] for r in rows if r["precision"] == precision)
        for precision in PRECISIONS
    }


def whole(params: Any, u: Any, kind: str, config: Config) -> Any:
    """Outputs [B, L] of the signal at once."""
    return model(kind, config).apply(params, u)[..., 0]


def prompted(params: Any, u: Any, kind: str, config: Config) -> tuple[Any, Any, Any]:
    """The prepared parameters, the state after the prompt, and the prompt's outputs."""
    one = model(kind, config)
    state = one.init_state(u.shape[0], 0, u.dtype)
    state, y = one.prefill(params, u[:, : config.prompt], state)
    return one.prepare(params), state, y[..., 0]


def streamed(prepared: Any, state: Any, u: Any, kind: str, config: Config) -> Any:
    """Outputs [B, L - prompt] of the rest, step by step."""
    one = model(kind, config)
    body = functools.partial(one.step, prepared)
    _, y = jax.lax.scan(body, state, jnp.moveaxis(u[:, config.prompt :], 1, 0))
    return y[..., 0].T


def _compare(kind: str, config: Config) -> dict[str, Any]:
    params = model(kind, config).init(jax.random.key(config.seed))
    generator = np.random.default_rng(config.seed)
    u = jnp.asarray(generator.normal(size=(config.batch, config.length, 1)), float)
    once, prompt, steps = (
        jax.jit(functools.partial(f, kind=kind, config=config)) for f in (whole, prompted, streamed)
    )
    exact = np.asarray(once(params, u))
    prepared, state, first = prompt(params, u)
    rest = jax.block_until_ready(steps(prepared, state, u))
    start = time.perf_counter()
    jax.block_until_ready(steps(prepared, state, u))
    seconds = time.perf_counter() - start
    gap = np.abs(np.concatenate([first, rest], axis=1) - exact).max(axis=0)
    pieces = np.array_split(gap, 32)
    return {
        "error": float(gap.max() / np.abs(exact).max()),
        "steps_per_second": (config.length - config.prompt) / seconds,
        "ends": (np.cumsum([len(p) for p in pieces])).tolist(),
        "errors": [float(p.max() / np.abs(exact).max()) for p in pieces],
    }


def draw(record: Record):
    """Differences over the signal, in both precisions."""
    figure, axes = figures.new(rows=1, columns=2, height=3.4)
    for axis, precision in zip(axes[0], PRECISIONS, strict=True):
        rows = [row for row in record.rows if row["precision"] == precision]
        rows.sort(key=lambda row: row["step"])
        for row, style in zip(rows, figures.styles(), strict=False):
            floor = 1e-9 if precision == "float32" else 1e-18
            look = {**style, "label": figures.spelled(row["mixer"])}
            look |= {"linewidth": 1.1, "markersize": 3.5}
            axis.plot(row["ends"], np.maximum(row["errors"], floor), **look)
        prompt = {"color": "#555555", "linewidth": 1.0, "linestyle": (0, (6, 2))}
        axis.axvline(record.config["prompt"], label="end of the prompt", **prompt)
        axis.set(xlabel="step", ylabel="relative difference", title=precision)
        axis.set_yscale("log")
    figures.legend_below(figure)
    return figure


def table(record: Record) -> str:
    """Largest differences, and speeds."""
    lines = ["| mixer | precision | difference | steps/s |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {r['mixer']} | {r['precision']} | {r['error']:.1e} | {r['steps_per_second']:.0f} |"
        for r in sorted(record.rows, key=lambda row: row["step"])
    ]
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": f"synthetic: white noise, {config.length} steps"}


def programs(config: Config) -> dict[str, Program]:
    """Reading the signal at once with every mixer."""
    u = jax.ShapeDtypeStruct((config.batch, config.length, 1), jnp.float32)
    table = {}
    for kind in config.mixers:
        params = jax.eval_shape(model(kind, config).init, jax.random.key(0))
        function = functools.partial(whole, kind=kind, config=config)
        table[kind] = Program(function, (params, u), calls=len(PRECISIONS))
    return table


def _error(record: Record, precision: str) -> float | None:
    enough = record.config["length"] >= 8192
    return record.result[f"largest_{precision}"] if enough else None


CLAIMS = (
    below(
        "streaming.single",
        "largest relative difference of convolution and recurrence over 8192 steps or more, in "
        "single precision",
        1e-4,
        functools.partial(_error, precision="float32"),
    ),
    below(
        "streaming.double",
        "the same in double precision",
        1e-10,
        functools.partial(_error, precision="float64"),
    ),
)
