"""Calls of deep models: with parameters of another, and again outside of `jit`."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssm import rtf, s4d, stack

H, B = 3, 2
MIXERS = {"s4d": s4d.mixer(s4d.Config(H, 4)), "rtf": rtf.mixer(rtf.Config(H, 12, 4))}
OTHERS = {
    "layers": ({"layers": 3}, 2, r"\['B'\] \(3, 3, 2, 2\), got \(2, 3, 2, 2\)"),
    "activation": ({"activation": "gelu"}, 2, r"\['layers'\]\['out'\]\['bias'\]"),
    "norm": ({"norm": "rms"}, 2, r"bias'\] absent, got"),
    "modes": ({}, 3, r"\['B'\] \(2, 3, 3, 2\), got \(2, 3, 2, 2\)"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_parameters_of_another_configuration_are_refused(name):
    """A model of three layers would otherwise run the two that there are, without a word."""
    config, mixer = stack.Config(H, 3, layers=2), s4d.mixer(s4d.Config(H, 2))
    params, u = stack.init(jax.random.key(0), config, mixer), jnp.ones((B, 5, 1))
    changed, modes, expected = OTHERS[name]
    other = dataclasses.replace(config, **changed)
    model = stack.model(other, s4d.mixer(s4d.Config(H, modes)))
    begin = "params: expected those that `init` makes with this config, "
    for function in (
        lambda: model.apply(params, u),
        lambda: jax.jit(model.apply)(params, u),
        lambda: model.prepare(params),
        lambda: model.prefill(params, u, model.init_state(B)),
    ):
        with pytest.raises(ValueError, match=begin + ".*" + expected):
            function()
    with pytest.raises(ValueError, match=begin + ".*got none"):
        inspect.unwrap(model.apply.func)(u, params, config, mixer)


@pytest.mark.parametrize("name", MIXERS)
def test_calls_of_a_stack_outside_of_jit_are_traced_once(name):
    """Not at every call, which a new function under `lax.scan` would be."""
    traced = []

    def noted(view):
        def function(*arguments):
            traced.append(view)
            return getattr(MIXERS[name], view)(*arguments)

        return function

    mixer = MIXERS[name]._replace(**{view: noted(view) for view in ("apply", "prefill", "step")})
    model = stack.model(stack.Config(H, 3, layers=2), mixer)
    params, u = model.init(jax.random.key(0)), jnp.ones((B, 5, 1))
    prepared, counts = model.prepare(params), []
    for _ in range(3):
        model.apply(params, u)
        state, _ = model.prefill(params, u, model.init_state(B), np.array([3, 5]))
        model.step(prepared, state, u[:, 0])
        counts.append(len(traced))
    assert counts[0] == counts[1] == counts[2]
