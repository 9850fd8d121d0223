"""A saved model as a user loads it."""

import dataclasses

import jax
import numpy as np
import pytest

import blt_jax
from blt_jax.models.classifier import ModelSpec, build_model
from blt_jax.training.checkpoint import save_model

SPEC = ModelSpec(backbone="resnet10_small", num_classes=3, projection=False)
META = {
    "model": dataclasses.asdict(SPEC),
    "class_names": ["cat", "dog", "lemur"],
    "class_counts": [100, 30, 5],
    "mean": [0.5, 0.4, 0.3],
    "std": [0.25, 0.2, 0.1],
}
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inference") / "model"
    params, batch_stats = build_model(SPEC).init(jax.random.key(0))
    save_model(folder, params, batch_stats, META)
    return folder, params, batch_stats


@pytest.fixture(scope="module")
def classifier(saved):
    return blt_jax.load(saved[0])


def test_describes_itself(classifier):
    assert classifier.class_names == ("cat", "dog", "lemur")
    np.testing.assert_array_equal(classifier.class_counts, [100, 30, 5])


def test_functions_are_those_of_the_model(classifier, saved):
    _, params, batch_stats = saved
    images = classifier.normalise(PIXELS)
    expected = build_model(SPEC).apply_eval(params, batch_stats, images).logits
    np.testing.assert_allclose(classifier.logits_fn(images), expected, rtol=1e-6)
    assert classifier.features_fn(images).shape == (4, 128)


def test_normalises_and_back(classifier):
    images = classifier.normalise(PIXELS)
    np.testing.assert_allclose(
        images[1, 2, 3], (PIXELS[1, 2, 3] / 255 - META["mean"]) / META["std"], rtol=1e-5
    )
    np.testing.assert_allclose(classifier.denormalise(images), PIXELS / 255, atol=1e-6)


def test_predicts_the_most_likely_first(classifier):
    prediction = classifier.predict(PIXELS, top=5)  # only three classes there are
    logits = np.float64(classifier.logits_fn(classifier.normalise(PIXELS)))
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    order = np.argsort(-expected, axis=1)
    np.testing.assert_array_equal(prediction.classes, order)
    np.testing.assert_allclose(
        prediction.probabilities, np.take_along_axis(expected, order, 1), rtol=1e-4
    )
    top = classifier.predict(PIXELS)
    np.testing.assert_array_equal(top.classes, order[:, :1])


def test_hallucinates_under_jit_as_the_readme_says(classifier):
    targets, thresholds = np.array([2, 2, 1, 1]), np.full(4, 0.4, np.float32)
    hard = jax.jit(blt_jax.hallucinate, static_argnums=0)(
        classifier.logits_fn, classifier.normalise(PIXELS), targets, thresholds
    )
    scores = jax.nn.softmax(classifier.logits_fn(hard.images))[np.arange(4), targets]
    np.testing.assert_allclose(hard.scores, scores, atol=1e-4)
    np.testing.assert_array_equal(hard.reached, hard.scores >= thresholds)
