"""Class means of features: against a sum by hand, padding, devices, empty classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blt_jax.models import ModelSpec
from blt_jax.training.augment import Normalisation, normalise
from blt_jax.training.centroids import class_means
from blt_jax.training.mesh import make_mesh, put_replicated

CLASSES, SIZE = 5, 8
NORMALISATION = Normalisation((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))


class MeanColour:
    """Features that can be worked out by hand: the mean colour times a weight."""

    spec = ModelSpec(num_classes=CLASSES)
    num_features = 3

    def features(self, params, batch_stats, images):
        return (images.mean((1, 2)) * params["weight"]).astype(params["weight"].dtype)


def batches():
    """Two padded batches of 8; class 3 has no image; padded rows are bright."""
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 1, 4, 2, 2, 2, 1, 4, 0, 1])
    images = rng.integers(0, 256, (16, SIZE, SIZE, 3), np.uint8)
    images[11:] = 255
    labels = np.concatenate([labels, np.zeros(5, int)]).astype(np.int32)
    rows = {"image": images, "label": labels, "valid": np.arange(16) < 11}
    rows["record"] = np.arange(16)  # a field that nobody asked for
    return [{name: array[i : i + 8] for name, array in rows.items()} for i in (0, 8)]


def by_hand(weight):
    images, labels = (
        np.concatenate([batch[name] for batch in batches()])[:11]
        for name in ("image", "label")
    )
    features = np.asarray(normalise(jnp.asarray(images), NORMALISATION), np.float64)
    features = features.mean((1, 2)) * weight
    means = [features[labels == c].mean(axis=0) for c in range(CLASSES) if c != 3]
    return np.insert(np.stack(means), 3, 0.0, axis=0)


def means(devices, weight, dtype="float32"):
    mesh = make_mesh(devices)
    return class_means(
        MeanColour(),
        put_replicated({"weight": jnp.asarray(weight, dtype)}, mesh),
        {},
        batches(),
        mesh=mesh,
        normalisation=NORMALISATION,
    )


@pytest.mark.parametrize("devices", [1, 8])
def test_means_by_class(devices):
    found = means(devices, 3.0)
    assert found.sharding.is_fully_replicated and found.dtype == jnp.float32
    np.testing.assert_allclose(found, by_hand(3.0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[3], 0)


def test_16_bit_features_are_summed_in_float32():
    found = means(2, 3.0, "bfloat16")
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, by_hand(3.0), rtol=0.01, atol=0.01)


def test_a_padded_row_may_be_not_a_number():
    class Bright(MeanColour):
        def features(self, params, batch_stats, images):
            features = images.mean((1, 2))
            return jnp.where(features > 1.9, jnp.nan, features)

    mesh = make_mesh(2)
    found = class_means(
        Bright(), {}, {}, batches(), mesh=mesh, normalisation=NORMALISATION
    )
    assert np.isfinite(jax.device_get(found)).all()
