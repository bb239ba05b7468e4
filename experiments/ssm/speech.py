"""Classifying sounds sample by sample: raw waves of thousands of steps.

Reproduces: Speech Commands on raw waves (S4D, arXiv 2206.11893, and S5, 2208.04933: 35 words of
16 000 samples), from the folder that the set is published as, with the settings of RTF's
repository; its paper reports no result. TFDS sets of sounds can be read as well. The default data
are synthetic: tones of a random pitch that is steady, rises, falls, or does both, in noise.
"""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import comparison as comparisons
from experiments.harness import datasets
from experiments.harness.comparison import Comparison
from experiments.harness.errors import DataError
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig
from experiments.ssm import classifying, learning, long_range, models
from experiments.ssm.learning import Task, UpdateConfig
from experiments.ssm.models import Arm, Kind, ModelConfig, Network

CONTOURS = {  # pitches at the beginning, in the middle, at the end, in octaves
    "steady": (0.0, 0.0, 0.0),
    "rising": (-0.5, 0.0, 0.5),
    "falling": (0.5, 0.0, -0.5),
    "peak": (-0.5, 0.5, -0.5),
    "dip": (0.5, -0.5, 0.5),
}
EVALUATION = 10**6  # the step whose batch is never trained on


@dataclass(frozen=True)
class SpeechConfig:
    """Which sounds.

    Attributes:
        name: "tones", or a TFDS set with "audio" and "label", such as "speech_commands".
        path: a folder of WAV files, one sub-folder per class, with testing_list.txt and
            validation_list.txt of files not to train on, as Speech Commands is distributed.
        data_dir: folder with the TFDS sets; None: the environment variable TFDS_DATA_DIR.
        length: number of samples; longer sounds are cut, shorter ones padded with zeros.
        classes: number of classes of a set; tones have five.
        noise: root mean square of the noise; that of the tones is 0.7.
        tests: number of held-out tones.
    """

    name: str = "tones"
    path: str | None = None
    data_dir: str | None = None
    length: int = 256
    classes: int = len(CONTOURS)
    noise: float = 0.3
    tests: int = 500

    def __post_init__(self):
        if self.length < 8 or self.classes < 2 or self.noise < 0 or self.tests < 1:
            raise ValueError(
                "data.length, classes, noise, tests: expected at least 8, 2, 0 and 1, got "
                f"{self.length}, {self.classes}, {self.noise}, {self.tests}"
            )
        if self.synthetic and self.classes != len(CONTOURS):
            raise ValueError(f"data.classes: expected {len(CONTOURS)} of tones, got {self.classes}")

    @property
    def synthetic(self) -> bool:
        """Whether they are generated."""
        return self.name == "tones" and self.path is None


@dataclass(frozen=True)
class Config:
    """The sounds and the models.

    Attributes:
        model: the first model.
        against: mixers of further models, which are like the first one otherwise.
        data, training, comparison, update: of all models.
    """

    data: SpeechConfig = field(default_factory=SpeechConfig)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(channels=16, size=16))
    against: tuple[Kind, ...] = ()
    training: TrainingConfig = classifying.QUICK
    comparison: Comparison = field(default_factory=lambda: Comparison(1, (1e-2,)))
    update: UpdateConfig = field(default_factory=UpdateConfig)

    def __post_init__(self):
        comparisons.check(self.training, self.comparison)
        if self.training.steps > EVALUATION:
            raise ValueError(f"training.steps: expected at most {EVALUATION}")
        models.check(self.model, self.against, self.data.length)


PRESETS = {
    "quick": Config(),
    "cpu": Config(
        data=SpeechConfig(length=1024, noise=1.0),
        model=ModelConfig(channels=32, layers=2, size=32, s5_size=64, bidirectional=True),
        against=("s4", "s4d", "s5"),
        training=TrainingConfig(
            steps=1000,
            batch_size=32,
            warmup=100,
            weight_decay=0.05,
            eval_every=200,
            checkpoint_every=250,
            log_every=50,
        ),
        comparison=Comparison(2, (6e-3,)),
    ),
    # The settings of the repository of arXiv 2405.06147: 40 epochs of 84 843 sounds.
    "paper": Config(
        data=SpeechConfig(path="SpeechCommands/speech_commands_v0.02", length=16_000, classes=35),
        model=ModelConfig(
            channels=128,
            layers=6,
            size=64,
            bidirectional=True,
            norm="batch",
            denominators=2,
            remat=True,
        ),
        training=TrainingConfig(
            steps=212_000,
            batch_size=16,
            warmup=1000,
            weight_decay=0.05,
            eval_every=5300,
            checkpoint_every=5300,
        ),
        comparison=Comparison(1, (0.01,), vectorised=False),
        update=UpdateConfig(0.001),
    ),
}


def tones(data: SpeechConfig, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Tones x [count, length, 1] in noise, and which contour each has."""
    label = rng.integers(0, len(CONTOURS), count)
    knots = np.array(list(CONTOURS.values()))[label]
    time = np.arange(data.length) / data.length
    contour = np.where(
        time < 0.5,
        knots[:, :1] + 2 * time * (knots[:, 1:2] - knots[:, :1]),
        knots[:, 1:2] + (2 * time - 1) * (knots[:, 2:] - knots[:, 1:2]),
    )
    height = rng.uniform(-5.0, -4.0, (count, 1))  # cycles a sample, in octaves
    phase = 2 * np.pi * (np.cumsum(2.0 ** (height + contour), axis=1) + rng.random((count, 1)))
    x = np.sin(phase) + data.noise * rng.normal(size=phase.shape)
    return {"x": x[..., None].astype(np.float32), "label": label.astype(np.int32)}


def folder(data: SpeechConfig) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Files to train on and to test, with their classes; those of the validation are left out.

    Raises:
        DataError: no such folder, no list of tests, other classes than expected.
    """
    root = Path(data.path or "").expanduser()
    try:
        lists = [
            set((root / name).read_text().split())
            for name in ("testing_list.txt", "validation_list.txt")
        ]
    except OSError as error:
        raise DataError(f"data.path: expected a folder with lists of tests, got: {error}") from None
    names = sorted(
        place.name
        for place in root.iterdir()
        if place.is_dir() and not place.name.startswith(("_", "."))
    )
    if len(names) != data.classes:
        raise DataError(
            f"{root}: expected {data.classes} sub-folders, the classes, got {len(names)}"
        )
    train, test = [], []
    for label, name in enumerate(names):
        for file in sorted((root / name).glob("*.wav")):
            place = f"{name}/{file.name}"
            if place in lists[0]:
                test.append((file, label))
            elif place not in lists[1]:
                train.append((file, label))
    if not train or not test:
        raise DataError(
            f"{root}: expected sounds to train on and to test, got {len(train)} and {len(test)}"
        )
    return train, test


def read_wave(file: Path) -> np.ndarray:
    """The first channel of a WAV file, in [-1, 1].

    Raises:
        DataError: it cannot be read.
    """
    from scipy.io import wavfile

    try:
        _, wave = wavfile.read(file)
    except Exception as error:  # of many kinds
        raise DataError(f"{file}: expected a readable WAV file, got: {error}") from None
    wave = wave if wave.ndim == 1 else wave[:, 0]
    if wave.dtype == np.uint8:
        return wave.astype(np.float32) / 128.0 - 1.0
    full = float(np.iinfo(wave.dtype).max) if wave.dtype.kind == "i" else 1.0
    return wave.astype(np.float32) / full


def packed(waves: list[np.ndarray], length: int) -> np.ndarray:
    """Waves [n, length, 1], cut or padded with zeros."""
    x = np.zeros((len(waves), length, 1), np.float32)
    for row, wave in zip(x, waves, strict=True):
        some = wave[:length]
        row[: len(some), 0] = some
    return x


def make_task(config: Config) -> Task:
    """Fresh tones in every step, or sounds in shuffled epochs, scaled to a variance of 1.

    Raises:
        DataError: missing or unreadable sounds, labels out of range.
    """
    data = config.data
    if data.synthetic:

        def fresh(seed: int, size: int, step: int) -> dict[str, np.ndarray]:
            return tones(data, np.random.default_rng([seed, step]), size)

        held_out = tones(data, np.random.default_rng([0, EVALUATION]), data.tests)
        return Task(fresh, held_out, learning.classified, config.training.batch_size)

    (read, labels), (read_test, test_labels) = _sets(data)
    for some in (labels, test_labels):
        long_range.check_labels(some, data.classes, data.path or data.name)
    some = np.linspace(0, len(labels) - 1, min(len(labels), 1000)).astype(int)
    x = packed([read(number) for number in some], data.length)
    scale = 1.0 / max(float(x.std()), 1e-8)

    def batch(read: Any, labels: np.ndarray, chosen: Any) -> dict[str, np.ndarray]:
        waves = packed([read(number) for number in chosen], data.length)
        return {"x": scale * waves, "label": labels[chosen]}

    def epochs(seed: int, size: int, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        return batch(read, labels, datasets.shuffled(len(labels), size, seed, step)[rows])

    held_out = batch(read_test, test_labels, range(len(test_labels)))
    return Task(epochs, held_out, learning.classified, config.training.batch_size, part=epochs)


def _sets(data: SpeechConfig) -> list[tuple[Any, np.ndarray]]:
    """For training and for tests: number -> wave, and labels."""
    if data.path is not None:
        return [
            (
                lambda number, files=files: read_wave(files[number][0]),
                np.array([label for _, label in files], np.int32),
            )
            for files in folder(data)
        ]
    found = []
    for split in ("train", "test"):
        columns = datasets.read_tfds(data.name, split, data.data_dir, features=("audio", "label"))
        if set(columns) != {"audio", "label"}:
            raise DataError(f"data.name: expected a set with audio and a label, got {data.name!r}")
        sounds = columns["audio"]
        found.append(
            (
                lambda number, sounds=sounds: sounds[number].astype(np.float32) / 32_768.0,
                columns["label"].astype(np.int32),
            )
        )
    return found


def make_network(config: Config, arm: Arm) -> Network:
    """A deep model whose outputs of all steps are averaged."""
    data = config.data
    return models.network(arm.model, data.length, data.classes, inputs=1, pooling="mean")


def all_arms(config: Config) -> list[Arm]:
    """The models."""
    return models.arms(config.model, config.against)


def trained_networks(config: Config) -> dict[str, Network]:
    """What is trained, by name."""
    return models.networks(all_arms(config), functools.partial(make_network, config))


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train and measure all models."""
    make = functools.partial(make_network, config)
    return learning.run_all(all_arms(config), make, make_task(config), config, run)


def _title(record: Record) -> str:
    data = record.config["data"]
    kind = data["name"] if data["path"] is None else Path(data["path"]).name
    return f"{kind}, {data['length']} samples"


def draw(record: Record):
    """Accuracies; a line at chance."""
    return classifying.draw(record, _title(record), 100.0 / record.config["data"]["classes"])


def table(record: Record) -> str:
    """Accuracies and sizes."""
    return classifying.table(record, _title(record))


def describe(config: Config) -> dict[str, str]:
    """What a dry run says."""
    make, data = functools.partial(make_network, config), config.data
    about = f"{data.path or data.name}, {data.length} samples"
    return {"data": about, **learning.describe(all_arms(config), make, config)}


def look(config: Config) -> str:
    """What there is to read."""
    return learning.counted(make_task(config))


def programs(config: Config) -> dict[str, Program]:
    """The training step of every model."""
    example = {
        "x": jax.ShapeDtypeStruct((config.data.length, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct((), jnp.int32),
    }
    make = functools.partial(make_network, config)
    return learning.programs(all_arms(config), make, learning.classified, example, config)


CLAIMS = tuple(
    Claim(
        f"speech.{name}",
        f"accuracy of {title} on 35 words of Speech Commands, in percent; in its authors' "
        "settings, which no preset here has",
        source,
        lambda record: None,
        value,
        tolerance=0.5,
        kind="value",
    )
    for name, title, source, value in (
        ("s4", "S4", "S4D (arXiv 2206.11893)", 96.08),
        ("s4d", "S4D-LegS", "S4D (arXiv 2206.11893)", 95.83),
        ("s5", "S5", "S5 (arXiv 2208.04933)", 96.53),
    )
)
