"""Augmentation on the device against NumPy, and its draws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from foreign_models import library

from blt_jax.training.augment import (
    Augmentation,
    Normalisation,
    _rotate,
    augment,
    normalise,
)
from blt_jax.training.draws import Draws, draw, initial_key

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), np.uint8)


def draws(**values):
    numbers = {name: np.full(len(IMAGES), 0.5, np.float32) for name in Draws._fields}
    numbers |= {n: np.asarray(v, np.float32) for n, v in values.items()}
    return Draws(**{name: jnp.asarray(value) for name, value in numbers.items()})


def apply(options, **values):
    return np.asarray(augment(IMAGES, draws(**values), options, jnp.float32))


def test_nothing_asked_for_changes_nothing():
    np.testing.assert_allclose(apply(Augmentation()), IMAGES / 255, atol=1e-6)


def test_flip_by_its_draw():
    flipped = apply(Augmentation(flip=True), flip=[0.1, 0.9, 0.49, 0.5])
    expected = np.float32(IMAGES) / 255
    expected[[0, 2]] = expected[[0, 2], :, ::-1]
    np.testing.assert_allclose(flipped, expected, atol=1e-6)


def test_rotation_is_counter_clockwise_about_the_centre():
    for quarter in range(4):
        rotated = _rotate(jnp.asarray(IMAGES[0]), jnp.float32(quarter * np.pi / 2))
        np.testing.assert_array_equal(rotated, np.rot90(IMAGES[0], quarter))


def test_rotation_covers_its_range_and_fills_with_black():
    options = Augmentation(rotation=45.0)
    middle = apply(options, rotation=[0.5] * 4)
    np.testing.assert_allclose(middle, IMAGES / 255, atol=1e-6)
    # A draw of 1 would be 45 degrees: the corners of a square leave it.
    corner = apply(options, rotation=[1.0] * 4)[:, 0, 0]
    np.testing.assert_array_equal(corner, 0)


def by_numpy(image, order, factors):
    """Brightness, contrast and saturation as torchvision documents them."""
    x = np.float64(image) / 255
    for change in order:
        luma = x @ np.array([0.299, 0.587, 0.114])
        partner = (0.0, luma.mean(), luma[..., None])[change]
        x = np.clip(factors[change] * x + (1 - factors[change]) * partner, 0, 1)
    return x


@pytest.mark.parametrize("number", range(6))
def test_colour_in_every_order(number):
    options = Augmentation(brightness=0.4, contrast=0.3, saturation=0.2)
    values = {"brightness": 0.9, "contrast": 0.1, "saturation": 0.95}
    changed = apply(
        options,
        order=[(number + 0.5) / 6] * 4,
        **{name: [value] * 4 for name, value in values.items()},
    )
    order = list(itertools.permutations(range(3)))[number]
    factors = (0.6 + 0.8 * 0.9, 0.7 + 0.6 * 0.1, 0.8 + 0.4 * 0.95)
    for image, result in zip(IMAGES, changed, strict=True):
        np.testing.assert_allclose(result, by_numpy(image, order, factors), atol=1e-5)


def test_colour_agrees_with_torchvision():
    functional = library("torchvision").transforms.functional
    import torch

    options = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4)
    ours = apply(options, brightness=[0.8] * 4, contrast=[0.2] * 4, order=[0.0] * 4)
    theirs = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    theirs = functional.adjust_brightness(theirs, 0.6 + 0.8 * 0.8)
    theirs = functional.adjust_contrast(theirs, 0.6 + 0.8 * 0.2)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=1e-3)


def test_normalise_by_hand():
    normalisation = Normalisation((0.5, 0.0, 1.0), (0.25, 1.0, 0.5))
    images = np.array([[[[255, 51, 0]]]], np.uint8)
    np.testing.assert_allclose(
        normalise(jnp.asarray(images), normalisation)[0, 0, 0], [2.0, 0.2, -2.0]
    )


def test_draws_belong_to_seed_step_and_ordinal():
    root = jax.random.key(3)
    whole = draw(root, 5, jnp.arange(8))
    # Whatever the slot: an ordinal alone, and in another order.
    alone = draw(root, 5, jnp.array([6]))
    other = draw(root, 5, jnp.array([7, 0, 6]))
    for name in Draws._fields:
        numbers = np.asarray(getattr(whole, name))
        assert ((numbers >= 0) & (numbers < 1)).all()
        np.testing.assert_array_equal(getattr(alone, name), numbers[6:7])
        np.testing.assert_array_equal(getattr(other, name), numbers[[7, 0, 6]])
    everything = np.stack([np.asarray(part) for part in whole])
    assert len(np.unique(everything)) == everything.size
    for changed in (
        draw(root, 6, jnp.arange(8)),
        draw(jax.random.key(4), 5, jnp.arange(8)),
    ):
        numbers = np.stack([np.asarray(part) for part in changed])
        assert not np.intersect1d(numbers, everything).size
    assert initial_key(root) != jax.random.fold_in(root, 0)
