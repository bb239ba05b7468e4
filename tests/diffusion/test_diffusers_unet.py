"""Models of diffusers: the same answers, gradients through them, directories that do not fit."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion import diffusers_config, guidance, samplers, schedules
from diffusion.diffusers_unet import load_diffusers_unet

GOLDEN = Path(__file__).parents[1] / "golden" / "diffusers"
NAMES = sorted(path.name for path in GOLDEN.iterdir())
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(tmp_path):
    """A copy of a model's folder that may be spoilt."""
    return Path(shutil.copytree(GOLDEN / "ddpm", tmp_path / "model"))


def test_all_models_are_there():
    assert NAMES == ["classes_by_time", "ddpm", "scale_shift"]


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_diffusers(name, x64):
    model, kept = load_diffusers_unet(GOLDEN / name), np.load(GOLDEN / name / "expected.npz")
    wide = kept["y"].dtype == np.float64
    params = {key: value.astype(kept["y"].dtype) for key, value in model.params.items()}
    label = kept.get("label", None)
    y = jax.jit(model.apply)(params, jnp.asarray(kept["z"]), kept["i"], label)
    assert np.abs(kept["y"]).max() > 0.1
    # Waves of steps are float32 on both sides, and steps up to 741 turn in them.
    np.testing.assert_allclose(y, kept["y"], atol=1e-4 if not wide else 3e-5)


@pytest.mark.slow
def test_a_denoiser_is_differentiable_samples_and_upsamples():
    model = load_diffusers_unet(GOLDEN / "ddpm")
    table = schedules.linear_beta()
    denoiser = model.denoiser(table)
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(denoiser(z, jnp.zeros(2)) ** 2)))(z)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    level = float(table(0.5))
    direct = model.apply(model.params, z, jnp.full(2, 0.5 * 999))
    np.testing.assert_allclose(denoiser(z, jnp.full(2, level)), direct, atol=1e-3)
    logsnrs = table(jnp.linspace(1.0, 0.0, 5))
    with pytest.warns(UserWarning, match="group norms take moments"):
        large = guidance.upsample(denoiser, 2, 1.0, "eps", trained=table.ends)
    wide = jnp.asarray(np.random.default_rng(1).normal(size=(1, 16, 16, 3)), jnp.float32)
    x = samplers.sample(large, wide, logsnrs, "ddim", "eps")
    assert x.shape == wide.shape and np.isfinite(x).all()


def test_half_precision_and_older_names_are_read(copy):
    arrays = load_file(copy / FILE)
    older = {}
    for name, value in arrays.items():
        for new, old in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            name = name.replace(f".{new}.", f".{old}.")
        older[name] = value.astype(np.float16)
    assert "mid_block.attentions.0.query.weight" in older
    save_file(older, copy / FILE)
    model, exact = load_diffusers_unet(copy), load_diffusers_unet(GOLDEN / "ddpm")
    assert set(model.params) == set(exact.params)
    for name, value in model.params.items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, exact.params[name], atol=2e-3)


def test_the_folder_of_a_pipeline_is_entered(copy, tmp_path):
    (tmp_path / "pipeline").mkdir()
    shutil.move(copy, tmp_path / "pipeline" / "unet")
    assert load_diffusers_unet(tmp_path / "pipeline").config["block_out_channels"] == [4, 8]


def spoil(copy, **changes):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "expected a UNet2DModel, got UNet2DCondition"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type: expected one of"),
        ({"act_fn": "gelu"}, "act_fn: expected one of"),
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "down_block_types: expected 2"),
        ({"up_block_types": ["UpBlock2D"]}, "up_block_types: expected 2"),
        ({"block_out_channels": []}, "block_out_channels: expected the channels"),
        ({"layers_per_block": 2}, "expected a tensor .*resnets.1.norm1.weight, found none"),
        ({"block_out_channels": [4, 16]}, r"down_blocks.1.resnets.0.conv1.weight: expected \(16"),
        ({"add_attention": False}, "expected no tensor mid_block.attentions.0"),
    ],
)
def test_settings_that_are_not_built_in_are_named(copy, changes, message):
    spoil(copy, **changes)
    with pytest.raises(ValueError, match=message):
        load_diffusers_unet(copy)


def test_missing_files_and_pickles_are_named(copy):
    (copy / FILE).unlink()
    with pytest.raises(ValueError, match=r"expected config.json and diffusion_pytorch_model"):
        load_diffusers_unet(copy)
    (copy / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.bin is a pickle, which can run"):
        load_diffusers_unet(copy)


def test_wrong_inputs_are_named():
    plain, classes = (load_diffusers_unet(GOLDEN / name) for name in ("ddpm", "scale_shift"))
    z = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match=r"z: expected \[B, H, W, 3\] with sides of 2 n"):
        plain.apply(plain.params, z[:, :7], 0.0)
    with pytest.raises(ValueError, match="label: expected none for this model"):
        plain.apply(plain.params, z, 0.0, jnp.zeros(1, int))
    with pytest.raises(ValueError, match=r"label: expected classes .B. for this model, got none"):
        classes.apply(classes.params, jnp.zeros((1, 8, 8, 1)), 0.0)
    images = jnp.zeros((3, 8, 8, 1))
    count = len(classes.params["class_embedding.weight"])
    for label in (-1, count):
        answer = classes.apply(classes.params, images, 0.0, jnp.array([0, label, 1]))
        assert np.isnan(answer).any(axis=(1, 2, 3)).tolist() == [False, True, False]
    shapes = diffusers_config.shapes(plain.config)
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    assert total == sum(value.size for value in plain.params.values())
