"""The classifier of images by whose features samples are judged."""

import dataclasses

import numpy as np
import pytest

from experiments.diffusion import classifier
from experiments.harness import image_sets


def test_the_classifier_is_kept_with_its_seed(tmp_path, monkeypatch):
    classifier.train.cache_clear()
    first = classifier.train()
    assert len(list((tmp_path / "cache" / "classifiers").glob("*.npz"))) == 1
    classifier.train.cache_clear()
    monkeypatch.setattr(classifier, "_fit", None)  # a second one must not be trained
    again = classifier.train()
    images = image_sets.load(image_sets.DIGITS)
    np.testing.assert_array_equal(first.features(images.test), again.features(images.test))
    assert again.record() == first.record() and first.record()["seed"] == 0
    share = first.probabilities(images.test)
    np.testing.assert_allclose(share.sum(1), 1.0)
    assert (share.argmax(1) == images.test_labels).mean() == pytest.approx(first.accuracy)
    classifier.train.cache_clear()


def test_large_images_are_averaged_before_the_classifier():
    x = np.random.default_rng(0).uniform(-1, 1, (2, 128, 128, 3))
    expected = x.reshape(2, 32, 4, 32, 4, 3).mean((2, 4)).reshape(2, -1)
    np.testing.assert_allclose(classifier.flat(x), expected, atol=1e-6)
    assert classifier.shrunk(x[:, :100], 32).shape == (2, 25, 32, 3)
    assert classifier.shrunk(np.ones((1, 101, 7, 1)), 8).shape == (1, 7, 1, 1)
    assert classifier.shrunk(np.ones((1, 101, 7, 1)), 8) == pytest.approx(1.0)


def test_classes_without_a_training_image_have_no_probability():
    images = image_sets.load(image_sets.DIGITS)
    for kept in ((0, 2, 5), (3, 7)):
        mine = np.isin(images.train_labels, kept)
        part = dataclasses.replace(
            images, train=images.train[mine], train_labels=images.train_labels[mine]
        )
        found = classifier._fit(part, 16, 0)
        weights = tuple((found[f"matrix_{i}"], found[f"vector_{i}"]) for i in range(2))
        share = classifier.Classifier(weights, 0, 0.0, "").probabilities(part.train)
        assert share.shape == (mine.sum(), 10)
        np.testing.assert_allclose(share[:, list(kept)].sum(1), 1.0)
        assert (share.argmax(1) == part.train_labels).mean() > 0.95
