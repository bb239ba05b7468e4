"""Documents byte by byte: what they are about, and whether two belong together.

Reproduces: Text and Retrieval of the Long Range Arena (arXiv 2011.04006), with the settings of RTF
(2405.06147, tables 8 and 9): IMDB reviews through TFDS, pairs of papers from LRA's files. The
default data are the longest topics of Python's own documentation: windows of them, which are to be
sorted by topic, or of which two are to be told to come from one topic or from two. The last fifth
of every topic, or two windows and more, is held out; topics that repeat others are left out.
"""

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import comparison as comparisons
from experiments.harness import datasets, manifest
from experiments.harness.comparison import Comparison
from experiments.harness.errors import DataError
from experiments.harness.estimate import Program
from experiments.harness.ledger import Claim
from experiments.harness.run import Record, Run
from experiments.harness.training import TrainingConfig
from experiments.ssm import classifying, learning, long_range, models, topics
from experiments.ssm.learning import Task, UpdateConfig
from experiments.ssm.models import Arm, Kind, ModelConfig, Network

VOCABULARY = 257  # 0 for nothing, and 1 + a byte
Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class DocumentsConfig:
    """Which documents.

    Attributes:
        name: "pydoc", or a TFDS set with a text and a label, such as "imdb_reviews/plain_text".
        path: folder with LRA's Retrieval files, new_aan_pairs.train.tsv and .test.tsv.
        data_dir: folder with the TFDS sets; None: the environment variable TFDS_DATA_DIR.
        longest: largest number of bytes that are read of a document.
        classes: number of classes of a TFDS set, or of topics of "pydoc".
        tests: number of held-out examples of "pydoc".
    """

    name: str = "pydoc"
    path: str | None = None
    data_dir: str | None = None
    longest: int = 256
    classes: int = 10
    tests: int = 500

    def __post_init__(self):
        if self.longest < 2 or self.classes < 2 or self.tests < 1:
            raise ValueError(
                "data.longest, classes, tests: expected at least 2, 2 and 1, got "
                f"{self.longest}, {self.classes}, {self.tests}"
            )

    def fingerprint(self) -> str | None:
        """Digest of Python's documentation, or of what lies in the folder; None for TFDS."""
        if self.path is not None:
            return manifest.listed(Path(self.path).expanduser())
        return topics.digest() if self.name == "pydoc" else None


@dataclass(frozen=True)
class Config:
    """The documents and the models.

    Attributes:
        task: "text": the class of one document; "retrieval": whether two documents belong together.
        model: the first model.
        against: mixers of further models, which are like the first one otherwise.
        data, training, comparison, update: of all models.
    """

    task: Literal["text", "retrieval"] = "text"
    data: DocumentsConfig = field(default_factory=DocumentsConfig)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(channels=32, size=4))
    against: tuple[Kind, ...] = ()
    training: TrainingConfig = classifying.QUICK
    comparison: Comparison = field(default_factory=lambda: Comparison(1, (1e-2,)))
    update: UpdateConfig = field(default_factory=UpdateConfig)

    def __post_init__(self):
        comparisons.check(self.training, self.comparison)
        if self.task == "text" and self.data.path is not None:
            raise ValueError("data.path: expected none for texts, it holds pairs of documents")
        if self.task == "retrieval" and self.data.path is None and self.data.name != "pydoc":
            raise ValueError(f"data.path: expected a folder of pairs, got {self.data.name!r}")
        models.check(self.model, self.against, self.data.longest)

    @property
    def outputs(self) -> int:
        """Classes that the model tells apart."""
        return 2 if self.task == "retrieval" else self.data.classes


LONG = ModelConfig(
    channels=256,
    layers=6,
    size=4,
    bidirectional=True,
    norm="batch",
    denominators=1,
    remat=True,
)
CPU = Config(
    data=DocumentsConfig(longest=512),
    model=ModelConfig(channels=64, layers=2, size=4, s5_size=64, bidirectional=True),
    against=("s4d", "s5"),
    training=TrainingConfig(
        steps=1000,
        batch_size=32,
        warmup=100,
        weight_decay=0.05,
        eval_every=200,
        checkpoint_every=250,
        log_every=50,
    ),
    comparison=Comparison(2, (4e-3,)),
)
PRESETS = {
    "quick": Config(),
    "cpu": CPU,
    # LRA Text, tables 8 and 9: 32 epochs of 25 000 reviews.
    "paper": Config(
        data=DocumentsConfig("imdb_reviews/plain_text", longest=4096, classes=2),
        model=replace(LONG, dropout=0.1),
        training=TrainingConfig(
            steps=50_000,
            batch_size=16,
            warmup=5000,
            weight_decay=0.05,
            eval_every=1600,
            checkpoint_every=1600,
        ),
        comparison=Comparison(1, (0.005,), vectorised=False),
        update=UpdateConfig(1e-4, 0.025),
    ),
    "cpu_retrieval": replace(CPU, task="retrieval"),
    # LRA Retrieval, tables 8 and 9: 20 epochs of 147 086 pairs.
    "paper_retrieval": Config(
        task="retrieval",
        data=DocumentsConfig(path="aan", longest=4000),
        model=LONG,
        training=TrainingConfig(
            steps=46_000,
            batch_size=64,
            warmup=4600,
            weight_decay=0.0,
            eval_every=2300,
            checkpoint_every=2300,
        ),
        comparison=Comparison(1, (0.002,), vectorised=False),
        update=UpdateConfig(1e-6),
    ),
}


def packed(texts: list[bytes], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [n, longest], zeros behind, and lengths [n]; an empty text becomes one zero."""
    tokens = np.zeros((len(texts), longest), np.int32)
    for row, text in enumerate(texts):
        some = np.frombuffer(text[:longest], np.uint8)
        tokens[row, : len(some)] = 1 + some.astype(np.int32)
    lengths = np.array([max(1, min(longest, len(text))) for text in texts], np.int32)
    return tokens, lengths


def paired(texts: list[tuple[bytes, bytes]], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """As `packed`, [n, 2, longest] and [n, 2]."""
    tokens, lengths = packed([text for pair in texts for text in pair], longest)
    return tokens.reshape(-1, 2, longest), lengths.reshape(-1, 2)


def windows(
    texts: list[bytes], config: Config, rng: np.random.Generator, count: int
) -> dict[str, np.ndarray]:
    """Random windows of random topics and which those are; or two, and whether they share one.

    Two windows of one topic do not overlap.
    """
    longest = config.data.longest
    chosen = rng.integers(0, len(texts), count)

    def window(topic: int) -> bytes:
        start = rng.integers(0, len(texts[topic]) - longest + 1)
        return texts[topic][start : start + longest]

    def apart(topic: int) -> tuple[bytes, bytes]:
        places = np.sort(rng.integers(0, len(texts[topic]) - 2 * longest + 1, 2))
        places[1] += longest
        both = [texts[topic][start : start + longest] for start in rng.permutation(places)]
        return both[0], both[1]

    if config.task == "text":
        x, lengths = packed([window(topic) for topic in chosen], longest)
        return {"x": x, "lengths": lengths, "label": chosen.astype(np.int32)}
    same = rng.random(count) < 0.5
    other = (chosen + rng.integers(1, len(texts), count)) % len(texts)
    both = [
        apart(a) if one else (window(a), window(b))
        for a, b, one in zip(chosen, other, same, strict=True)
    ]
    x, lengths = paired(both, longest)
    return {"x": x, "lengths": lengths, "label": same.astype(np.int32)}


def make_task(config: Config) -> Task:
    """Fresh windows of topics in every step, or examples of a set in shuffled epochs.

    Raises:
        DataError: missing or unreadable documents, labels out of range.
    """
    data = config.data
    if data.name == "pydoc" and data.path is None:
        train, test = topics.split(data.classes, data.longest)
        held_out = windows(test, config, np.random.default_rng(2**31), data.tests)

        def fresh(seed: int, size: int, step: int) -> Batch:
            return windows(train, config, np.random.default_rng([seed, step]), size)

        return Task(fresh, held_out, learning.classified, config.training.batch_size)

    splits = [_read(config, split) for split in ("train", "test")]

    def batch(texts: list[Any], labels: np.ndarray, chosen: Any) -> Batch:
        pack = packed if config.task == "text" else paired
        x, lengths = pack([texts[number] for number in chosen], data.longest)
        return {"x": x, "lengths": lengths, "label": labels[chosen]}

    def epochs(seed: int, size: int, step: int, rows: slice = slice(None)) -> Batch:
        texts, labels = splits[0]
        return batch(texts, labels, datasets.shuffled(len(texts), size, seed, step)[rows])

    held_out = batch(*splits[1], range(len(splits[1][0])))
    return Task(epochs, held_out, learning.classified, config.training.batch_size, part=epochs)


def _read(config: Config, split: str) -> tuple[list[Any], np.ndarray]:
    data = config.data
    if config.task == "retrieval":
        return long_range.pairs(data.path or "", split)
    columns = datasets.read_tfds(data.name, split, data.data_dir, features=("text", "label"))
    if set(columns) != {"text", "label"}:
        raise DataError(f"data.name: expected a set with a text and a label, got {data.name!r}")
    labels = columns["label"].astype(np.int32)
    long_range.check_labels(labels, data.classes, f"{data.name}, {split}")
    return list(columns["text"]), labels


def make_network(config: Config, arm: Arm) -> Network:
    """A deep model with a pooled head; of two documents, one model for both and a small network."""
    d, longest = arm.model.channels, config.data.longest
    sizes = {"vocabulary": VOCABULARY, "pooling": "mean"}
    if config.task == "text":
        return models.network(arm.model, longest, config.outputs, **sizes)
    encoder = models.network(arm.model, longest, d, **sizes)

    def init(key: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(key, 3)
        return {
            "encoder": encoder.init(keys[0]),
            "middle": {
                "matrix": jax.random.normal(keys[1], (4 * d, d)) * (4 * d) ** -0.5,
                "bias": jnp.zeros(d),
            },
            "head": {"matrix": jax.random.normal(keys[2], (d, 2)) * d**-0.5, "bias": jnp.zeros(2)},
        }

    def apply(params: Any, batch: dict[str, jax.Array], key: Any = None) -> jax.Array:
        each = {"x": batch["x"].reshape(-1, longest), "lengths": batch["lengths"].reshape(-1)}
        both = encoder.apply(params["encoder"], each, key).reshape(-1, 2, d)
        x, y = both[:, 0], both[:, 1]
        z = jnp.concatenate([x, y, x * y, x - y], axis=-1)
        z = jax.nn.gelu(z @ params["middle"]["matrix"] + params["middle"]["bias"])
        return z @ params["head"]["matrix"] + params["head"]["bias"]

    return Network(init, apply)


def all_arms(config: Config) -> list[Arm]:
    """The models."""
    return models.arms(config.model, config.against)


def trained_networks(config: Config) -> dict[str, Network]:
    """What is trained, by name."""
    return models.networks(all_arms(config), functools.partial(make_network, config))


def main(config: Config, run: Run) -> dict[str, Any]:
    """Train and measure all models."""
    task, make = make_task(config), functools.partial(make_network, config)
    found = learning.run_all(all_arms(config), make, task, config, run)
    counts = np.bincount(task.held_out["label"], minlength=config.outputs)
    return {**found, "majority": 100.0 * float(counts.max() / counts.sum())}


def _title(record: Record) -> str:
    data, task = record.config["data"], record.config["task"]
    kind = data["name"] if data["path"] is None else data["path"]
    return f"{task}, {kind}, {data['longest']} bytes"


def draw(record: Record):
    """Accuracies; a line at that of the most frequent class."""
    return classifying.draw(record, _title(record), record.result["majority"])


def table(record: Record) -> str:
    """Accuracies and sizes."""
    text = classifying.table(record, _title(record))
    return f"{text}\nAlways the most frequent class: {record.result['majority']:.2f} %.\n"


def describe(config: Config) -> dict[str, str]:
    """What a dry run says."""
    make, data = functools.partial(make_network, config), config.data
    about = f"{config.task}: {data.path or data.name}, {data.longest} bytes"
    return {"data": about, **learning.describe(all_arms(config), make, config)}


def look(config: Config) -> str:
    """What there is to read."""
    return learning.counted(make_task(config))


def programs(config: Config) -> dict[str, Program]:
    """The training step of every model."""
    some = () if config.task == "text" else (2,)
    example = {
        "x": jax.ShapeDtypeStruct((*some, config.data.longest), jnp.int32),
        "lengths": jax.ShapeDtypeStruct(some, jnp.int32),
        "label": jax.ShapeDtypeStruct((), jnp.int32),
    }
    make = functools.partial(make_network, config)
    return learning.programs(all_arms(config), make, learning.classified, example, config)


def _rtf(task: str, record: Record) -> float | None:
    config = record.config
    data = config["data"]
    real = data["path"] is not None if task == "retrieval" else "imdb_reviews" in data["name"]
    whole = data["longest"] >= 4000
    return classifying.mean(record, "rtf") if config["task"] == task and real and whole else None


def _over_majority(record: Record) -> float | None:
    found = classifying.worst(record, record.config["model"]["mixer"])
    return None if found is None else found - record.result["majority"]


CLAIMS = (
    Claim(
        "documents.majority",
        "accuracy of the first mixer, the worst seed, minus that of the most frequent class, in "
        "points, above 15",
        "this project's own goal",
        _over_majority,
        15.0,
        kind="ordering",
    ),
    *(
        Claim(
            f"documents.{task}_{mixer}",
            f"accuracy of {mixer.upper()} on LRA's {task.capitalize()}, in percent",
            "RTF (arXiv 2405.06147), table 1",
            functools.partial(_rtf, task) if mixer == "rtf" else lambda record: None,
            value,
            tolerance=0.5,
            kind="value",
        )
        for task, values in (("text", (89.72, 88.25, 89.31)), ("retrieval", (92.04, 90.90, 91.4)))
        for mixer, value in zip(("rtf", "s4", "s5"), values, strict=True)
    ),
)
