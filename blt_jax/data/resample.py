"""Bilinear resizing with antialiasing, as Pillow's, in whole-array operations.

Pillow goes pixel by pixel; NumPy's uint16 arithmetic does many values at once, in two
thirds of the time. Weights have 8 bits here and 22 there: values differ by 2 of 255 at
most where the image shrinks by less than 2, and most are equal.
"""

import math
import threading
from functools import lru_cache

import numpy as np
from PIL import Image

# Below this size calls cost more than pixels; above this shrinkage 8 bits are too few
# for so many weights. Pillow sees to both.
SMALLEST = 96
LARGEST_SHRINKAGE = 3.0
_BITS = 8
MARGIN = math.ceil(LARGEST_SHRINKAGE) + 1  # pixels beside a box that matter

Box = tuple[float, float, float, float]


class Scratch(threading.local):
    """Arrays that each thread uses again: fresh pages cost as much as arithmetic."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Return an array of any content, valid until `name` is asked for again."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        held = self._arrays.get(name)
        if held is None or len(held) < size:
            held = self._arrays[name] = np.empty(size, np.uint8)
        return held[:size].view(dtype).reshape(shape)


_scratch = Scratch()


def suits(longer: float, size: int) -> bool:
    """Whether `resample` is accurate and quick for a box with this longer side."""
    return size >= SMALLEST and longer <= LARGEST_SHRINKAGE * size


def resample(pixels: np.ndarray, box: Box, size: int) -> np.ndarray:
    """Cut out a box and resize it to S x S; pixels around it help to interpolate.

    pixels: uint8 [h, w, 4], contiguous: red, green, blue and anything.
    box: left, top, right, bottom in pixels, inside of the image.

    Returns:
      uint8 [S, S, 3].
    """
    left, top, right, bottom = box
    x, columns, across = _taps(left, right, size, pixels.shape[1])
    y, rows, down = _taps(top, bottom, size, pixels.shape[0])
    part = pixels[y : y + rows[-1, -1] + 1, x : x + columns[-1, -1] + 1]
    height = len(part)
    deep = _scratch.array("deep", part.shape, np.uint16)
    np.copyto(deep, part)
    # A pixel of four values is moved as one.
    wide = _blend(deep.view(np.uint64)[..., 0], columns, across.repeat(4, 1), axis=1)
    # The fourth channel goes; Pillow is quicker at that than NumPy.
    image = Image.frombuffer("RGBX", (size, height), wide, "raw", "RGBX", 0, 1)
    narrow = np.frombuffer(image.tobytes("raw", "RGB"), np.uint8)
    deep = _scratch.array("deep", (height, 3 * size), np.uint16)
    np.copyto(deep, narrow.reshape(deep.shape))
    return _blend(deep, rows, down[:, :, None], axis=0).reshape(size, size, 3)


def _taps(
    low: float, high: float, size: int, limit: int
) -> tuple[int, np.ndarray, np.ndarray]:
    """The positions that S values are made of in one direction, and their shares.

    Returns the first position, positions from there on [taps, S] int and their shares
    [taps, S] uint16 with sums of 256.
    """
    # Relative to the box, so that boxes of whole pixels are soon all known.
    start = int(low)
    before = min(start, MARGIN)
    after = min(limit - start, math.ceil(high) - start + MARGIN)
    begin, positions, shares = _shares(low - start, high - start, size, -before, after)
    return start + begin, positions, shares


@lru_cache(maxsize=2048)
def _shares(
    low: float, high: float, size: int, begin: int, end: int
) -> tuple[int, np.ndarray, np.ndarray]:
    """As `_taps`; there are pixels from `begin` to before `end`."""
    scale = (high - low) / size
    reach = max(scale, 1.0)  # of the triangle; below 1 nothing is left out
    centre = low + scale * (np.arange(size) + 0.5)
    first = np.floor(centre - (reach - 0.5))
    positions = first + np.arange(math.ceil(2 * reach))[:, None]
    share = np.maximum(1.0 - abs(positions + (0.5 - centre)) / reach, 0.0)
    share *= (positions >= begin) & (positions < end)
    # Rounding the sums and not the shares keeps the whole exact.
    sums = share.cumsum(axis=0)
    sums *= (1 << _BITS) / sums[-1]
    shares = np.rint(sums).astype(np.uint16)
    shares[1:] -= shares[:-1].copy()
    positions = positions.clip(begin, end - 1).astype(np.intp)
    begin = int(positions[0, 0])
    return begin, positions - begin, shares


def _blend(
    values: np.ndarray, taps: np.ndarray, shares: np.ndarray, *, axis: int
) -> np.ndarray:
    """Weighted sums of columns or rows of uint16 values, as uint8."""
    shape = list(values.shape)
    shape[axis] = taps.shape[1]
    sums = _scratch.array("sums", tuple(shape), values.dtype.type)
    term = _scratch.array("term", tuple(shape), values.dtype.type)
    total = sums.view(np.uint16)
    for number, (tap, share) in enumerate(zip(taps, shares, strict=True)):
        # The default mode would copy once more, to leave `out` alone on errors.
        taken = term if number else sums
        np.take(values, tap, axis=axis, out=taken, mode="clip")
        each = taken.view(np.uint16)
        np.multiply(each, share, out=each)
        if number:
            np.add(total, each, out=total)
    np.add(total, np.uint16(1 << (_BITS - 1)), out=total)
    np.right_shift(total, _BITS, out=total)
    return total.astype(np.uint8)
