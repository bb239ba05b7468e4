"""A few steps of four kinds of training on layouts of devices, as a script for other processes.

python -m tests.experiments.meshed OUTPUT JOBS [COORDINATOR COUNT INDEX]: JOBS is a JSON list of
what `run` takes; OUTPUT will hold what it gives. Kinds: language, denoiser, classifier, distilled.
"""

import contextlib
import json
import math
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
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
from experiments.harness import datasets, hosts, image_sets, placing, sharding, training
from experiments.harness.errors import Interrupted
from experiments.harness.run import Run
from experiments.harness.training import Problem, TrainingConfig
from experiments.ssm import learning, models

ROOT = Path(__file__).resolve().parents[2]
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all")


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
    network = NetworkConfig("uvit", 64, 2, multipliers=(1,), blocks=(), head_width=8)
    images = image_sets.load(image_sets.DIGITS)
    return denoising.make_problem(network, images, schedules.cosine(), how)


def classifier(how: TrainingConfig) -> Problem:
    """A deep model of rational transfer functions, on digits read pixel by pixel."""
    images = image_sets.load(image_sets.DIGITS)
    model = models.ModelConfig("rtf", channels=16, layers=2, size=8)

    def batch(seed: int, size: int, step: int) -> dict[str, np.ndarray]:
        found = images.part(seed, size, step)
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


def run(
    kind: str,
    folder: str,
    steps: int,
    layout: tuple[int | None, int, bool] = (None, 1, False),
    stop: int | None = None,
) -> dict[str, Any]:
    """Rows of all steps, and what its program gathers and keeps; `stop` ends it early."""
    made, how, begin = problem(kind, steps)
    devices = sharding.Layout(*layout)
    with Run("meshed", "quick", Config(kind, how), Path(folder), layout=devices) as current:

        def batch(step: int) -> Any:
            current.stop_requested = step == stop
            return made.batch(step)

        with contextlib.suppress(Interrupted):
            training.train(replace(made, batch=batch), how, current, begin)
        rows = current.tracker.rows()
    losses = [row["loss"] for row in rows if "gradient_norm" in row]
    return {"losses": losses, **program(kind, devices)}


def program(kind: str, layout: sharding.Layout) -> dict[str, Any]:
    """Collectives of a step, and the share of the state that the first device holds."""
    made, how, begin = problem(kind, 10)
    placed = training.place(made, how, layout, begin)
    batch = placing.put_batch(made.batch(0), placed.mesh)
    text = placed.step.lower(placed.like, batch).compile().as_text()
    held = {"params": placed.like.params, "optimizer": placed.like.optimizer}
    whole = sum(leaf.size for leaf in jax.tree.leaves(held))
    here = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(held))
    found = {name: len(re.findall(rf" {name}(-start)?\(", text)) for name in COLLECTIVES}
    return {**found, "share": here / whole}


def environment(devices: int, double: bool = False) -> dict[str, str]:
    """That of a process with virtual devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    chosen = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": str(int(double))}
    return {**os.environ, **chosen}


def free_port() -> int:
    """Of this machine."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def launch(
    devices: int, output: Path, jobs: list[dict[str, Any]], processes: int = 1, double: bool = True
) -> list[dict[str, Any]]:
    """What this script finds, in processes of so many devices each.

    Raises:
        RuntimeError: one of them failed.
    """
    command = [sys.executable, "-m", "tests.experiments.meshed", str(output), json.dumps(jobs)]
    address = [f"127.0.0.1:{free_port()}", str(processes)]
    every = [
        subprocess.Popen(
            [*command, *([*address, str(index)] if processes > 1 else [])],
            env=environment(devices, double),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]
    texts = [one.communicate(timeout=900)[0] for one in every]
    if any(one.returncode for one in every):
        raise RuntimeError("\n".join(text[-3000:] for text in texts))
    return json.loads(Path(output).read_text())


def main(output: str, jobs: str, *address: str) -> None:
    """As the module says."""
    if address:
        coordinator, count, index = address
        hosts.join(hosts.Hosts(coordinator, int(count), int(index), timeout=60, patience=300))
    found = [run(**job) for job in json.loads(jobs)]
    if hosts.first():
        Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
