"""Transforms on a mesh: the values of one device, nothing gathered."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ssm import fourier

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ssm import convolution
mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
u = jax.random.normal(jax.random.key(0), (2, 8, 4, 33))  # two seeds, eight examples
kernel = jax.random.normal(jax.random.key(1), (2, 4, 20))
def energy(u, kernel):
    return jnp.sum(jnp.sin(jax.vmap(convolution.causal)(u, kernel)))
gradient = jax.value_and_grad(energy, argnums=(0, 1))
expected = jax.jit(gradient)(u, kernel)
place = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))
divided = place(u, None, "data", "model"), place(kernel, None, "model")
plain = jax.jit(lambda *a: gradient(*a)).lower(*divided).compile().as_text()
with jax.set_mesh(mesh):
    compiled = jax.jit(lambda *a: gradient(*a)).lower(*divided).compile()
for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(compiled(*divided))):
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)
print(plain.count(" all-gather("), compiled.as_text().count(" all-gather("))
"""


def test_rows_are_transformed_where_they_are():
    flags = os.environ.get("XLA_FLAGS", "")
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={
            **os.environ,
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=8",
            "JAX_PLATFORMS": "cpu",
        },
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr[-2000:]
    without, known = map(int, out.stdout.split())
    assert without > 0 and known == 0


def test_without_a_mesh_they_are_plain():
    x = np.random.default_rng(0).normal(size=(3, 5, 12)).astype(np.float32)
    found = fourier.rfft(jnp.asarray(x), 16, batch=True)
    np.testing.assert_allclose(found, np.fft.rfft(x, 16), rtol=1e-5, atol=1e-5)
    back = fourier.irfft(found, 16, batch=True)
    np.testing.assert_allclose(back[..., :12], x, rtol=1e-5, atol=1e-6)
