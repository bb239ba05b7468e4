"""Layouts of devices: what is divided, and that nothing else changes."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import attention
import diffusion
import ssm
from attention import ExpertsConfig, GroupedConfig, LatentConfig, TransformerConfig, transformer
from experiments.diffusion import denoising
from experiments.diffusion.networks import NetworkConfig
from experiments.harness import sharding
from experiments.harness.errors import UsageError
from experiments.ssm import models
from tests.experiments import meshed

STEPS = 12
WAYS = {"divided": (8, 1, False), "sharded": (8, 1, True), "both": (4, 2, True)}
KINDS = ("language", "classifier", "denoiser", "distilled")


def job(folder, kind, layout=(None, 1, False), **more):
    return {"kind": kind, "folder": str(folder), "steps": STEPS, "layout": layout, **more}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Losses of every kind on one device."""
    folder = tmp_path_factory.mktemp("alone")
    found = meshed.launch(1, folder / "found.json", [job(folder / kind, kind) for kind in KINDS])
    return dict(zip(KINDS, (one["losses"] for one in found), strict=True))


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """The same on layouts of eight devices; the last two stop half way."""
    folder = tmp_path_factory.mktemp("eight")
    wanted = [("language", way) for way in WAYS] + [
        ("classifier", "divided"),
        ("classifier", "both"),
    ]
    wanted += [("denoiser", "both"), ("distilled", "divided")]
    jobs = [job(folder / f"{kind} {way}", kind, WAYS[way]) for kind, way in wanted]
    jobs.append(job(folder / "stopped", "language", WAYS["both"], stop=5))
    found = meshed.launch(8, folder / "found.json", jobs)
    return folder, dict(zip([*wanted, "stopped"], found, strict=True))


@pytest.mark.slow
def test_layouts_change_no_loss(alone, eight):
    """In double precision: 1e-6 would hide much."""
    for (kind, way), found in [pair for pair in eight[1].items() if pair[0] != "stopped"]:
        assert len(found["losses"]) == STEPS
        tolerance = 1e-6 if kind == "denoiser" else 1e-8  # its norms are of single precision
        np.testing.assert_allclose(found["losses"], alone[kind], rtol=tolerance, atol=tolerance)
        assert (found["share"] == 1.0) == (way == "divided")


@pytest.mark.slow
def test_divided_batches_gather_nothing_and_full_sharding_holds_an_eighth(eight):
    for kind in ("language", "classifier", "distilled"):
        assert eight[1][kind, "divided"]["all-gather"] == 0, kind
        assert eight[1][kind, "divided"]["all-reduce"] > 0
    assert eight[1]["language", "sharded"]["all-gather"] > 0
    for way in ("sharded", "both"):
        assert eight[1]["language", way]["share"] <= 1.1 / 8


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_a_run_goes_on_with_other_devices(tmp_path, alone, eight, devices):
    folder, found = eight
    assert 0 < len(found["stopped"]["losses"]) < STEPS
    copied = tmp_path / "copy"
    shutil.copytree(folder / "stopped", copied)
    layout = (devices // 2, 2, devices == 4)
    rest = meshed.launch(devices, tmp_path / "found.json", [job(copied, "language", layout)])
    np.testing.assert_allclose(rest[0]["losses"], alone["language"], rtol=1e-8)


def placed(shapes, rules, layout=(4, 2), fsdp=False):
    """Specs by name, on a mesh that does not exist."""
    mesh = jax.sharding.AbstractMesh(layout, ("data", "model"))
    where = sharding.placements(shapes, mesh, rules, fsdp=fsdp)
    leaves = jax.tree.leaves_with_path(where)
    return {jax.tree_util.keystr(path): leaf.spec for path, leaf in leaves}


def decoder_shapes(config):
    return jax.eval_shape(lambda key: transformer.init(key, config), jax.random.key(0))


def test_decoders_are_divided_by_heads_hidden_units_and_experts():
    config = TransformerConfig(64, 2, GroupedConfig(32, 4, 2), d_ff=64, tie_embeddings=False)
    spec = placed(decoder_shapes(config), lambda size: attention.partition.rules(config, size))
    columns, rows = PartitionSpec(None, None, "model"), PartitionSpec(None, "model", None)
    for name in ("query", "key", "value"):
        assert spec[f"['layers']['mixer']['{name}']"] == columns
    assert spec["['layers']['mixer']['output']"] == rows
    assert spec["['layers']['ffn']['gate']"] == spec["['layers']['ffn']['up']"] == columns
    assert spec["['layers']['ffn']['down']"] == rows
    assert spec["['embedding']"] == PartitionSpec("model", None)
    assert spec["['head']"] == PartitionSpec(None, "model")
    assert spec["['layers']['ffn_norm']"] == PartitionSpec(None, None)
    config = TransformerConfig(
        64,
        3,
        LatentConfig(32, 4, 8),
        d_ff=64,
        experts=ExpertsConfig(8, 2, 16, shared_d_ff=32),
        dense_layers=1,
    )
    spec = placed(decoder_shapes(config), lambda size: attention.partition.rules(config, size))
    for name in ("gate", "up", "down"):
        experts = PartitionSpec(None, "model", None, None)
        assert spec[f"['expert_layers']['ffn']['{name}']"] == experts
    assert spec["['layers']['mixer']['up']"] == columns
    assert spec["['layers']['mixer']['down']"] == PartitionSpec(None, None, None)
    assert spec["['expert_layers']['ffn']['shared']['down']"] == rows


def test_shared_keys_stay_whole_and_heads_have_to_divide():
    config = TransformerConfig(64, 2, GroupedConfig(32, 4, 1))
    spec = placed(decoder_shapes(config), lambda size: attention.partition.rules(config, size))
    assert spec["['layers']['mixer']['key']"] == PartitionSpec(None, None, None)
    with pytest.raises(UsageError, match=r"mesh.model: expected a divisor of 4 heads, got 3"):
        placed(decoder_shapes(config), lambda size: attention.partition.rules(config, size), (1, 3))
    network = NetworkConfig("uvit", 16, 2, multipliers=(1, 4), blocks=(1,), head_width=8)
    with pytest.raises(ValueError, match="a divisor of 8 heads, got 3"):
        network.partition(3)


@pytest.mark.parametrize("kind", ["unet", "uvit"])
def test_most_of_a_denoiser_is_divided(kind):
    network = NetworkConfig(kind, 256, 2, multipliers=(1, 2), blocks=(1,), head_width=64)
    shapes = jax.eval_shape(denoising.make_init(network, (8, 8, 1)), jax.random.key(0))
    spec = placed(shapes, network.partition)
    sizes = {jax.tree_util.keystr(p): leaf.size for p, leaf in jax.tree.leaves_with_path(shapes)}
    divided = sum(size for name, size in sizes.items() if "model" in spec[name])
    assert divided > 0.75 * sum(sizes.values())


@pytest.mark.parametrize("kind", [k for k in models.KINDS if k not in ("attention", "mamba2")])
def test_mixers_are_divided_by_channels_or_states(kind):
    mixer = models.make_mixer(models.ModelConfig(kind, channels=32, size=4), 64)
    shapes = {"layers": {"mixer": jax.eval_shape(mixer.init, jax.random.key(0))}}
    stacked = jax.tree.map(lambda s: jax.ShapeDtypeStruct((2, *s.shape), s.dtype), shapes)
    spec = placed(stacked, lambda size: ssm.partition.rules(kind))
    channels = {"s5": 2, "mamba": 64}.get(kind, 32)
    for path, leaf in jax.tree.leaves_with_path(stacked):
        name = jax.tree_util.keystr(path)
        where = spec[name]
        assert where[0] is None, name  # layers are scanned
        if channels in leaf.shape[1:] and "['in']" not in name and kind != "gated_rtf":
            assert "model" in where, name
            assert leaf.shape[where.index("model")] in (channels, 32), name


def test_full_sharding_takes_the_largest_free_axis_but_layers():
    shapes = {
        "stack": jax.ShapeDtypeStruct((64, 8, 16), jnp.float32),
        "gains": jax.ShapeDtypeStruct((64, 3), jnp.float32),
        "odd": jax.ShapeDtypeStruct((3, 5), jnp.float32),
        "count": jax.ShapeDtypeStruct((), jnp.int32),
        "wide": jax.ShapeDtypeStruct((2, 8, 16), jnp.float32),
    }
    spec = placed(shapes, lambda size: ((r"\['wide'\]", (None, "model")),), fsdp=True)
    assert spec["['stack']"] == PartitionSpec(None, None, "data")
    assert spec["['gains']"] == PartitionSpec("data", None)
    assert spec["['odd']"] == PartitionSpec(None, None)
    assert spec["['count']"] == PartitionSpec()
    assert spec["['wide']"] == PartitionSpec(None, "data", "model")


def test_layouts_that_do_not_fit_are_named():
    assert sharding.Layout().sizes(8) == (8, 1)
    assert sharding.Layout(4, 2).sizes(8) == (4, 2)
    for layout in (sharding.Layout(3, 2), sharding.Layout(None, 3), sharding.Layout(16)):
        with pytest.raises(UsageError, match="number of devices, 8"):
            layout.sizes(8)
    with pytest.raises(UsageError, match=r"mesh.data, mesh.model: expected at least 1, got 0, 1"):
        sharding.Layout(0)
    with pytest.raises(UsageError, match=r"mesh.data, mesh.model: expected at least 1"):
        sharding.Layout(model=-1)


def test_rules_are_exported():
    assert diffusion.partition.rules(4, 2)
    with pytest.raises(ValueError, match="heads"):
        diffusion.partition.rules(4, 3)
