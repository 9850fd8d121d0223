"""Training and evaluation crops."""

import math

import numpy as np
import pytest
from PIL import Image

from blt_jax.data.decode import Picture, open_picture
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
    [
        ((48, 64), 32, 28),
        ((64, 48), 32, 32),
        ((50, 81), 25, 24),
        ((9, 7), 32, 32),
        ((375, 500), 256, 224),  # where training crops are resized otherwise
    ],
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


BINS = 20
CHI_SQUARE = 43.8  # exceeded once in 1000 with BINS - 1 degrees of freedom


def chi_square(values):
    """Of values in [0, 1) against the uniform distribution."""
    assert values.min() >= 0 and values.max() < 1
    counts = np.bincount((values * BINS).astype(int), minlength=BINS)
    expected = len(values) / BINS
    return ((counts - expected) ** 2 / expected).sum()


def test_random_resized_is_uniform_in_area_log_ratio_and_place(monkeypatch):
    # Boxes of at most 0.3 of a square always fit: nothing is drawn again.
    side, low, high = 100_000, 0.08, 0.3
    seen = boxes_of_size(monkeypatch, side, (low, high), 6000)
    left, top, right, bottom = seen.T
    width, height = right - left, bottom - top
    area = (width * height / side**2 - low) / (high - low)
    ratio = (np.log(width / height) / math.log(4 / 3) + 1) / 2
    # Rounding to whole pixels may pass the ends by a hair.
    area, ratio = area.clip(0, 1 - 1e-9), ratio.clip(0, 1 - 1e-9)
    across, down = left / (side - width + 1), top / (side - height + 1)
    found = {"area": area, "ratio": ratio, "across": across, "down": down}
    for name, values in found.items():
        assert chi_square(values) < CHI_SQUARE, name
    # And independent of each other.
    correlation = np.corrcoef(list(found.values()))
    assert np.abs(correlation - np.eye(4)).max() < 4 / 6000**0.5


def boxes_of_size(monkeypatch, side, scale, number):
    """As `boxes`, of a square too large to have pixels."""
    seen = []
    monkeypatch.setattr(
        "blt_jax.data.transforms.crop", lambda picture, box, size: seen.append(box)
    )
    apply = train_crop("random_resized", image_size=8, scale=scale)
    square, random = Picture(side, side, "x", load=None), generator(1)
    for _ in range(number):
        apply(square, random)
    return np.array(seen, np.float64)


def test_small_squares_are_cut_at_every_place_alike(monkeypatch):
    # 16 of the 64 pixels of a side of 8 with ratio near 1: a side of 4, 5 places.
    seen = boxes_of_size(monkeypatch, 8, (0.25, 0.25), 4000)
    left, _, right, _ = seen[(seen[:, 2] - seen[:, 0]) == 4].T
    counts = np.bincount(left.astype(int), minlength=5)
    assert len(counts) == 5 and right.max() == 8
    expected = counts.sum() / 5
    assert ((counts - expected) ** 2 / expected).sum() < 18.5  # 4 degrees, 1 in 1000


def test_larger_boxes_than_the_image_are_drawn_again(monkeypatch):
    # A share a of a square fits if a <= ratio <= 1 / a. Among a ~ U(0.5, 1) and
    # log ratio ~ U(+-log 4/3) that do, P(a > 0.75) follows from
    # P(fits | a) = min(1, -log(a) / log(4/3)): 1 below 0.75, else -log(a) / log(4/3).
    side = 100_000
    left, top, right, bottom = boxes_of_size(monkeypatch, side, (0.5, 1.0), 6000).T
    area = (right - left) * (bottom - top) / side**2
    # Integral of -log a from 0.75 to 1 is 1 - 0.75 + 0.75 log 0.75.
    large = (0.25 + 0.75 * math.log(0.75)) / math.log(4 / 3)
    expected = large / (0.25 + large)
    # A box fails ten times once in a million.
    assert np.mean(area > 0.75) == pytest.approx(expected, abs=4 * 0.5 / 6000**0.5)
