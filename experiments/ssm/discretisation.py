"""Orders of convergence of discretised HiPPO systems, their scale and how they forget.

Reproduces: no figure; the statements of https://kexue.fm/archives/10137 on step sizes, timescale
equivariance and long-tailed memory, measured. Errors are those of c(1) against what the continuous
system leaves.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy.linalg import expm
from scipy.special import eval_legendre, factorial

from experiments.harness import figures
from experiments.harness.ledger import Claim, below
from experiments.harness.run import Record, Run
from ssm import hippo, history, online

METHODS = {"legs": history.METHODS, "legt": ("forward", "backward", "bilinear", "trapezoid", "zoh")}
TAILS = ("legs", "lagt", "legt")
POWERS = (1.0, 1.0, -3.0, 2.0)  # the signal is a cubic: its coefficients by power
MEMORY = 4  # coefficients of the systems whose forgetting is drawn


@dataclass(frozen=True)
class Config:
    """How finely to sample.

    Attributes:
        lengths: numbers of samples L, ascending; orders of convergence are fits to the last three.
        n: number of coefficients of the state.
        tail: samples after an impulse over which forgetting is followed.
        tail_window: window, in samples, of the time-invariant systems (LagT, LegT) there.
    """

    lengths: tuple[int, ...] = (256, 512, 1024)
    n: int = 6
    tail: int = 4096
    tail_window: int = 64

    def __post_init__(self):
        if len(self.lengths) < 3 or min(self.lengths) < 2 or self.n < 1:
            raise ValueError("lengths, n: expected three lengths of at least 2, and n >= 1")
        if self.tail < 64 or not 1 <= self.tail_window <= self.tail:
            raise ValueError("tail, tail_window: expected at least 64, and a window inside")


PRESETS = {
    "quick": Config(),
    "cpu": Config(lengths=tuple(2**k for k in range(6, 15)), n=8, tail=65_536),
    "paper": Config(lengths=tuple(2**k for k in range(6, 19)), n=8, tail=1_048_576),
}


def exact(measure: str, n: int) -> np.ndarray:
    """c(1): the projection on [0, 1] for LegS, the solution of the system for LegT.

    For the latter the derivatives of the signal are further coordinates, and one matrix
    exponential solves both.
    """
    if measure == "legs":
        points, weights = np.polynomial.legendre.leggauss(n + 4)
        k = np.arange(n)
        basis = np.sqrt(2 * k + 1) * eval_legendre(k, points[:, None])
        return (0.5 * weights * _signal(0.5 * (1.0 + points))) @ basis
    system = np.zeros((n + 4, n + 4))
    system[:n, :n], system[:n, n] = hippo.transition(measure, n)
    system[n:, n:] = np.eye(4, k=1)
    start = np.concatenate([np.zeros(n), factorial(np.arange(4)) * POWERS])
    return (expm(system) @ start)[:n]


def _signal(t: np.ndarray) -> np.ndarray:
    return np.polyval(POWERS[::-1], t)


def main(config: Config, run: Run) -> dict[str, Any]:
    """Errors at every length; slopes, scale and tails."""
    jobs = [(m, method) for m in METHODS for method in METHODS[m]]
    done = {row["step"] for row in run.tracker.rows()}
    with jax.enable_x64(True):
        for step, (measure, method) in enumerate(jobs):
            if step not in done:
                errors = [_error(measure, method, length, config.n) for length in config.lengths]
                slope = np.polyfit(np.log(config.lengths[-3:]), np.log(errors[-3:]), 1)[0]
                run.tracker.log(
                    step, measure=measure, method=method, errors=errors, order=-float(slope)
                )
                run.check_stop()
        result = {**_scale(config), **_tails(config)}
    for row in run.tracker.rows():
        result[f"{row['measure']}_{row['method']}_order"] = row["order"]
    return result


def _error(measure: str, method: str, length: int, n: int) -> float:
    signal = _signal(np.arange(1, length + 1) / length)
    state = np.asarray(online.project(signal, measure, n, method)[-1])
    return float(np.abs(state - exact(measure, n)).max())


def _scale(config: Config) -> dict[str, float]:
    """How much the states depend on the speed: nothing may enter but the numbers read.

    For every method, states of the first half of a signal against those of it alone: a step size
    taken from the length would show. For the exact one also the signal at half the speed, every
    sample held twice as long, at equal progress.
    """
    length, n = config.lengths[0], 3  # forward steps of larger systems are unstable at first
    signal = _signal(np.arange(1, 2 * length + 1) / length)
    worst = 0.0
    for method in history.METHODS:
        whole, half = (online.project(u, "legs", n, method) for u in (signal, signal[:length]))
        worst = max(worst, float(np.abs(np.asarray(whole)[:length] - np.asarray(half)).max()))
    slow = online.project(np.repeat(signal[:length], 2), "legs", n, "exact")
    fast = online.project(signal[:length], "legs", n, "exact")
    difference = np.abs(np.asarray(slow)[1::2] - np.asarray(fast)).max()
    return {"scale_difference": max(worst, float(difference))}


def _tails(config: Config) -> dict[str, Any]:
    """Sizes of the state after an impulse, and the exponent of LegS."""
    impulse = np.zeros(config.tail)
    impulse[0] = 1.0
    times = np.unique(np.geomspace(8, config.tail, 40).astype(int))
    tails: dict[str, Any] = {"tail_times": times.tolist()}
    for measure in TAILS:
        whole = measure == "legs"
        window = 1.0 if whole else config.tail_window / config.tail
        method = "exact" if whole else "zoh"
        states = np.asarray(online.project(impulse, measure, MEMORY, method, window=window))
        tails[f"tail_{measure}"] = np.linalg.norm(states[times - 1], axis=1).tolist()
    late = times >= config.tail // 8
    size = np.array(tails["tail_legs"])[late]
    tails["tail_exponent"] = float(np.polyfit(np.log(times[late]), np.log(size), 1)[0])
    return tails


def draw(record: Record):
    """Errors against the number of samples for both systems, and forgetting."""
    figure, axes = figures.new(rows=1, columns=3, width=3.8, height=3.3)
    lengths = record.config["lengths"]
    for axis, measure in zip(axes[0], METHODS, strict=False):
        rows = sorted(record.rows, key=lambda row: row["step"])
        rows = [row for row in rows if row["measure"] == measure]
        for row, style in zip(rows, figures.styles(), strict=False):
            label = f"{figures.spelled(row['method'])}: order {row['order']:.2f}"
            axis.plot(lengths, row["errors"], label=label, **style)
        axis.set(xlabel="samples L", ylabel="error of the state c(1)")
        axis.set(title=f"{figures.spelled(measure)}, discretised")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_ylim(1e-4 * min(min(row["errors"]) for row in rows), None)
        axis.legend(loc="lower left", fontsize=8)
    axis = axes[0, 2]
    for measure, style in zip(TAILS, figures.styles(), strict=False):
        sizes = np.maximum(record.result[f"tail_{measure}"], 1e-12)
        look = {**style, "marker": None, "label": figures.spelled(measure)}
        axis.plot(record.result["tail_times"], sizes, **look)
    axis.set(xlabel="samples since the impulse", ylabel="size of its trace", title="forgetting")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(1e-9, None)
    axis.legend()
    return figure


def table(record: Record) -> str:
    """Orders and the error at the largest length."""
    last = record.config["lengths"][-1]
    lines = [f"| system | method | error at L = {last} | order |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {r['measure']} | {r['method']} | {r['errors'][-1]:.2e} | {r['order']:.3f} |"
        for r in sorted(record.rows, key=lambda row: row["step"])
    ]
    result = record.result
    lines += [
        "",
        f"Length and speed change the states of LegS by {result['scale_difference']:.1e}; its "
        f"memory fades with the exponent {result['tail_exponent']:.3f}.",
    ]
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": f"synthetic: a cubic at up to {max(config.lengths)} samples"}


def _order(measure: str, method: str, order: float) -> Claim:
    return Claim(
        id=f"discretisation.{measure}_{method}",
        statement=f"order of convergence of {measure} by the method {method}",
        source="numerical analysis; archives/10137 for the methods",
        measure=lambda record: record.result[f"{measure}_{method}_order"],
        paper=order,
        tolerance=0.1,
    )


CLAIMS = (
    *(
        _order(measure, method, 2.0 if method == "trapezoid" else 1.0)
        for measure, methods in METHODS.items()
        for method in methods
    ),
    below(
        "discretisation.scale",
        "largest difference between the LegS states of a signal alone and inside a longer one, "
        "or at half the speed by the exact method",
        1e-12,
        lambda record: record.result["scale_difference"],
    ),
    Claim(
        id="discretisation.tail",
        statement="exponent with which LegS forgets an impulse",
        source="archives/10137, long-tailed memory: a polynomial in 1/t",
        measure=lambda record: record.result["tail_exponent"],
        paper=-1.0,
        tolerance=0.02,
    ),
)
