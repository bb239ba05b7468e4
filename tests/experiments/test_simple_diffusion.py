"""Simple diffusion: its sizes, training on any images, and the three ablations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion import guidance, process, schedules, times
from experiments import commands
from experiments.diffusion import (
    architecture,
    arms,
    denoising,
    multi_scale,
    schedule_shift,
    train,
)
from experiments.diffusion.denoising import LossConfig
from experiments.diffusion.networks import NetworkConfig
from experiments.diffusion.noise import NoiseConfig
from experiments.harness import compiling, image_sets, training
from experiments.harness import config as configs
from experiments.harness.errors import ExperimentError, UsageError
from experiments.harness.image_sets import ImageConfig
from experiments.harness.run import Run
from experiments.harness.training import TrainingConfig

TINY = NetworkConfig("unet", 4, 1)
SHORT = TrainingConfig(steps=3, batch_size=8, weight_decay=0.0, ema=0.5, eval_every=3)


def count(network, size):
    weights = jax.eval_shape(denoising.make_init(network, (size, size, 3)), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(weights))


def conv(inside, outside, side=3):
    return (inside * side**2 + 1) * outside


def block(inside, channels, context, heads):
    """Parameters of a block, from its formulas."""
    total = 2 * inside + conv(inside, channels) + (context + 1) * 2 * channels
    total += 2 * channels + conv(channels, channels)
    total += (inside + 1) * channels if inside != channels else 0
    return total + (
        2 * channels + 3 * conv(channels, channels, 1) + conv(channels, channels, 1)
    ) * (heads > 0)


def expected(network):
    """Parameters of a network for RGB images, from its levels."""
    widths = [network.width * multiplier for multiplier in network.multipliers]
    context = network.context or 4 * network.width
    total = (33 * context) + (context + 1) * context
    total += 0 if network.classes is None else (network.classes + 1) * context
    area = network.patch**2
    total += conv(3 * area, widths[0]) + 2 * widths[0] + conv(widths[0], 3 * area)
    for level, number in enumerate(network.blocks):
        width, heads = widths[level], network.heads[level]
        total += number * (block(width, width, context, heads))
        total += number * (block(2 * width, width, context, heads))
        total += conv(width, widths[level + 1]) + conv(widths[level + 1], width)
    bottom, heads = widths[-1], network.heads[-1]
    if network.kind == "unet":
        return total + network.depth * block(bottom, bottom, context, heads)
    layer = (context + 1) * 6 * bottom + 4 * conv(bottom, bottom, 1)
    layer += conv(bottom, 4 * bottom, 1) + conv(4 * bottom, bottom, 1)
    return total + network.depth * layer + 1024 * bottom


@pytest.mark.sample(1)
@pytest.mark.parametrize("preset", [p for p in train.PRESETS if p.startswith("paper")])
def test_the_sizes_of_the_paper(preset):
    config = train.PRESETS[preset]
    assert config.data.size == int(preset.rpartition("_")[2]) if "_" in preset else 128
    found = count(config.network, config.data.size)
    assert found == expected(config.network)
    # U-ViT L has two thousand million (arXiv 2312.06662, table 3); the U-Nets' are not stated.
    assert round(found / 1e9) == (2 if config.network.kind == "uvit" else 1)
    side = config.data.size // config.network.patch
    lowest = side // 2 ** (len(config.network.multipliers) - 1)
    assert lowest == (16 if config.network.kind == "uvit" else 8)
    described = train.describe(config)
    assert f"{found:,} parameters" in described["network"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper_uvit_256", "paper_512"])
def test_large_presets_run_two_steps_at_reduced_width(preset, tmp_path):
    options = ["--network.width", "4", "--network.head_width", "4", "--network.depth", "1"]
    options += ["--network.context", "8", "--network.classes", "10", "--training.steps", "2"]
    options += ["--training.batch_size", "4", "--samples", "20", "--steps", "2"]
    paper = dataclasses.replace(train.PRESETS[preset], data=ImageConfig(size=64))
    options += ["--loss.scales", "32", "64"] if paper.loss.scales else []
    config = configs.parse(paper, options)
    blocks = tuple(1 for _ in config.network.blocks)
    config = dataclasses.replace(config, network=dataclasses.replace(config.network, blocks=blocks))
    assert config.network.dtype == "bfloat16" and config.network.stem == "dwt"
    images = image_sets.load(config.data)
    images = dataclasses.replace(images, test=images.test[:20], test_labels=images.test_labels[:20])
    problem = denoising.make_problem(
        config.network, images, config.noise.schedule(64), config.training, config.loss
    )
    state = jax.jit(lambda: training.init_state(problem, config.training))()
    step = compiling.compile_step(training.make_step(problem, config.training))
    for number in range(2):
        state, values = step(state, problem.batch(number))
    assert np.isfinite(values["loss"]) and int(values["bad_leaf"]) == -1
    assert np.isfinite(problem.evaluate(training.averaged(state))["validation_v_error"])


@pytest.mark.slow
def test_bfloat16_computes_while_weights_averages_and_losses_stay_float32():
    images = image_sets.load(ImageConfig(size=16))
    results = []
    for dtype in ("float32", "bfloat16"):
        network = dataclasses.replace(TINY, kind="uvit", width=16, dtype=dtype)
        settings = dataclasses.replace(SHORT, steps=30, batch_size=32, learning_rate=3e-3)
        problem = denoising.make_problem(network, images, schedules.cosine(), settings)
        state = jax.jit(lambda p=problem, s=settings: training.init_state(p, s))()
        step = compiling.compile_step(training.make_step(problem, settings))
        text = step.lower(state, problem.batch(0)).as_text()
        assert ("bf16" in text) == (dtype == "bfloat16")
        curve = []
        for number in range(30):
            state, values = step(state, problem.batch(number))
            curve.append(float(values["loss"]))
        leaves = jax.tree.leaves((state.params, state.ema, state.optimizer, values["loss"]))
        floating = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert len(floating) > 20 and set(floating) == {jnp.dtype("float32")}
        results.append((np.array(curve), problem.evaluate(state.ema)["validation_v_error"]))
    (wide, wide_error), (half, half_error) = results
    assert wide[-1] < 0.8 * wide[0]  # there is something to agree on
    np.testing.assert_allclose(half, wide, rtol=0.02)
    assert half_error == pytest.approx(wide_error, rel=0.02)


@pytest.mark.slow
def test_losses_are_those_of_their_definition():
    network = NetworkConfig(width=8, depth=1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8, 8, 1)), jnp.float32)
    params = denoising.make_init(network, (8, 8, 1))(jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape), params)
    schedule, key = schedules.cosine(-5.0, 5.0), jax.random.key(3)
    t_key, noise_key = jax.random.split(key, 4)[:2]
    logsnr = schedule(times.low_discrepancy(t_key, 6))
    eps = jax.random.normal(noise_key, x.shape)
    z = process.diffuse(x, eps, logsnr)
    v = np.asarray(network.network().apply(params, z, logsnr), np.float64)
    alpha, sigma = (
        np.asarray(a, np.float64)[:, None, None, None] for a in process.alpha_sigma(logsnr)
    )
    eps_hat = sigma * z + alpha * v
    residual = np.asarray(eps_hat - eps, np.float64)
    pooled = residual.reshape(6, 4, 2, 4, 2, 1).mean((2, 4))
    for setting, truth in (
        (LossConfig(), np.mean((v - (alpha * eps - sigma * x)) ** 2)),
        (LossConfig(space="eps"), np.mean(residual**2)),
        (LossConfig(scales=(4, 8)), np.mean(pooled**2) / 4 + np.mean(residual**2) / 8),
    ):
        value, _ = denoising.make_loss(network, schedule, setting)(params, {"x": x}, key)
        np.testing.assert_allclose(value, truth, rtol=1e-4)


def test_noise_follows_the_size():
    t, cosine = jnp.linspace(0.05, 0.95, 7), schedules.cosine()
    base = np.asarray(cosine(t))
    np.testing.assert_allclose(NoiseConfig().schedule(64)(t), base, rtol=1e-6)
    shifted = NoiseConfig("shifted", 16).schedule(64)(t)
    np.testing.assert_allclose(shifted, base - 2 * np.log(4), rtol=1e-5)
    mixed = NoiseConfig("interpolated", 16, 64).schedule(64)(t)
    np.testing.assert_allclose(mixed, base - 2 * np.log(4) * (1 - np.asarray(t)), rtol=1e-5)
    with pytest.raises(ValueError, match=r"noise.base, base_at_noise: expected positive"):
        NoiseConfig(base=0)


@pytest.fixture
def shapes(tmp_path):
    """A folder of three classes of grey images."""
    rng = np.random.default_rng(0)
    for name in "abc":
        (tmp_path / "shapes" / name).mkdir(parents=True)
        for i in range(12):
            grey = rng.integers(0, 255, (8, 8)).astype(np.uint8)
            Image.fromarray(grey).save(tmp_path / "shapes" / name / f"{i}.png")
    return tmp_path / "shapes"


@pytest.mark.slow
def test_training_on_a_folder_takes_one_flag(shapes, tmp_path):
    tiny = ["--network.kind", "mlp", "--network.width", "8", "--network.depth", "1"]
    tiny += ["--training.steps", "4", "--training.batch_size", "8"]
    tiny += ["--samples", "24", "--steps", "4"]
    path = ["--data.path", str(shapes)]
    record = commands.run("diffusion/train", "quick", [*path, *tiny], tmp_path / "run")
    assert len(record.result["grid"]) == 24
    assert record.data["pinned"]["its data"] and record.result["classifier"]["accuracy"] >= 0
    assert (record.directory / "figure.png").exists()
    guided = ["--network.classes", "3", "--scale", "2.0"]
    record = commands.run("diffusion/train", "quick", [*path, *tiny, *guided], tmp_path / "guided")
    assert 0 <= record.result["confidence"] <= 1
    with pytest.raises(UsageError, match=r"network.classes: .* got 4 for images of 3 classes"):
        commands.run(
            "diffusion/train", "quick", [*path, *tiny, "--network.classes", "4"], tmp_path / "bad"
        )
    shapes.rename(tmp_path / "elsewhere")  # as on another machine
    model = train.load(tmp_path / "run")
    assert model.shape == (8, 8, 1)
    z = jnp.ones((2, *model.shape))
    expected = model.config.network.network().apply(model.params, z, jnp.zeros(2))
    np.testing.assert_allclose(model.denoiser(z, jnp.zeros(2)), expected, rtol=1e-6)


@pytest.mark.slow
def test_a_run_is_loaded_as_a_denoiser(tmp_path):
    options = ["--network.kind", "conv", "--network.width", "4", "--network.depth", "1"]
    options += ["--training.steps", "3", "--training.batch_size", "8", "--training.ema", "0.5"]
    options += ["--samples", "20", "--steps", "4", "--network.classes", "10"]
    record = commands.run("diffusion/train", "quick", options, tmp_path / "run")
    model = train.load(tmp_path / "run")
    images = image_sets.load(model.config.data)
    x, _ = train.sample(model.config, model.params, images, model.schedule)
    assert denoising.grey(x, images.levels) == record.result["grid"]
    z, logsnr, label = jnp.ones((2, 6, 6, 1)), jnp.zeros(2), jnp.array([1, 10])
    expected = model.config.network.network().apply(model.params, z, logsnr, label)
    np.testing.assert_allclose(model.denoiser(z, logsnr, label), expected, rtol=1e-6)
    np.testing.assert_allclose(model.schedule(0.3), model.config.noise.schedule(8)(0.3), rtol=1e-6)
    np.testing.assert_allclose(model.denoiser(z, 0.0, label), expected, rtol=1e-6)
    half = tmp_path / "run" / "checkpoints" / "4.orbax-checkpoint-tmp"
    half.mkdir()  # that of a run which goes on meanwhile
    train.load(tmp_path / "run")
    assert half.exists()
    file = tmp_path / "run" / "run.json"
    text = file.read_text()
    file.write_text(text.replace('"width": 4', '"width": 8'))
    with pytest.raises(ExperimentError, match=r"run.json has been edited"):
        train.load(tmp_path / "run")
    file.write_text(text.replace('"width": 4,', ""))
    with pytest.raises(ExperimentError, match=r"network.width: absent -> 128"):
        train.load(tmp_path / "run")
    file.write_text(text)
    commands.run("diffusion/snr", "quick", [], tmp_path / "other")
    with pytest.raises(ExperimentError, match="expected a run of diffusion/train, got one of"):
        train.load(tmp_path / "other")
    with pytest.raises(ExperimentError, match=r"expected a run directory"):
        train.load(tmp_path / "nothing")
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(ExperimentError, match="expected checkpoints, found none"):
        train.load(str(tmp_path / "run"))


def test_upsampling_warns_of_the_network_of_a_run():
    module = denoising.denoiser(TINY)
    with pytest.warns(UserWarning, match="group norms take moments"):
        guidance.upsample(functools.partial(module, {}), 2)


def test_images_without_classes_are_measured_by_pixels():
    images = dataclasses.replace(image_sets.load(image_sets.DIGITS), classes=None)
    config = dataclasses.replace(train.PRESETS["quick"], samples=50)
    found = train.measure(config, images, images.test[:50], None)
    assert "classifier" not in found
    assert found["frechet"]["value"] < found["frechet"]["ceilings"]["noise"]
    with pytest.raises(UsageError, match=r"network.classes: .* images without classes"):
        denoising.check(dataclasses.replace(TINY, classes=2), images)


@pytest.mark.slow
def test_guided_samples_are_those_of_the_guided_denoiser():
    images = image_sets.load(image_sets.DIGITS)
    network = NetworkConfig(width=8, depth=1, classes=10)
    config = train.Config(network=network, scale=3.0, samples=20, steps=3)
    params = denoising.make_init(network, (8, 8, 1))(jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), params)
    x, labels = train.sample(config, params, images, schedules.cosine())
    assert x.shape == (20, 8, 8, 1)
    np.testing.assert_array_equal(labels, images.labels(20))
    apply = denoising.denoiser(network)
    z, level, label = jnp.asarray(x), jnp.zeros(20), jnp.asarray(labels)
    with_class, without = (apply(params, z, level, c) for c in (label, jnp.full(20, 10)))
    guided = train._guided(apply, 3.0, 10, params, z, level, label)
    np.testing.assert_allclose(guided, without + 3 * (with_class - without), atol=1e-5)


def test_a_run_does_not_go_on_with_other_images(shapes, tmp_path):
    config = train.PRESETS["quick"]
    with Run("diffusion/train", "quick", config, tmp_path / "run") as run:
        run.pin("the folder of images", "a")
    with (
        Run("diffusion/train", "quick", config, tmp_path / "run") as run,
        pytest.raises(ExperimentError, match="the folder of images has changed since"),
    ):
        run.pin("the folder of images", "b")


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (TINY, (9, 8, 1), "sides of 2 n"),
        (dataclasses.replace(TINY, stem="dwt", patch=4), (12, 12, 1), "sides of 8 n"),
        (
            dataclasses.replace(TINY, kind="uvit"),
            (128, 128, 1),
            "positions: expected at least 4096",
        ),
    ],
)
def test_images_that_cannot_be_halved_are_refused(network, shape, message):
    images = dataclasses.replace(
        image_sets.load(image_sets.DIGITS), train=np.zeros((4, *shape), np.float32)
    )
    with pytest.raises(UsageError, match=message):
        denoising.check(network, images)
    with pytest.raises(UsageError, match=r"loss.scales: expected divisors .* got \(3, 8\)"):
        denoising.check(TINY, image_sets.load(image_sets.DIGITS), LossConfig(scales=(3, 8)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: NetworkConfig(stem="conv"),
            "network.stem: expected kind unet or uvit, .* got mlp",
        ),
        (lambda: NetworkConfig("unet", blocks=(1, 2)), "network.blocks: expected one number"),
        (lambda: NetworkConfig("unet", 50, head_width=30), "network.head_width: expected to"),
        (lambda: NetworkConfig("unet", dropout=1.0), "network.dropout, head_width: expected"),
        (lambda: NetworkConfig("uvit", attention=0), "network.multipliers, attention: expected"),
        (lambda: NetworkConfig("unet", multipliers=(0, 1)), "network.multipliers, attention"),
        (lambda: NetworkConfig("unet", context=0), "network.context: expected at least 1"),
        (
            lambda: train.Config(network=NetworkConfig(classes=10, drop=0.0), scale=2.0),
            "network.drop: expected a share between 0 and 1 for guidance",
        ),
        (
            lambda: architecture.Config(network=dataclasses.replace(TINY, dropout=0.3)),
            "network.dropout, stem, multipliers: expected a base without",
        ),
        (lambda: NetworkConfig(classes=0), "network.classes: expected at least 1"),
        (lambda: LossConfig("elbo", scales=(8,)), "loss.scales: expected no weighting"),
        (lambda: train.Config(scale=2.0), "scale: expected 1 for a network without classes"),
        (lambda: train.Config(samples=3), "samples: expected at least 20, got 3"),
        (lambda: schedule_shift.Config(kinds=("shifted",)), "the cosine among them"),
        (lambda: schedule_shift.Config(seeds=1), "base, factor, seeds: expected at least 2"),
        (lambda: multi_scale.Config(scales=(5, 16)), "scales: expected divisors of 16"),
        (lambda: multi_scale.Config(data=image_sets.DIGITS), "data.size: expected the pixels"),
        (lambda: architecture.Config(groups=("width",)), "groups: expected some of"),
        (lambda: architecture.Config(network=NetworkConfig()), "network.kind: expected unet"),
        (lambda: architecture.Config(blocks=3), "rate, blocks: expected in .* even"),
        (lambda: architecture.Config(patch=3), "patch: expected"),
        (lambda: arms.Measuring(samples=5), "measuring.samples, steps, coarse: expected"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
