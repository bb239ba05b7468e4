"""Flags of the compiler as the command line sets them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.harness import compiling

PROGRAM = """
from experiments import dispatch
dispatch._configure_jax()
import jax
import jax.numpy as jnp

def lengths(x):
    return jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(x)

def directions(x, y):
    norm = jnp.sqrt(jnp.sum(x**2 + y**2, axis=-1, keepdims=True))
    return x / norm, y / norm

x = jnp.arange(3.0 * 40_000).reshape(40_000, 3) + 1.0
for function, inputs in ((lengths, (x,)), (directions, (x, -x))):
    for one, other in zip(*map(jax.tree.leaves, (jax.jit(function)(*inputs), function(*inputs)))):
        print(bool(jnp.allclose(one, other, rtol=1e-5)))
"""


def test_sums_of_many_rows_are_right_from_the_command_line():
    names = ("PATH", "HOME", "XDG_CACHE_HOME")
    plain = {name: os.environ[name] for name in names if name in os.environ}
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, env={**plain, "PYTHONPATH": root}, capture_output=True, text=True, timeout=240
    )
    assert done.stdout.split() == ["True"] * 3, done.stderr


@pytest.mark.parametrize(
    ("version", "flags", "expected"),
    [
        ("0.10.1", "", ""),
        ("0.10.2", "", "--xla_cpu_experimental_ynn_fusion_type=individual_dot"),
        ("0.11.2", "--a=1", "--a=1 --xla_cpu_experimental_ynn_fusion_type=individual_dot"),
        ("0.11.2", "--xla_cpu_experimental_ynn_fusion_type=", None),
        ("0.12.0", "", ""),
        ("0.11.0.dev20260101", "", "--xla_cpu_experimental_ynn_fusion_type=individual_dot"),
        ("main", "", ""),
    ],
)
def test_flags_are_those_of_the_versions_that_need_them(monkeypatch, version, flags, expected):
    monkeypatch.setattr(compiling.importlib.metadata, "version", lambda name: version)
    environment = {"XLA_FLAGS": flags}
    compiling.use_right_sums(environment)
    assert environment["XLA_FLAGS"] == (flags if expected is None else expected)
