"""Why S4 is built as it is: four things that go wrong without its structure.

Reproduces: no figure; the arguments of https://kexue.fm/archives/10162, measured. LegS cannot be
diagonalised in floating point, its normal-plus-rank-one form can; a convolution of L samples needs
2 L points; the truncated C~ belongs to L-th roots of unity and to no others; and the matrix of
LegS in a system with a fixed step forgets exponentially.
"""

import itertools
from dataclasses import dataclass
from fractions import Fraction
from math import factorial, log2
from typing import Any

import numpy as np

from experiments.harness import figures
from experiments.harness.ledger import Claim, below
from experiments.harness.run import Record, Run
from ssm import hippo, legs
from ssm.discretize import discretize


@dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
        sizes: N of the matrices that are diagonalised.
        length: L of kernel and signal.
        kernel_size: state size N of the system with that kernel.
        dt: step size of that system: about 1/L, or nothing of the first terms is left after L.
        seed: of the signal.
    """

    sizes: tuple[int, ...] = (4, 8, 12, 16, 24, 32, 48, 64)
    length: int = 256
    kernel_size: int = 16
    dt: float = 0.004
    seed: int = 0

    def __post_init__(self):
        if len(self.sizes) < 2 or min(*self.sizes, self.kernel_size) < 2:
            raise ValueError("sizes, kernel_size: expected two sizes, and numbers of at least 2")
        if self.length < 8 or self.dt <= 0:
            raise ValueError("length, dt: expected at least 8 samples and a positive step")


MEMORY_STEP = 0.02

PRESETS = {
    "quick": Config(),
    "cpu": Config(sizes=(4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256), length=1024, dt=1e-3),
    "paper": Config(
        sizes=(4, 8, 16, 32, 64, 128, 256, 512, 1024), length=16_384, kernel_size=64, dt=6e-5
    ),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Diagonalisations of every size; convolutions and memory once."""
    done = {row["step"] for row in run.tracker.rows()}
    for n in config.sizes:
        if n not in done:
            run.tracker.log(n, **_diagonalisation(n))
            run.check_stop()
    rows = sorted(run.tracker.rows(), key=lambda row: row["step"])
    growth = (rows[-1]["range"] - rows[-2]["range"]) / (rows[-1]["step"] - rows[-2]["step"])
    return {"range_growth": growth, **_convolutions(config), **_memory()}


def eigenvector_range(n: int) -> float:
    """log2 of |S_{n-1} / S_{m-1}|, m = n/3, of the eigenvector of -A with eigenvalue m.

    With S_k the partial sum of sqrt(2 j + 1) v_j, -A v = m v reads
    S_{k-1} = (m - k - 1)/(m + k) S_k: nothing before k = m - 1, and a product from there on.
    """
    m = max(1, n // 3)
    ratio = Fraction(factorial(n + m - 1), factorial(n - m) * factorial(2 * m - 1))
    return log2(ratio.numerator) - log2(ratio.denominator)


def _diagonalisation(n: int) -> dict[str, float]:
    """What each route leaves of A, relative to its largest entry."""
    A, _ = hippo.transition("legs", n)
    values, vectors = np.linalg.eig(A)
    with np.errstate(all="ignore"):
        condition = np.linalg.cond(vectors)
        back = (vectors * values) @ np.linalg.pinv(vectors)
    system = hippo.dplr("legs", n)
    normal = system.V @ (np.diag(system.Lambda) - system.P.T @ system.P.conj()) @ system.V.conj().T
    scale = np.abs(A).max()
    return {
        "range": eigenvector_range(n),
        "condition": float(log2(condition)),
        "direct": float(np.abs(back - A).max() / scale),
        "low_rank": float(np.abs(normal - A).max() / scale),
        "unitary": float(np.abs(system.V.conj().T @ system.V - np.eye(n)).max()),
    }


def _convolutions(config: Config) -> dict[str, Any]:
    """The kernel of a system, its convolution on L and 2 L points, and C~ at 2 L-th roots."""
    length, n = config.length, config.kernel_size
    A, B = hippo.transition("legs", n)
    a, b = discretize(A, B, config.dt, "bilinear")
    C = np.random.default_rng(config.seed).normal(size=n)
    x, kernel = b, []
    for _ in range(2 * length):
        kernel.append(C @ x)
        x = a @ x
    kernel = np.array(kernel)
    signal = np.random.default_rng(config.seed + 1).normal(size=length)
    exact = np.convolve(signal, kernel[:length])[:length]
    errors = {}
    for points in (length, 2 * length):
        product = np.fft.rfft(signal, points) * np.fft.rfft(kernel[:length], points)
        errors[points] = _relative(np.fft.irfft(product, points)[:length], exact)
    truncated = C @ (np.eye(n) - np.linalg.matrix_power(a, length))
    naive = _from_roots(truncated, a, b, 2 * length)
    # z^L = -1 at every other root: the factor that belongs there is 1 + a^L.
    other = C @ (np.eye(n) + np.linalg.matrix_power(a, length))
    right = _from_roots(truncated, a, b, 2 * length, other)
    padded = np.concatenate([kernel[:length], np.zeros(length)])
    shown = slice(None, None, max(1, length // 128))
    return {
        "points_l": errors[length],
        "points_2l": errors[2 * length],
        "roots_l": _relative(_from_roots(truncated, a, b, length), kernel[:length]),
        "roots_2l_fixed": _relative(naive, padded),
        "roots_2l_by_sign": _relative(right, padded),
        "curve_index": np.arange(2 * length)[shown].tolist(),
        "curve_kernel": padded[shown].round(6).tolist(),
        "curve_fixed": naive[shown].round(6).tolist(),
    }


def _from_roots(C: Any, a: Any, b: Any, points: int, odd: Any = None) -> np.ndarray:
    """Kernel whose transform is C (1 - a z)^-1 b at all roots; another C at the odd ones."""
    values = []
    for j in range(points // 2 + 1):
        z = np.exp(-2j * np.pi * j / points)
        row = odd if odd is not None and j % 2 else C
        values.append(row @ np.linalg.solve(np.eye(len(b)) - z * a, b))
    return np.fft.irfft(values, points)


def _relative(value: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(value - exact).max() / np.abs(exact).max())


def _memory() -> dict[str, Any]:
    """What is left of a state after a while: of the fixed system, and of LegS itself."""
    n = 4
    times = np.unique(np.geomspace(8, 4096, 40).astype(int))
    A, _ = hippo.transition("legs", n)
    a, _ = discretize(A, np.zeros(n), MEMORY_STEP, "zoh")
    fixed = [np.linalg.norm(np.linalg.matrix_power(a, int(k - 8)), 2) for k in times]
    own = [np.linalg.norm(legs.forgetting(n, 8, int(k)), 2) for k in times]
    late = times >= 1000
    rate = np.polyfit(MEMORY_STEP * times[late], np.log(np.maximum(fixed, 1e-300))[late], 1)[0]
    return {
        "memory_times": times.tolist(),
        "memory_fixed": np.maximum(fixed, 1e-30).tolist(),
        "memory_legs": [float(value) for value in own],
        "fixed_rate": float(-rate),
        "legs_exponent": float(np.polyfit(np.log(times[late]), np.log(own)[late], 1)[0]),
    }


def draw(record: Record):
    """Diagonalisations, the two kernels, and both memories."""
    figure, axes = figures.new(rows=2, columns=2, width=4.4)
    rows = sorted(record.rows, key=lambda row: row["step"])
    n, result = [row["step"] for row in rows], record.result
    styles = list(itertools.islice(figures.styles(), 3))
    axis = axes[0, 0]
    axis.plot(n, [row["range"] for row in rows], label="range of an eigenvector", **styles[0])
    axis.plot(n, [row["condition"] for row in rows], label="condition, computed", **styles[1])
    axis.plot(n, [4 * k / 3 for k in n], color="#555555", linestyle=":", label="4 N / 3")
    axis.axhline(53, color="#999999", linewidth=1.0, label="double precision")
    axis.set(xlabel="N", ylabel="bits", title="eigenvectors of LegS", ylim=(0, 120))
    axis.legend(fontsize=8)
    axis = axes[0, 1]
    pairs = (("direct", "diagonal"), ("low_rank", "normal + rank one"))
    for (key, label), style in zip(pairs, styles, strict=False):
        axis.plot(n, [max(row[key], 1e-17) for row in rows], label=label, **style)
    axis.set(xlabel="N", ylabel="relative error", title="A, rebuilt from its diagonalisation")
    axis.set_yscale("log")
    axis.legend()
    axis, index = axes[1, 0], result["curve_index"]
    look = {"color": "#bbbbbb", "linewidth": 4, "label": "kernel, cut at L"}
    axis.plot(index, result["curve_kernel"], **look)
    look = {**styles[2], "marker": None, "label": r"from its $\tilde{C}$, roots of order 2 L"}
    axis.plot(index, result["curve_fixed"], **look)
    axis.set(xlabel=f"sample (L = {record.config['length']})", ylabel="kernel")
    axis.set_title(r"$\tilde{C}$ belongs to roots of order L alone")
    axis.legend(loc="lower right")
    axis = axes[1, 1]
    pairs = (("memory_legs", "LegS"), ("memory_fixed", "its matrix, fixed step"))
    for (key, label), style in zip(pairs, styles, strict=False):
        axis.plot(result["memory_times"], result[key], label=label, **{**style, "marker": None})
    axis.set(xlabel="samples since the impulse", ylabel="norm of what is left", title="memory")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(1e-9, 3.0)
    axis.legend()
    return figure


def table(record: Record) -> str:
    """Diagonalisations at every size, and the errors of the convolutions."""
    lines = [
        "| N | bits of range | bits of condition | error, diagonal | error, normal + rank one |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['step']} | {r['range']:.1f} | {r['condition']:.1f} | {r['direct']:.1e} "
        f"| {r['low_rank']:.1e} |"
        for r in sorted(record.rows, key=lambda row: row["step"])
    ]
    result = record.result
    lines += [
        "",
        "| | relative error |",
        "| --- | --- |",
        f"| convolution on L points | {result['points_l']:.1e} |",
        f"| convolution on 2 L points | {result['points_2l']:.1e} |",
        f"| kernel from C~ at L-th roots | {result['roots_l']:.1e} |",
        f"| kernel from C~ at 2 L-th roots | {result['roots_2l_fixed']:.1e} |",
        f"| the same with 1 + a^L at every other root | {result['roots_2l_by_sign']:.1e} |",
    ]
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": f"none: matrices of {len(config.sizes)} sizes, a kernel of {config.length}"}


def _growth(record: Record) -> float | None:
    return record.result["range_growth"] if max(record.config["sizes"]) >= 64 else None


def _margin(record: Record) -> float | None:
    last = max(record.rows, key=lambda row: row["step"])
    return last["direct"] / last["low_rank"] if last["step"] >= 32 else None


CLAIMS = (
    Claim(
        id="structure.eigenvectors",
        statement="bits by which the range of an eigenvector of LegS grows from one N to the next, "
        "with half the logarithm of N, per unit of N",
        source="archives/10162, equation 25: of order sqrt(d) 2^(-4d/3), for lambda = d/3",
        measure=_growth,
        paper=4.0 / 3.0,
        tolerance=0.05,
    ),
    below(
        "structure.low_rank",
        "relative error of LegS rebuilt from its normal-plus-rank-one form",
        1e-12,
        lambda record: max(row["low_rank"] for row in record.rows),
    ),
    Claim(
        id="structure.direct",
        statement="error of LegS rebuilt from its eigenvectors over that of the normal-plus-rank-"
        "one form, at the largest N, above 1e6",
        source="archives/10162; no published value",
        measure=_margin,
        paper=1e6,
        kind="ordering",
    ),
    below(
        "structure.points",
        "error of a convolution of L samples on 2 L points",
        1e-12,
        lambda record: record.result["points_2l"],
    ),
    Claim(
        id="structure.memory",
        statement="rate per unit of time at which the matrix of LegS forgets with a fixed step",
        source="archives/10162: its eigenvalues are -1, .., -N",
        measure=lambda record: record.result["fixed_rate"],
        paper=1.0,
        tolerance=0.01,
    ),
)
