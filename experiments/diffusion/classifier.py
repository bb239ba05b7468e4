"""A small classifier of images: its hidden layer gives the features of Frechet distances here.

It is trained once for a set and a seed and kept in the cache folder, so that distances of several
runs are those of the same features.
"""

import functools
import hashlib
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import pooling
from experiments.harness import array_cache, datasets, image_sets
from experiments.harness.errors import UsageError
from experiments.harness.image_sets import ImageConfig, Images

LARGEST = 32  # pixels a side that it sees; larger images are averaged down
EXAMPLES = 20_000  # that it is trained on


@dataclass(frozen=True)
class Classifier:
    """A perceptron with one hidden layer.

    Attributes:
        weights: of both layers, each a matrix and a vector.
        seed: of its training.
        accuracy: on the held-out split.
        digest: of all that it was trained from.
    """

    weights: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    seed: int
    accuracy: float
    digest: str

    def features(self, images: Any) -> np.ndarray:
        """The hidden layer, [n, hidden], of images clipped to [-1, 1]."""
        matrix, vector = self.weights[0]
        return np.maximum(flat(images) @ matrix + vector, 0.0)

    def probabilities(self, images: Any) -> np.ndarray:
        """Of every class, [n, classes]."""
        matrix, vector = self.weights[1]
        logits = self.features(images) @ matrix + vector
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        return share / share.sum(axis=1, keepdims=True)

    def confidence(self, images: Any, labels: Any) -> np.ndarray:
        """Probability of given labels, [n]."""
        share = self.probabilities(images)
        return share[np.arange(len(share)), np.asarray(labels)]

    def record(self) -> dict[str, Any]:
        """What a run's record says about it."""
        return {"seed": self.seed, "accuracy": self.accuracy, "digest": self.digest}


def flat(images: Any, largest: int = LARGEST) -> np.ndarray:
    """Pixels [n, places] of images clipped to [-1, 1], averaged until they are small enough."""
    values = np.clip(np.asarray(images, np.float64), -1.0, 1.0)
    return shrunk(values, largest).reshape(len(values), -1)


def shrunk(images: np.ndarray, largest: int) -> np.ndarray:
    """Images of at most `largest` pixels a side: averages of cells, or interpolated."""
    height, width, channels = images.shape[1:]
    factor = -(-max(height, width) // largest)
    if factor == 1:
        return images
    values = jnp.asarray(images)
    if height % factor == width % factor == 0:
        return np.asarray(pooling.average(values, factor), images.dtype)
    shape = (len(images), max(1, height // factor), max(1, width // factor), channels)
    return np.asarray(jax.image.resize(values, shape, "linear"), images.dtype)


@functools.lru_cache(maxsize=4)
def train(data: ImageConfig = image_sets.DIGITS, hidden: int = 32, seed: int = 0) -> Classifier:
    """The classifier of a set, trained or read from the cache folder.

    Raises:
        UsageError: the set has no classes.
    """
    images = image_sets.load(data)
    if images.classes is None or len(np.unique(images.train_labels[:EXAMPLES])) < 2:
        raise UsageError("data: expected images of at least two classes for a classifier")
    digest = _digest(images, hidden, seed)
    path = datasets.cache_folder() / "classifiers" / f"{digest}.npz"
    kept = array_cache.read(path)
    if kept is None:
        kept = _fit(images, hidden, seed)
        array_cache.write(path, kept)
    weights = tuple((kept[f"matrix_{i}"], kept[f"vector_{i}"]) for i in range(2))
    return Classifier((weights[0], weights[1]), seed, float(kept["accuracy"]), digest)


def _digest(images: Images, hidden: int, seed: int) -> str:
    from sklearn import __version__

    state = hashlib.sha256(f"{__version__} {hidden} {seed} {images.train.shape}".encode())
    for array in (images.train, images.train_labels, images.test, images.test_labels):
        state.update(np.ascontiguousarray(array[:EXAMPLES]).tobytes())
    return state.hexdigest()[:16]


def _fit(images: Images, hidden: int, seed: int) -> dict[str, Any]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    model: Any = MLPClassifier((hidden,), max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(flat(images.train[:EXAMPLES]), images.train_labels[:EXAMPLES])
    layers = list(zip(model.coefs_, model.intercepts_, strict=True))
    matrix, vector = layers[1]
    if len(model.classes_) == 2:  # one number there, its sigmoid the share of the second class
        matrix, vector = np.hstack([0 * matrix, matrix]), np.concatenate([0 * vector, vector])
    wide = np.zeros((hidden, images.classes or 0))
    low = np.full(images.classes or 0, -np.inf)  # of classes without a training image
    wide[:, model.classes_], low[model.classes_] = matrix, vector
    layers[1] = (wide, low)
    found = {f"matrix_{i}": matrix for i, (matrix, _) in enumerate(layers)}
    found |= {f"vector_{i}": vector for i, (_, vector) in enumerate(layers)}
    accuracy = model.score(flat(images.test[:EXAMPLES]), images.test_labels[:EXAMPLES])
    return {**found, "accuracy": np.asarray(accuracy)}
