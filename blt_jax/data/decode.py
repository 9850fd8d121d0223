"""From an encoded image to a crop: header first, limits, then only what is needed.

What becomes of the kinds of images there are:
- JPEG, PNG, WebP, BMP are read, whatever the file is called; nothing else is.
- More than 50 megapixels, by the header: refused before a pixel is decoded.
- Grey becomes three equal channels; 16 bits a channel become the nearest 8 (grey) or
  their upper 8 (colour). Palettes are looked up. Alpha is dropped, not blended.
- CMYK JPEG is converted by the plain formula. Colour profiles and gamma are ignored.
- EXIF orientation is honoured; a broken EXIF block is ignored, and the image is not.
- Of animations and multi-picture files the first picture is taken.
- Cut short or damaged: refused, as far as the format shows it (`damage.py` for JPEG;
  PNG has checksums; WebP and BMP have none).
"""

import io
import math
import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from blt_jax.data.damage import ends_early, is_damage
from blt_jax.data.resample import MARGIN, Box, resample, suits

try:  # The extra `fast`: same pixels, less time on small JPEG images.
    import simplejpeg
except ImportError:
    simplejpeg = None

MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_ORIENTATION = 0x0112
_PLAIN_JPEG = ("YCbCr", "Gray")
_APP1, _SCAN = 0xE1, 0xDA
# What Pillow raises for files that are cut short, damaged or not images at all.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError)


class BadImageError(ValueError):
    """An image that cannot be used; the message names the file and says why.

    kind: "too large", "not an image", "damaged" or "not pixels", for counting.
    """

    def __init__(self, message: str, kind: str = "damaged"):
        super().__init__(message)
        self.kind = kind


class Picture(NamedTuple):
    """An image of known size whose pixels are decoded when a crop is asked for.

    width, height: in pixels, upright (EXIF orientation honoured).
    name: of the file, for messages.
    load: load(k) -> RGB image, at least 1/k of the size a side; k in 1, 2, 4, 8.
    pixels: pixels(k) -> the same as uint8 [h, w, 4], the fourth value being anything;
      None: from `load`.
    """

    width: int
    height: int
    name: str
    load: Callable[[int], Image.Image]
    pixels: Callable[[int], np.ndarray] | None = None


def open_picture(record: bytes | np.ndarray, *, name: str) -> Picture:
    """Read the header of a record, not its pixels.

    record: an encoded JPEG, PNG, WebP or BMP image, or uint8 [h, w, 3] or [h, w].
    name: of the file, for messages.

    Raises:
      BadImageError: another format, damaged, or above 50 megapixels.
    """
    if isinstance(record, np.ndarray):
        return _open_array(record, name)
    if simplejpeg is not None and record[:3] == b"\xff\xd8\xff":
        # Turned images are left to Pillow.
        picture = None if _is_turned(record) else _open_jpeg(record, name)
        if picture is not None:
            return picture
    return _open_pillow(record, name)


def crop(picture: Picture, box: Box, size: int, *, exact: bool = False) -> np.ndarray:
    """Cut out a box and resize it, bilinear with antialiasing.

    JPEG images are decoded at 1/2, 1/4 or 1/8 where the box still covers the result.

    box: left, top, right, bottom in pixels of the picture, inside of it.
    size: S.
    exact: by Pillow; else large crops by `resample`, quicker and within 2 of 255 of it.

    Returns:
      uint8 [S, S, 3].

    Raises:
      BadImageError: the file is damaged or cut short.
    """
    left, top, right, bottom = box
    side = min(right - left, bottom - top)
    reduce = next((k for k in (8, 4, 2) if side >= k * size), 1)
    whole = box == (0, 0, picture.width, picture.height)
    unchanged = whole and picture.width == picture.height == size
    if exact or unchanged or not suits(max(right - left, bottom - top) / reduce, size):
        image = picture.load(reduce)
        box = _scaled(box, picture, image.width, image.height)
        if image.size != (size, size) or box != (0, 0, size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        return np.asarray(image)
    if picture.pixels is not None:
        pixels = picture.pixels(reduce)
        box = _scaled(box, picture, pixels.shape[1], pixels.shape[0])
    else:
        image = picture.load(reduce)
        box = _scaled(box, picture, image.width, image.height)
        pixels, box = _part(image, box)
    return resample(pixels, box, size)


def _scaled(box: Box, picture: Picture, width: int, height: int) -> Box:
    """The box in an image that was decoded at another scale."""
    if (width, height) == (picture.width, picture.height):
        return box
    left, top, right, bottom = box
    across, down = width / picture.width, height / picture.height
    return (
        left * across,
        top * down,
        min(right * across, width),
        min(bottom * down, height),
    )


def _part(image: Image.Image, box: Box) -> tuple[np.ndarray, Box]:
    """The pixels [h, w, 4] in and around a box, and the box in them."""
    left, top, right, bottom = box
    x, y = max(int(left) - MARGIN, 0), max(int(top) - MARGIN, 0)
    part = image.crop(
        (
            x,
            y,
            min(math.ceil(right) + MARGIN, image.width),
            min(math.ceil(bottom) + MARGIN, image.height),
        )
    )
    pixels = np.frombuffer(part.tobytes("raw", "RGBX"), np.uint8)
    return (
        pixels.reshape(part.height, part.width, 4),
        (left - x, top - y, right - x, bottom - y),
    )


def decode(record: bytes | np.ndarray, *, name: str) -> np.ndarray:
    """Decode a whole record, upright, to uint8 [h, w, 3]; errors as `open_picture`."""
    return np.asarray(open_picture(record, name=name).load(1))


def _open_array(array: np.ndarray, name: str) -> Picture:
    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    ):
        raise BadImageError(
            f"{name}: expected uint8 [h, w, 3] or [h, w], got {array.dtype} "
            f"{list(array.shape)}",
            "not pixels",
        )
    height, width = array.shape[:2]

    def load(reduce: int) -> Image.Image:
        del reduce
        image = Image.fromarray(array)
        return image if array.ndim == 3 else image.convert("RGB")

    return Picture(width, height, name, load)


def _open_jpeg(record: bytes, name: str) -> Picture | None:
    """Open an ordinary JPEG with simplejpeg; None: Pillow shall see to it."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(record)
    except ValueError:
        return None
    if colours not in _PLAIN_JPEG:
        return None
    _check_size(width, height, name)

    def decoded(reduce: int, colours: str) -> np.ndarray:
        # The quicker ways of DCT and upsampling gain less than they spoil.
        try:
            return simplejpeg.decode_jpeg(
                record,
                colours,
                min_height=-(-height // reduce),
                min_width=-(-width // reduce),
                min_factor=1,
            )
        except ValueError as error:
            if is_damage(error):
                raise _bad(name, error) from None
            # It refuses some whole files that Pillow accepts. Pillow has the last word,
            # so that the same images are good with and without the extra.
            image = _open_pillow(record, name).load(reduce)
            data = np.frombuffer(image.tobytes("raw", colours), np.uint8)
            return data.reshape(image.height, image.width, len(colours))

    return Picture(
        width,
        height,
        name,
        load=lambda reduce: Image.fromarray(decoded(reduce, "RGB")),
        pixels=lambda reduce: decoded(reduce, "RGBX"),
    )


def _is_turned(record: bytes) -> bool:
    """Whether the metadata of a JPEG turn it, or cannot be read."""
    at = 2
    while record[at : at + 1] == b"\xff" and at + 4 < len(record):
        marker = record[at + 1]
        if marker == _SCAN:
            return False
        if marker == _APP1:  # EXIF or XMP
            try:
                image = Image.open(io.BytesIO(record), formats=("JPEG",))
                return image.getexif().get(_ORIENTATION, 1) != 1
            except (*_UNREADABLE, Image.DecompressionBombError):
                return True
        at += 2 + int.from_bytes(record[at + 2 : at + 4], "big")
    return True


def _open_pillow(record: bytes, name: str) -> Picture:
    try:
        image = Image.open(io.BytesIO(record), formats=FORMATS)
        width, height = image.size
        _check_size(width, height, name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImageError(_too_large(name), "too large") from None
    except BadImageError:
        raise
    except _UNREADABLE as error:
        raise _bad(name, error) from None
    opened: list[Image.Image] = [image]
    try:
        # May decode a PNG, whose EXIF can stand at the end: after the limit.
        orientation = image.getexif().get(_ORIENTATION, 1)
    except _UNREADABLE:
        orientation = 1
        opened = []  # half read; if it is more than the EXIF, load() will say so
    if orientation in (5, 6, 7, 8):
        width, height = height, width

    def load(reduce: int) -> Image.Image:
        # A file is decoded at one scale only: the second time it is opened anew.
        image: Image.Image
        image = opened.pop() if opened else _reopen(record)
        try:
            if reduce > 1 and image.format in ("JPEG", "MPO"):
                image.draft(None, (image.width // reduce, image.height // reduce))
            image.load()
            if image.format in ("JPEG", "MPO") and ends_early(record, image):
                raise OSError("the data ends before the picture does")
            if orientation != 1:
                image = ImageOps.exif_transpose(image)
            return _as_rgb(image)
        except _UNREADABLE as error:
            raise _bad(name, error) from None

    return Picture(width, height, name, load)


def _reopen(record: bytes) -> Image.Image:
    return Image.open(io.BytesIO(record), formats=FORMATS)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        # 16-bit grey: convert() would clip it at 255.
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        size = f"{width} x {height} pixels"
        raise BadImageError(_too_large(name, size), "too large")


def _too_large(name: str, size: str = "far too many pixels") -> str:
    return (
        f"{name}: {size}, above the limit of {MAX_PIXELS // 1_000_000} megapixels; "
        "make the image smaller or take it out of the list"
    )


def _bad(name: str, error: Exception) -> BadImageError:
    reason = str(error).split("<_io")[0].strip() or type(error).__name__
    unknown = isinstance(error, UnidentifiedImageError)
    return BadImageError(
        f"{name}: not a whole JPEG, PNG, WebP or BMP image ({reason}); replace the "
        "file or take it out of the list",
        "not an image" if unknown else "damaged",
    )
