"""The training loop: exact resume, accumulation, averaging, guards, data parallelism."""

import dataclasses
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion.unet import UNet
from diffusion.uvit import UViT
from experiments.harness import checkpoint, datasets, optimizers, training
from experiments.harness.errors import Interrupted, NonFiniteError
from experiments.harness.recorded import load
from experiments.harness.run import Run
from experiments.harness.training import TrainingConfig


@dataclass(frozen=True)
class Config:
    training: TrainingConfig = field(default_factory=TrainingConfig)


SETTINGS = TrainingConfig(
    *(9, 8, 0.05), warmup=2, ema=0.5, eval_every=3, checkpoint_every=3, log_every=1
)


def problem(settings=SETTINGS, poison=None, stop=None):
    """Noisy linear regression; `poison` makes one step's data infinite, `stop` sends SIGTERM."""
    weights = np.arange(6.0, dtype=np.float32).reshape(3, 2)

    def batch(step):
        if step == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        inputs = np.random.default_rng([settings.seed, step]).normal(size=(8, 3))
        inputs = inputs.astype(np.float32)
        return {"x": inputs * (np.inf if step == poison else 1.0), "y": inputs @ weights}

    def loss(params, batch, key):
        noise = 0.1 * jax.random.normal(key, batch["y"].shape)
        error = batch["x"] @ params["w"] + params["b"] - batch["y"] + noise
        return jnp.mean(error**2), {"largest": jnp.max(jnp.abs(error))}

    def init(key):
        return {"w": jax.random.normal(key, (3, 2)), "b": jnp.zeros(2)}

    return training.Problem(init, loss, batch, lambda p: {"norm": float(jnp.abs(p["w"]).sum())})


def run(directory, settings=SETTINGS, **how):
    with Run("test", "quick", Config(settings), directory) as current:
        state = training.train(problem(settings, **how), settings, current)
        current.finish({})
    return state


def rows(directory):
    return [
        {k: v for k, v in row.items() if k != "steps_per_second"} for row in load(directory).rows
    ]


def test_an_interrupted_run_resumes_bit_exactly(tmp_path):
    whole = run(tmp_path / "whole")
    for stop in (0, 4, 7):
        directory = tmp_path / f"stopped{stop}"
        with pytest.raises(Interrupted):
            run(directory, stop=stop)
        assert load(directory).data["status"] == "interrupted"
        resumed = run(directory)
        chex.assert_trees_all_equal(resumed, whole)
        assert rows(directory) == rows(tmp_path / "whole")


def test_rows_after_the_last_checkpoint_are_run_again_not_repeated(tmp_path):
    run(tmp_path / "whole")
    directory = tmp_path / "torn"
    with pytest.raises(Interrupted):
        run(directory, stop=4)
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 7, "lo')  # killed while writing
    run(directory)
    assert rows(directory) == rows(tmp_path / "whole")


def test_accumulated_gradients_equal_those_of_the_whole_batch():
    whole = dataclasses.replace(SETTINGS, accumulate=1)
    parts = dataclasses.replace(SETTINGS, accumulate=4)

    def loss(params, batch, key):
        return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2), {}

    quiet = dataclasses.replace(problem(), loss=loss)
    state = training.init_state(quiet, whole)
    one, _ = jax.jit(training.make_step(quiet, whole))(state, quiet.batch(0))
    four, _ = jax.jit(training.make_step(quiet, parts))(state, quiet.batch(0))
    chex.assert_trees_all_close(one.params, four.params, rtol=2e-6)


def test_averaged_weights_follow_the_recursion():
    step = jax.jit(training.make_step(problem(), SETTINGS))
    state = training.init_state(problem(), SETTINGS)
    expected = state.params
    for i in range(3):
        state, _ = step(state, problem().batch(i))
        expected = jax.tree.map(lambda e, p: 0.5 * e + 0.5 * p, expected, state.params)
    chex.assert_trees_all_close(training.averaged(state), expected, rtol=1e-6)
    without = dataclasses.replace(SETTINGS, ema=0.0)
    state = training.init_state(problem(), without)
    assert state.ema is None and training.averaged(state) is state.params


def test_the_first_update_is_adamw_by_hand():
    settings = dataclasses.replace(SETTINGS, clip=None, weight_decay=0.3, warmup=0)
    state = training.init_state(problem(), settings)
    batch = problem().batch(0)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), 0)
    grads = jax.grad(lambda p: problem().loss(p, batch, key)[0])(state.params)
    after, _ = jax.jit(training.make_step(problem(), settings))(state, batch)
    for name, decay in (("w", 0.3), ("b", 0.0)):
        g, p = np.asarray(grads[name]), np.asarray(state.params[name])
        update = g / (np.abs(g) + 1e-8) + decay * p  # bias-corrected moments of one step
        np.testing.assert_allclose(after.params[name], p - 0.05 * update, rtol=1e-5, atol=1e-6)


def test_stacked_vectors_do_not_decay():
    """Neither ours nor those of Linen's modules under a scan, whose leaves have an axis more."""
    image, kinds = jnp.zeros((1, 16, 16, 1)), {True: set(), False: set()}
    for network in (UNet(blocks=(1, 3)), UViT()):
        params = jax.eval_shape(network.init, jax.random.key(0), image, jnp.zeros(1))
        for path, decays in jax.tree.leaves_with_path(optimizers._is_matrix(params)):
            kinds[decays].add(path[-1].key)
    assert "bias" in kinds[False] and "scale" in kinds[False]
    assert "kernel" in kinds[True] and not kinds[True] & {"bias", "scale"}


def test_seeds_have_32_bits():
    """A key of more is that of fewer, with other data."""
    with pytest.raises(ValueError, match=r"training.seed: expected less than 2\^32, got"):
        dataclasses.replace(SETTINGS, seed=2**32)


def test_clipping_bounds_the_gradient():
    settings = dataclasses.replace(SETTINGS, clip=1e-3)
    optimizer = optimizers.make_optimizer(settings)
    params = {"w": jnp.ones((2, 2))}
    reference = optax.clip_by_global_norm(1e-3).update({"w": jnp.full((2, 2), 9.0)}, ())[0]
    assert optax.tree.norm(reference) == pytest.approx(1e-3)
    _, state = optimizer.update({"w": jnp.full((2, 2), 9.0)}, optimizer.init(params), params)
    first_moment = jax.tree.leaves(state)[1]
    np.testing.assert_allclose(first_moment, 0.1 * reference["w"], rtol=1e-5)


def test_non_finite_numbers_stop_with_step_leaf_and_last_good_checkpoint(tmp_path):
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path / "run", poison=4)
    message = str(caught.value)
    assert "step 5" in message and "params['b']" in message and "checkpoint: step 3" in message
    assert message.endswith("batch['x'] is not finite: look at the data")
    manager = checkpoint.Checkpoints(
        tmp_path / "run", 2, load(tmp_path / "run").data["config_hash"]
    )
    restored, step = manager.restore(training.init_state(problem(), SETTINGS))
    assert step == 3
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(restored))
    with pytest.raises(NonFiniteError, match="last good checkpoint: none"):
        run(tmp_path / "at once", poison=0)
    fast = dataclasses.replace(SETTINGS, learning_rate=1e30)
    with pytest.raises(NonFiniteError, match=r"lower training.learning_rate( or|$)"):
        run(tmp_path / "fast", fast)


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "step", "steps_per_second"])
def test_metrics_do_not_take_the_names_of_what_is_logged_anyway(name):
    def loss(params, batch, key):
        return jnp.sum(params["w"] ** 2), {name: jnp.zeros(())}

    step = training.make_step(dataclasses.replace(problem(), loss=loss), SETTINGS)
    state = training.init_state(problem(), SETTINGS)
    with pytest.raises(ValueError, match=f"loss: {name} is logged already, give its metric"):
        step(state, problem().batch(0))


def test_metrics_of_evaluation_leave_the_step_to_the_run(tmp_path):
    named = dataclasses.replace(problem(), evaluate=lambda params: {"step": 1.0})
    wrong = pytest.raises(ValueError, match="evaluate: step is logged already")
    with Run("test", "quick", SETTINGS, tmp_path / "run") as current, wrong:
        training.train(named, SETTINGS, current)


EIGHT = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
import dataclasses, jax, numpy as np
import test_training as t
from experiments.harness.errors import ExperimentError
assert len(jax.devices()) == {devices}
state = t.run(Path({directory!r}))
np.savez({output!r}, **jax.tree.map(np.asarray, state.params))
try:
    t.run(Path({directory!r} + " odd"), dataclasses.replace(t.SETTINGS, batch_size=12))
except ExperimentError as error:
    print(error)
"""


def train_on(devices, directory):
    output = str(directory / f"{devices}.npz")
    code = EIGHT.format(
        tests=os.path.dirname(__file__),
        devices=devices,
        directory=str(directory / str(devices)),
        output=output,
    )
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    return result, output


@pytest.mark.slow
def test_eight_devices_train_like_one_and_refuse_odd_batches(tmp_path):
    result, output = train_on(8, tmp_path)
    assert result.returncode == 0, result.stderr
    state = run(tmp_path / "one")
    with np.load(output) as eight:
        for name in eight:
            np.testing.assert_allclose(eight[name], state.params[name], rtol=1e-5, atol=1e-6)
    assert "expected a multiple of 8 devices, got 12" in result.stdout


def test_batches_of_text_do_not_depend_on_where_training_started():
    values = np.arange(5000) % 251
    tail = [datasets.crops(values, 4, 16, 0, step) for step in range(5, 8)]
    whole = [datasets.crops(values, 4, 16, 0, step) for step in range(8)]
    np.testing.assert_array_equal(whole[5:], tail)
