"""Mixtures of experts against plain loops over tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention import (
    ExpertsConfig,
    LatentConfig,
    TransformerConfig,
    accounting,
    experts,
    transformer,
)
from experiments import costs

KINDS = {
    "softmax": ExpertsConfig(8, 3, 5),
    "groups": ExpertsConfig(8, 3, 5, groups=4, chosen_groups=2, scale=2.0),
    "sigmoid": ExpertsConfig(
        8,
        3,
        5,
        shared_d_ff=None,
        groups=4,
        chosen_groups=2,
        scoring="sigmoid",
        normalise=True,
        scale=2.5,
    ),
    "one": ExpertsConfig(8, 1, 5, scoring="sigmoid"),
}


def silu(x):
    return x / (1.0 + np.exp(-x))


def loop(params, x, config):
    """Token by token, expert by expert, from the definitions."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    y = np.zeros(x.shape)
    for row, token in enumerate(np.asarray(x, np.float64)):
        logits = token @ p["router"]
        if config.scoring == "softmax":
            score = np.exp(logits - logits.max())
            score = merit = score / score.sum()
        else:
            score = 1.0 / (1.0 + np.exp(-logits))
            merit = score + p["correction"]
        allowed = set(range(config.n_experts))
        if config.groups:
            size = config.n_experts // config.groups
            groups = [merit[i * size : (i + 1) * size] for i in range(config.groups)]
            best = 1 if config.scoring == "softmax" else 2
            worth = [sum(sorted(group)[-best:]) for group in groups]
            kept = np.argsort(worth)[-config.chosen_groups :]
            allowed = {g * size + i for g in kept for i in range(size)}
        chosen = sorted(allowed, key=lambda e: -merit[e])[: config.chosen]
        weights = np.array([score[e] for e in chosen])
        weights = weights / weights.sum() if config.normalise else weights
        for e, weight in zip(chosen, weights, strict=True):
            hidden = silu(token @ p["gate"][e]) * (token @ p["up"][e])
            y[row] += config.scale * weight * (hidden @ p["down"][e])
    return y


def made(config):
    params = experts.init(jax.random.key(0), 6, config)
    if "correction" in params:
        params["correction"] = 0.2 * jax.random.normal(jax.random.key(1), (config.n_experts,))
    return jax.tree.map(lambda leaf: leaf.astype(jnp.zeros(0).dtype), params)


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("count", [1, 2, 20])
def test_tokens_pass_through_their_experts(name, count, x64):
    """Few tokens, which gather weights, and many, which are sorted."""
    config = KINDS[name]
    params = made(config)
    x = jax.random.normal(jax.random.key(2), (count, 6))
    np.testing.assert_allclose(
        experts.apply(params, x, config), loop(params, x, config), atol=1e-12
    )


@pytest.mark.slow
def test_gradients_reach_weights_and_router(x64):
    """Central differences of both paths."""
    config = KINDS["sigmoid"]
    params = made(config)
    for count in (2, 20):
        x = jax.random.normal(jax.random.key(2), (count, 6))

        def total(params, x=x):
            return jnp.sum(jnp.sin(experts.apply(params, x, config)))

        found = jax.grad(total)(params)
        for name in ("router", "gate", "down"):
            way = jax.random.normal(jax.random.key(3), params[name].shape)
            ends = [total({**params, name: params[name] + s * 1e-6 * way}) for s in (1, -1)]
            slope = (ends[0] - ends[1]) / 2e-6
            np.testing.assert_allclose(jnp.sum(found[name] * way), slope, rtol=1e-5)


@pytest.mark.slow
def test_a_decoder_with_experts_counts_them():
    """Parameters of the arrays; operations of the traced program, dense layers and experts."""
    config = TransformerConfig(
        11,
        3,
        LatentConfig(12, 2, 6, nope_dim=4, rope_dim=2, value_dim=4),
        d_ff=20,
        experts=ExpertsConfig(8, 3, 5, shared_d_ff=10),
        dense_layers=1,
    )
    found = accounting.parameters(config)["feed_forward"]
    dense, routed = 3 * 12 * 20, 8 * 3 * 12 * 5 + 12 * 8 + 3 * 12 * 10
    assert found == dense + 2 * routed + 3 * 2 * 12
    per_token = dense + 2 * (12 * 8 + 3 * 3 * 12 * 5 + 3 * 12 * 10)
    assert accounting.operations(config, tokens=7)["feed_forward"] == 2 * 7 * per_token
    params = transformer.init(jax.random.key(0), config)
    assert set(params) == {"layers", "expert_layers", "embedding", "final_norm"}
    only = dataclasses.replace(config, dense_layers=0)
    assert "layers" not in transformer.init(jax.random.key(0), only)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chosen": 9}, "chosen: expected at most 8 experts of 1 groups, got 9"),
        ({"groups": 4}, "groups, chosen_groups: expected both or neither"),
        ({"groups": 3, "chosen_groups": 1}, "groups, chosen_groups: expected a divisor of 8"),
        ({"groups": 2, "chosen_groups": 3}, "groups, chosen_groups: expected a divisor of 8"),
        ({"groups": 4, "chosen_groups": 1, "chosen": 3}, "chosen: expected at most 2 experts"),
        (
            {"groups": 8, "chosen_groups": 3, "scoring": "sigmoid"},
            "groups: expected two experts or more",
        ),
        ({"scoring": "tanh"}, "scoring: expected one of"),
        ({"d_ff": 0}, "d_ff: expected a whole number of at least 1, got 0"),
    ],
)
def test_impossible_experts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ExpertsConfig(**options)


def test_dense_layers_need_experts():
    with pytest.raises(ValueError, match="dense_layers: expected at most n_layers, and 0 without"):
        TransformerConfig(dense_layers=1)
    with pytest.raises(ValueError, match="dense_layers: expected at most n_layers"):
        TransformerConfig(n_layers=2, dense_layers=3, experts=ExpertsConfig())


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_deepseek_v2_lite_lowers_for_accelerators(platform):
    """A step, a prompt and a whole sequence at the real sizes, from shapes alone."""
    config = costs.PRESETS["deepseek_v2_lite"].decoder

    def halved(tree):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), tree)

    key = jax.random.key(0)
    params = halved(jax.eval_shape(functools.partial(transformer.init, config=config), key))
    make = functools.partial(transformer.init_state, config, 4, 4096, jnp.bfloat16)
    state, prompt = jax.eval_shape(make), jax.ShapeDtypeStruct((4, 512), jnp.int32)
    token = jax.ShapeDtypeStruct((4,), jnp.int32)
    for function, arguments in (
        (transformer.step, (params, state, token)),
        (transformer.prefill, (params, prompt, state)),
        (transformer.apply, (params, prompt)),
    ):
        traced = jax.jit(functools.partial(function, config=config)).trace(*arguments)
        assert "bf16" in traced.lower(lowering_platforms=(platform,)).as_text()
