"""A Fourier density in place of the last dense layer, for ordered categories.

Reproduces: the synthetic study of "Fourier Head" (arXiv 2410.22269): a small network reads two
numbers, both put into 50 bins, and gives the probabilities of the bin of a third, whose conditional
distribution is known: normal, a mixture of two normal distributions, or a beta distribution with a
random sign. Divergences from it and smoothness are measured for a dense layer before a softmax,
and for Fourier heads of rising order.

Hypothesis, the paper's own results: with enough frequencies the Fourier head is nearer to the true
distribution than the dense layer and smoother; the lower the order, the smoother it is.

Differences from the paper's code: inputs are the centres of bins, not their indices; true
probabilities are masses of bins, not normalised densities at their centres; the optimizer is the
harness's, with gradient clipping and a decaying learning rate.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from scipy import ndimage, stats

from experiments.harness import by_arm, figures
from experiments.harness import comparison as comparisons
from experiments.harness import config as configs
from experiments.harness.comparison import Comparison
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim, Measurement
from experiments.harness.run import Record, Run
from experiments.harness.training import Problem, TrainingConfig
from fourier_density.layers import FourierHead

Law = Literal["gaussian", "mixture", "beta"]
LAWS: tuple[Law, ...] = ("gaussian", "mixture", "beta")
WIDEST = 100  # of the filters that smoothness compares with


@dataclass(frozen=True)
class Config:
    """What is learnt.

    Attributes:
        laws: conditional distributions to learn.
        orders: orders N of the Fourier heads.
        values: a bin's value: its "mass", or the density at its "centre", as in the paper.
        bins: number of bins of [-1, 1], even.
        variance: variance of every normal distribution.
        samples: number of samples; four fifths of them are trained on.
        hidden: hidden widths of the network.
    """

    laws: tuple[Law, ...] = ("gaussian",)
    orders: tuple[int, ...] = (4, 12)
    values: Literal["mass", "centre"] = "mass"
    bins: int = 50
    variance: float = 0.01
    samples: int = 1000
    hidden: tuple[int, ...] = (16,)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            steps=300,
            batch_size=64,
            warmup=0,
            weight_decay=0.0,
            eval_every=300,
            checkpoint_every=300,
        )
    )
    comparison: Comparison = field(default_factory=lambda: Comparison(2, (3e-3,)))

    def __post_init__(self):
        comparisons.check(self.training, self.comparison, least=2)
        configs.check_some("laws", self.laws, LAWS)
        configs.check_some("orders", self.orders)
        configs.check_some("values", (self.values,), ("mass", "centre"))
        if min(self.orders) < 1:
            raise ValueError(f"orders: expected integers >= 1, got {self.orders}")
        if self.bins < 2 or self.bins % 2 or self.samples < 10 or min(self.hidden, default=1) < 1:
            raise ValueError(
                f"bins, samples, hidden: expected an even number, >= 10 and >= 1, got {self.bins}, "
                f"{self.samples}, {self.hidden}"
            )
        if not 0 < self.variance < np.inf:
            raise ValueError(f"variance: expected a finite number > 0, got {self.variance}")


PRESETS = {
    "quick": Config(),
    "cpu": Config(
        laws=LAWS,
        orders=(2, 4, 8, 12, 16, 20),
        samples=5000,
        hidden=(64, 32),
        training=TrainingConfig(
            steps=12_000,
            batch_size=128,
            warmup=0,
            weight_decay=0.0,
            eval_every=3000,
            checkpoint_every=12_000,
            log_every=500,
        ),
        comparison=Comparison(3, (1e-3,)),
    ),
    # Sizes of the paper's public code: 500 epochs of 125 batches, four seeds.
    "paper": Config(
        laws=LAWS,
        orders=(2, 4, 6, 8, 10, 12, 14, 16, 18, 20),
        values="centre",
        samples=5000,
        hidden=(64, 32),
        training=TrainingConfig(
            steps=62_500,
            batch_size=32,
            warmup=0,
            weight_decay=0.0,
            eval_every=12_500,
            checkpoint_every=12_500,
            log_every=1000,
        ),
        comparison=Comparison(4, (1e-3,)),
    ),
}


@dataclass(frozen=True)
class Arm:
    """A head on a law; order 0 stands for the dense layer."""

    law: Law
    order: int

    @property
    def name(self) -> str:
        """For rows and tables."""
        return _name(self.law, self.order)


def _name(law: str, order: int) -> str:
    return f"{law}, {order or 'dense'}"


def sample(law: Law, count: int, variance: float, seed: int) -> np.ndarray:
    """Rows (x, y, z) [count, 3]; z follows the law given x and y."""
    rng, scale = np.random.default_rng(seed), np.sqrt(variance)
    x = rng.uniform(-0.8, 0.8, count)
    y = rng.uniform(-0.8, 0.8, count) if law == "mixture" else rng.normal(x, scale)
    if law == "beta":
        z = rng.choice([-1.0, 1.0], count) * rng.beta(100 * np.abs(x), 100 * np.abs(y))
    else:
        centre = np.where(rng.random(count) < 0.5, x, y) if law == "mixture" else y
        z = rng.normal(centre, scale)
    return np.stack([x, y, z], axis=-1)


def masses(law: Law, points: np.ndarray, bins: int, variance: float) -> np.ndarray:
    """Probabilities [B, bins] of the bins of z; what is beyond -1 and 1 is in the last ones."""
    x, y = points[:, :1], points[:, 1:2]
    edges, scale = np.linspace(-1.0, 1.0, bins + 1)[None, 1:-1], np.sqrt(variance)
    if law == "beta":
        size = stats.beta.cdf(np.abs(edges), 100 * np.abs(x), 100 * np.abs(y))
        below = 0.5 + 0.5 * np.sign(edges) * size
    elif law == "mixture":
        below = 0.5 * (stats.norm.cdf(edges, x, scale) + stats.norm.cdf(edges, y, scale))
    else:
        below = stats.norm.cdf(edges, y, scale)
    return np.diff(below, axis=1, prepend=0.0, append=1.0)


def bin_of(values: np.ndarray, bins: int) -> np.ndarray:
    """Numbers of bins of [-1, 1]; beyond it those at the ends."""
    return np.clip(np.floor((values + 1.0) * (0.5 * bins)), 0, bins - 1).astype(np.int32)


def roughness(p: np.ndarray) -> np.ndarray:
    """The paper's measure of smoothness [B] of probabilities [B, m]; smooth ones have a small one.

    sum_sigma 6 / (pi sigma)^2 |p - g_sigma * p|, sigma = 1..100, on the circle; g_sigma are normal
    filters, cut m - 1 bins from their middles.
    """
    total = np.zeros(len(p))
    for sigma in range(1, WIDEST + 1):
        smooth = ndimage.gaussian_filter1d(p, sigma, axis=-1, mode="wrap", radius=p.shape[-1] - 1)
        total += 6.0 / (np.pi * sigma) ** 2 * np.linalg.norm(p - smooth, axis=-1)
    return total


class Network(nn.Module):
    """Log probabilities [B, bins] of points [B, 2]."""

    config: Config
    order: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        for width in self.config.hidden:
            x = nn.relu(nn.Dense(width)(x))
        if self.order == 0:
            return jax.nn.log_softmax(nn.Dense(self.config.bins)(x))
        return FourierHead(self.config.bins, self.order, self.config.values)(x)


def problem(config: Config, arm: Arm, settings: TrainingConfig) -> Problem:
    """Cross-entropy of bins; every seed has data of its own."""
    network = Network(config, arm.order)
    rows = sample(arm.law, config.samples, config.variance, settings.seed)
    points = (2.0 * bin_of(rows[:, :2], config.bins) + 1.0) / config.bins - 1.0
    points, labels = points.astype(np.float32), bin_of(rows[:, 2], config.bins)
    learnt = 4 * config.samples // 5
    truth = masses(arm.law, rows[learnt:, :2], config.bins, config.variance)
    predict = jax.jit(network.apply)

    def batch(step: int) -> Any:
        chosen = np.random.default_rng((settings.seed, step))
        chosen = chosen.integers(0, learnt, settings.batch_size)
        return {"x": points[chosen], "z": labels[chosen]}

    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        log_p = jnp.asarray(network.apply(params, batch["x"]))
        return -jnp.take_along_axis(log_p, batch["z"][:, None], axis=-1).mean(), {}

    def evaluate(params: Any) -> dict[str, Any]:
        log_p = np.asarray(predict(params, points[learnt:]), np.float64)
        some = truth > 0
        log_q = np.log(truth, where=some, out=np.zeros_like(truth))
        shown = settings.seed == config.training.seed
        return {
            "kl": float(np.sum(np.where(some, truth * (log_q - log_p), 0.0), axis=1).mean()),
            "roughness": float(roughness(np.exp(log_p)).mean()),
            "true_roughness": float(roughness(truth).mean()),
            "example": np.stack([truth[0], np.exp(log_p[0])]).round(5).tolist() if shown else None,
        }

    return Problem(lambda key: network.init(key, jnp.zeros((1, 2))), loss, batch, evaluate)


def all_arms(config: Config) -> list[Arm]:
    """The dense layer and every order, on every law."""
    return [Arm(law, order) for law in config.laws for order in (0, *config.orders)]


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train and measure all arms."""
    comparisons.run_all(
        all_arms(config),
        functools.partial(problem, config),
        config.training,
        config.comparison,
        "kl",
        run,
        lambda arm: {"law": arm.law, "order": arm.order},
    )
    return {}


def mean(record: Record, law: str, order: int, metric: str) -> float:
    """Over seeds."""
    return float(np.mean(by_arm.values(record, _name(law, order), metric)))


def draw(record: Record):
    """Of every law: divergence and smoothness against the order, and an example."""
    laws, orders = record.config["laws"], record.config["orders"]
    figure, axes = figures.new(rows=len(laws), columns=3, width=3.4, height=2.5)
    for (left, middle, right), law in zip(axes, laws, strict=True):
        for axis, metric in ((left, "kl"), (middle, "roughness")):
            values = [mean(record, law, order, metric) for order in orders]
            axis.plot(orders, values, color=figures.COLORS[0], marker="o", label="Fourier")
            dense = mean(record, law, 0, metric)
            axis.axhline(dense, color=figures.COLORS[1], linestyle="--", label="dense")
        true = mean(record, law, 0, "true_roughness")
        middle.axhline(true, color="#000000", linestyle=":", label="true")
        left.set(xlabel="order N", ylabel="divergence (nats)", title=f"{law}: divergence")
        figures.logarithmic(left, "y")
        middle.set(xlabel="order N", ylabel="roughness", title=f"{law}: smoothness")
        left.legend()
        middle.legend()
        best = min(orders, key=lambda order: mean(record, law, order, "kl"))
        first, second, *_ = figures.COLORS
        styles = ((0, second, "--", "dense"), (best, first, "-", f"N = {best}"))
        for order, color, line, label in styles:
            rows = [r for r in record.rows if r.get("arm") == _name(law, order) and r["example"]]
            truth, found = rows[0]["example"]
            x = (2.0 * np.arange(len(truth)) + 1.0) / len(truth) - 1.0
            if order == 0:
                right.plot(x, truth, color="#000000", linestyle=":", label="true")
            right.plot(x, found, color=color, linestyle=line, linewidth=1.2, label=label)
        right.set(xlabel="z", ylabel="probability", title=f"{law}: an example")
        right.set_ylim(0.0, 1.45 * right.get_ylim()[1])
        right.legend(ncols=3, loc="upper center", columnspacing=0.8, handlelength=1.4)
    return figure


def table(record: Record) -> str:
    """Means over seeds."""
    lines = ["| law | head | divergence | roughness | true |", "| --- | --- | --- | --- | --- |"]
    for law in record.config["laws"]:
        for order in (0, *record.config["orders"]):
            values = [mean(record, law, order, m) for m in ("kl", "roughness", "true_roughness")]
            head = f"Fourier, N = {order}" if order else "dense"
            lines.append(f"| {law} | {head} | " + " | ".join(f"{v:.4f}" for v in values) + " |")
    return "\n".join(lines) + "\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says."""
    each, arms = comparisons.trainings(config.comparison), len(all_arms(config))
    return {
        "data": f"synthetic, {config.samples} points a law and seed",
        "trainings": f"{each} of each law and head, {each * arms} in all",
    }


def programs(config: Config) -> dict[str, Program]:
    """The training step of every head, the same for all laws."""
    size, found = config.training.batch_size, {}
    batch = {
        "x": jax.ShapeDtypeStruct((size, 2), jnp.float32),
        "z": jax.ShapeDtypeStruct((size,), jnp.int32),
    }
    for order in (0, *config.orders):
        each = problem(config, Arm(config.laws[0], order), config.training)
        step = comparisons.program(each, config.training, config.comparison, batch)
        found[f"N = {order}" if order else "dense"] = replace(
            step, calls=step.calls * len(config.laws)
        )
    return found


def _log_ratio(metric: str, law: str, record: Record) -> Measurement | None:
    """Logarithm of the dense layer's value over that of the Fourier head of order 12."""
    if law not in record.config["laws"] or 12 not in record.config["orders"]:
        return None
    found = by_arm.ratio(record, _name(law, 0), _name(law, 12), metric)
    return found and Measurement(*(float(np.log(v)) for v in (found.value, found.low, found.high)))


def _value(law: str, order: int, record: Record) -> float | None:
    if law not in record.config["laws"] or order not in (0, *record.config["orders"]):
        return None
    return mean(record, law, order, "kl")


SAVED = "runs saved in the paper's public code, github.com/nate-gillman/fourier-head, four seeds"
KL = {  # means and standard deviations over seeds of the dense layer, and of 12 frequencies
    "gaussian": ((0.170, 0.052), (0.116, 0.043)),
    "mixture": ((0.238, 0.032), (0.146, 0.033)),
    "beta": ((0.234, 0.032), (0.191, 0.016)),
}


def _claims(law: str) -> list[Claim]:
    orderings: list[tuple[str, str, Callable[[Record], Measurement | None]]] = [
        ("nearer", "divergence", functools.partial(_log_ratio, "kl", law)),
        ("smoother", "roughness", functools.partial(_log_ratio, "roughness", law)),
    ]
    claims = [
        Claim(
            f"fourier_head.{law}_{name}",
            f"logarithm of the dense layer's {metric} over that of order 12, {law}, above 0",
            f"arXiv 2410.22269, and {SAVED}",
            measure,
            0.0,
            kind="ordering",
        )
        for name, metric, measure in orderings
    ]
    for order, (value, spread) in zip((0, 12), KL[law], strict=True):
        claims.append(
            Claim(
                f"fourier_head.{law}_{order or 'dense'}",
                f"divergence (nats), {law}, {'order 12' if order else 'dense layer'}; tolerance: "
                "two standard deviations of seeds",
                SAVED,
                functools.partial(_value, law, order),
                value,
                tolerance=2 * spread,
                kind="value",
            )
        )
    return claims


CLAIMS = tuple(claim for law in LAWS for claim in _claims(law))
