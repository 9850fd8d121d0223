"""Damage inside JPEG data that decoders pass over: libjpeg warns, and fills in grey.

JPEG has no checksum. Where its bits make no sense, or end before the picture does,
libjpeg goes on with what it has; the rest of the picture is grey or shifted, and no
error says so. simplejpeg hands the warnings on. Pillow does not, so without the extra
`fast` only an early end is found, by the grey that libjpeg leaves behind. What neither
can find: bits that still make sense, such as one coefficient turned into another.
"""

import io
import re

import numpy as np
from PIL import Image

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

# How the warnings of libjpeg begin that mean lost or surplus data. It has others, about
# odd but whole files (an unknown version, unusual scan parameters).
_LOST = ("Corrupt JPEG data", "Premature end")
# libjpeg's value where no data was left, as Pillow shows it in each mode.
_GREY = {"RGB": (128, 128, 128), "L": 128}
_START_OF_SCAN = 0xDA
# A marker that ends a scan: neither a stuffed byte, nor a restart, nor a fill byte.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SURPLUS = bytes(range(1, 65))


def is_damage(error: Exception) -> bool:
    """Whether simplejpeg's error says that data is missing, false or left over."""
    return str(error).startswith(_LOST)


def warning(record: bytes) -> str | None:
    """What libjpeg warns of in a JPEG; None: of no lost data, or no simplejpeg."""
    if simplejpeg is None:
        return None
    try:
        # At an eighth of the size: all data is read, few pixels are made.
        simplejpeg.decode_jpeg(record, min_height=1, min_width=1, min_factor=1)
    except ValueError as error:
        return str(error) if is_damage(error) else None
    return None


def ends_early(record: bytes, image: Image.Image) -> bool:
    """Whether the data of a JPEG ended before the picture, the rest being grey.

    image: as Pillow decoded it from `record`, at any scale, not yet turned.

    A picture whose last pixel is not that grey costs one look. Otherwise bytes are put
    in where the data ends: they change the picture only if more was wanted there. It is
    looked at in eighths of its size, which takes little memory beside `image`.
    """
    grey = _GREY.get(image.mode)
    if grey is None or image.getpixel((image.width - 1, image.height - 1)) != grey:
        return False
    start = _scan_start(record)
    end = None if start is None else _NEXT_MARKER.search(record, start)
    if end is None:
        return False
    longer = record[: end.start()] + _SURPLUS + record[end.start() :]
    try:
        return not np.array_equal(_small(record), _small(longer))
    except (OSError, SyntaxError):
        return True


def _small(record: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(record), formats=("JPEG",)) as image:
        image.draft(None, (1, 1))
        return np.asarray(image)


def _scan_start(record: bytes) -> int | None:
    """Where the entropy-coded data of the first scan begins, found by the markers."""
    place = 2
    while place + 4 <= len(record):
        if record[place] != 0xFF:
            return None
        kind = record[place + 1]
        if kind == 0xFF:  # a fill byte
            place += 1
            continue
        place += 2 + int.from_bytes(record[place + 2 : place + 4], "big")
        if kind == _START_OF_SCAN:
            return place
    return None
