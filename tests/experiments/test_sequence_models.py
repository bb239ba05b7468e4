"""Sequence models by name, groups of their parameters, tasks and their evaluation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.harness import comparison, training
from experiments.harness.comparison import Comparison
from experiments.harness.training import TrainingConfig
from experiments.ssm import learning, models
from experiments.ssm.learning import Task, UpdateConfig
from experiments.ssm.models import Arm, ModelConfig
from ssm import norms, stack

SMALL = ModelConfig(channels=8, layers=2, size=4, heads=2)


def data(count, seed=0):
    """Signals whose sign of the sum is to be found."""
    x = np.random.default_rng(seed).normal(size=(count, 9, 1)).astype(np.float32)
    return {"x": x, "label": (x.sum((1, 2)) > 0).astype(np.int32)}


def task(tests=50):
    return Task(
        lambda seed, size, step: data(size, step + 1), data(tests, 10**6), learning.classified, 16
    )


def network(arm):
    return models.network(arm.model, 9, 2, inputs=1, pooling="mean")


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", models.KINDS)
def test_every_mixer_streams_through_the_model_as_it_is_trained(kind):
    mixer = models.make_mixer(dataclasses.replace(SMALL, mixer=kind), 9)
    deep = stack.model(stack.Config(8, 3, inputs=1, layers=2), mixer)
    params, x = jax.jit(deep.init)(jax.random.key(0)), jnp.asarray(data(2)["x"])
    whole = jax.jit(deep.apply)(params, x)

    @jax.jit
    def streamed(params, x):
        state, first = deep.prefill(params, x[:, :4], deep.init_state(2, 9, jnp.float32))
        prepared = deep.prepare(params)
        _, rest = jax.lax.scan(
            lambda s, u: deep.step(prepared, s, u), state, x[:, 4:].swapaxes(0, 1)
        )
        return jnp.concatenate([first, rest.swapaxes(0, 1)], axis=1)

    np.testing.assert_allclose(streamed(params, x), whole, atol=3e-5)


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", models.TWO_WAYS)
def test_two_ways_see_both_ends_and_refuse_to_stream_by_name(kind):
    mixer = models.make_mixer(dataclasses.replace(SMALL, mixer=kind, bidirectional=True), 9)
    params, u = mixer.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (1, 9, 8))
    if kind == "rtf":  # zeros are no filter yet
        params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    y = mixer.apply(params, u)
    early = mixer.apply(params, u.at[:, 0].add(1.0))
    late = mixer.apply(params, u.at[:, -1].add(1.0))
    assert np.abs(early - y)[:, 4].max() > 1e-6 and np.abs(late - y)[:, 4].max() > 1e-6
    padded = mixer.apply(params, jnp.pad(u[:, :7], ((0, 0), (0, 2), (0, 0))))[:, :7]
    np.testing.assert_allclose(padded, mixer.apply(params, u[:, :7]), atol=2e-5)
    state = models.make_mixer(dataclasses.replace(SMALL, mixer=kind), 9).init_state(1, 9)
    for name, arguments in (
        ("prepare", (params,)),
        ("prefill", (params, u, state)),
        ("step", (params, None, u[:, 0])),
    ):
        if name != "step" or kind not in ("rtf", "s5"):  # whose `prepare` stops before
            with pytest.raises(ValueError, match="a bidirectional system needs the whole signal"):
                getattr(mixer, name)(*arguments)


@pytest.mark.slow
def test_the_sum_of_two_directions_is_that_of_a_loop(x64):
    mixer = models.make_mixer(dataclasses.replace(SMALL, mixer="s4d", bidirectional=True), 9)
    one = models.make_mixer(dataclasses.replace(SMALL, mixer="s4d"), 9)
    params = mixer.init(jax.random.key(0))
    u = jax.random.normal(jax.random.key(1), (1, 9, 8), float)

    def loop(params, u):
        prepared, state, rows = one.prepare(params), one.init_state(1, 0, float), []
        for now in u[0]:
            state, y = one.step(prepared, state, now[None])
            rows.append(y[0])
        return jnp.stack(rows)

    expected = loop(params["forward"], u) + loop(params["backward"], u[:, ::-1])[::-1]
    np.testing.assert_allclose(mixer.apply(params, u)[0], expected, atol=1e-12)


def test_parameters_are_sorted_into_their_groups():
    found = {}
    for kind in models.KINDS:
        model = dataclasses.replace(SMALL, mixer=kind, norm="batch")
        params = jax.eval_shape(network(Arm(kind, model)).init, jax.random.key(0))
        labels = learning.labels(params)
        for path, label in jax.tree.leaves_with_path(labels):
            name = str(path[-1].key)
            assert found.setdefault((name, kind if name == "B" else ""), label) == label, name
    names = {name: label for (name, _), label in found.items()}
    for name in ("log_decay", "frequency", "log_dt", "P", "numerator", "denominator"):
        assert names[name] == "dynamics"
    for name in ("mean", "variance"):
        assert names[name] == "statistics"
    for name in ("gain", "bias", "D", "direct", "step_bias", "norm"):
        assert names[name] == "vectors"
    for name in ("matrix", "C", "W", "query", "output", "select", "weight"):
        assert names[name] == "matrices", name


def test_the_update_has_a_rate_and_decay_for_every_group():
    settings = TrainingConfig(steps=10, warmup=0, learning_rate=0.1, weight_decay=0.5, clip=1.0)
    update = learning.optimizer(settings, UpdateConfig(0.01, 0.25))
    ones = {"x": jnp.ones(3)}
    params = {
        "norm": {"gain": ones["x"], "mean": ones["x"], "variance": ones["x"]},
        "out": {"matrix": ones["x"]},
        "mixer": {"log_decay": ones["x"]},
    }
    gradient = jax.tree.map(lambda leaf: 100.0 * leaf, params)
    moved, _ = update.update(gradient, update.init(params), params)
    # The first step of Adam is the rate, whatever the gradient; decay comes on top.
    np.testing.assert_allclose(moved["norm"]["gain"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(moved["out"]["matrix"], -0.1 * (1 + 0.5), rtol=1e-5)
    np.testing.assert_allclose(moved["mixer"]["log_decay"], -0.01 * (1 + 0.25), rtol=1e-5)
    # Statistics take a tenth of what they are off by, unclipped.
    np.testing.assert_allclose(moved["norm"]["mean"], -10.0, rtol=1e-5)
    np.testing.assert_allclose(moved["norm"]["variance"], -10.0, rtol=1e-5)
    kept = learning.optimizer(settings, UpdateConfig(final=1.0))
    state = kept.init(params)
    for _ in range(9):
        moved, state = kept.update(gradient, state, params)
    np.testing.assert_allclose(moved["norm"]["gain"], -0.1, rtol=1e-3)
    plain = learning.optimizer(dataclasses.replace(settings, clip=None), UpdateConfig())
    assert isinstance(plain, optax.GradientTransformation)


@pytest.mark.slow
def test_statistics_follow_the_data_in_training_and_decide_afterwards(tmp_path):
    """Batch norms in the whole loop: the running mean of the first norm is that of its input."""
    model = dataclasses.replace(SMALL, norm="batch", mixer="s4d", size=2)
    make = learning.problems(network, task(), UpdateConfig())
    problem = make(Arm("a", model), TrainingConfig(steps=60, learning_rate=1e-6, warmup=0))
    settings = TrainingConfig(steps=60, batch_size=32, learning_rate=1e-6, warmup=0)
    state = training.init_state(problem, settings)
    step = jax.jit(training.make_step(problem, settings))
    for number in range(60):
        state, metrics = step(state, problem.batch(number))
    assert int(metrics["bad_leaf"]) == -1
    weights = state.params["layers"]["norm"]
    x = data(4000, 7)["x"] @ np.asarray(state.params["encoder"]["matrix"])
    flat = (x + np.asarray(state.params["encoder"]["bias"])).reshape(-1, 8)
    np.testing.assert_allclose(weights["mean"][0], flat.mean(0), atol=0.1)
    np.testing.assert_allclose(weights["variance"][0], flat.var(0), rtol=0.15)


def test_evaluation_counts_every_example_once():
    held_out = data(11)
    calls = []

    def score(params, batch):
        calls.append(len(batch["x"]))
        return {"loss": batch["x"].sum((1, 2)), "error": batch["label"] + params}

    found = learning.evaluate(0.5, score, held_out, 4)
    assert calls == [4, 4, 4]
    assert found["loss"] == pytest.approx(held_out["x"].sum() / 11, rel=1e-6)
    assert found["error"] == pytest.approx(0.5 + held_out["label"].mean())
    assert learning.evaluate(0.5, score, held_out, 100)["loss"] == pytest.approx(found["loss"])


@pytest.mark.slow
def test_a_model_learns_the_task_and_counts_its_parameters():
    arm = Arm("s4d", dataclasses.replace(SMALL, mixer="s4d", norm="batch"))
    settings = TrainingConfig(steps=150, batch_size=32, learning_rate=1e-2, warmup=5)
    problem = learning.problems(network, task(200), UpdateConfig())(arm, settings)
    state = training.init_state(problem, settings)
    step = jax.jit(training.make_step(problem, settings))
    for number in range(150):
        state, _ = step(state, problem.batch(number))
    assert problem.evaluate(state.params)["error"] < 0.12
    leaves = jax.tree.leaves(state.params)
    moving = jax.tree.leaves(norms.is_statistic(state.params))
    counted = sum(leaf.size for leaf, moves in zip(leaves, moving, strict=True) if not moves)
    assert learning.parameters(network(arm)) == counted


def test_arms_are_named_by_mixer_and_size():
    found = models.arms(SMALL, ("s4", "rtf"), (2, 6))
    assert [arm.name for arm in found] == ["rtf, 2", "rtf, 6", "s4, 2", "s4, 6"]
    assert [(a.model.mixer, a.model.size) for a in found][2] == ("s4", 2)
    assert [arm.name for arm in models.arms(SMALL, ("attention",))] == ["rtf", "attention"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelConfig(size=3), "model.size: expected an even number of at least 2, got 3"),
        (lambda: ModelConfig(layers=0), "model.layers: expected at least 1, got 0"),
        (
            lambda: ModelConfig(mixer="mamba", bidirectional=True),
            "model.bidirectional: expected one of the mixers rtf, s4, .*got 'mamba'",
        ),
        (lambda: UpdateConfig(-1.0), "update.dynamics_rate, dynamics_decay: expected > 0"),
        (lambda: UpdateConfig(final=2.0), r"update.final: expected a share in \[0, 1\], got 2.0"),
        (
            lambda: comparison.check(TrainingConfig(learning_rate=0.5), Comparison()),
            "training.learning_rate: expected it to be left alone",
        ),
    ],
)
def test_impossible_models_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_sequence_longer_than_the_kernel_is_refused_by_name():
    for kind in ("rtf", "s4"):
        made = models.network(dataclasses.replace(SMALL, mixer=kind), 8, 2, inputs=1)
        params = made.init(jax.random.key(0))
        with pytest.raises(ValueError, match="u: expected at most the stored length of 8, got 9"):
            made.apply(params, {"x": jnp.ones((1, 9, 1))})
