"""A picture of hallucinated images: seed, amplified perturbation, result."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from blt_jax.training.examples import Example

MIN_TILE = 160
GAP = 12
TEXT_WIDTH = 300
BACKGROUND = (255, 255, 255)
INK = (30, 30, 30)
FAINT = (110, 110, 110)
MET = (20, 120, 60)
NOT_MET = (170, 70, 20)


class Triple(NamedTuple):
    """One row of the picture, [H, W, 3] uint8 each."""

    seed: np.ndarray
    perturbation: np.ndarray  # amplified, around mid-grey
    result: np.ndarray


def draw_hallucinations(
    examples: Sequence[Example], *, amplification: float | None = None
) -> Image.Image:
    """Draw a row for each example: seed | grey + amplification * difference | result.

    amplification: one factor for all rows, so that they can be compared; None takes
    the largest of 1, 2, 5, 10, ... that keeps 99 % of the differences visible.

    Raises:
      ValueError: no example, images of another shape than their seeds, or a factor
        that is not positive.
    """
    amplification, rows = triples(examples, amplification=amplification)
    tiles = [[_tile(pixels) for pixels in row] for row in rows]
    column = max(tile.width for row in tiles for tile in row)
    heights = [max(tile.height for tile in row) for row in tiles]
    heading = ImageFont.load_default(size=15)
    top = GAP + 40
    picture = Image.new(
        "RGB",
        (GAP + 3 * (column + GAP) + TEXT_WIDTH, top + sum(heights) + GAP * len(tiles)),
        BACKGROUND,
    )
    draw = ImageDraw.Draw(picture)
    titles = ("seed", f"perturbation\n{amplification:g} x, around grey", "result")
    lefts = [GAP + number * (column + GAP) for number in range(4)]
    for left, title in zip(lefts[:3], titles, strict=True):
        draw.multiline_text(
            (left + column / 2, top - 6), title, INK, heading, "md", align="center"
        )
    y = top
    for example, row, height in zip(examples, tiles, heights, strict=True):
        for left, tile in zip(lefts[:3], row, strict=True):
            picture.paste(tile, (left + (column - tile.width) // 2, y))
        _describe(draw, example, (lefts[3], y + height // 2))
        y += height + GAP
    return picture


def triples(
    examples: Sequence[Example], *, amplification: float | None = None
) -> tuple[float, list[Triple]]:
    """The factor, and what a row shows of each example: [H, W, 3] uint8 each.

    Values beyond the visible range are cut off, and what is not finite is mid-grey.
    Arguments and errors as for `draw_hallucinations`.
    """
    if not examples:
        raise ValueError("there is nothing to draw: no example")
    pairs = [(_display(e.seed_image), _display(e.hallucinated_image)) for e in examples]
    for seed, result in pairs:
        if seed.shape != result.shape:
            raise ValueError(
                f"a result of shape {result.shape} cannot be of the seed image of "
                f"shape {seed.shape}"
            )
    if amplification is None:
        amplification = _fitting_factor([result - seed for seed, result in pairs])
    elif not amplification > 0:
        raise ValueError(f"amplification must be positive, not {amplification}")
    return amplification, [
        Triple(
            _pixels(seed),
            _pixels(0.5 + amplification * (result - seed)),
            _pixels(result),
        )
        for seed, result in pairs
    ]


def save_picture(
    image: Image.Image, path: str | Path, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Save as PNG with text entries that say where the picture comes from.

    Raises:
      ValueError: the name does not end in .png.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: a picture is saved as PNG; use a name with .png")
    entries = PngImagePlugin.PngInfo()
    for name, text in (metadata or {}).items():
        entries.add_itxt(name, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG", pnginfo=entries)


def _display(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] float64, where [0, 1] is visible; not cut off yet."""
    image = np.asarray(image)
    scale = 255.0 if image.dtype == np.uint8 else 1.0
    values = image.astype(np.float64) / scale
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[-1] not in (1, 3):
        raise ValueError(
            f"an image is [H, W, 3], [H, W, 1] or [H, W], not {image.shape}"
        )
    return np.broadcast_to(values, (*values.shape[:2], 3))


def _pixels(image: np.ndarray) -> np.ndarray:
    finite = np.nan_to_num(image, nan=0.5, posinf=1.0, neginf=0.0)
    return np.round(255 * np.clip(finite, 0, 1)).astype(np.uint8)


def _tile(pixels: np.ndarray) -> Image.Image:
    """The image by the smallest whole factor that makes it MIN_TILE wide and high."""
    factor = max(1, math.ceil(MIN_TILE / min(pixels.shape[:2])))
    return Image.fromarray(np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1))


def _fitting_factor(differences: Sequence[np.ndarray]) -> float:
    """Largest of 1, 2, 5, 10, 20, ..., 1000 with 99 % of |difference| * it <= 0.5."""
    sizes = np.abs(np.concatenate([d.ravel() for d in differences]))
    sizes = sizes[np.isfinite(sizes)]
    typical = float(np.quantile(sizes, 0.99)) if sizes.size else 0.0
    factors = [float(m * 10**e) for e in range(3) for m in (1, 2, 5)] + [1000.0]
    return max((f for f in factors if f * typical <= 0.5), default=1.0)


def _describe(
    draw: ImageDraw.ImageDraw, example: Example, anchor: tuple[int, int]
) -> None:
    """Five lines of text, vertically centred on the anchor, left-aligned."""
    large, small = ImageFont.load_default(size=16), ImageFont.load_default(size=13)
    met = example.score_after >= example.score_threshold
    before, after = (
        _probability(example.score_before),
        _probability(example.score_after),
    )
    updates = "iteration" if example.iterations == 1 else "iterations"
    lines = [
        (_fit(example.class_name, large), INK, large),
        (_fit(f"towards {example.confusing_class}", small), INK, small),
        (f"score {before} -> {after}", INK, small),
        (
            f"threshold {_probability(example.score_threshold)}, "
            + ("reached" if met else "not reached"),
            MET if met else NOT_MET,
            small,
        ),
        (f"{example.iterations} {updates}", FAINT, small),
    ]
    x, middle = anchor
    spacing = 21
    y = middle - spacing * (len(lines) - 1) / 2
    for text, colour, font in lines:
        draw.text((x, y), text, colour, font, "lm")
        y += spacing


def _probability(value: float) -> str:
    return "<0.001" if 0 <= value < 0.0005 else f"{value:.3f}"


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, shortened by an ellipsis where it is wider than its column."""
    room = TEXT_WIDTH - GAP
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "...") > room:
        text = text[:-1]
    return text + "..."
