"""A few steps of four kinds of training on a layout of devices, as a script for other processes.

python -m tests.experiments.meshed KIND OUTPUT STEPS DATA MODEL FSDP [x64]: losses and the norm of
the last weights, as JSON. Kinds: language, denoiser, classifier, distilled.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention import GroupedConfig, TransformerConfig
from diffusion import schedules
from experiments.attention import next_token
from experiments.diffusion import denoising, distilling
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import datasets, hosts, image_sets, sharding, training
from experiments.harness.run import Run
from experiments.harness.training import Problem, TrainingConfig
from experiments.ssm import learning, models


@dataclass(frozen=True)
class Config:
    """What a run of one kind is."""

    kind: str = "language"
    training: TrainingConfig = field(default_factory=TrainingConfig)


def settings(steps: int, **changes: Any) -> TrainingConfig:
    """Of all kinds: batches of 16."""
    every = {"eval_every": steps, "checkpoint_every": steps, "log_every": 1}
    return TrainingConfig(**{"steps": steps, "batch_size": 16, "warmup": 5, **every, **changes})


def language(how: TrainingConfig) -> Problem:
    """A decoder with eight heads, on text."""
    decoder = TransformerConfig(256, 2, GroupedConfig(32, 8), d_ff=64)
    return next_token.make_problem(decoder, 32, how, 16, datasets.load_text(datasets.TextConfig()))


def denoiser(how: TrainingConfig) -> Problem:
    """A U-ViT with eight heads, on digits."""
    network = NetworkConfig("uvit", 16, 2, multipliers=(1, 4), blocks=(1,), head_width=8)
    images = image_sets.load(image_sets.DIGITS)
    return denoising.make_problem(network, images, schedules.cosine(), how)


def classifier(how: TrainingConfig) -> Problem:
    """A deep model of rational transfer functions, on digits read pixel by pixel."""
    images = image_sets.load(image_sets.DIGITS)
    model = models.ModelConfig("rtf", channels=16, layers=2, size=8)

    def batch(seed: int, size: int, step: int) -> dict[str, np.ndarray]:
        found = images.batch(datasets.shuffled(images.count, size, seed, step))
        return {"x": found["x"].reshape(size, 64, 1), "label": found["label"]}

    held_out = {"x": images.test[:32].reshape(32, 64, 1), "label": images.test_labels[:32]}
    task = learning.Task(batch, held_out, learning.classified, 32)

    def network(arm: models.Arm) -> models.Network:
        return models.network(arm.model, 64, 10, inputs=1, pooling="mean")

    make = learning.problems(network, task, learning.UpdateConfig())
    return make(models.Arm("rtf", model), how)


def distilled(how: TrainingConfig) -> tuple[Problem, training.How]:
    """Score identity distillation of a network that knows nothing yet."""
    config, shape = NetworkConfig("mlp", 32, 1), (8, 8, 1)
    params = denoising.make_init(config, shape)(jax.random.key(5))
    model = distilling.Model(distilling.network_of(config), params)
    index = distilling.indices(how)
    problem = Problem(
        lambda key: params,
        lambda *_: (jnp.zeros(()), {}),
        lambda step: index,
        lambda params: {},
        partition=config.partition,
    )
    return problem, distilling.how(distilling.DistillConfig(), model, model, shape)


KINDS = {"language": language, "denoiser": denoiser, "classifier": classifier}


def problem(kind: str, steps: int) -> tuple[Problem, TrainingConfig, training.How]:
    """What a kind trains, and how."""
    if kind == "distilled":
        how = settings(steps, ema=0.9)
        return (distilled(how)[0], how, distilled(how)[1])
    how = settings(steps)
    return KINDS[kind](how), how, training.PLAIN


def run(kind: str, steps: int, layout: sharding.Layout, folder: Path) -> dict[str, Any]:
    """Losses of all steps, and what the last weights are."""
    made, how, begin = problem(kind, steps)
    with Run("meshed", "quick", Config(kind, how), folder, layout=layout) as current:
        state = training.train(made, how, current, begin)
        rows = [row for row in current.tracker.rows() if "loss" in row]
        current.finish({})
    norm = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in _arrays(state.params)))
    losses = [{k: v for k, v in row.items() if k != "steps_per_second"} for row in rows]
    return {"losses": losses, "norm": float(norm), "devices": jax.device_count()}


def _arrays(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def main(kind: str, output: str, *rest: str) -> None:
    """As the module says."""
    steps, data, model, fsdp = map(int, rest[:4])
    jax.config.update("jax_enable_x64", "x64" in rest)
    if "--hosts" in rest:
        coordinator, count, index = rest[rest.index("--hosts") + 1 :]
        hosts.join(hosts.Hosts(coordinator, int(count), int(index), timeout=60, patience=300))
    layout = sharding.Layout(data or None, model, bool(fsdp))
    found = run(kind, steps, layout, Path(output))
    if hosts.first():
        (Path(output) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
