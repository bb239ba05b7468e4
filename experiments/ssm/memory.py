"""What HiPPO states retain of a signal: reconstructions of its past, against the state size N.

Reproduces: the function approximation of the HiPPO paper (arXiv 2008.07669, section 4.3) on
band-limited noise; the windows and resolutions that https://kexue.fm/archives/10114 discusses.
A signal is read sample by sample; its past is then rebuilt from the state alone.
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
from experiments.harness.ledger import Claim, below
from experiments.harness.run import Record, Run
from ssm import hippo, online

POINTS = 512
WINDOWED = ("legt", "lmu", "fout", "fout_naive")


@dataclass(frozen=True)
class Config:
    """What to read, and into what.

    Attributes:
        measures: names in `ssm.hippo`; not the Laguerre measures, whose memory has no end.
        sizes: state sizes N; Fourier measures get N + 1 where N is even.
        bands: highest frequencies of the signals, in periods over the whole signal.
        length: samples of a signal.
        window: window of the windowed measures, as a fraction of the signal.
        method: discretisation method, for windowed measures and for the whole history alike.
        seed: random seed of the signals.
    """

    measures: tuple[str, ...] = ("legs", "fous", "legt", "fout", "fout_naive")
    sizes: tuple[int, ...] = (8, 16, 32, 64)
    bands: tuple[int, ...] = (4, 16)
    length: int = 2048
    window: float = 0.25
    method: str = "trapezoid"
    seed: int = 0

    def __post_init__(self):
        known = (*hippo.WHOLE, *WINDOWED)
        for measure in self.measures:
            if measure not in known:
                raise ValueError(f"measures: expected some of {', '.join(known)}, got {measure!r}")
        if not (self.sizes and self.bands) or min(*self.sizes, *self.bands) < 1:
            raise ValueError("sizes, bands: expected integers >= 1")
        if self.length < 2:
            raise ValueError(f"length: expected at least 2 samples, got {self.length}")
        if not 0 < self.window <= 1:
            raise ValueError(f"window: expected a fraction in (0, 1], got {self.window}")


PRESETS = {
    "quick": Config(measures=("legs", "legt", "fout", "fout_naive"), sizes=(16, 64)),
    "cpu": Config(sizes=(8, 16, 32, 64, 128), bands=(4, 16, 64), length=16_384),
    "paper": Config(
        measures=("legs", "legt", "lmu", "fout"), sizes=(64, 256), bands=(4, 256), length=1_000_000
    ),
}


def main(config: Config, run: Run) -> dict[str, Any]:
    """Read every signal with every memory; what is recorded already is not repeated."""
    jobs = [(b, m, n) for b in config.bands for m in config.measures for n in config.sizes]
    done = {row["step"] for row in run.tracker.rows()}
    with jax.enable_x64(True):
        for step, (band, measure, n) in enumerate(jobs):
            if step not in done:
                run.tracker.log(step, band=band, measure=measure, **_read(band, measure, n, config))
                run.check_stop()
        rows = run.tracker.rows()
        curves = _curves(config, rows)
    errors = {f"{r['measure']}_{r['band']}_{r['n']}": r["error"] for r in rows}
    return {**errors, **curves}


def noise(t: np.ndarray, band: int, seed: int) -> np.ndarray:
    """Cosines of periods 1, 1/2, .., 1/band with normal amplitudes and random phases."""
    generator = np.random.default_rng(seed)
    amplitude = generator.normal(size=band) / np.sqrt(0.5 * band)
    phase = generator.uniform(0.0, 2.0 * np.pi, band)
    value = np.zeros_like(t)
    for k in range(band):
        value += amplitude[k] * np.cos(2.0 * np.pi * (k + 1) * t + phase[k])
    return value


def _odd(measure: str, n: int) -> int:
    return n + (measure in hippo.FOURIER and n % 2 == 0)


def _window(measure: str, config: Config) -> float:
    return 1.0 if measure in hippo.WHOLE else config.window


def _final(signal: Any, measure: str, n: int, method: str, window: float) -> jax.Array:
    return online.project(signal, measure, n, method, window=window)[-1]


def _read(band: int, measure: str, n: int, config: Config) -> dict[str, Any]:
    n, window = _odd(measure, n), _window(measure, config)
    signal = noise(np.arange(1, config.length + 1) / config.length, band, config.seed)
    state = jax.block_until_ready(_final(signal, measure, n, config.method, window))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(_final(signal, measure, n, config.method, window))
        seconds.append(time.perf_counter() - start)
    s, weights = _nodes()
    past = noise(1.0 - window + window * s, band, config.seed)
    basis = np.asarray(online.reconstruct(jnp.eye(n), measure, s))  # [n, points]
    root = np.sqrt(weights)
    best, *_ = np.linalg.lstsq((basis * root).T, past * root, rcond=None)
    return {
        "n": n,
        "error": _relative(np.asarray(state) @ basis, past, weights),
        "best": _relative(best @ basis, past, weights),
        "samples_per_second": config.length / min(seconds),
        "state": np.asarray(state).tolist(),
    }


@functools.cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    points, weights = np.polynomial.legendre.leggauss(POINTS)
    return 0.5 * (1.0 + points), 0.5 * weights


def _relative(value: np.ndarray, exact: np.ndarray, weights: np.ndarray) -> float:
    return float(np.sqrt(np.sum(weights * (value - exact) ** 2) / np.sum(weights * exact**2)))


def _curves(config: Config, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Signal and reconstructions of the last band and the largest size, for the figure."""
    band, n = config.bands[-1], sorted(config.sizes)[-1]
    s = np.linspace(0.0, 1.0, POINTS)
    curves: dict[str, Any] = {"curve_n": n, "curve_signal": noise(s, band, config.seed)}
    for measure in config.measures:
        place = (band, measure, _odd(measure, n))
        state = next(r["state"] for r in rows if (r["band"], r["measure"], r["n"]) == place)
        curves[f"curve_{measure}"] = np.asarray(online.reconstruct(np.array(state), measure, s))
    return {k: v.round(5).tolist() if isinstance(v, np.ndarray) else v for k, v in curves.items()}


def draw(record: Record):
    """Reconstructions over the history, and errors against N."""
    config, result = record.config, record.result
    figure, axes = figures.new(rows=2, columns=2)
    s, window = np.linspace(0.0, 1.0, POINTS), config["window"]
    for axis, group, title, begin in (
        (axes[0, 0], hippo.WHOLE, "the whole history", 0.0),
        (axes[0, 1], WINDOWED, f"a window of {window:g}", 1.0 - window),
    ):
        signal = {"color": "#bbbbbb", "linewidth": 4, "label": "signal"}
        axis.plot(s, result["curve_signal"], **signal)
        for measure, style in zip(config["measures"], figures.styles(), strict=False):
            if measure in group:
                t = begin + (1.0 - begin) * s
                style = {**style, "marker": None, "linewidth": 1.2}
                axis.plot(t, result[f"curve_{measure}"], **style)
        axis.set(xlabel="time", ylabel="u", title=f"{title}, N = {result['curve_n']}")
        axis.set_xlim(begin - 0.02 * (1.0 - begin), 1.0 + 0.02 * (1.0 - begin))
    for axis, band in zip(axes[1], (config["bands"][0], config["bands"][-1]), strict=True):
        for measure, style in zip(config["measures"], figures.styles(), strict=False):
            rows = [r for r in record.rows if (r["measure"], r["band"]) == (measure, band)]
            rows.sort(key=lambda row: row["n"])
            sizes, label = [r["n"] for r in rows], figures.spelled(measure)
            axis.plot(sizes, [r["error"] for r in rows], label=label, **style)
            best = {**style, "linestyle": ":", "marker": None, "linewidth": 1.0}
            axis.plot(sizes, [r["best"] for r in rows], **best)
        best = {"color": "#555555", "linestyle": ":", "linewidth": 1.0}
        axis.plot([], [], label="best of each basis", **best)
        axis.set(xlabel="N", ylabel="relative error", title=f"a signal of up to {band} periods")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
    figures.legend_below(figure, columns=4)
    return figure


def table(record: Record) -> str:
    """Errors of every memory."""
    lines = [
        "| band | measure | N | relative error | best of the basis | samples/s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['band']} | {r['measure']} | {r['n']} | {r['error']:.2e} | {r['best']:.2e} "
        f"| {r['samples_per_second']:.0f} |"
        for r in sorted(record.rows, key=lambda row: row["step"])
    ]
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": f"synthetic: band-limited noise, {config.length} samples"}


def programs(config: Config) -> dict[str, Program]:
    """Reading one signal into the largest state of each kind."""
    signal = jax.ShapeDtypeStruct((config.length,), jnp.float32)
    calls = len(config.bands) * len(config.sizes)
    return {
        measure: Program(
            functools.partial(
                _final,
                measure=measure,
                n=_odd(measure, max(config.sizes)),
                method=config.method,
                window=_window(measure, config),
            ),
            (signal,),
            calls=calls,
        )
        for measure in config.measures
    }


def _error(record: Record, measure: str, n: int, band: int) -> float | None:
    return record.result.get(f"{measure}_{band}_{_odd(measure, n)}")


def _average_helps(record: Record) -> float | None:
    naive, ours = (_error(record, m, 64, 16) for m in ("fout_naive", "fout"))
    return None if naive is None or ours is None else naive / ours


CLAIMS = (
    below(
        "memory.legs",
        "relative error of the whole history from 64 coefficients of LegS, 4 periods",
        1e-2,
        lambda record: _error(record, "legs", 64, 4),
    ),
    below(
        "memory.legt",
        "relative error of the window from 16 coefficients of LegT, 4 periods in all",
        1e-3,
        lambda record: _error(record, "legt", 16, 4),
    ),
    Claim(
        id="memory.fout",
        statement="error of FouT with the leaving value taken as it is, over that of FouT with "
        "the average of both ends, 65 coefficients, 16 periods, above 1",
        source="arXiv 2206.12037 uses the averaged form; no published value",
        measure=_average_helps,
        paper=1.0,
        kind="ordering",
    ),
)
