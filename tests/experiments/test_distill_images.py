"""Distillation of images: teachers of all kinds, the guard, what is refused."""

import dataclasses
import json
import shutil
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import diffusers_unet, process, schedules
from experiments import catalog, commands, trained
from experiments.diffusion import distill, judging, teachers, train
from experiments.harness import image_sets
from experiments.harness.errors import NonFiniteError, UsageError
from experiments.harness.training import TrainingConfig

FIRST = ["--samples", "40", "--calls", "3"]
FIRST += ["--training.batch_size", "8", "--training.eval_every", "2"]
QUICK = [*FIRST, "--network.width", "8", "--network.depth", "1"]
QUICK += ["--start.steps", "3", "--start.batch_size", "8"]
LONGER = ["--training.steps", "4", "--training.checkpoint_every", "2", "--training.ema", "0.5"]


@pytest.mark.slow
def test_a_teacher_is_trained_and_distilled(tmp_path):
    record = commands.run("diffusion/distill", "quick", [*QUICK, *LONGER], tmp_path / "run")
    rows = [row for row in record.rows if "frechet" in row]
    assert [row["step"] for row in rows] == [0, 2, 4] and (record.directory / "figure.png").exists()
    assert record.result["teacher"][0]["calls"] == 3 and len(record.result["grid"]) == 20
    assert record.result["frechet"] == pytest.approx(rows[-1]["frechet"])
    claims = {claim.id: claim for claim in catalog.get("diffusion/distill").claims}
    expected = record.result["teacher"][0]["frechet"] / record.result["frechet"]
    assert claims["distill.one_step"].measure(record) == expected
    assert claims["distill.best"].measure(record) == expected  # of one number of calls
    assert claims["distill.power"].measure(record) is None  # of too few distances
    again = commands.run("diffusion/distill", "quick", [*QUICK, *LONGER], tmp_path / "run")
    assert again.result == record.result


@pytest.mark.slow
def test_a_run_with_classes_is_a_teacher(tmp_path, monkeypatch):
    options = ["--network.kind", "mlp", "--network.width", "8", "--network.depth", "1"]
    options += ["--network.classes", "10", "--training.steps", "3", "--training.batch_size", "8"]
    options += ["--samples", "20", "--steps", "4"]
    commands.run("diffusion/train", "quick", options, tmp_path / "teacher")
    given = [*FIRST, *LONGER, "--teacher", str(tmp_path / "teacher")]
    record = commands.run("diffusion/distill", "quick", given, tmp_path / "run")
    assert np.isfinite(record.result["frechet"])
    student = trained.load(tmp_path / "run")
    assert (student.settings.width, student.settings.classes) == (8, 10)
    shutil.rmtree(tmp_path / "run" / "weights")  # those of the last checkpoint are averages too
    with monkeypatch.context() as without:
        without.setattr(image_sets, "load", None)  # images are not needed
        again = trained.load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, again.params, student.params)
    z, label = jnp.ones((2, 8, 8, 1)), jnp.array([1, 2])
    assert student.apply(student.params, z, label=label).shape == z.shape
    with pytest.raises(ValueError, match="key: expected one of JAX, got int32; classes"):
        student.apply(student.params, z, label)
    step = distill.programs(student.config)["distillation step"]
    known = jax.tree.map(jnp.shape, step.arguments[0].params["teacher"])
    assert known == jax.tree.map(jnp.shape, train.load(tmp_path / "teacher").params)
    for option in ("--network.width", "--start.steps", "--noise.base"):
        field = option.partition(".")[0].removeprefix("--")
        with pytest.raises(UsageError, match=f"{field}: expected none with --teacher"):
            commands.run("diffusion/distill", "quick", [*given, option, "7"], tmp_path / "no")
    images = image_sets.load(image_sets.DIGITS)
    found = teachers.read(tmp_path / "teacher", images)
    assert found.classes == 10
    label, sigma = jnp.array([1, 2]), jnp.array([0.5, 2.0])
    y = jnp.ones((2, 8, 8, 1))
    model = train.load(tmp_path / "teacher")
    expected = process.edm_denoiser(model.denoiser)(y, sigma, label)
    np.testing.assert_allclose(found.network(found.params, y, sigma, label), expected, rtol=1e-6)
    with pytest.raises(UsageError, match=r"teacher: expected one of images \(16, 16, 1\)"):
        commands.run("diffusion/distill", "quick", [*given, "--data.size", "16"], tmp_path / "no")
    other = image_sets.ImageConfig(path="some/folder")  # of the user's, who says so
    assert teachers.read(tmp_path / "teacher", images, other).classes == 10
    with pytest.raises(UsageError, match=r"trained on, --data.name digits, or a folder"):
        teachers.read(tmp_path / "teacher", images, image_sets.ImageConfig("mnist", size=8))


@pytest.mark.slow
def test_a_directory_of_diffusers_is_a_teacher():
    folder = Path(__file__).parents[1] / "golden" / "diffusers" / "ddpm"
    config = json.loads((folder / "config.json").read_text())
    side, channels = config["sample_size"], config["in_channels"]
    x = np.zeros((2, side, side, channels), np.float32)
    images = dataclasses.replace(image_sets.load(image_sets.DIGITS), train=x, test=x)
    found = teachers.read(folder, images)
    y, sigma = jnp.ones(x.shape), jnp.array([0.5, 2.0])
    table = schedules.linear_beta()
    model = diffusers_unet.load_diffusers_unet(folder).denoiser(table)
    expected = process.edm_denoiser(model, "eps")(y, sigma)
    np.testing.assert_allclose(found.network(found.params, y, sigma), expected, rtol=1e-6)


def test_sets_that_are_read_at_every_batch_have_a_size():
    lazy = [preset.data for preset in distill.PRESETS.values() if preset.data.lazy]
    assert lazy and all(data.size is not None for data in lazy)


def test_what_is_no_teacher_is_refused(tmp_path):
    images = image_sets.load(image_sets.DIGITS)
    with pytest.raises(UsageError, match="teacher: expected a run of diffusion/train or a dir"):
        teachers.read(tmp_path, images)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.bin").write_text("")
    with pytest.raises(UsageError, match=r"model.bin is a pickle"):
        teachers.read(tmp_path, images)


@pytest.mark.parametrize(
    ("scale", "message"), [(0.0, "collapsed: generated"), (9.0, "diverged: generated"), (0.7, None)]
)
def test_a_generator_that_is_lost_stops_the_run(scale, message, monkeypatch):
    images = image_sets.load(image_sets.DIGITS)
    x = scale * np.random.default_rng(0).normal(size=(40, 8, 8, 1))
    monkeypatch.setattr(distill, "sample", lambda *_: x)
    rows = []
    run = types.SimpleNamespace(tracker=types.SimpleNamespace(rows=lambda: rows))
    features, _ = judging.features(image_sets.DIGITS, images)
    evaluate = distill._evaluate(distill.Config(samples=40), None, images, features, run)
    evaluate({})  # the first look, when images are means, says nothing
    rows.append({"frechet": 1.0, "step": distill.PATIENCE - 1})
    evaluate({})  # nor does one that is early
    rows.append({"frechet": 1.0, "step": distill.PATIENCE})
    if message is None:
        assert evaluate({})["width"] > 0.5
    else:
        with pytest.raises(NonFiniteError, match=message):
            evaluate({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 3}, "samples, calls: expected at least 20 and odd numbers"),
        ({"calls": (4,)}, "samples, calls: expected at least 20 and odd numbers"),
        ({"training": TrainingConfig()}, "training.ema: expected an average"),
        (
            {"training": TrainingConfig(ema=0.9, accumulate=2)},
            "training.accumulate: expected",
        ),
    ],
)
def test_impossible_settings_of_a_student_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        distill.Config(**options)


def test_the_power_is_of_the_part_that_falls():
    rows = [{"step": n, "frechet": max(100.0 / n, 0.5)} for n in range(20, 1000, 20)]
    record = types.SimpleNamespace(rows=rows)
    found = distill._power(record)  # pyright: ignore[reportArgumentType]
    assert found is not None and found.value == pytest.approx(1.0, abs=1e-9)
