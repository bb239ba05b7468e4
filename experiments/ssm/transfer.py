"""One impulse response in every form of a system, and what a smaller order costs.

Reproduces: no figure; the correspondence of arXiv 2405.06147 and of
https://kexue.fm/archives/10180: state space, companion form, coefficients, poles and residues, and
the kernel that RTF computes by two FFTs are one and the same. Then S4D layers are turned into RTFs
of growing order: short steps have poles next to 1, and coefficients that no precision holds.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import figures
from experiments.harness.ledger import below
from experiments.harness.run import Record, Run
from ssm import rtf, s4d, transfer

FORMS = ("coefficients", "companion", "observable", "modal", "fft", "recurrence")


@dataclass(frozen=True)
class Config:
    """What to convert.

    Attributes:
        sizes: state sizes N of random systems whose poles lie apart.
        draws: number of systems of each size; the worst one counts.
        length: length L of their impulse responses.
        steps: step sizes dt of the S4D systems, of 16 modes, that are reduced.
        orders: orders of the reduced systems.
        reduced_length: steps of the impulse responses on which reductions are compared.
        seed: of the systems.
    """

    sizes: tuple[int, ...] = (1, 2, 4, 8, 12)
    draws: int = 3
    length: int = 128
    steps: tuple[float, ...] = (0.3, 0.1, 0.03)
    orders: tuple[int, ...] = (1, 2, 4, 8, 16, 24)
    reduced_length: int = 256
    seed: int = 0

    def __post_init__(self):
        if not self.sizes or min(*self.sizes, self.draws) < 1 or self.length <= max(self.sizes):
            raise ValueError("sizes, draws, length: expected at least 1, and a longer length")
        if not self.steps or min(self.steps) <= 0:
            raise ValueError(f"steps: expected positive numbers, got {self.steps}")
        if not self.orders or min(self.orders) < 1 or self.reduced_length < 65:
            raise ValueError("orders, reduced_length: expected at least 1 and 65")
        if 2 * max(self.orders) >= self.reduced_length:
            raise ValueError(f"orders: expected less than half of {self.reduced_length}")


ORDERS = (1, 2, 4, 6, 8, 12, 16, 24)
PRESETS = {
    "quick": Config(),
    "cpu": Config(
        sizes=(1, 2, 3, 4, 6, 8, 10, 12, 16, 24, 32, 48, 64),
        draws=20,
        length=1024,
        orders=ORDERS,
        reduced_length=512,
    ),
    "paper": Config(
        sizes=(1, 2, 4, 8, 12, 16, 32, 64, 128),
        draws=100,
        length=4096,
        orders=ORDERS,
        reduced_length=1024,
    ),
}


def draw_system(generator: np.random.Generator, size: int) -> tuple[Any, Any, Any, float]:
    """A stable state space [N, N], [N], [N], whose poles are spread over angles."""
    half = size // 2
    angles = np.pi * (np.arange(half) + generator.uniform(0.2, 0.8, half)) / max(half, 1)
    radii = generator.uniform(0.6, 0.95, half)
    A = np.zeros((size, size))
    for i, (r, angle) in enumerate(zip(radii, angles, strict=True)):
        c, s = r * np.cos(angle), r * np.sin(angle)
        A[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[c, -s], [s, c]]
    if size % 2:
        A[-1, -1] = generator.uniform(-0.9, 0.9)
    Q, _ = np.linalg.qr(generator.normal(size=(size, size)))
    draws = generator.normal(size=(2, size))
    return Q @ A @ Q.T, draws[0], draws[1], float(generator.normal())


def responses(system: tuple[Any, Any, Any, float], length: int) -> dict[str, np.ndarray]:
    """The impulse response [L] of every form; "state space" by matrix powers."""
    b, a, d = transfer.to_transfer_function(*system)
    found = {"state space": _powers(system, length)}
    found["coefficients"] = transfer.impulse_response(b, a, d, length)
    for form in ("companion", "observable"):
        found[form] = _powers(transfer.to_state_space(b, a, d, form), length)
    poles, residues, _ = transfer.to_modal(b, a, d)
    found["modal"] = np.append(d, np.real(np.vander(poles, length - 1, True).T @ residues))
    with jax.enable_x64(True):
        stored = rtf.truncated(rtf.from_coefficients([b], [a], [d]), length)
        found["fft"] = np.asarray(rtf.kernel(stored, length))[0]
        prepared, u = rtf.prepare(stored), jnp.eye(length, 1)[:, None]
        _, y = jax.lax.scan(lambda x, now: rtf.step(prepared, x, now), rtf.init_state(stored, 1), u)
        found["recurrence"] = np.asarray(y)[:, 0, 0]
    return found


def _powers(system: Any, length: int) -> np.ndarray:
    A, B, C, D = system
    values, x = [D], B
    for _ in range(length - 1):
        values.append(C @ x)
        x = A @ x
    return np.array(values)


def main(config: Config, run: Run) -> dict[str, Any]:
    """Differences of all forms at every size, then the reductions at every step."""
    done = {row["step"] for row in run.tracker.rows()}
    for step, size in enumerate(config.sizes):
        if step not in done:
            run.tracker.log(step, n=size, **_differences(config, size))
            run.check_stop()
    for step, dt in enumerate(config.steps, start=len(config.sizes)):
        if step not in done:
            run.tracker.log(step, dt=dt, **_reductions(config, dt))
            run.check_stop()
    rows = [row for row in run.tracker.rows() if row.get("n", 13) <= 12]
    return {"largest_12": max(row[form] for row in rows for form in FORMS)}


def _differences(config: Config, size: int) -> dict[str, float]:
    """The largest of all draws, relative to the largest value of the response."""
    worst: dict[str, float] = dict.fromkeys(FORMS, 0.0)
    for index in range(config.draws):
        generator = np.random.default_rng([config.seed, size, index])
        found = responses(draw_system(generator, size), config.length)
        exact = found["state space"]
        for form in FORMS:
            gap = np.abs(found[form] - exact).max() / np.abs(exact).max()
            worst[form] = max(worst[form], float(gap))
    return worst


def _system(config: Config, dt: float) -> s4d.System:
    """S4D-Lin with 16 modes and random outputs, one channel."""
    Lambda, B = s4d.poles("lin", 16)
    parts = np.random.default_rng(config.seed).normal(size=(2, 1, 16))
    return s4d.from_diagonal(Lambda[None], B[None], parts[0] + 1j * parts[1], [0.0], [dt])


def _reductions(config: Config, dt: float) -> dict[str, Any]:
    """Errors of all orders by both methods, in double precision; and what a figure shows."""
    with jax.enable_x64(True):
        one = _system(config, dt)
        K = transfer.impulse_responses(one, config.reduced_length)[0]
        A, B, C = (part[0] for part in transfer.state_space(one)[:3])
        b, a, _ = transfer.to_transfer_function(A, B, C, K[0], minimal=False)
        own = rtf.kernel(rtf.from_coefficients(b[None], a[None], K[:1]), len(K))[0]
        result: dict[str, Any] = {"own": float(np.abs(own - K).max() / np.abs(K).max())}
        for method in transfer.METHODS:
            found = transfer.reductions(K, config.orders, method)
            result[method] = [_error(K, b, a) for b, a in found]
        modes = np.linalg.eigvals(A)
    omega = np.linspace(0.0, np.pi, 129)
    with np.errstate(all="ignore"):
        exact = np.abs(np.exp(-1j * np.outer(omega, np.arange(len(K)))) @ K)
        best = config.orders[int(np.argmin(result["hankel"]))]
        b, a = transfer.reduce(K, best)
        near = np.abs(transfer.frequency_response(b, a, K[0], omega))
    return {
        **result,
        "best": best,
        "response": exact.round(5).tolist(),
        "response_reduced": near.round(5).tolist(),
        "poles": [np.real(modes).round(5).tolist(), np.imag(modes).round(5).tolist()],
        "poles_reduced": _parts(np.roots(np.append(1.0, a))),
        "zeros_reduced": _parts(transfer.zeros(b, a, K[0])),
    }


def _parts(roots: np.ndarray) -> list[list[float]]:
    return [np.real(roots).round(5).tolist(), np.imag(roots).round(5).tolist()]


def _error(K: np.ndarray, b: np.ndarray, a: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        near = transfer.impulse_response(b, a, K[0], len(K))
        error = np.abs(near - K).max() / np.abs(K).max()
    return float(min(error, 1e3)) if np.isfinite(error) else 1e3


def draw(record: Record):
    """Differences against N; reductions; frequency responses; poles and zeros."""
    config = record.config
    rows = sorted(record.rows, key=lambda row: row["step"])
    sizes, steps = [r for r in rows if "n" in r], [r for r in rows if "dt" in r]
    figure, axes = figures.new(rows=2, columns=2)
    for form, style in zip(FORMS, figures.styles(), strict=False):
        values = [max(r[form], 1e-17) for r in sizes]
        label = "FFT" if form == "fft" else form
        axes[0, 0].plot([r["n"] for r in sizes], values, label=label, **style)
    axes[0, 0].set(xlabel="N", ylabel="difference from the state space", title="one system")
    for row, style in zip(steps, figures.styles(), strict=False):
        for method, line in zip(transfer.METHODS, ("-", ":"), strict=True):
            name = figures.spelled(method)
            look = {**style, "linestyle": line, "label": f"dt = {row['dt']:g}, {name}"}
            axes[0, 1].plot(config["orders"], np.clip(row[method], 1e-16, 10.0), **look)
    axes[0, 1].set(xlabel="order", ylabel="error of the response, at most 10")
    axes[0, 1].set(title="S4D (N = 32), reduced")
    for axis in axes[0]:
        axis.set_yscale("log")
        axis.legend(fontsize=7)
    _draw_responses(axes[1, 0], steps)
    _draw_plane(axes[1, 1], steps[0])
    return figure


def _draw_responses(axis: Any, steps: list[dict[str, Any]]) -> None:
    """Sizes of frequency responses, and of the best reductions."""
    for row, style in zip(steps, figures.styles(), strict=False):
        omega = np.linspace(0.0, np.pi, len(row["response"]))
        look = {**style, "linestyle": "-", "markevery": max(1, len(omega) // 12)}
        axis.plot(omega, row["response"], label=f"dt = {row['dt']:g}", **look)
        label = "best reduction" * (row is steps[-1])
        look = {"color": "#000000", "linestyle": ":", "linewidth": 1.0, "label": label}
        axis.plot(omega, row["response_reduced"], **look)
    axis.set(xlabel="frequency (rad a sample)", ylabel="|H|", title="frequency responses")
    axis.set_yscale("log")
    axis.set_ylim(bottom=0.3 * min(min(row["response"]) for row in steps))
    axis.legend(fontsize=7, loc="lower right", ncols=2)


def _draw_plane(axis: Any, row: dict[str, Any]) -> None:
    """Poles of a system, and poles and zeros of its best reduction."""
    turn = np.linspace(0.0, 2.0 * np.pi, 200)
    axis.plot(np.cos(turn), np.sin(turn), color="#999999", linewidth=0.8)
    kinds = (
        ("poles", "poles", "x"),
        ("poles_reduced", f"poles, order {row['best']}", "+"),
        ("zeros_reduced", f"zeros, order {row['best']}", "o"),
    )
    for (key, label, marker), color in zip(kinds, figures.COLORS, strict=False):
        axis.plot(*row[key], marker, color=color, markersize=6, fillstyle="none", label=label)
    axis.set(title=f"poles and zeros, dt = {row['dt']:g}", xlabel="Re", ylabel="Im")
    axis.set(xlim=(-1.3, 2.7), ylim=(-1.3, 1.3), aspect="equal")
    axis.legend(fontsize=7, loc="right")


def table(record: Record) -> str:
    """Differences of the forms, then errors of the reductions."""
    rows = sorted(record.rows, key=lambda row: row["step"])
    lines = [f"| N | {' | '.join(FORMS)} |", "| --- " * (len(FORMS) + 1) + "|"]
    for r in (r for r in rows if "n" in r):
        lines.append(f"| {r['n']} | " + " | ".join(f"{r[form]:.1e}" for form in FORMS) + " |")
    orders = record.config["orders"]
    lines += ["", "| dt | method | own | " + " | ".join(f"order {n}" for n in orders) + " |"]
    lines.append("| --- " * (len(orders) + 3) + "|")
    for r in (r for r in rows if "dt" in r):
        for method in transfer.METHODS:
            errors = " | ".join(f"{value:.1e}" for value in r[method])
            lines.append(f"| {r['dt']:g} | {method} | {r['own']:.1e} | {errors} |")
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": f"none: {config.draws} random systems of {len(config.sizes)} sizes"}


CLAIMS = (
    below(
        "transfer.forms",
        "largest relative difference of impulse responses among all forms, N up to 12",
        1e-8,
        lambda record: record.result["largest_12"],
    ),
)
