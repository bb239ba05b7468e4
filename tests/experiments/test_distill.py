"""Distillation in the harness: one iteration by hand, resuming, devices, the mixture."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import distillation, process
from experiments import catalog, commands
from experiments.diffusion import (
    denoising,
    distill_mixture,
    distilling,
)
from experiments.diffusion.distilling import DistillConfig, Model
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import training
from experiments.harness.run import Run
from experiments.harness.training import Problem, TrainingConfig

NETWORK = NetworkConfig(width=8, depth=1)
SETTINGS = TrainingConfig(
    steps=4,
    batch_size=8,
    learning_rate=1e-2,
    weight_decay=0.0,
    clip=None,
    ema=0.5,
    eval_every=4,
    checkpoint_every=2,
)
NOTHING = Problem(
    init=lambda key: {},
    loss=lambda *_: (jnp.zeros(()), {}),
    batch=lambda step: distilling.indices(SETTINGS),
    evaluate=lambda params: {},
)


def setup(config=DistillConfig()):  # noqa: B008
    """Network, weights that are zero nowhere, the teacher, and how to train."""
    network = distilling.network_of(NETWORK)
    params = NETWORK.network().init(jax.random.key(3), jnp.zeros((1, 2)), jnp.zeros(1))
    keys = iter(jax.random.split(jax.random.key(4), 50))
    params = jax.tree.map(lambda p: p + 0.2 * jax.random.normal(next(keys), p.shape), params)
    teacher = distill_mixture._teacher()
    return network, params, teacher, distilling.how(config, teacher, Model(network, params), (2,))


@pytest.mark.slow
def test_an_iteration_trains_the_fake_denoiser_then_the_generator_against_it(x64):
    """With losses, gradients and Adam written out, from the noise that the step draws."""
    config = DistillConfig(alpha=1.2, fake_rate=2.0, sigma_data=0.7)
    network, params, teacher, _ = setup(config)
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    settings = dataclasses.replace(SETTINGS, warmup=0)
    how = distilling.how(config, teacher, Model(network, params), (2,))
    state = how.init_state(NOTHING, settings, *how.given)
    batch = {"index": jnp.arange(8)}
    after, found = how.make_step(NOTHING, settings)(state, batch)

    key = jax.random.split(training.step_key(settings, state), 3)
    index = jnp.arange(8)

    def samples(generator, key):
        z = distilling._normal(jax.random.split(key, 3)[0], index, (2,))
        return distillation.generate(functools.partial(network, generator), z, 2.5)

    def fake_loss(fake):
        keys = jax.random.split(key[1])
        sigma = jnp.exp(-0.5 * distilling.NOISE(distilling._uniform(keys[0], index)))
        noise = distilling._normal(keys[1], index, (2,))
        bound, x = functools.partial(network, fake), samples(params, key[0])
        return distillation.fake_score_loss(x, bound, sigma, noise, 0.7).mean()

    def adam(params, gradient, rate):
        """The first step of Adam without a mean: sign-like, rate g / (|g| + eps)."""
        return jax.tree.map(lambda p, g: p - rate * g / (jnp.abs(g) + 1e-8), params, gradient)

    fake = adam(params, jax.grad(fake_loss)(params), 2e-2)

    def generator_loss(generator):
        keys = jax.random.split(key[2], 3)
        x = samples(generator, keys[0])
        sigma = distillation.generator_sigma(distilling._uniform(keys[1], index))
        noise = distilling._normal(keys[2], index, (2,))
        bound = functools.partial(network, fake)
        exact = process.edm_denoiser(distill_mixture.law().denoise, "x")
        return distillation.generator_loss(x, exact, bound, sigma, noise, 1.2).mean()

    value, gradient = jax.value_and_grad(generator_loss)(params)
    generator = adam(params, gradient, 1e-2)
    np.testing.assert_allclose(found["loss"], value, rtol=1e-9)
    np.testing.assert_allclose(found["fake_loss"], fake_loss(params), rtol=1e-9)
    expected = {"fake": fake, "generator": generator, "teacher": teacher.params}
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), after.params, expected
    )
    mean = optax.incremental_update(generator, params, 0.5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), after.ema, mean
    )


@pytest.mark.slow
def test_a_sweep_compiles_once():
    *_, how = setup()
    state, calls = how.init_state(NOTHING, SETTINGS, *how.given), []

    @jax.jit
    def step(state, weights):
        calls.append(0)
        return how.make_step(NOTHING, SETTINGS)(state, {"index": jnp.arange(8)}, 0, weights)

    losses = [float(step(state, w)[1]["loss"]) for w in ((0.5, 1.0), (1.2, 1.0), (-1.0, 0.0))]
    assert len(calls) == 1 and len(set(losses)) == 3


@pytest.mark.slow
def test_the_average_ramps_up_to_its_half_life():
    """EDM's rule: the half-life is a share of the steps so far, until it is that of the decay."""
    config = DistillConfig(ramp=0.5)
    found = [float(distilling._decay(config, SETTINGS, jnp.array(step))) for step in range(5)]
    np.testing.assert_allclose(found, [0.0, 0.25, 0.5, 0.5, 0.5], atol=1e-6)
    *_, how = setup(config)
    state = how.init_state(NOTHING, SETTINGS, *how.given)
    state, _ = how.make_step(NOTHING, SETTINGS)(state, {"index": jnp.arange(8)})
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params["generator"])


def test_rates_and_means_of_both_optimisers_are_their_own():
    """A constant gradient of 1 moves a weight by the rate, whatever the means."""
    config = DistillConfig(fake_rate=3.0, final_rate=1.0, beta1=0.9)
    settings = dataclasses.replace(SETTINGS, warmup=0)
    for name, rate in (("generator", 1e-2), ("fake", 3e-2)):
        update = distilling.optimizer(config, settings, name)
        state = update.init({"w": jnp.zeros(1)})
        for sign in (1.0, 1.0, 1.0):
            change, state = update.update({"w": jnp.full(1, sign)}, state, {"w": jnp.zeros(1)})
            np.testing.assert_allclose(change["w"], -rate, rtol=1e-5)
        change, _ = update.update({"w": jnp.full(1, -1.0)}, state, {"w": jnp.zeros(1)})
        assert (float(change["w"][0]) < 0) == (name == "generator")  # whose mean remembers


@pytest.mark.slow
def test_a_few_steps_are_trained_too():
    *_, how = setup(DistillConfig(levels=(2.5, 0.5)))
    state = how.init_state(NOTHING, SETTINGS, *how.given)
    step = jax.jit(how.make_step(NOTHING, SETTINGS))
    for _ in range(3):
        state, found = step(state, {"index": jnp.arange(8)})
    assert np.isfinite(float(found["loss"])) and int(state.step) == 3


@pytest.mark.slow
def test_programs_hold_no_weights():
    """Teacher and first weights are arguments: nothing of their size is written into a step."""
    *_, how = setup()
    begin = functools.partial(how.init_state, NOTHING, SETTINGS)
    state = begin(*how.given)
    first = jax.make_jaxpr(begin)(*how.given)
    step = jax.make_jaxpr(how.make_step(NOTHING, SETTINGS))(state, {"index": jnp.arange(8)})
    assert all(np.size(constant) < 10 for made in (first, step) for constant in made.consts)


@dataclasses.dataclass(frozen=True)
class Settings:
    training: TrainingConfig = SETTINGS


@pytest.mark.slow
def test_training_stops_and_goes_on_bit_exactly(tmp_path):
    """Both networks, both optimisers, the average and the noise."""

    def train(folder, stop=False):
        *_, how = setup()
        with Run("test", "quick", Settings(), folder) as run:

            def batch(step):
                run.stop_requested = stop and step == 1
                return distilling.indices(SETTINGS)

            problem = dataclasses.replace(NOTHING, batch=batch)
            return training.train(problem, SETTINGS, run, how)

    whole = train(tmp_path / "whole")
    with pytest.raises(Exception, match="stopped by a signal"):
        train(tmp_path / "parts", stop=True)
    parts = train(tmp_path / "parts")
    assert int(parts.step) == 4
    jax.tree.map(np.testing.assert_array_equal, parts, whole)


TINY = ["--start.steps", "20", "--start.batch_size", "64", "--samples", "500"]
TINY += ["--training.steps", "20", "--training.batch_size", "64", "--check_every", "10"]
TINY += ["--patience", "10"]


@pytest.mark.slow
def test_the_mixture_is_distilled_by_every_loss(tmp_path):
    record = commands.run("diffusion/distill_mixture", "quick", TINY, tmp_path / "run")
    assert {row["arm"] for row in record.rows} == {"alpha = 0.5", "alpha = 1", "L1 alone"}
    assert len(record.rows) == 6 and (record.directory / "figure.png").exists()
    for row in record.rows:
        assert (row["message"] is None) == (row["stopped"] is None)
    claims = {claim.id: claim for claim in catalog.get("diffusion/distill_mixture").claims}
    assert claims["distill_mixture.threshold"].measure(record) < 0.02
    assert record.result["floor"]["inside"] > 0.95 and record.result["floor"]["modes"] == 8
    record = commands.run("diffusion/distill_mixture", "quick", TINY, tmp_path / "run")
    assert len(record.rows) == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DistillConfig(levels=(1.0, 2.0)), r"distill.levels: expected positive levels"),
        (lambda: DistillConfig(levels=()), r"distill.levels: expected positive levels"),
        (lambda: DistillConfig(fake_rate=0.0), r"distill.sigma_data, fake_rate, ramp"),
        (lambda: DistillConfig(ramp=-1.0), r"distill.sigma_data, fake_rate, ramp"),
        (lambda: DistillConfig(alpha=np.nan), r"distill.alpha, sigma_max: expected finite"),
        (lambda: DistillConfig(sigma_max=np.inf), r"distill.alpha, sigma_max: expected finite"),
        (lambda: DistillConfig(beta1=1.0), r"distill.beta1, fake_beta1, final_rate"),
        (lambda: DistillConfig(final_rate=1.5), r"distill.beta1, fake_beta1, final_rate"),
        (lambda: DistillConfig(t_max=0.0), "t_max, sigma_min, sigma_max"),
        (lambda: distill_mixture.Config(seeds=1), "seeds, samples, alphas"),
        (lambda: distill_mixture.Config(check_every=7), "check_every: expected a divisor"),
        (lambda: distill_mixture.Config(network=NetworkConfig("conv")), "network: expected kind"),
    ],
)
def test_impossible_settings_of_distillation_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_large_batches_are_trained_in_one_piece():
    """Only sampling goes by chunks, which would gather what devices hold apart."""
    *_, how = setup()
    state = how.init_state(NOTHING, SETTINGS, *how.given)
    loops = []
    for size in (8, denoising.CHUNK + 8):
        step, batch = how.make_step(NOTHING, SETTINGS), {"index": jnp.arange(size)}
        text = str(jax.make_jaxpr(step)(state, batch))
        loops.append(text.count("scan[") + text.count("while["))
    assert loops[0] == loops[1]
