"""The bases of S4 and S4D: the impulse response of each coordinate of the state.

Reproduces: figures of S4D (arXiv 2206.11893): the functions e^{tA} B of S4-LegS, S4-FouT
and S4D's initialisations, and its theorem 3: for smooth inputs the outputs of S4D-LegS, which
lacks the rank-one term, approach those of S4-LegS as N grows. Their kernels do so only slowly.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from experiments.harness import figures
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from ssm import hippo, s4d
from ssm.discretize import discretize

SHOWN = 4  # coordinates in each panel
PANELS = ("s4-legs", "s4-fout", "s4d-legs", "s4d-lin", "s4d-inv", "s4d-quad")


@dataclass(frozen=True)
class Config:
    """Which systems to compare.

    Attributes:
        sizes: state sizes N, even, ascending.
        shown: N of the systems whose functions are drawn.
        horizon: time up to which outputs and functions are followed.
        points: number of time steps up to `horizon`.
    """

    sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    shown: int = 64
    horizon: float = 3.0
    points: int = 600

    def __post_init__(self):
        for n in (*self.sizes, self.shown):
            if n < 8 or n % 2:
                raise ValueError(f"sizes, shown: expected even numbers of at least 8, got {n}")
        if len(self.sizes) < 2 or self.horizon <= 0 or self.points < 2:
            raise ValueError("sizes, horizon, points: expected two sizes, a time and two points")


PRESETS = {
    "quick": Config(),
    "cpu": Config(sizes=(8, 16, 32, 64, 128, 256), points=3000),
    "paper": Config(sizes=(8, 16, 32, 64, 128, 256, 512, 1024), shown=1024, points=10_000),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Differences between S4-LegS and S4D-LegS at every size; functions for the figure."""
    done = {row["step"] for row in run.tracker.rows()}
    with jax.enable_x64(True):
        for n in config.sizes:
            if n not in done:
                run.tracker.log(n, **_differences(n, config))
                run.check_stop()
    rows = sorted(run.tracker.rows(), key=lambda row: row["step"])
    slope = np.polyfit(
        np.log([row["step"] for row in rows]), np.log([row["smooth"] for row in rows]), 1
    )[0]
    return {
        "smooth_order": -float(slope),
        "largest_kernel_difference": rows[-1]["kernel"],
        "largest_smooth_difference": rows[-1]["smooth"],
        **_curves(config),
    }


def _times(config: Config) -> np.ndarray:
    return np.linspace(0.0, config.horizon, config.points + 1)


def _states(u: np.ndarray, n: int, dt: float) -> np.ndarray:
    """States of the LegS matrix as a fixed system, [points, n], for an input held over steps."""
    A, B = hippo.transition("legs", n)
    a, b = discretize(A, B, dt, "zoh")
    c, states = np.zeros(n), []
    for now in u:
        c = a @ c + b * now
        states.append(c)
    return np.array(states)


def _differences(n: int, config: Config) -> dict[str, float]:
    """Largest differences over the first coordinates, relative to the largest value of S4-LegS."""
    t = _times(config)
    smooth, impulse = np.sin(3.0 * t) * np.exp(-t / 3.0), np.zeros_like(t)
    impulse[0] = 1.0
    full = hippo.dplr("legs", n)
    Lambda, B = s4d.poles("legs", n // 2)
    outputs = full.V[:SHOWN, np.imag(full.Lambda) > 0]
    Lambda, B = (np.broadcast_to(part, outputs.shape) for part in (Lambda, B))
    one = s4d.from_diagonal(Lambda, B, outputs, np.zeros(SHOWN), np.full(SHOWN, t[1]))
    apply = jax.jit(s4d.apply)
    errors = {}
    for name, u in (("smooth", smooth), ("kernel", impulse)):
        exact = _states(u, n, t[1])[:, :SHOWN]
        ours = np.asarray(apply(one, np.repeat(u[:, None], SHOWN, axis=1)))
        errors[name] = float(np.abs(ours - exact).max() / np.abs(exact).max())
    return errors


def functions(name: str, n: int, t: np.ndarray) -> np.ndarray:
    """(e^{tA} B)_k for the first coordinates k, [coordinates, times].

    Diagonal systems: the real parts of exp(t lambda_k) of the slowest modes.
    """
    kind, measure = name.split("-")
    if kind == "s4":
        system = hippo.dplr(measure, n + (measure == "fout"))
        A = np.diag(system.Lambda) - system.P.T @ system.P.conj()
        A, B = np.real(system.V @ A @ system.V.conj().T), np.real(system.V @ system.B)
        a, _ = discretize(A, B, t[1] - t[0], "zoh")
        states = [B]
        for _ in t[1:]:
            states.append(a @ states[-1])
        return np.array(states).T[:SHOWN]
    Lambda, _ = s4d.poles(measure, n // 2)
    slow = Lambda[np.argsort(np.abs(np.imag(Lambda)), kind="stable")[:SHOWN]]
    return np.real(np.exp(slow[:, None] * t))


def _curves(config: Config) -> dict[str, Any]:
    t = np.linspace(0.0, config.horizon, 301)
    curves = {name: functions(name, config.shown, t).round(4).tolist() for name in PANELS}
    return {"curve_t": t.round(4).tolist(), **{f"curve_{k}": v for k, v in curves.items()}}


def draw(record: Record):
    """Functions of six systems, and the differences against N."""
    figure, axes = figures.new(rows=4, columns=2, width=4.0, height=2.3)
    for axis, name in zip(axes.flat, PANELS, strict=False):
        curves = record.result[f"curve_{name}"]
        for n, (curve, style) in enumerate(zip(curves, figures.styles(), strict=False)):
            look = {**style, "marker": None, "label": f"n = {n}"}
            axis.plot(record.result["curve_t"], curve, **look)
        kind, measure = name.split("-")
        spelled = figures.spelled(measure) if measure in ("legs", "fout") else measure.title()
        formula = "$(e^{tA}B)_n$" if kind == "s4" else "Re $e^{t\\lambda_n}$"
        axis.set(title=f"{kind.upper()}-{spelled}", xlabel="t", ylabel=formula)
    rows = sorted(record.rows, key=lambda row: row["step"])
    for axis, key, title in (
        (axes[3, 0], "smooth", "S4D-LegS and S4-LegS, smooth input"),
        (axes[3, 1], "kernel", "S4D-LegS and S4-LegS, kernels"),
    ):
        style = {**next(iter(figures.styles())), "color": figures.COLORS[-1]}
        axis.plot([r["step"] for r in rows], [r[key] for r in rows], **style)
        axis.set(xlabel="N", ylabel="relative difference", title=title)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
    axes[3, 1].set_ylim(1e-3, 2.0)
    figures.legend_below(figure)
    return figure


def table(record: Record) -> str:
    """Differences at every size."""
    lines = ["| N | smooth input | kernel |", "| --- | --- | --- |"]
    lines += [
        f"| {row['step']} | {row['smooth']:.2e} | {row['kernel']:.2e} |"
        for row in sorted(record.rows, key=lambda row: row["step"])
    ]
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": f"none: systems of {len(config.sizes)} sizes, {config.points} samples"}


def _approach(record: Record) -> float:
    rows = sorted(record.rows, key=lambda row: row["step"])
    return min(a["smooth"] / b["smooth"] for a, b in itertools.pairwise(rows))


CLAIMS = (
    Claim(
        id="basis.approach",
        statement="least factor by which the outputs of S4D-LegS for a smooth input come closer to "
        "those of S4-LegS from one N to the next, above 1",
        source="S4D, theorem 3 (arXiv 2206.11893): they converge",
        measure=_approach,
        paper=1.0,
        kind="ordering",
    ),
)
