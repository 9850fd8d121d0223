"""Resizing by whole arrays is Pillow's, but for the last bits."""

import threading

import numpy as np
import pytest
from PIL import Image

from blt_jax.data.decode import crop, open_picture
from blt_jax.data.resample import resample, suits

NOISE = np.random.RandomState(0).randint(0, 256, (240, 330, 4)).astype(np.uint8)


def pillow(pixels, box, size):
    image = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    resized = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized).astype(int)


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((0, 0, 330, 240), 224),  # smaller, the whole image
        ((40, 30, 140, 130), 224),  # larger, inside: pixels around help
        ((0, 120, 110, 240), 224),  # larger, in a corner
        ((10.25, 3.5, 300.75, 239.5), 120),  # parts of pixels
        ((0, 0, 330, 240), 110),  # by three
        ((5, 5, 6, 6), 96),  # a single pixel
        ((329.2, 239.1, 330, 240), 96),
    ],
)
def test_differs_from_pillow_in_the_last_bits_only(box, size):
    # Noise is the worst case: neighbours differ by 85 of 255 on average.
    found = resample(NOISE, box, size)
    assert found.shape == (size, size, 3) and found.dtype == np.uint8
    difference = np.abs(found - pillow(NOISE, box, size))
    assert difference.max() <= 2
    assert difference.mean() < 0.35


def test_constant_images_stay_so():
    for value in (0, 1, 127, 255):
        pixels = np.full((200, 300, 4), value, np.uint8)
        for box in ((0, 0, 300, 200), (3.3, 2.2, 150.1, 199.9), (50, 60, 60, 75)):
            assert (resample(pixels, box, 100) == value).all()


def test_a_box_of_the_right_size_is_cut_out():
    found = resample(NOISE, (100, 20, 300, 220), 200)
    np.testing.assert_array_equal(found, NOISE[20:220, 100:300, :3])


def test_results_do_not_share_memory_and_threads_do_not_meet():
    boxes = [(i, i, i + 120, i + 130) for i in range(0, 100, 5)]
    alone = [resample(NOISE, box, 128).copy() for box in boxes]
    kept = [resample(NOISE, box, 128) for box in boxes]
    found = {}

    def work(which):
        found[which] = [resample(NOISE, box, 128) for box in boxes]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results in (kept, *found.values()):
        np.testing.assert_array_equal(results, alone)


def test_small_results_and_strong_shrinkage_are_left_to_pillow():
    assert suits(300, 224) and suits(672, 224)
    assert not suits(300, 95) and not suits(673, 224)
    picture = open_picture(NOISE[..., :3].copy(), name="x")
    for size in (32, 60):
        box = (0, 0, 240, 240)
        np.testing.assert_array_equal(
            crop(picture, box, size), pillow(NOISE, box, size)
        )
    difference = np.abs(
        crop(picture, (20, 30, 200, 190), 160).astype(int)
        - pillow(NOISE, (20, 30, 200, 190), 160)
    )
    assert difference.max() <= 2
