"""Initial values, constraint and order of RTF on a delay: what is learnt, and where poles go.

Reproduces: the task of the Delay rows of arXiv 2405.06147, table 2 (`delay` has those rows), and
the question of its table 5 (initial values and the constraint of poles), which the paper asks on
other data. A linear model of one layer reads band-limited noise and has to give it back some steps
later. With an order of at least the delay that is exact: a = 0 and one b. Below it a delay can only
be approached.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.harness import figures
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from experiments.ssm import delays
from ssm import rtf

CONSTRAINTS = {"none": "unconstrained", "l1": "l1 constraint"}  # as figures name them


@dataclass(frozen=True)
class Config:
    """The task, and what to compare on it.

    Attributes:
        inits, constraints: of `rtf.Config`; every pair is trained at every order.
        sizes: orders N of the layer, its state sizes.
        length, lag: steps of a signal, and of the delay.
        band: highest frequency of the signals, as a fraction of the Nyquist frequency.
        channels: width d of the layer between two linear maps; all share one denominator.
        steps, batch, learning_rate: of Adam: updates, signals per update, initial rate.
        cosine: whether the learning rate falls to zero by a cosine; constant otherwise.
        tests: number of held-out signals on which the error is measured.
        seed: of weights and signals.
    """

    inits: tuple[str, ...] = ("zeros", "xavier", "montel")
    constraints: tuple[str, ...] = rtf.CONSTRAINTS
    sizes: tuple[int, ...] = (16, 48)
    length: int = 128
    lag: int = 32
    band: float = 0.5
    channels: int = 4
    steps: int = 600
    batch: int = 16
    learning_rate: float = 1e-2
    cosine: bool = True
    tests: int = 64
    seed: int = 0

    def __post_init__(self):
        for name, known in (("inits", rtf.INITS), ("constraints", rtf.CONSTRAINTS)):
            values = getattr(self, name)
            if not values or any(value not in known for value in values):
                raise ValueError(f"{name}: expected some of {', '.join(known)}, got {values}")
        if not self.sizes or min(self.sizes) < 1 or max(self.sizes) >= self.length:
            raise ValueError(f"sizes: expected 1 to {self.length - 1}, got {self.sizes}")
        if not 0 < self.lag < self.length:
            raise ValueError(f"lag: expected 1 to {self.length - 1}, got {self.lag}")
        if not 2.0 / self.length <= self.band <= 1.0 or self.learning_rate <= 0:
            raise ValueError("band, learning_rate: expected 2/length <= band <= 1, and > 0")
        if min(self.channels, self.steps, self.batch, self.tests) < 1:
            raise ValueError("channels, steps, batch, tests: expected at least 1")


PRESETS = {
    "quick": Config(),
    "cpu": Config(sizes=(64, 96, 128, 192), length=512, lag=128, steps=8000, batch=32),
    # Section 4.3 and its configuration: 20 epochs of 16384 signals.
    "paper": Config(
        sizes=(64, 128, 256, 512, 1024),
        length=4000,
        lag=1000,
        steps=5120,
        batch=64,
        learning_rate=1e-3,
        cosine=False,
        tests=1024,
    ),
}


def layer(config: Config, init: str, constraint: str, size: int) -> rtf.Config:
    """The layer's own configuration."""
    return rtf.Config(
        config.channels, config.length, size, denominators=1, init=init, constraint=constraint
    )


def init_params(config: Config, one: rtf.Config) -> dict[str, Any]:
    """Two linear maps around the layer."""
    keys = jax.random.split(jax.random.key(config.seed), 3)
    return {
        "into": jax.random.normal(keys[0], (config.channels,)),
        "layer": rtf.init(keys[1], one),
        "out": jax.random.normal(keys[2], (config.channels,)) / config.channels**0.5,
    }


def loss(params: dict[str, Any], x: jax.Array, config: Config, one: rtf.Config) -> jax.Array:
    """Mean square error [] of the delayed signals."""
    u = x[..., None] * params["into"]
    y = rtf.mixer(one).apply(params["layer"], u) @ params["out"]
    return jnp.mean((y - delays.delayed(x, config.lag)) ** 2)


def optimizer(config: Config) -> optax.GradientTransformation:
    """Adam."""
    rate = config.learning_rate
    return optax.adam(optax.cosine_decay_schedule(rate, config.steps) if config.cosine else rate)


def update(
    carry: tuple[Any, Any], step: jax.Array, config: Config, one: rtf.Config
) -> tuple[tuple[Any, Any], jax.Array]:
    """One step of Adam on fresh signals, a scan body."""
    params, state = carry
    key = jax.random.fold_in(jax.random.key(config.seed + 1), step)
    value, gradient = jax.value_and_grad(loss)(
        params, delays.signals(key, config.batch, config.length, config.band), config, one
    )
    change, state = optimizer(config).update(gradient, state)
    return (optax.apply_updates(params, change), state), value


@functools.partial(jax.jit, static_argnums=(1, 2))
def train(params: dict[str, Any], config: Config, one: rtf.Config) -> tuple[Any, jax.Array]:
    """The trained parameters, and the loss of every step."""
    start = params, optimizer(config).init(params)
    body = functools.partial(update, config=config, one=one)
    (params, _), losses = jax.lax.scan(body, start, jnp.arange(config.steps))
    return params, losses


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train every combination; what is recorded already is not repeated."""
    jobs = [
        (size, init, constraint)
        for size in config.sizes
        for init in config.inits
        for constraint in config.constraints
    ]
    done = {row["step"] for row in run.tracker.rows()}
    for step, (size, init, constraint) in enumerate(jobs):
        if step not in done:
            result = _train(config, layer(config, init, constraint, size))
            run.tracker.log(step, n=size, init=init, constraint=constraint, **result)
            run.check_stop()
    return _summary(config, run.tracker.rows())


def _train(config: Config, one: rtf.Config) -> dict[str, Any]:
    params, losses = train(init_params(config, one), config, one)
    key = jax.random.key(config.seed + 2)
    x = delays.signals(key, config.tests, config.length, config.band)
    error = jax.jit(functools.partial(loss, config=config, one=one))(params, x)
    system = rtf.system(params["layer"], one)
    poles = rtf.poles(system)[0]
    curve = np.asarray(losses)[:: max(1, config.steps // 100)]
    return {
        "rmse": float(jnp.sqrt(error)),
        "radius": float(np.abs(poles).max()),
        "outside": int((np.abs(poles) >= 1).sum()),
        "poles_re": np.real(poles).round(4).tolist(),
        "poles_im": np.imag(poles).round(4).tolist(),
        "curve": [float(f"{value:.4g}") for value in curve],
    }


def _summary(config: Config, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best error of every order, init and constraint."""
    result: dict[str, Any] = {}
    for key, values in (
        ("n", config.sizes),
        ("init", config.inits),
        ("constraint", config.constraints),
    ):
        for value in values:
            result[f"{key}_{value}"] = min(r["rmse"] for r in rows if r[key] == value)
    return result


def draw(record: Record):
    """Errors against the order, losses, and the poles at the largest order."""
    config, rows = record.config, sorted(record.rows, key=lambda row: row["step"])
    figure, axes = figures.new(rows=2, columns=3, width=3.8)
    sizes, lag = config["sizes"], config["lag"]
    kinds = [(i, c) for i in config["inits"] for c in config["constraints"]]
    for (init, constraint), style in zip(kinds, figures.styles(), strict=False):
        here = [r for r in rows if (r["init"], r["constraint"]) == (init, constraint)]
        label = f"{figures.spelled(init)}, {CONSTRAINTS.get(constraint, constraint)}"
        axes[0, 0].plot([r["n"] for r in here], [r["rmse"] for r in here], label=label, **style)
        for axis, size in ((axes[0, 1], min(sizes)), (axes[0, 2], max(sizes))):
            curve = next(r["curve"] for r in here if r["n"] == size)
            steps = np.arange(len(curve)) * max(1, config["steps"] // 100)
            axis.plot(steps, np.sqrt(curve), **{**style, "marker": None, "linewidth": 1.2})
            axis.set(xlabel="step", ylabel="RMSE in training", title=f"N = {size}, delay {lag}")
            figures.logarithmic(axis, "y")
    look = {"color": "#555555", "linewidth": 1.0, "linestyle": ":"}
    axes[0, 0].axvline(lag, label=f"N = {lag}, the delay", **look)
    axes[0, 0].set(xlabel="order N", ylabel="RMSE", title="after training", yscale="log")
    axes[0, 0].set_xscale("log", base=2)
    axes[0, 0].set_xticks(sizes, list(map(str, sizes)))
    axes[0, 0].minorticks_off()
    for axis, init in zip(axes[1], config["inits"][:3], strict=False):
        chosen = [r for r in rows if (r["n"], r["init"]) == (max(sizes), init)]
        _draw_poles(axis, chosen, config["constraints"])
        axis.set(title=f"poles from {figures.spelled(init)}, N = {max(sizes)}")
    for axis in axes[1, len(config["inits"]) :]:
        axis.set_axis_off()
    figures.legend_below(figure, columns=4, axes=axes[0])
    return figure


def _draw_poles(axis: Any, rows: list[dict[str, Any]], constraints: Sequence[str]) -> None:
    turn = np.linspace(0.0, 2.0 * np.pi, 200)
    axis.plot(np.cos(turn), np.sin(turn), color="#999999", linewidth=0.8)
    for constraint, style in zip(constraints, figures.styles(), strict=False):
        row = next(r for r in rows if r["constraint"] == constraint)
        dots = {**style, "linestyle": "none", "fillstyle": "none", "markersize": 4}
        dots["label"] = CONSTRAINTS.get(constraint, constraint)
        axis.plot(row["poles_re"], row["poles_im"], **dots)
    axis.set(xlabel="Re", ylabel="Im", aspect="equal", xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
    axis.legend(fontsize=8, loc="center", bbox_to_anchor=(0.5, 0.62))


def table(record: Record) -> str:
    """Every combination."""
    lines = [
        "| N | init | constraint | RMSE | largest pole | outside the circle |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['n']} | {r['init']} | {r['constraint']} | {r['rmse']:.2e} | {r['radius']:.4f} "
        f"| {r['outside']} |"
        for r in sorted(record.rows, key=lambda row: row["step"])
    ]
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says about the data."""
    return {"data": f"synthetic: band-limited noise, {config.length} steps, delay {config.lag}"}


def programs(config: Config) -> dict[str, Program]:
    """One step of training at the largest order."""
    one = layer(config, config.inits[0], config.constraints[0], max(config.sizes))
    params = jax.eval_shape(functools.partial(init_params, config, one))
    state = jax.eval_shape(optimizer(config).init, params)
    body = functools.partial(update, config=config, one=one)
    count = len(config.sizes) * len(config.inits) * len(config.constraints) * config.steps
    arguments = ((params, state), jax.ShapeDtypeStruct((), jnp.int32))
    return {"training step": Program(body, arguments, calls=count)}


def _rmse(record: Record, **where: Any) -> float | None:
    rows = [r for r in record.rows if all(r[key] == value for key, value in where.items())]
    return min((r["rmse"] for r in rows), default=None)


def _ratio(record: Record, above: dict[str, Any], below: dict[str, Any]) -> float | None:
    first, second = _rmse(record, **above), _rmse(record, **below)
    return None if first is None or second is None else first / second


def _needs_the_order(record: Record) -> float | None:
    lag, sizes = record.config["lag"], record.config["sizes"]
    short, enough = [n for n in sizes if n < lag], [n for n in sizes if n >= lag]
    if not short or not enough:
        return None
    return _ratio(record, {"n": max(short)}, {"n": max(enough)})


CLAIMS = (
    Claim(
        id="rtf_ablation.constraint",
        statement="RMSE with the l1 constraint over that without, both from zeros and at the "
        "largest order, above 1: the constraint costs accuracy",
        source="arXiv 2405.06147, table 5, on WikiText-103 and LRA Image",
        measure=lambda record: _ratio(
            record,
            {"n": max(record.config["sizes"]), "init": "zeros", "constraint": "l1"},
            {"n": max(record.config["sizes"]), "init": "zeros", "constraint": "none"},
        ),
        paper=1.0,
        kind="ordering",
    ),
    Claim(
        id="rtf_ablation.zeros",
        statement="RMSE from xavier over that from zeros, both without a constraint and at the "
        "largest order, above 1",
        source="arXiv 2405.06147, table 5 (LRA Image 90.0 and 90.1)",
        measure=lambda record: _ratio(
            record,
            {"n": max(record.config["sizes"]), "init": "xavier", "constraint": "none"},
            {"n": max(record.config["sizes"]), "init": "zeros", "constraint": "none"},
        ),
        paper=1.0,
        kind="ordering",
    ),
    Claim(
        id="rtf_ablation.order",
        statement="least RMSE of the largest order below the delay over that of the largest order, "
        "above 1",
        source="arXiv 2405.06147, table 2, Delay: 0.38 at n = 512 and 0.006 at 1024, delay 1000",
        measure=_needs_the_order,
        paper=1.0,
        kind="ordering",
    ),
)
