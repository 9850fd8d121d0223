"""Crops for training and evaluation: a picture and a generator -> uint8 [S, S, 3]."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from blt_jax.choices import choose
from blt_jax.data.decode import Picture, crop
from blt_jax.data.resample import Box

Crop = Callable[[Picture, np.random.Generator], np.ndarray]
# Width, height, generator -> left, top, right, bottom in pixels of the image.
BoxOf = Callable[[int, int, np.random.Generator], Box]
_ATTEMPTS = 10
_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))
_PADDING = 4


def train_crop(
    kind: str, *, image_size: int, scale: tuple[float, float] = (0.08, 1.0)
) -> Crop:
    """Return the training crop.

    kind: "random_resized": a box of a random share `scale` of the area and a ratio of
      3/4 ... 4/3; "pad": 4 pixels of zeros around, then a box of S x S at random;
      "none": the whole image; all resized to S x S.
    image_size: S.
    """
    box_of = train_box(kind, image_size=image_size, scale=scale)
    return partial(_at_box, box_of=box_of, size=image_size)


def train_box(
    kind: str, *, image_size: int, scale: tuple[float, float] = (0.08, 1.0)
) -> BoxOf:
    """Return where the training crop of that kind is cut; arguments as `train_crop`.

    A box of kind "pad" reaches beyond the image, where zeros are.
    """
    if image_size < 1:
        raise ValueError(f"data.image_size: {image_size} must be at least 1")
    return choose("data.crop", kind, BOXES)(image_size, scale)


def eval_crop(*, image_size: int, resize: int) -> Crop:
    """Return the evaluation crop: shorter side to `resize`, centre box of S x S.

    The same box and sampling as resizing first, without the pixels in between.
    """
    if not 1 <= image_size <= resize:
        raise ValueError(
            f"data.resize: {resize} is below data.image_size {image_size}; the centre "
            "crop would be larger than the image"
        )
    return partial(_central, size=image_size, resize=resize)


# Crops are functions of the module, so that other processes can be sent them.
def _central(
    picture: Picture, random: np.random.Generator, *, size: int, resize: int
) -> np.ndarray:
    del random
    width, height = picture.width, picture.height
    shorter = min(width, height)
    # The longer side is cut to whole pixels, as torchvision's Resize does.
    new_width = int(resize * width / shorter)
    new_height = int(resize * height / shorter)
    across, down = width / new_width, height / new_height
    left = round((new_width - size) / 2.0)
    top = round((new_height - size) / 2.0)
    box = (
        left * across,
        top * down,
        min((left + size) * across, width),
        min((top + size) * down, height),
    )
    # Accuracies are to be those that others find.
    return crop(picture, box, size, exact=True)


def _at_box(
    picture: Picture, random: np.random.Generator, *, box_of: BoxOf, size: int
) -> np.ndarray:
    box = box_of(picture.width, picture.height, random)
    left, top = box[:2]
    if left >= 0 and top >= 0 and box[2] <= picture.width and box[3] <= picture.height:
        return crop(picture, box, size)
    # A whole image, moved beyond its edges by so many pixels of the result.
    whole = crop(picture, (0, 0, picture.width, picture.height), size)
    x, y = round(left * size / picture.width), round(top * size / picture.height)
    moved = np.zeros_like(whole)
    moved[max(-y, 0) : size - y, max(-x, 0) : size - x] = whole[
        max(y, 0) : size + y, max(x, 0) : size + x
    ]
    return moved


def _random_resized(
    width: int, height: int, random: np.random.Generator, *, scale: tuple[float, float]
) -> Box:
    low, high = scale
    for _ in range(_ATTEMPTS):
        area, ratio, across, down = random.random(4).tolist()
        area = width * height * (low + (high - low) * area)
        ratio = math.exp(_LOG_RATIO[0] + (_LOG_RATIO[1] - _LOG_RATIO[0]) * ratio)
        w = round(math.sqrt(area * ratio))
        h = round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(across * (width - w + 1))
            top = int(down * (height - h + 1))
            return left, top, left + w, top + h
    # Very long images: the largest central box of an allowed ratio.
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _pad(width: int, height: int, random: np.random.Generator, *, size: int) -> Box:
    top, left = random.integers(-_PADDING, _PADDING + 1, 2).tolist()
    left, top = left * width / size, top * height / size
    return left, top, left + width, top + height


def _none(width: int, height: int, random: np.random.Generator) -> Box:
    del random
    return 0, 0, width, height


def _make_random_resized(size: int, scale: tuple[float, float]) -> BoxOf:
    del size
    low, high = scale
    if not 0.0 < low <= high <= 1.0:
        raise ValueError(
            f"data.crop_scale: {tuple(scale)} must be (low, high) with "
            "0 < low <= high <= 1, shares of the area"
        )
    return partial(_random_resized, scale=scale)


BOXES: dict[str, Callable[[int, tuple[float, float]], BoxOf]] = {
    "random_resized": _make_random_resized,
    "pad": lambda size, scale: partial(_pad, size=size),
    "none": lambda size, scale: _none,
}
