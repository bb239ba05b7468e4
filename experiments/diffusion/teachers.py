"""Teachers of distillation: trained in the run, a run of diffusion/train, a public checkpoint."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from diffusion import diffusers_unet, process, schedules
from experiments.diffusion import denoising, distilling, train
from experiments.diffusion.arms import Arm, Trainer
from experiments.diffusion.distilling import Model
from experiments.harness import config as configs
from experiments.harness import placing, sharding
from experiments.harness.checkpoint import Checkpoints
from experiments.harness.errors import UsageError
from experiments.harness.image_sets import ImageConfig, Images
from experiments.harness.run import Run
from experiments.harness.training import TrainingConfig


def check_alone(config: Any, presets: Iterable[Any]) -> None:
    """Refuse settings for a teacher that is trained beside one that is given.

    Raises:
        ValueError: naming one that is that of no preset.
    """
    for name in ("network", "noise", "start"):
        if all(getattr(config, name) != getattr(one, name) for one in presets):
            raise ValueError(
                f"{name}: expected none with --teacher, which was trained with its own"
            )


def trained(arm: Arm, settings: TrainingConfig, images: Images, run: Run) -> Model:
    """One that is trained now, or was in an earlier part of the run."""
    trainer = Trainer(arm, settings, images, run.layout)
    where = sharding.replicated(trainer.placed.mesh)
    kept = Checkpoints(run.directory / "teacher", 1, configs.digest(run.config))
    try:
        init = denoising.make_init(arm.network, images.train.shape[1:])
        shapes = jax.eval_shape(init, jax.random.key(0))
        found = kept.restore(placing.described(shapes, jax.tree.map(lambda _: where, shapes)))
        if found is None:
            found = placing.put(trainer(settings.seed)[0], where), settings.steps
            kept.save(settings.steps, found[0])
            kept.finish(settings.steps, found[0])
        params = placing.whole(found[0], trainer.placed.mesh)
    finally:
        kept.close()
    return Model(distilling.network_of(arm.network), params, arm.network.classes)


def read(
    folder: str | Path, images: Images | None = None, data: ImageConfig | None = None
) -> Model:
    """A run of diffusion/train, or a directory of diffusers with DDPM's linear schedule.

    Args:
        images: that it is to be one of; None takes any.
        data: their settings: the set of TFDS of the run, or any folder; None takes all.

    Raises:
        UsageError: neither; one of images of another shape or set.
    """
    folder = Path(folder).expanduser()
    shape = None if images is None else images.train.shape[1:]
    if (folder / "run.json").exists():
        model = train.load(folder)
        if data is not None:
            _check_data(data, model.config.data)
        trained, made = model.shape, model.config.network
        found = Model(distilling.network_of(made), model.params, made.classes, made)
    elif any(path.exists() for path in (folder / "config.json", folder / "unet" / "config.json")):
        try:
            unet = diffusers_unet.load_diffusers_unet(folder)
        except ValueError as error:
            raise UsageError(f"teacher: {error}") from None
        side = unet.config.get("sample_size") or (0 if shape is None else shape[0])
        table = schedules.linear_beta()
        trained = (side, side, unet.config["in_channels"])

        def network(params: Any, y: jax.Array, sigma: jax.Array, *label: Any) -> jax.Array:
            predict = table.denoiser(functools.partial(unet.apply, params))
            return process.edm_denoiser(predict, "eps")(y, sigma, *label)

        found = Model(network, unet.params, unet.config["num_class_embeds"])
    else:
        raise UsageError(
            f"teacher: expected a run of {train.NAME} or a directory of diffusers, got {folder}"
        )
    if images is None:
        return found
    if tuple(trained) != shape:
        raise UsageError(
            f"teacher: expected one of images {shape}, as the data are, got one of {tuple(trained)}"
        )
    if found.classes is not None and found.classes != images.classes:
        raise UsageError(
            f"teacher: expected one of {images.classes} classes, as the data have, got one of "
            f"{found.classes}"
        )
    return found


def _check_data(data: ImageConfig, own: ImageConfig) -> None:
    """Refuse a set of TFDS, or the digits, that the teacher was not trained on."""
    if data.path is None and (own.path is not None or data.name != own.name):
        option, value = ("name", own.name) if own.path is None else ("path", own.path)
        size = "" if own.size is None else f" --data.size {own.size}"
        raise UsageError(
            f"data: expected what the teacher was trained on, --data.{option} {value}{size}, or a "
            f"folder, --data.path; got {data.name}"
        )
