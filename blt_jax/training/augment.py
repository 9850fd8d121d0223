"""Augmentation on the device: uint8 crops in, normalised float images out.

Crops are cut on the host; flip, rotation and colour follow here in the order of
the released code, with torchvision's meaning of their parameters. Every draw
belongs to the image's ordinal, so an image looks the same on any device.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from blt_jax.training.draws import Draws

# Rec. 601 luma, the grey that torchvision blends with.
_LUMA = (0.299, 0.587, 0.114)
_ORDERS = tuple(itertools.permutations(range(3)))


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def pixel_range(self) -> tuple[jax.Array, jax.Array]:
        """Black and white [c] each, normalised."""
        mean, std = jnp.asarray(self.mean), jnp.asarray(self.std)
        return -mean / std, (1 - mean) / std


class Augmentation(NamedTuple):
    """Strength of each change; zero or False leaves it out of the program."""

    flip: bool = False  # left-right, with probability one half
    rotation: float = 0.0  # degrees at most to either side
    brightness: float = 0.0  # factor drawn from [1 - x, 1 + x]
    contrast: float = 0.0
    saturation: float = 0.0


def normalise(
    images: jax.Array, normalisation: Normalisation, dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """uint8 or [0, 1]-scaled float images [n, H, W, c] -> normalised [n, H, W, c]."""
    if images.dtype == jnp.uint8:
        images = images.astype(dtype) / 255
    mean = jnp.asarray(normalisation.mean, dtype)[None, None, None]
    std = jnp.asarray(normalisation.std, dtype)[None, None, None]
    return (images.astype(dtype) - mean) / std


def augment(
    images: jax.Array, draws: Draws, options: Augmentation, dtype: jnp.dtype
) -> jax.Array:
    """Flip, rotate and colour uint8 images [n, H, W, 3] as their draws say.

    Returns [n, H, W, 3] in [0, 1]. Rotation takes the nearest pixel and fills with
    black; brightness, contrast and saturation come in a random order, clipped to
    [0, 1] after each.
    """
    return jax.vmap(lambda image, draw: _augment_one(image, draw, options, dtype))(
        images, draws
    )


def _augment_one(
    image: jax.Array, draw: Draws, options: Augmentation, dtype: jnp.dtype
) -> jax.Array:
    if options.flip:
        image = jnp.where(draw.flip < 0.5, image[:, ::-1], image)
    if options.rotation:
        degrees = options.rotation * (2 * draw.rotation.astype(dtype) - 1)
        image = _rotate(image, jnp.deg2rad(degrees))
    image = image.astype(dtype) / 255

    strengths = (options.brightness, options.contrast, options.saturation)
    if not any(strengths):
        return image
    factors = jnp.stack(
        [
            _between(u.astype(dtype), max(0.0, 1 - strength), 1 + strength)
            for u, strength in zip(draw[2:5], strengths, strict=True)
        ]
    )
    order = jnp.asarray(_ORDERS)[jnp.floor(len(_ORDERS) * draw.order).astype(jnp.int32)]
    for turn in range(3):
        luma = image @ jnp.asarray(_LUMA, dtype)
        # Each change is a blend with black, the mean grey, or the grey image.
        partners = jnp.stack(
            [jnp.zeros_like(luma), jnp.full_like(luma, luma.mean()), luma]
        )
        partner, factor = partners[order[turn]], factors[order[turn]]
        image = jnp.clip(factor * image + (1 - factor) * partner[..., None], 0, 1)
    return image


def _between(uniform: jax.Array, low: float, high: float) -> jax.Array:
    return low + (high - low) * uniform


def _rotate(image: jax.Array, radians: jax.Array) -> jax.Array:
    """Rotate counter-clockwise about the centre; nearest pixel, black outside."""
    height, width = image.shape[:2]
    y = jnp.arange(height, dtype=radians.dtype)[:, None] - (height - 1) / 2
    x = jnp.arange(width, dtype=radians.dtype)[None, :] - (width - 1) / 2
    sine, cosine = jnp.sin(radians), jnp.cos(radians)
    # Where each pixel of the result comes from: the inverse rotation.
    from_x = jnp.rint(cosine * x - sine * y + (width - 1) / 2).astype(jnp.int32)
    from_y = jnp.rint(sine * x + cosine * y + (height - 1) / 2).astype(jnp.int32)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    pixels = image[from_y.clip(0, height - 1), from_x.clip(0, width - 1)]
    return jnp.where(inside[..., None], pixels, 0)
