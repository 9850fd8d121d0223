"""Training and evaluation crops."""

import math

import numpy as np
import pytest
from PIL import Image

from blt_jax.data.decode import open_picture
from blt_jax.data.transforms import eval_crop, train_crop


def picture(height, width):
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], -1)
    return open_picture(pixels.astype(np.uint8), name="x")


def generator(seed=0):
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize("kind", ["random_resized", "pad", "none"])
@pytest.mark.parametrize("shape", [(8, 8), (40, 60), (5, 100), (1, 1)])
def test_shape_type_and_determinism(kind, shape):
    apply = train_crop(kind, image_size=16)
    one, two = (
        apply(picture(*shape), generator(3)),
        apply(picture(*shape), generator(3)),
    )
    assert one.shape == (16, 16, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one, two)


def boxes(monkeypatch, height, width, scale, number=3000):
    """The boxes that the random resized crop asks for."""
    seen = []
    monkeypatch.setattr(
        "blt_jax.data.transforms.crop", lambda picture, box, size: seen.append(box)
    )
    apply = train_crop("random_resized", image_size=8, scale=scale)
    image, random = picture(height, width), generator()
    for _ in range(number):
        apply(image, random)
    return np.array(seen, np.float64)


def test_random_resized_boxes(monkeypatch):
    left, top, right, bottom = boxes(monkeypatch, 300, 400, (0.08, 1.0)).T
    assert (left >= 0).all() and (top >= 0).all()
    assert (right <= 400).all() and (bottom <= 300).all()
    area = (right - left) * (bottom - top) / (300 * 400)
    ratio = np.log((right - left) / (bottom - top))
    assert area.min() > 0.07 and area.max() <= 1.0 and area.min() < 0.1
    assert abs(ratio).max() < math.log(4 / 3) + 0.02
    # Small shares always fit, so that among them area and ratio are uniform.
    small = area < 0.5
    assert np.quantile(area[small], 0.5) == pytest.approx(0.29, abs=0.02)
    assert np.mean(ratio[small]) == pytest.approx(0.0, abs=0.02)
    assert np.std(ratio[small]) == pytest.approx(math.log(4 / 3) / 3**0.5, abs=0.02)
    assert np.mean((left / (400 - (right - left)))[small]) == pytest.approx(
        0.5, abs=0.03
    )


def test_random_resized_of_very_long_images(monkeypatch):
    found = boxes(monkeypatch, 10, 1000, (0.9, 1.0), number=3)
    assert found.tolist() == [[493, 0, 506, 10]] * 3
    found = boxes(monkeypatch, 1000, 10, (0.9, 1.0), number=1)
    assert found.tolist() == [[0, 493, 10, 506]]


def test_pad_shifts_by_at_most_four():
    image = picture(12, 12)
    whole = train_crop("none", image_size=12)(image, generator())
    padded = np.zeros((20, 20, 3), np.uint8)
    padded[4:-4, 4:-4] = whole
    apply, random = train_crop("pad", image_size=12), generator()
    shifts = set()
    for _ in range(1500):
        result = apply(image, random)
        shifts |= {
            (top, left)
            for top in range(9)
            for left in range(9)
            if np.array_equal(result, padded[top : top + 12, left : left + 12])
        }
    assert len(shifts) == 81


@pytest.mark.parametrize(
    ("shape", "resize", "size"),
    [((48, 64), 32, 28), ((64, 48), 32, 32), ((50, 81), 25, 24), ((9, 7), 32, 32)],
)
def test_eval_crop_is_resize_then_centre_crop(shape, resize, size):
    image = picture(*shape)
    result = eval_crop(image_size=size, resize=resize)(image, generator())
    height, width = shape
    new = (int(resize * width / min(shape)), int(resize * height / min(shape)))
    resized = np.asarray(image.load(1).resize(new, Image.Resampling.BILINEAR))
    top, left = round((new[1] - size) / 2), round((new[0] - size) / 2)
    expected = resized[top : top + size, left : left + size]
    assert np.abs(result.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: train_crop("random", image_size=8), r"data\.crop.*: random_resized"),
        (lambda: train_crop("none", image_size=0), "image_size"),
        (
            lambda: train_crop("random_resized", image_size=8, scale=(0.5, 1.2)),
            "crop_scale",
        ),
        (lambda: eval_crop(image_size=33, resize=32), r"data\.resize: 32 is below"),
    ],
)
def test_refuses(make, word):
    with pytest.raises(ValueError, match=word):
        make()
