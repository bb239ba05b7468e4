"""How far images are from a set's: distances of features and of pixels."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion import metrics
from experiments.diffusion import classifier
from experiments.diffusion.classifier import Classifier
from experiments.harness.image_sets import ImageConfig, Images

REFERENCE = 10_000  # real images that samples are compared with
COARSEST = 8  # pixels a side of the images that are compared where there is no classifier
Features = Callable[[Any], np.ndarray]


def features(data: ImageConfig, images: Images) -> tuple[Features, Classifier | None]:
    """Those of a classifier and itself, or pixels of images without classes."""
    if images.classes is not None and images.classes > 1:
        judge = classifier.train(data)
        return judge.features, judge
    return functools.partial(classifier.flat, largest=COARSEST), None


def distances(x: np.ndarray, real: np.ndarray, features: Features) -> dict[str, float]:
    """Of samples from the first `REFERENCE` real images.

    Shares of neighbours take as many real images as there are samples.
    """
    real, n = real[:REFERENCE], len(x)
    found = features(x), features(real)
    shares = metrics.prdc(found[0], found[1][:n])
    pixels = x.reshape(n, -1), real.reshape(len(real), -1)
    return {
        "frechet": float(metrics.frechet_distance(*found)),
        "sliced_w2": float(metrics.sliced_wasserstein(*pixels)),
        "precision": float(shares.precision),
        "recall": float(shares.recall),
    }


def held_out(images: Images, count: int) -> np.ndarray:
    """Some held-out images, from all over their split."""
    chosen = np.random.default_rng(0).permutation(len(images.test))[:count]
    return images.test[chosen]
