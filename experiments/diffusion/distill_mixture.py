"""Score identity distillation of a two-dimensional mixture, with an exact teacher.

Reproduces: the ablation of alpha of SiD (arXiv 2404.04057; the post
https://kexue.fm/archives/10085) on eight normal modes on a circle: the loss of the identity,
L2 - alpha L1, against L1 alone, which collapses. Errors are distances from the mixture, not an
FID. Beside it stands what is known of two normal laws: from which width on alpha drives a generator
away, in closed form and by the loss's own gradient in many dimensions.
"""

import functools
import itertools
import time
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import distillation, exact, metrics, process, schedules
from experiments.diffusion import distilling
from experiments.diffusion.distilling import DistillConfig, Model
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import by_arm, figures, training
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig

MODES, DEVIATION, SHAPE = 8, 0.1, (2,)
NAIVE = "L1 alone"
START = TrainingConfig(
    steps=300, batch_size=256, learning_rate=2e-3, weight_decay=0.0, clip=None, ema=0.98
)
TRAINING = replace(START, steps=200, beta2=0.999, warmup=0, ema=0.99, learning_rate=1e-3)
DISTILL = DistillConfig(sigma_data=1.0, sigma_min=0.02, fake_rate=4.0)
SMALL = NetworkConfig(width=32, depth=2)
METRICS = ("sliced_w2", "energy", "inside", "modes", "imbalance", "seconds")


@dataclass(frozen=True)
class Config:
    """What to distil.

    Attributes:
        alphas: alpha of the loss L2 - alpha L1, one arm each; L1 alone is a further arm.
        seeds: number of seeds of every arm.
        samples: number of samples for each distance.
        check_every, patience: steps between checks for collapse or divergence; before the first.
        network, start: denoiser, and its training on the mixture; generator and fake begin with it.
        distill, training: of the distillation.
    """

    alphas: tuple[float, ...] = (0.5, 1.0)
    seeds: int = 2
    samples: int = 2000
    check_every: int = 50
    patience: int = 100
    network: NetworkConfig = SMALL
    start: TrainingConfig = START
    distill: DistillConfig = DISTILL
    training: TrainingConfig = TRAINING

    def __post_init__(self):
        if self.seeds < 2 or self.samples < 100 or not self.alphas:
            raise ValueError(
                "seeds, samples, alphas: expected at least 2, 100 and one, got "
                f"{self.seeds}, {self.samples}, {self.alphas}"
            )
        if self.check_every < 1 or self.training.steps % self.check_every:
            raise ValueError(
                f"check_every: expected a divisor of {self.training.steps} steps, got "
                f"{self.check_every}"
            )
        if self.network.kind != "mlp" or self.network.classes is not None:
            raise ValueError("network: expected kind mlp without classes for points in a plane")
        distilling.check(self.training)


CPU = Config(
    alphas=(0.0, 0.5, 1.0, 1.2, 1.5),
    seeds=5,
    samples=20_000,
    check_every=100,
    network=NetworkConfig(width=64, depth=3),
    start=replace(START, steps=2000, batch_size=512, ema=0.99),
    training=replace(TRAINING, steps=4000, batch_size=1024, ema=0.999, learning_rate=1.5e-3),
)
PRESETS = {
    "quick": Config(),
    "cpu": CPU,
    "paper": replace(
        CPU,
        alphas=(-0.25, 0.0, 0.5, 0.75, 1.0, 1.2, 1.5),
        network=NetworkConfig(width=256, depth=3),
        training=replace(CPU.training, steps=20_000, batch_size=4096),
    ),
}


def law() -> exact.Mixture:
    """Eight modes on the unit circle."""
    angle = 2.0 * np.pi * np.arange(MODES) / MODES
    means = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return exact.mixture(np.full(MODES, 1 / MODES), means, np.full(MODES, DEVIATION))


def _teacher() -> Model:
    """The exact denoiser; its weights are those of the law."""

    def network(params: Any, y: jax.Array, sigma: jax.Array) -> jax.Array:
        return process.edm_denoiser(exact.Mixture(**params).denoise, "x")(y, sigma)

    one = law()
    return Model(
        network, {"weights": one.weights, "means": one.means, "deviations": one.deviations}
    )


def main(config: Config, run: Run) -> dict[str, Any]:
    """Learn the mixture with each seed, then distil it with every loss."""
    teacher, network = _teacher(), distilling.network_of(config.network)
    step = distilling.joint_step(config.distill, teacher.network, network, SHAPE, config.training)
    batch = {"index": jnp.arange(config.training.batch_size)}

    @jax.jit
    def advance(state: Any, seed: Any, weights: Any) -> tuple[Any, Any]:
        return jax.lax.scan(
            lambda state, _: step(state, batch, seed, weights), state, None, config.check_every
        )

    @jax.jit
    def begin(params: Any) -> Any:
        how = distilling.how(config.distill, teacher, Model(network, params), SHAPE)
        return how.init_state(None, config.training, *how.given)

    @jax.jit
    def generate(params: Any, z: jax.Array) -> jax.Array:
        bound = functools.partial(network, params)
        return distillation.generate(bound, z, config.distill.levels[0])

    done = {row["step"] for row in run.tracker.rows()}
    learn = _learner(config, network)
    for seed in range(config.seeds):
        steps = range(seed, len(_arms(config)) * config.seeds, config.seeds)
        if done.issuperset(steps):
            continue
        params = learn(config.start.seed + seed)
        for number, (name, arm) in zip(steps, _arms(config).items(), strict=True):
            if number in done:
                continue
            row = _distil(config, advance, generate, begin(params), seed, arm)
            run.tracker.log(number, arm=name, seed=seed, **row)
            run.check_stop()
    return {
        "floor": _distances(config, law().sample(jax.random.key(2), config.samples)),
        **_normal(),
    }


def _arms(config: Config) -> dict[str, DistillConfig]:
    """Name -> losses."""
    found = {f"alpha = {alpha:g}": replace(config.distill, alpha=alpha) for alpha in config.alphas}
    found[NAIVE] = replace(config.distill, naive=True)
    return found


def _learner(config: Config, network: distilling.Network) -> Any:
    """Seed -> weights that denoise the mixture."""
    settings, one, levels = config.start, law(), schedules.edm()

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        keys, count = jax.random.split(key, 3), settings.batch_size
        x = one.sample(keys[0], count)
        sigma = jnp.exp(-0.5 * levels(jax.random.uniform(keys[1], (count,))))
        noise = jax.random.normal(keys[2], x.shape)
        bound = functools.partial(network, params)
        each = distillation.fake_score_loss(x, bound, sigma, noise, config.distill.sigma_data)
        return jnp.mean(each), {}

    module = config.network.network()
    problem = training.Problem(
        init=lambda key: module.init(key, jnp.zeros((1, 2)), jnp.zeros(1)),
        loss=loss,
        batch=lambda step: None,
        evaluate=lambda params: {},
    )
    step = training.make_step(problem, settings)

    @jax.jit
    def learn(seed: Any) -> Any:
        state = training.init_state(problem, settings, seed)
        state, _ = jax.lax.scan(lambda s, _: step(s, None, seed), state, None, settings.steps)
        return training.averaged(state)

    return learn


def _distil(
    config: Config, advance: Any, generate: Any, state: Any, seed: int, arm: DistillConfig
) -> dict[str, Any]:
    """One run, to its end or until it collapses or diverges; distances of one-step samples."""
    began, curve, message = time.monotonic(), [], None
    reference = float(np.sqrt(0.5 + DEVIATION**2))  # of an element of the mixture
    while int(state.step) < config.training.steps and message is None:
        state, found = advance(state, config.training.seed + seed, arm.weights)
        curve.append(float(found["deviation"][-1]) / reference)
        if int(state.step) >= config.patience or not np.isfinite(curve[-1]):
            message = arm.diagnose(curve[-1], 1.0)
    seconds = time.monotonic() - began
    z = jax.random.normal(jax.random.key(1), (config.samples, 2))
    x = generate(state.ema, z)
    row = {**_distances(config, x), "seconds": seconds, "curve": np.round(curve, 4).tolist()}
    row |= {"stopped": int(state.step) if message else None, "message": message}
    if seed == 0:
        row["points"] = np.round(np.clip(np.asarray(x[:400], np.float64), -9, 9), 3).tolist()
    return row


def _distances(config: Config, x: jax.Array) -> dict[str, float]:
    """From the mixture: of laws, share within 3 deviations of a mode, modes met, their balance."""
    real = np.asarray(law().sample(jax.random.key(3), config.samples), np.float64)
    x_, few = np.nan_to_num(np.asarray(x, np.float64), posinf=1e6, neginf=-1e6), 2000
    away = np.linalg.norm(x_[:, None] - np.asarray(law().means), axis=-1)
    nearest, inside = away.argmin(1), away.min(1) < 3 * DEVIATION
    share = np.bincount(nearest, minlength=MODES) / len(x_)
    met = np.bincount(nearest[inside], minlength=MODES) / len(x_)
    return {
        "sliced_w2": float(metrics.sliced_wasserstein(x_, real)),
        "energy": float(metrics.energy_distance(x_[:few], real[:few])),
        "inside": float(inside.mean()),
        "modes": int(np.sum(met > 0.1 / MODES)),
        "imbalance": float(0.5 * np.abs(share - 1 / MODES).sum()),
    }


def _normal(dimensions: int = 4096, count: int = 64, sigma: float = 0.1) -> dict[str, Any]:
    """Widths from which the loss's own gradient drives a normal law away, and the closed form."""
    keys = jax.random.split(jax.random.key(0))
    z, noise = (jax.random.normal(key, (count, dimensions)) for key in keys)
    levels = jnp.full(count, sigma)

    @jax.jit
    def slope(theta: Any, alpha: Any) -> jax.Array:
        def denoiser(deviation: Any) -> Any:
            return lambda y, s: y * deviation**2 / (deviation**2 + sigma**2)

        fake = denoiser(jax.lax.stop_gradient(theta))
        return jax.grad(
            lambda t: jnp.mean(
                distillation.generator_loss(t * z, denoiser(1.0), fake, levels, noise, alpha)
            )
        )(theta)

    alphas, measured = (1.15, 1.2, 1.3, 1.5, 2.0), []
    for alpha in alphas:
        low, high = 1.05, 20.0
        for _ in range(30):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if float(slope(middle, alpha)) > 0 else (low, middle)
        measured.append(0.5 * (low + high))
    closed = [distillation.threshold(alpha, sigma) for alpha in alphas]
    return {"alphas": list(alphas), "thresholds": measured, "closed": closed}


def draw(record: Record):
    """Samples, distances by alpha, widths in training, thresholds."""
    from matplotlib import patches

    figure, axes = figures.new(rows=2, columns=2, width=4.2, height=3.4)
    names, styles = by_arm.names(record), itertools.cycle(figures.styles())
    looks = dict(zip(names, styles, strict=False))
    best = "alpha = 1" if "alpha = 1" in names else names[0]
    one, bound = law(), {"fill": False, "edgecolor": "#555555", "linewidth": 0.8}
    for mean, deviation in zip(np.asarray(one.means), np.asarray(one.deviations), strict=True):
        axes[0, 0].add_patch(patches.Circle(tuple(mean), 2.0 * float(deviation), **bound))
    axes[0, 0].set_xlabel("circles: two deviations of the mixture", fontsize=8)
    for name in dict.fromkeys((names[-2], NAIVE, best)):  # the largest alpha and the best
        dots = {**looks[name], "linestyle": "none", "markersize": 2.5, "label": name}
        axes[0, 0].plot(*_points(record, name).T, **dots)
    axes[0, 0].set(aspect="equal", xlim=(-1.6, 1.6), ylim=(-1.4, 1.8), title="one-step samples")
    axes[0, 0].legend(fontsize=7, loc="upper center", ncols=3, markerscale=2, handletextpad=0)
    by_arm.draw(axes[0, 1], record, names, "sliced_w2", "sliced W2 from the mixture")
    look = {"color": "#555555", "linestyle": "--", "linewidth": 1.2}
    axes[0, 1].axvline(record.result["floor"]["sliced_w2"], label="the mixture's samples", **look)
    figures.logarithmic(axes[0, 1], "x")
    axes[0, 1].legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.42, 0.0))
    axes[0, 1].set(title="after training")
    _draw_widths(axes[1, 0], record, looks)
    result, alpha = record.result, np.linspace(1.1, 2.05, 100)
    closed = [distillation.threshold(float(a), 0.1) for a in alpha]
    axes[1, 1].plot(alpha, closed, color=figures.COLORS[0], label="closed form")
    dots = {"color": figures.COLORS[1], "label": "the loss's gradient"}
    axes[1, 1].plot(result["alphas"], result["thresholds"], "o", **dots)
    axes[1, 1].set(xlabel="alpha", ylabel="width that runs away, over the teacher's")
    axes[1, 1].set(title="two normal laws")
    axes[1, 1].legend(fontsize=8)
    return figure


def _draw_widths(axis: Any, record: Record, looks: dict[str, Any]) -> None:
    """Widths of samples in training, a line a seed; they end where a run was stopped."""
    every, known = record.config["check_every"], set[str]()
    for row in record.rows:
        steps = every * np.arange(1, len(row["curve"]) + 1)
        style = {**looks[row["arm"]], "markersize": 2.5, "linewidth": 0.8}
        axis.plot(steps, row["curve"], label=row["arm"] * (row["arm"] not in known), **style)
        known.add(row["arm"])
    most = max(max(row["curve"]) for row in record.rows)
    axis.set(xlabel="step", ylabel="width over that of the mixture", ylim=(0, min(4, 1.1 * most)))
    axis.set(title="in training, until stopped")
    axis.locator_params(axis="x", nbins=5)
    axis.legend(fontsize=7)


def _points(record: Record, name: str) -> np.ndarray:
    return np.array(next(r["points"] for r in record.rows if r["arm"] == name and r["seed"] == 0))


def table(record: Record) -> str:
    """Means over seeds of every loss, and how many runs the guard stopped."""
    head = " | ".join(METRICS)
    lines = [f"| loss | {head} | stopped |", "| --- " * (len(METRICS) + 2) + "|"]
    floor = " | ".join(f"{record.result['floor'].get(m, float('nan')):.3g}" for m in METRICS[:-1])
    lines.append(f"| samples of the mixture | {floor} | - | - |")
    for name in by_arm.names(record):
        rows = [row for row in record.rows if row["arm"] == name]
        means = " | ".join(f"{np.mean([row[m] for row in rows]):.3g}" for m in METRICS)
        steps = [str(row["stopped"]) for row in rows if row["stopped"]]
        lines.append(f"| {name} | {means} | {', '.join(steps) or 'none'} |")
    said: dict[str, str] = {}  # one of each kind
    for row in record.rows:
        if row["message"]:
            said.setdefault(row["message"].split(":")[0], row["message"])
    count, n = record.config["seeds"], record.config["samples"]
    guard = "".join(f"\n- {message}" for _, message in sorted(said.items()))
    return "\n".join(lines) + f"\n\nmeans of {count} seeds, {n} samples each; the guard:{guard}\n"


def programs(config: Config) -> dict[str, Program]:
    """A step of both networks."""
    network, module = distilling.network_of(config.network), config.network.network()
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1)))
    student = Model(network, params)
    return {
        "distillation step": distilling.program(
            config.distill, _teacher(), student, SHAPE, config.training
        )
    }


def _threshold(record: Record) -> float:
    result = record.result
    pairs = zip(result["thresholds"], result["closed"], strict=True)
    return max(abs(measured / closed - 1.0) for measured, closed in pairs)


def _narrowed(record: Record) -> float:
    rows = [row for row in record.rows if row["arm"] == NAIVE]
    return 1.0 / max(row["curve"][-1] for row in rows)


CLAIMS = (
    Claim(
        id="distill_mixture.threshold",
        statement="largest relative error of the width from which a normal generator runs away",
        source="closed form, derived from arXiv 2404.04057, algorithm 1; no published value",
        measure=_threshold,
        paper=0.0,
        tolerance=0.02,
        kind="identity",
    ),
    Claim(
        id="distill_mixture.naive",
        statement="width of the mixture over that of the widest generator of L1 alone, above 1",
        source="arXiv 2404.04057, section 3; https://kexue.fm/archives/10085",
        measure=_narrowed,
        paper=1.0,
        kind="ordering",
    ),
    Claim(
        id="distill_mixture.identity",
        statement="sliced W2 of L1 alone over that of the identity's loss, above 1",
        source="arXiv 2404.04057, section 3; https://kexue.fm/archives/10085",
        measure=lambda record: by_arm.ratio(record, NAIVE, "alpha = 1", "sliced_w2"),
        paper=1.0,
        kind="ordering",
    ),
)
