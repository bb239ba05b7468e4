"""Estimates: arithmetic by hand, and presets that lower for the accelerators they name."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from diffusion import convolution
from experiments import catalog
from experiments.attention import language_model
from experiments.harness import config as configs
from experiments.harness import estimate, training
from experiments.harness.run import Run

PAPER = [name for name in catalog.names() if catalog.get(name).optional("programs")]


def test_flops_of_products_in_scans_and_functions_are_counted():
    def function(x, w):
        x, _ = jax.lax.scan(lambda c, m: (jax.jit(jnp.matmul)(c, m), None), x, w)
        return jax.checkpoint(lambda c: c @ c.T)(x)

    x, w = jnp.ones((3, 5)), jnp.ones((7, 5, 5))
    jaxpr = jax.make_jaxpr(function)(x, w)
    assert estimate.matrix_flops(jaxpr) == 7 * 2 * 3 * 5 * 5 + 2 * 3 * 5 * 3


def test_flops_of_a_training_step_by_hand():
    config = language_model.PRESETS["quick"]
    decoder = config.model.transformer()
    d, hidden, layers = decoder.d_model, decoder.hidden, decoder.n_layers
    wide, narrow = 6 * 16, 2 * 16
    batch, time = config.training.batch_size, config.model.context
    weights = d * (2 * wide + 2 * narrow) + 3 * d * hidden
    attention = 2 * 6 * time * 16  # scores and weighted values, a token
    forward = 2 * batch * time * (layers * (weights + attention) + 256 * d)
    program = language_model.programs(config)["training step"]
    counted = estimate.matrix_flops(jax.make_jaxpr(program.function)(*program.arguments))
    again = 2 * batch * time * layers * attention  # recomputed in the backward pass
    assert counted == 3 * forward + again


@pytest.mark.parametrize(
    ("strides", "groups", "places"), [((1, 1), 1, 8 * 6), ((2, 2), 1, 4 * 3), ((1, 1), 2, 8 * 6)]
)
def test_convolutions_and_their_gradients_are_counted(strides, groups, places):
    x, w = jnp.zeros((5, 8, 6, 4)), jnp.zeros((3, 3, 4 // groups, 10))

    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x,
            w,
            strides,
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    forward = 2 * 5 * places * 10 * 9 * 4 // groups
    assert estimate.matrix_flops(jax.make_jaxpr(convolve)(x, w)) == forward

    def twice(x, w):
        return convolve(x, w) + jax.lax.cond(x[0, 0, 0, 0] > 0, convolve, convolve, x, w)

    assert estimate.matrix_flops(jax.make_jaxpr(twice)(x, w)) == 2 * forward
    if groups == 1 and strides == (1, 1):
        square = jnp.zeros((3, 3, 4, 4))
        gradient = jax.grad(lambda w: jnp.sum(convolution.same(x, w) ** 2))
        counted = estimate.matrix_flops(jax.make_jaxpr(gradient)(square))
        assert counted == 3 * 2 * 5 * places * 4 * 9 * 4  # forward, and two for the gradients


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", PAPER)
def test_paper_presets_lower_for_cuda_and_tpu(name):
    module = catalog.get(name).module
    for program in module.programs(module.PRESETS["paper"]).values():
        lowered = program.lower(("cuda", "tpu"))
        assert lowered.compiler_ir().operation.name == "builtin.module"


MEASURED = """
import gc, jax, jax.numpy as jnp, numpy as np
from experiments import catalog
from experiments.harness import compiling, config, estimate
def memory(name):
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(name))
module = catalog.get("attention/language_model").module
preset = module.PRESETS["paper"]
small = config.parse(preset, ["--model.n_layers", "3", "--training.batch_size", "32"])
(program,) = module.programs(small).values()
row = estimate.estimate({"step": program})[0]
compiled = program.lower().compile(compiler_options=compiling.options())
gc.collect()
before = memory("VmRSS")
state, batch = jax.tree.map(lambda s: jnp.asarray(np.zeros(s.shape, s.dtype)), program.arguments)
for step in range(3):
    if step == 2:  # the first ones cannot give up the memory of NumPy's arrays
        open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
    state, metrics = jax.block_until_ready(compiled(state, batch))
print(row["peak_bytes"] / (memory("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
def test_the_estimate_is_within_a_fifth_of_what_a_step_takes():
    """Some 760 MB; what a process needs besides, 20 MB and the runtime itself, is not in it."""
    root = Path(__file__).resolve().parents[2]
    out = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, cwd=root
    )
    assert 0.8 < float(out.stdout) < 1.2


@pytest.mark.slow
def test_a_layout_divides_what_a_device_needs(cli):
    """On devices that are not there."""
    name, less = "attention/language_model", ("--model.n_layers", "1")
    root = Path(__file__).resolve().parents[2]
    rows = []
    for layout in ([], ["--mesh.data", "4", "--mesh.model", "2", "--mesh.fsdp"]):
        command = [sys.executable, "-m", "experiments", "estimate", name, *layout, *less]
        env = {**os.environ, "JAX_NUM_CPU_DEVICES": "8" if layout else "1", "XLA_FLAGS": ""}
        out = subprocess.run(command, capture_output=True, text=True, env=env, cwd=root, check=True)
        rows.append([cell.strip() for cell in out.stdout.splitlines()[-1].split("|")[2:-1]])
    assert "data 4 x model 2" in out.stdout
    arguments, temporaries = ([float(row[i]) for row in rows] for i in (0, 1))
    assert arguments[1] < 0.3 * arguments[0] and temporaries[1] < 0.6 * temporaries[0]


@pytest.mark.slow
def test_the_paper_language_model_runs_two_steps_at_reduced_width(tmp_path):
    paper = language_model.PRESETS["paper"]
    small = configs.parse(
        dataclasses.replace(paper, data=language_model.PRESETS["quick"].data),
        [
            *("--model.d_model", "24", "--model.context", "16", "--training.steps", "2"),
            *("--training.batch_size", "8", "--windows", "2", "--new_bytes", "4"),
        ],
    )
    with Run("attention/language_model", "paper", small, tmp_path / "run") as run:
        result = language_model.main(small, run)
    assert 0 < result["validation_bits_per_byte"] < 9
    assert result["cache_elements"] == 2 * 24
    assert len(result["sample"]) <= 4 and result["parameters"] > 0


def test_the_paper_model_has_nanogpts_size():
    shapes = jax.eval_shape(
        lambda: training.init_state(
            training.Problem(
                lambda key: language_model.transformer.init(
                    key, language_model.PRESETS["paper"].model.transformer()
                ),
                *(None,) * 3,  # pyright: ignore[reportArgumentType]
            ),
            language_model.PRESETS["paper"].training,
        )
    )
    assert estimate.count(shapes.params) == pytest.approx(10.7e6, rel=0.02)


def test_products_of_groups_of_rows_count_each_row_once():
    x, w, sizes = jnp.ones((6, 4)), jnp.ones((3, 4, 5)), jnp.array([1, 2, 3])
    product = lambda x, w: jnp.sum(jax.lax.ragged_dot(x, w, sizes))  # noqa: E731
    assert estimate.matrix_flops(jax.make_jaxpr(product)(x, w)) == 2 * 6 * 4 * 5
    both = jax.make_jaxpr(jax.value_and_grad(product, (0, 1)))(x, w)
    assert estimate.matrix_flops(both) == 3 * 2 * 6 * 4 * 5
