"""The picture of hallucinated images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blt_jax.reports.picture import (
    GAP,
    MIN_TILE,
    Example,
    draw_hallucinations,
    save_picture,
)

TOP = GAP + 40  # the rows begin below the headings


def example(seed: np.ndarray, result: np.ndarray, **changes: object) -> Example:
    values = {
        "class_name": "orangutan",
        "confusing_class": "apron",
        "score_before": 0.01,
        "score_after": 0.2,
        "score_threshold": 0.18,
        "iterations": 4,
    }
    return Example(seed_image=seed, hallucinated_image=result, **(values | changes))


def tile(picture: Image.Image, column: int, size: int) -> np.ndarray:
    """The pixels of one tile of the first row."""
    left = GAP + column * (size + GAP)
    return np.asarray(picture)[TOP : TOP + size, left : left + size]


def test_tiles_hold_seed_amplified_difference_and_result() -> None:
    seed = np.full((80, 80, 3), 100, np.uint8)
    result = seed / 255.0
    result[:40, :, 0] += 0.02
    result[40:, :, 2] -= 0.03
    picture = draw_hallucinations([example(seed, result)], amplification=10)
    size = 160  # 80 px by the factor 2
    assert (tile(picture, 0, size) == 100).all()
    difference = tile(picture, 1, size)
    # 255 * (0.5 + 10 * 0.02) = 178.5 and 255 * (0.5 - 10 * 0.03) = 51; grey is 127.5.
    np.testing.assert_allclose(difference[0, 0], [178.5, 127.5, 127.5], atol=1)
    np.testing.assert_allclose(difference[-1, -1], [127.5, 127.5, 51], atol=1)
    np.testing.assert_allclose(tile(picture, 2, size)[0, 0], [105, 100, 100], atol=1)
    np.testing.assert_allclose(tile(picture, 2, size)[-1, -1], [100, 100, 92], atol=1)


def test_pixels_are_enlarged_by_whole_factors() -> None:
    seed = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    picture = draw_hallucinations([example(seed, seed)])
    size = 192
    assert size >= MIN_TILE
    np.testing.assert_array_equal(
        tile(picture, 0, size), seed.repeat(3, axis=0).repeat(3, axis=1)
    )
    assert (tile(picture, 1, size) == 128).all()  # nothing changed: grey


def test_images_beyond_the_visible_range_are_cut_off_after_the_difference() -> None:
    seed = np.full((160, 160, 3), 0.9)
    picture = draw_hallucinations([example(seed, seed + 0.2)], amplification=2)
    assert (tile(picture, 2, 160) == 255).all()
    np.testing.assert_allclose(tile(picture, 1, 160), 255 * 0.9, atol=1)


def test_values_that_are_not_finite_show_as_grey() -> None:
    seed = np.zeros((160, 160, 3))
    result = seed.copy()
    result[0, 0] = np.nan
    picture = draw_hallucinations([example(seed, result)])
    assert (tile(picture, 2, 160)[0, 0] == 128).all()
    assert (tile(picture, 2, 160)[1, 1] == 0).all()


@pytest.mark.parametrize(
    ("change", "factor"),
    [(0.3, 1), (0.2, 2), (0.04, 10), (0.012, 20), (0.0, 1000)],
)
def test_factor_is_the_largest_that_keeps_the_difference_visible(
    change: float, factor: int
) -> None:
    seed = np.full((160, 160, 3), 0.5)
    chosen = draw_hallucinations([example(seed, seed + change)])
    given = draw_hallucinations([example(seed, seed + change)], amplification=factor)
    other = draw_hallucinations([example(seed, seed + change)], amplification=3)
    np.testing.assert_array_equal(np.asarray(chosen), np.asarray(given))
    assert (np.asarray(chosen) != np.asarray(other)).any()  # the factor is stated


def test_grey_images_and_mixed_sizes() -> None:
    grey = np.random.default_rng(0).random((16, 16))
    picture = draw_hallucinations(
        [example(grey, grey), example(grey[..., None], grey[..., None])]
    )
    assert picture.mode == "RGB"
    assert picture.height == TOP + 2 * (160 + GAP)
    pixels = tile(picture, 0, 160)
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_text_depends_on_the_numbers_and_long_names_fit() -> None:
    seed = np.zeros((64, 64, 3), np.uint8)

    def text(**changes: object) -> np.ndarray:
        picture = np.asarray(draw_hallucinations([example(seed, seed, **changes)]))
        return picture[TOP:, GAP + 3 * (192 + GAP) :]

    plain = text()
    assert (plain != 255).any()
    for changes in (
        {"class_name": "tench"},
        {"confusing_class": "tench"},
        {"score_before": 0.5},
        {"score_after": 0.1},
        {"score_threshold": 0.25},
        {"iterations": 15},
    ):
        assert (text(**changes) != plain).any(), changes
    assert (text(class_name="Camelus dromedarius " * 9)[:, -GAP // 2 :] == 255).all()


def test_wrong_input_is_refused() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="no example"):
        draw_hallucinations([])
    with pytest.raises(ValueError, match="cannot be of the seed image"):
        draw_hallucinations([example(image, image[:32])])
    with pytest.raises(ValueError, match="amplification must be positive"):
        draw_hallucinations([example(image, image)], amplification=0)
    with pytest.raises(ValueError, match=r"an image is \[H, W, 3\]"):
        draw_hallucinations([example(np.zeros((4, 4, 2)), image)])


def test_saved_picture_holds_its_metadata(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    picture = draw_hallucinations([example(image, image)])
    path = tmp_path / "new" / "picture.png"
    save_picture(picture, path, metadata={"checkpoint": "stage2 at 80", "seed": "0"})
    with Image.open(path) as saved:
        assert saved.text == {"checkpoint": "stage2 at 80", "seed": "0"}
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(picture))
    with pytest.raises(ValueError, match=r"saved as PNG"):
        save_picture(picture, tmp_path / "picture.jpg")
