"""Arms of an ablation on images: each is trained with the same seeds, sampled and measured.

A seed gives an arm its first weights, the order of its data and its noise, so that arms are paired.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import metrics, samplers
from experiments.diffusion import classifier, denoising
from experiments.diffusion.denoising import LossConfig
from experiments.diffusion.networks import NetworkConfig
from experiments.diffusion.noise import NoiseConfig
from experiments.harness import by_arm, image_sets, placing, sharding, training
from experiments.harness.errors import NonFiniteError
from experiments.harness.image_sets import ImageConfig, Images
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared.

    Attributes:
        name: in tables and figures.
        data, network, noise, loss: what is trained.
    """

    name: str
    data: ImageConfig
    network: NetworkConfig
    noise: NoiseConfig
    loss: LossConfig = denoising.PLAIN


@dataclass(frozen=True)
class Measuring:
    """How trained arms are measured.

    Attributes:
        samples: number of samples per arm and seed.
        steps: number of DDIM steps, at evenly spaced times of the arm's own schedule.
        coarse: side in pixels to which images are averaged, for the distance of their layouts.
    """

    samples: int = 200
    steps: int = 16
    coarse: int = 8

    def __post_init__(self):
        if self.samples < 20 or self.steps < 2 or self.coarse < 1:
            raise ValueError(
                "measuring.samples, steps, coarse: expected at least 20, 2 and 1, got "
                f"{self.samples}, {self.steps}, {self.coarse}"
            )


MEASURING = Measuring()


class Loop:
    """Trains a problem on a set from any seed; compiled once.

    Intervals for evaluation, checkpoints and logging are not used.
    """

    def __init__(
        self,
        name: str,
        problem: training.Problem,
        images: Images,
        settings: TrainingConfig,
        layout: sharding.Layout = sharding.DEFAULT,
    ):
        self.name, self.problem, self.images = name, problem, images
        self.settings = settings
        how = training.PLAIN._replace(given=(np.uint32(0),))
        self.placed = training.place(problem, settings, layout, how)

    def __call__(self, seed: int) -> tuple[Any, float]:
        """The averaged weights, and the seconds of the quickest step.

        Raises:
            NonFiniteError: the last loss is not finite.
        """
        number, placed = np.uint32(seed), self.placed
        state, batch, fastest = placed.init(number), self.settings.batch_size, float("inf")
        metrics_: dict[str, Any] = {}
        for step in range(self.settings.steps):
            began = time.perf_counter()
            rows = placing.put_batch(self.images.part(seed, batch, step), placed.mesh)
            state, metrics_ = placed.step(state, rows, number)
            jax.block_until_ready(metrics_["loss"])
            fastest = min(fastest, time.perf_counter() - began)
        if not np.isfinite(float(metrics_["loss"])):
            raise NonFiniteError(
                f"{self.name}, seed {seed}: expected a finite loss, got {metrics_['loss']}; "
                "lower training.learning_rate"
            )
        return placing.whole(training.averaged(state), placed.mesh), fastest


class Trainer(Loop):
    """Trains an arm."""

    def __init__(
        self,
        arm: Arm,
        settings: TrainingConfig,
        images: Images | None = None,
        layout: sharding.Layout = sharding.DEFAULT,
    ):
        self.arm = arm
        self.images = image_sets.load(arm.data) if images is None else images
        self.schedule = arm.noise.schedule(self.images.train.shape[1])
        problem = denoising.make_problem(
            arm.network, self.images, self.schedule, settings, arm.loss
        )
        super().__init__(arm.name, problem, self.images, settings, layout)


def measure(trainer: Trainer, params: Any, seed: int, how: Measuring) -> dict[str, Any]:
    """Frechet distances of samples, as they are and averaged down, and the error of v."""
    arm, images = trainer.arm, trainer.images
    shape, classes = images.train.shape[1:], arm.network.classes
    z = jax.random.normal(jax.random.key(seed), (how.samples, *shape))
    label = None if classes is None else jnp.asarray(images.labels(how.samples))
    x = np.asarray(
        samplers.sample(
            denoising.denoiser(arm.network),
            z,
            trainer.schedule(jnp.linspace(1.0, 0.0, how.steps + 1)),
            "ddim",
            "v",
            condition=label,
            params=params,
        )
    )
    judge = classifier.train(arm.data)
    found = {
        "frechet": metrics.frechet_distance(judge.features(x), judge.features(images.train)),
        "coarse": _coarse(x, images, how.coarse),
        "error": trainer.problem.evaluate(params)["validation_v_error"],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "samples": denoising.grey(x[:8], 256) if seed == 0 else None,
    }
    return {name: float(v) if isinstance(v, np.floating) else v for name, v in found.items()}


def _coarse(x: np.ndarray, images: Images, size: int) -> float:
    """Sliced Wasserstein distance of layouts: images averaged down to `size` pixels."""
    small = (classifier.shrunk(part, size) for part in (x, images.train))
    ours, real = (np.asarray(part, np.float64).reshape(len(part), -1) for part in small)
    return float(metrics.sliced_wasserstein(ours, real))


def run_all(
    arms: Sequence[Arm],
    seeds: int,
    settings: TrainingConfig,
    how: Measuring,
    run: Run,
    more: Callable[[Trainer, Any, int], dict[str, Any]] = lambda trainer, params, seed: {},
) -> list[dict[str, Any]]:
    """Rows of every arm and seed; those recorded already are not repeated.

    Seeds count from that of `settings`. Times of steps are taken arm after arm.
    """
    for data in dict.fromkeys(arm.data for arm in arms):
        classifier.train(data)  # refuses sets without classes before anything is trained
    done = {row["step"] for row in run.tracker.rows()}
    for place, arm in enumerate(arms):
        steps = [place * seeds + seed for seed in range(seeds)]
        if done.issuperset(steps):
            continue
        trainer = Trainer(arm, settings, layout=run.layout)
        for seed, step in enumerate(steps, settings.seed):
            if step in done:
                continue
            params, seconds = trainer(seed)
            row = {"arm": arm.name, "seed": seed, "ms": 1e3 * seconds}
            row |= measure(trainer, params, seed, how) | more(trainer, params, seed)
            run.tracker.log(step, **row)
            run.check_stop()
    return run.tracker.rows()


def ordering(name: str, statement: str, source: str, *which: str) -> Claim:
    """The claim that a metric of the first arm is above that of the second."""
    above, below, metric = which
    return Claim(
        id=name,
        statement=f"{statement}: {metric} of {above} over that of {below}, above 1",
        source=source,
        measure=lambda record: by_arm.ratio(record, above, below, metric),
        paper=1.0,
        kind="ordering",
    )


def draw_samples(axis: Any, record: Record, arms: Sequence[str]) -> None:
    """Eight samples of the first seed of every arm, a row each."""
    rows = {row["arm"]: row["samples"] for row in record.rows if row["seed"] == 0}
    images = np.concatenate([np.asarray(rows[arm]) for arm in arms])
    axis.imshow(denoising.tile(images, 256, 8))
    size = images.shape[1] + 1
    axis.set_yticks([size * (place + 0.5) - 1 for place in range(len(arms))], arms, fontsize=8)
    axis.set_xticks([])
    axis.grid(False)
    axis.set(title="samples of one seed")


def table(record: Record, baseline: Callable[[str], str], metrics_: Sequence[str]) -> str:
    """Means of every arm, and ratios to its baseline with 95 % intervals over seeds."""
    head = "".join(f" {metric} | over the baseline |" for metric in metrics_)
    lines = [
        f"| arm | parameters | ms a step |{head}",
        "| --- | --- | --- |" + " --- | --- |" * len(metrics_),
    ]
    for arm in by_arm.names(record):
        rows = [row for row in record.rows if row["arm"] == arm]
        cells = [arm, f"{rows[0]['parameters']:,}", f"{min(row['ms'] for row in rows):.1f}"]
        for metric in metrics_:
            found = by_arm.ratio(record, arm, baseline(arm), metric)
            cells.append(f"{np.mean([row[metric] for row in rows]):.4g}")
            if arm == baseline(arm) or found is None:
                cells.append("-")
            else:
                cells.append(f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]")
        lines.append("| " + " | ".join(cells) + " |")
    count = len({row["seed"] for row in record.rows})
    return "\n".join(lines) + f"\n\n{count} seeds, paired; intervals of 95 %.\n"
