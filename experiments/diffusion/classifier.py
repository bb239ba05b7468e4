"""A small classifier of images: its hidden layer gives the features of Frechet distances here."""

import functools
import warnings
from typing import Any

import numpy as np

from experiments.diffusion import denoising


class Classifier:
    """scikit-learn's perceptron with one hidden layer, trained on the training split.

    Attributes:
        accuracy: on the test split.
    """

    def __init__(self, data: str, data_dir: str | None, hidden: int, seed: int):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        images = denoising.load(data, data_dir)
        self.model: Any = MLPClassifier((hidden,), max_iter=60, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(self._flat(images.train), images.train_labels)
        self.accuracy = float(self.model.score(self._flat(images.test), images.test_labels))

    @staticmethod
    def _flat(images: Any) -> np.ndarray:
        values = np.asarray(images, np.float64)
        return np.clip(values, -1.0, 1.0).reshape(len(values), -1)

    def features(self, images: Any) -> np.ndarray:
        """The hidden layer, [n, hidden], of images clipped to [-1, 1]."""
        inside = self._flat(images) @ self.model.coefs_[0] + self.model.intercepts_[0]
        return np.maximum(inside, 0.0)

    def confidence(self, images: Any, labels: Any) -> np.ndarray:
        """Probability of given labels, [n]."""
        share = self.model.predict_proba(self._flat(images))
        return share[np.arange(len(share)), np.asarray(labels)]


@functools.lru_cache(maxsize=4)
def train(
    data: str = "digits", data_dir: str | None = None, hidden: int = 32, seed: int = 0
) -> Classifier:
    """The classifier of a set; the same one for the same arguments."""
    return Classifier(data, data_dir, hidden, seed)
