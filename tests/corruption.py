"""A photograph damaged in many ways: what becomes of each variant.

    python tests/corruption.py PHOTO.jpg [--flips 200]

prints a table, once with simplejpeg and once without: of each kind of damage how many
variants are refused (BadImageError), come back right (close to the original) or wrong,
and the peak memory of the process. Wrong is allowed only where the format has no means
to tell, see `UNDETECTABLE`.
"""

import argparse
import io
import random
import re
import resource
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from blt_jax.data import damage
from blt_jax.data import decode as module
from blt_jax.data.decode import BadImageError, decode

REFUSED, RIGHT, WRONG = "refused", "right", "wrong"
# Such a file may be another valid picture: JPEG has no checksum, neither of its tables
# nor of its body.
UNDETECTABLE = (
    "bit of the header",
    "bit of the body",
    "zeros in the body",
    "noise in the body",
)
# Mean and largest mean over a row of 16-pixel blocks, of the absolute difference.
CLOSE, CLOSE_BLOCK = 3.0, 30.0


def plain_jpeg(photo: bytes, **options) -> bytes:
    """The photograph saved anew, so that its structure is known."""
    with Image.open(io.BytesIO(photo)) as image:
        return saved(image.convert("RGB"), "JPEG", quality=90, **options)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    """An image as a file of a kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def body(data: bytes) -> tuple[int, int]:
    """Where the entropy-coded data of the last scan begins and ends."""
    start = data.rindex(b"\xff\xda")
    start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return start, data.rindex(b"\xff\xd9")


def with_size(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header promises another size."""
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    size = struct.pack(">HH", height, width)
    return data[: frame + 5] + size + data[frame + 9 :]


def png_header(
    width: int,
    height: int,
    *,
    bits: int = 8,
    colour: int = 2,
    content: bytes = bytes(1000),
) -> bytes:
    """A PNG that promises a size; by default it holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(content))
        + chunk(b"IEND", b"")
    )


def bmp_header(width: int, height: int) -> bytes:
    """A BMP that promises a size, and holds nothing."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def webp_header(width: int, height: int) -> bytes:
    """A lossy WebP that promises a size, and holds a small picture."""
    data = bytearray(saved(Image.new("RGB", (16, 16)), "WEBP"))
    place = data.index(b"\x9d\x01\x2a") + 3  # the start code of a key frame
    data[place : place + 4] = struct.pack("<HH", width, height)
    return bytes(data)


def with_exif(data: bytes, content: bytes) -> bytes:
    """A JPEG with an EXIF block of this content."""
    segment = b"Exif\0\0" + content
    length = struct.pack(">H", len(segment) + 2)
    return data[:2] + b"\xff\xe1" + length + segment + data[2:]


def variants(photo: bytes, *, flips: int = 40) -> Iterator[tuple[str, bytes]]:
    """Pairs of a kind of damage and a damaged file."""
    rng = random.Random(0)
    data = plain_jpeg(photo)
    progressive = plain_jpeg(photo, progressive=True)
    restarts = plain_jpeg(photo, restart_marker_blocks=8)
    start, end = body(data)
    for share in np.linspace(0.01, 0.99, 25):
        yield "cut short", data[: int(share * len(data))]
    for share in np.linspace(0.05, 0.95, 10):
        yield (
            "cut short, end marker",
            data[: start + int(share * (end - start))] + (b"\xff\xd9"),
        )
        yield "progressive, cut short", progressive[: int(share * len(progressive))]
        yield "restarts, cut short", restarts[: int(share * len(restarts))]
    for count in (1, 2, 3, 8):
        yield "last bytes missing", data[:-count]
    for _ in range(flips):
        place = rng.randrange(2, start)
        yield "bit of the header", flipped(data, place, rng.randrange(8))
        place = rng.randrange(start, end)
        yield "bit of the body", flipped(data, place, rng.randrange(8))
    for length in (16, 64, 512):
        for share in (0.1, 0.5, 0.9):
            place = start + int(share * (end - start))
            rest = data[place + length :]
            yield "zeros in the body", data[:place] + bytes(length) + rest
            noise = rng.randbytes(length).replace(b"\xff", b"\xfe")
            yield "noise in the body", data[:place] + noise + rest
    for share in (0.2, 0.5, 0.8):
        place = start + int(share * (end - start))
        yield "marker in the body", data[:place] + b"\xff\xc4" + data[place:]
        yield "end marker in the body", data[:place] + b"\xff\xd9" + data[place:]
    for magic in (b"\0\0\0", b"GIF", b"\x89PN", b"\xff\xd9\xff"):
        yield "wrong magic", magic + data[3:]
    yield "empty", b""
    for length in (1, 100, 100_000):
        yield "zero bytes", bytes(length)
    yield "text", b"<html><body>404 not found</body></html>\n" * 20
    yield "text", "Übergröße\n".encode() * 1000
    for width, height in ((65535, 65535), (65500, 800), (8000, 8000)):
        yield "huge in the header", with_size(data, width, height)
        yield "huge in the header", with_size(progressive, width, height)
        yield "huge in the header", png_header(width, height)
        yield "huge in the header", png_header(width, height, bits=16, colour=0)
        yield "huge in the header", bmp_header(width, height)
    yield "huge in the header", webp_header(16383, 16383)
    # Below the limit these are decoded until the data ends.
    yield "large in the header", with_size(data, 7000, 7000)
    yield "large in the header", with_size(progressive, 7000, 7000)
    for one in (progressive, plain_jpeg(photo, progressive=True, subsampling=0)):
        # Ends with the first scan's end: grey below, which is looked into.
        yield "large in the header", with_size(one, 7000, 7000) + b"\xff\xd9"
    yield "large in the header", png_header(7000, 7000)
    yield "large in the header", png_header(7000, 7000, bits=16, colour=0)
    yield "large in the header", png_header(7000, 7000, bits=16, colour=6)
    yield "large in the header", bmp_header(7000, 7000)
    yield "large in the header", webp_header(7000, 7000)
    with Image.open(io.BytesIO(data)) as image:
        yield "PNG called .jpg", saved(image, "PNG")
        for kind in ("GIF", "TIFF", "PPM"):
            yield "another format", saved(image, kind)
    for content in (
        b"",
        b"garbage, not TIFF",
        b"MM\0*\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\xff\xff\0\0\0\x7f",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",
    ):
        yield "broken EXIF", with_exif(data, content)
    for count in (1, 100, 100_000):
        yield "garbage after the end", data + rng.randbytes(count)
        yield "garbage after the end", data + bytes(count)


def flipped(data: bytes, place: int, bit: int) -> bytes:
    """The data with one bit turned."""
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def outcome(data: bytes, original: np.ndarray) -> str:
    """Refused, right or wrong; any other error than BadImageError is raised."""
    try:
        result = decode(data, name="variant.jpg")
    except BadImageError as error:
        assert "\n" not in str(error), str(error)
        return REFUSED
    if result.shape != original.shape:
        return WRONG
    difference = np.abs(result.astype(np.int16) - original).mean(-1)
    rows = len(difference) // 16 * 16
    columns = difference.shape[1] // 16 * 16
    blocks = difference[:rows, :columns].reshape(rows // 16, 16, columns // 16, 16)
    largest = blocks.mean((1, 3)).max()
    return RIGHT if difference.mean() <= CLOSE and largest <= CLOSE_BLOCK else WRONG


def table(photo: bytes, *, flips: int) -> dict[str, Counter]:
    """Outcomes by kind of damage."""
    with Image.open(io.BytesIO(plain_jpeg(photo))) as image:
        original = np.asarray(image).astype(np.int16)
    counts: dict[str, Counter] = {}
    for kind, data in variants(photo, flips=flips):
        counts.setdefault(kind, Counter())[outcome(data, original)] += 1
    return counts


def main() -> None:
    """Print the table; each decoder in a process of its own, for the memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo")
    parser.add_argument("--flips", type=int, default=200, help="bits, of each part")
    parser.add_argument("--decoder", choices=("simplejpeg", "pillow"))
    arguments = parser.parse_args()
    if arguments.decoder is None:
        for decoder in ("simplejpeg", "pillow"):
            command = [sys.executable, __file__, arguments.photo]
            command += [f"--flips={arguments.flips}", f"--decoder={decoder}"]
            subprocess.run(command, check=True)
        return
    if arguments.decoder == "pillow":
        module.simplejpeg = damage.simplejpeg = None
    elif module.simplejpeg is None:
        print("simplejpeg is not installed")
        return
    counts = table(Path(arguments.photo).read_bytes(), flips=arguments.flips)
    print(f"\n{arguments.decoder:<26}{REFUSED:>9}{RIGHT:>9}{WRONG:>9}")
    for kind, times in counts.items():
        print(
            f"{kind:<26}" + "".join(f"{times[o]:>9}" for o in (REFUSED, RIGHT, WRONG))
        )
    total = sum(counts.values(), Counter())
    print(f"{'all':<26}" + "".join(f"{total[o]:>9}" for o in (REFUSED, RIGHT, WRONG)))
    print(f"peak memory {peak_memory() / 2**20:.0f} MiB")


def peak_memory() -> int:
    """Bytes that this process had at most."""
    status = Path("/proc/self/status")
    if status.exists():
        # Of Linux's getrusage the peak of the process that started this one is part.
        kilobytes = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        assert kilobytes is not None
        return 1024 * int(kilobytes[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
