"""Which kernel is chosen and why; the kernels that can run here against our own."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention import GroupedConfig, LatentConfig, grouped, kernels, latent, scores
from attention.kernels import Device, Problem

HOPPER, AMPERE, TURING = Device("gpu", (9, 0)), Device("gpu", (8, 0)), Device("gpu", (7, 5))
TPU, CPU, ROCM = Device("tpu"), Device("cpu"), Device("gpu")
HALF, SINGLE = jnp.bfloat16, jnp.float32


@pytest.mark.parametrize(
    ("device", "problem", "kernel", "reasons"),
    [
        (HOPPER, Problem(4096, 128, 128, HALF), "cudnn", {}),
        (HOPPER, Problem(4096, 192, 128, HALF), "cudnn", {}),
        (AMPERE, Problem(4096, 128, 128, HALF), "cudnn", {}),
        (AMPERE, Problem(4096, 192, 128, HALF), "xla", {"cudnn": "up to 128, got 192"}),
        (HOPPER, Problem(4096, 576, 512, HALF), "xla", {"cudnn": "up to 256, got 576"}),
        (HOPPER, Problem(4096, 64, 64, SINGLE), "xla", {"cudnn": "bfloat16, got float32"}),
        (HOPPER, Problem(4096, 36, 36, HALF), "xla", {"cudnn": "multiple of 8"}),
        (HOPPER, Problem(4096, 64, 128, HALF), "xla", {"cudnn": "at most 64, as the keys"}),
        (TURING, Problem(4096, 64, 64, HALF), "xla", {"cudnn": r"8.0 or later, got \(7, 5\)"}),
        (ROCM, Problem(4096, 64, 64, HALF), "xla", {"cudnn": "an NVIDIA GPU, got gpu"}),
        (TPU, Problem(4096, 192, 128, HALF), "splash", {"cudnn": "an NVIDIA GPU, got tpu"}),
        (TPU, Problem(4096, 576, 512, SINGLE), "splash", {"cudnn": "NVIDIA"}),
        (TPU, Problem(1000, 64, 64, HALF), "xla", {"splash": "multiple of 128, got 1000"}),
        (TPU, Problem(128, 64, 64, jnp.float16), "xla", {"splash": "got float16"}),
        (
            CPU,
            Problem(128, 64, 64, SINGLE),
            "xla",
            {"cudnn": "got cpu", "splash": "a TPU, got cpu"},
        ),
    ],
)
def test_the_choice_and_its_reasons(device, problem, kernel, reasons):
    chosen, said = kernels.explain(problem, device)
    assert chosen == kernel
    for name, text in reasons.items():
        assert re.search(text, said[name])


def inputs(groups, value_dim=16, time=256):
    rng = np.random.default_rng(0)
    shapes = ((2, 4, time, 24), (2, groups, time, 24), (2, groups, time, value_dim))
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.sample(1)
@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("name", ["cudnn", "splash"])
def test_kernels_equal_our_own_in_values_and_gradients(name, window, kv_heads):
    """Where they stand here: the interpreted kernel, and the interface of cuDNN without it."""
    rule = {"window": window, "scale": 0.3}
    other = {
        "cudnn": functools.partial(kernels.cudnn, implementation="xla", **rule),
        "splash": functools.partial(kernels.splash_causal, interpret=True, **rule),
    }[name]
    q, k, v = inputs(kv_heads)
    weights = inputs(4)[2]

    def scalar(function, *arguments):
        y = function(*arguments)
        return jnp.sum(weights * y), y

    both = [
        jax.jit(jax.grad(functools.partial(scalar, f), (0, 1, 2), has_aux=True))(q, k, v)
        for f in (other, functools.partial(scores.causal, **rule))
    ]
    for first, second in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(first, second, atol=2e-5 * np.abs(second).max())


def test_cudnn_is_asked_whether_it_is_there(monkeypatch):
    """On the device itself what JAX answers counts: version, installation."""
    monkeypatch.setattr(Device, "here", classmethod(lambda cls: HOPPER))
    problem = Problem(128, 64, 64, HALF)
    assert "cuDNN" in kernels.refusal("cudnn", problem, HOPPER)  # none is installed with the tests
    monkeypatch.setattr(kernels, "_cudnn_itself", lambda problem: "cuDNN is too old")
    chosen, said = kernels.explain(problem)
    assert (chosen, said["cudnn"]) == ("xla", "cuDNN is too old")
    assert kernels.explain(problem, AMPERE)[0] == "cudnn"


def test_kernels_that_cannot_serve_are_refused_with_the_reason():
    x = jnp.ones((1, 8, 16))
    for module, make in ((grouped, GroupedConfig), (latent, LatentConfig)):
        config = make(16, 2, kernel="splash")
        params = module.init(jax.random.key(0), config)
        with pytest.raises(ValueError, match="kernel: splash cannot serve: expected a TPU, got"):
            module.apply(params, x, config)
        with pytest.raises(ValueError, match="kernel: splash takes no mask and no positions"):
            module.apply(params, x, config, mask=jnp.ones((1, 8), bool))
        with pytest.raises(ValueError, match=r"kernel: expected one of .*, got 'flash'"):
            make(16, 2, kernel="flash")
        ours = module.apply(params, x, make(16, 2, kernel="xla"))
        np.testing.assert_array_equal(ours, module.apply(params, x, make(16, 2)))
