"""Decoding: formats, limits, orientation, damage, crops."""

import io
import pickle
import re
import tarfile
import zlib

import numpy as np
import pytest
from corruption import bmp_header, png_header, webp_header, with_exif
from PIL import Image

from blt_jax.data import decode as module
from blt_jax.data.decode import BadImageError, crop, decode, open_picture


@pytest.fixture(params=["pillow", "simplejpeg"], autouse=True)
def decoder(request, monkeypatch):
    """Everything holds with and without the extra `fast`."""
    if request.param == "pillow":
        monkeypatch.setattr(module, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")
    return request.param


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    planes = [255 * x / width, 255 * y / height, 255 * (x + y) / (height + width)]
    return np.stack(planes, -1).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PIXELS = smooth(20, 30)


@pytest.mark.parametrize(
    ("kind", "options", "close"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 8),
        ("JPEG", {"quality": 95, "progressive": True, "subsampling": 0}, 8),
    ],
)
def test_formats(kind, options, close):
    data = encoded(PIXELS, kind, **options)
    picture = open_picture(data, name="x")
    assert (picture.width, picture.height) == (30, 20)
    result = decode(data, name="x")
    assert result.dtype == np.uint8 and result.shape == (20, 30, 3)
    assert np.abs(result.astype(int) - PIXELS).max() <= close


def test_colour_models():
    grey = PIXELS[..., 0]
    three = np.repeat(grey[..., None], 3, -1)
    np.testing.assert_array_equal(decode(encoded(grey), name="x"), three)
    jpeg = decode(encoded(grey, "JPEG", quality=98), name="x")
    assert jpeg.shape == (20, 30, 3) and np.abs(jpeg.astype(int) - three).max() <= 4
    cmyk = Image.fromarray(PIXELS).convert("CMYK")
    result = decode(encoded(cmyk, "JPEG", quality=98, subsampling=0), name="x")
    assert np.abs(result.astype(int) - PIXELS).max() <= 8
    for mode in ("RGBA", "P", "LA", "1"):
        assert decode(
            encoded(Image.fromarray(PIXELS).convert(mode)), name="x"
        ).shape == (
            20,
            30,
            3,
        )
    palette = Image.fromarray(grey).convert("P")
    data = encoded(palette, transparency=bytes(range(200)))
    np.testing.assert_array_equal(decode(data, name="x"), three)


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 20 * 30).reshape(20, 30).astype(np.uint16)
    result = decode(encoded(Image.fromarray(values)), name="x")
    expected = np.round(values / 257.0)
    assert np.abs(result[..., 1] - expected).max() == 0
    assert result.min() == 0 and result.max() == 255


def test_alpha_is_dropped_not_blended():
    alpha = np.full((20, 30, 1), 7, np.uint8)
    rgba = np.concatenate([PIXELS, alpha], -1)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        result = decode(encoded(rgba, kind, **options), name="x")
        np.testing.assert_array_equal(result, PIXELS)


def test_16_bit_colour_keeps_the_upper_8_bits():
    values = np.random.RandomState(0).randint(0, 65536, (5, 4, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    data = png_header(4, 5, bits=16, colour=2, content=rows)
    np.testing.assert_array_equal(decode(data, name="x"), values >> 8)


def test_a_broken_exif_does_not_spoil_the_image():
    data = encoded(PIXELS, "JPEG", quality=95)
    expected = decode(data, name="x")
    for content in (b"", b"no TIFF", b"MM\0*\0\0\0\x08\xff\xff"):
        broken = with_exif(data, content)
        assert np.abs(decode(broken, name="x").astype(int) - expected).max() <= 2
    # Nor is a damaged image excused by it.
    with pytest.raises(BadImageError):
        decode(with_exif(data[:-100], b"no TIFF"), name="x")


def test_arrays_as_they_are():
    np.testing.assert_array_equal(decode(PIXELS, name="x"), PIXELS)
    grey = decode(PIXELS[..., 0], name="x")
    assert grey.shape == (20, 30, 3) and (grey == PIXELS[..., :1]).all()
    for bad in (PIXELS.astype(np.float32), PIXELS[..., :2], PIXELS[0, 0]):
        with pytest.raises(BadImageError, match=r"train\[3\]: expected uint8"):
            decode(bad, name="train[3]")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(PIXELS, kind, exif=exif.tobytes(), **options)
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }[orientation]
    picture = open_picture(data, name="x")
    result = decode(data, name="x")
    expected = turn(PIXELS)
    assert result.shape == expected.shape
    assert (picture.height, picture.width) == expected.shape[:2]
    limit = 40 if kind == "JPEG" else 0
    assert np.abs(result.astype(int) - expected).max() <= limit


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_short_files_are_named(kind, share):
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    data = encoded(noise, kind)
    with pytest.raises(BadImageError, match=r"a b\.jpg: not a whole") as error:
        decode(data[: int(share * len(data))], name="a b.jpg")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + bytes(40), bytes(1000)],
)
def test_what_is_no_image(data):
    with pytest.raises(BadImageError, match=r"^x: not a whole JPEG"):
        decode(data, name="x")


def test_other_formats_are_refused():
    for kind in ("GIF", "TIFF", "PPM"):
        with pytest.raises(BadImageError, match="not a whole"):
            decode(encoded(PIXELS, kind), name="x")


def bomb(width, height):
    """A PNG header that promises width x height grey pixels, and few bytes more."""

    def chunk(kind, body):
        head = len(body).to_bytes(4, "big") + kind + body
        return head + zlib.crc32(kind + body).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + bytes([8, 0, 0, 0, 0]))
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [7072, 10_000, 20_000])
def test_size_limit_before_decoding(side):
    with pytest.raises(BadImageError, match=r"big\.png: .*50 megapixels"):
        open_picture(bomb(side, side), name="big.png")


def test_just_below_the_limit_is_opened():
    # Below the limit it is the missing data that is complained about.
    with pytest.raises(BadImageError, match="not a whole"):
        decode(bomb(7071, 7071), name="x")


@pytest.mark.parametrize("make", [bmp_header, webp_header])
def test_size_limit_of_other_formats(make):
    with pytest.raises(BadImageError, match="8000 x 8000 pixels") as error:
        open_picture(make(8000, 8000), name="x")
    assert error.value.kind == "too large"


def test_kinds_of_problems():
    for data, kind in (
        (b"<html>", "not an image"),
        (encoded(PIXELS, "GIF"), "not an image"),
        (encoded(PIXELS)[:-40], "damaged"),
        (encoded(PIXELS, "JPEG")[:-40], "damaged"),
        (bomb(9000, 9000), "too large"),
        (PIXELS[..., :2], "not pixels"),
    ):
        with pytest.raises(BadImageError) as error:
            decode(data, name="x")
        assert error.value.kind == kind
        # Errors of worker processes arrive pickled.
        copy = pickle.loads(pickle.dumps(error.value))
        assert copy.kind == kind and str(copy) == str(error.value)


def test_jpeg_size_limit():
    data = bytearray(encoded(PIXELS, "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = (8000).to_bytes(2, "big") * 2
    with pytest.raises(BadImageError, match="8000 x 8000 pixels"):
        open_picture(bytes(data), name="x")


def test_crop_is_crop_and_resize():
    data = encoded(smooth(60, 90))
    picture = open_picture(data, name="x")
    result = crop(picture, (10, 5, 50, 45), 16)
    assert result.shape == (16, 16, 3) and result.dtype == np.uint8
    part = Image.fromarray(smooth(60, 90)).crop((10, 5, 50, 45))
    expected = np.asarray(part.resize((16, 16), Image.Resampling.BILINEAR))
    inner = np.s_[2:-2, 2:-2]  # at the border the whole image helps to interpolate
    assert np.abs(result[inner].astype(int) - expected[inner]).max() <= 1
    whole = crop(picture, (0, 0, 90, 60), 16)
    expected = Image.fromarray(smooth(60, 90)).resize(
        (16, 16), Image.Resampling.BILINEAR
    )
    np.testing.assert_array_equal(whole, np.asarray(expected))
    same = crop(open_picture(PIXELS[:16, :16], name="x"), (0, 0, 16, 16), 16)
    np.testing.assert_array_equal(same, PIXELS[:16, :16])


@pytest.mark.parametrize(
    ("size", "reduce"), [(65, 1), (64, 1), (33, 1), (32, 2), (17, 2), (16, 4), (2, 8)]
)
def test_reduces_only_while_the_box_covers(size, reduce):
    asked = []

    def load(k):
        asked.append(k)
        return Image.new("RGB", (200 // k, 100 // k))

    # The shorter side, 64 pixels, decides.
    crop(module.Picture(200, 100, "x", load), (10, 10, 140, 74), size)
    assert asked == [reduce]


@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_jpeg_covers_the_box(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = smooth(400, 603)
    data = encoded(pixels, "JPEG", quality=95, exif=exif.tobytes())
    upright = pixels if orientation == 1 else np.rot90(pixels, -1)
    picture = open_picture(data, name="x")
    box = (40, 30, 360, 390)
    assert picture.load(4).size[0] < picture.width / 3
    part = Image.fromarray(np.ascontiguousarray(upright))
    for size in (35, 64, 128):
        expected = part.resize((size, size), Image.Resampling.BILINEAR, box=box)
        result = crop(picture, box, size)
        assert np.abs(result.astype(int) - np.asarray(expected)).max() <= 6


def test_a_picture_can_be_cropped_twice():
    picture = open_picture(encoded(smooth(200, 200), "JPEG"), name="x")
    first = crop(picture, (0, 0, 200, 200), 25)
    second = crop(picture, (0, 0, 200, 200), 200)
    assert first.shape == (25, 25, 3) and second.shape == (200, 200, 3)
    np.testing.assert_array_equal(crop(picture, (0, 0, 200, 200), 25), first)


def test_extra_decodes_the_same_pixels(decoder, monkeypatch, shared):
    if decoder == "pillow":
        pytest.skip("the comparison runs once")
    with tarfile.open(shared / "data/imagenet_samples.tar") as archive:
        files = [m for m in archive if re.search(r"\.jpe?g$", m.name, re.IGNORECASE)]
        records = [archive.extractfile(file).read() for file in files[:5]]
    for record in records:
        for size in (32, 300):
            fast = crop(open_picture(record, name="x"), (10, 10, 290, 290), size)
            with monkeypatch.context() as patch:
                patch.setattr(module, "simplejpeg", None)
                slow = crop(open_picture(record, name="x"), (10, 10, 290, 290), size)
            assert np.abs(fast.astype(int) - slow).max() <= 2


@pytest.mark.parametrize("turned", [False, True])
def test_orientation_in_xmp(turned):
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
        '"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        f'tiff:Orientation="{6 if turned else 1}"/></rdf:RDF></x:xmpmeta>'
    ).encode()
    picture = open_picture(encoded(PIXELS, "JPEG", xmp=xmp), name="x")
    assert (picture.width, picture.height) == ((20, 30) if turned else (30, 20))


def test_metadata_that_turn_nothing_cost_nothing(decoder):
    exif = Image.Exif()
    exif[0x0112] = 1
    picture = open_picture(encoded(PIXELS, "JPEG", exif=exif.tobytes()), name="x")
    assert (picture.pixels is not None) == (decoder == "simplejpeg")


@pytest.mark.parametrize("size", [96, 224])
def test_large_crops_of_every_kind_of_record(size):
    # By whole arrays from JPEG, PNG and arrays alike.
    pixels = smooth(300, 420)
    box = (50, 31, 350, 271)
    part = Image.fromarray(pixels).resize((size, size), 2, box=box)
    jpeg = encoded(pixels, "JPEG", quality=98, subsampling=0)
    for record, close in ((pixels, 1), (encoded(pixels), 1), (jpeg, 6)):
        found = crop(open_picture(record, name="x"), box, size)
        assert found.shape == (size, size, 3) and found.dtype == np.uint8
        assert np.abs(found.astype(int) - np.asarray(part)).max() <= close
