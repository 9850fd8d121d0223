"""Crops for training and evaluation: a picture and a generator -> uint8 [S, S, 3]."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from blt_jax.choices import choose
from blt_jax.data.decode import Picture, crop

Crop = Callable[[Picture, np.random.Generator], np.ndarray]
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
    if image_size < 1:
        raise ValueError(f"data.image_size: {image_size} must be at least 1")
    return choose("data.crop", kind, CROPS)(image_size, scale)


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
    return crop(picture, box, size)


def _random_resized(
    picture: Picture,
    random: np.random.Generator,
    *,
    size: int,
    scale: tuple[float, float],
) -> np.ndarray:
    width, height = picture.width, picture.height
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
            return crop(picture, (left, top, left + w, top + h), size)
    # Very long images: the largest central box of an allowed ratio.
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return crop(picture, (left, top, left + w, top + h), size)


def _pad(picture: Picture, random: np.random.Generator, *, size: int) -> np.ndarray:
    padded = np.zeros((size + 2 * _PADDING, size + 2 * _PADDING, 3), np.uint8)
    whole = crop(picture, (0, 0, picture.width, picture.height), size)
    padded[_PADDING:-_PADDING, _PADDING:-_PADDING] = whole
    top, left = random.integers(0, 2 * _PADDING + 1, 2).tolist()
    return padded[top : top + size, left : left + size]


def _none(picture: Picture, random: np.random.Generator, *, size: int) -> np.ndarray:
    del random
    return crop(picture, (0, 0, picture.width, picture.height), size)


def _make_random_resized(size: int, scale: tuple[float, float]) -> Crop:
    low, high = scale
    if not 0.0 < low <= high <= 1.0:
        raise ValueError(
            f"data.crop_scale: {tuple(scale)} must be (low, high) with "
            "0 < low <= high <= 1, shares of the area"
        )
    return partial(_random_resized, size=size, scale=scale)


CROPS: dict[str, Callable[[int, tuple[float, float]], Crop]] = {
    "random_resized": _make_random_resized,
    "pad": lambda size, scale: partial(_pad, size=size),
    "none": lambda size, scale: partial(_none, size=size),
}
