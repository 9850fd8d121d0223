"""The training transforms of the paper's released code, to compare with.

torchvision's for PIL images are thin calls of Pillow, then of PyTorch for the tensor;
here the same calls of Pillow stand, with NumPy in place of PyTorch: bilinear
RandomResizedCrop, flip, rotation by 10 degrees, ColorJitter(0.4, 0.4, 0.4, 0),
ToTensor, Normalize. What torchvision spends on drawing numbers one by one with
PyTorch is left out, so that this is no slower than the original.
"""

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

# A record and a generator -> float32 [3, S, S].
Transform = Callable[[bytes, np.random.Generator], np.ndarray]

_MEAN = np.array((0.485, 0.456, 0.406), np.float32)[:, None, None]
_STD = np.array((0.229, 0.224, 0.225), np.float32)[:, None, None]
_SCALE = (0.08, 1.0)
_JITTER = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def pillow_transform(image_size: int) -> Transform:
    """Return the transforms in Pillow and NumPy."""
    size = (image_size, image_size)

    def apply(record: bytes, random: np.random.Generator) -> np.ndarray:
        image: Image.Image = Image.open(io.BytesIO(record)).convert("RGB")
        image = image.crop(_random_box(image.width, image.height, random))
        image = image.resize(size, Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image.rotate(random.uniform(-10, 10), Image.Resampling.NEAREST)
        for number in random.permutation(3).tolist():
            image = _JITTER[number](image).enhance(random.uniform(0.6, 1.4))
        planes = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
        values = planes.astype(np.float32)
        values /= 255
        values -= _MEAN
        values /= _STD
        return values

    return apply


def torchvision_transform(image_size: int) -> Transform:
    """Return the transforms in torchvision itself.

    Raises ValueError where it cannot be imported.
    """
    try:
        import torch
        from torchvision import transforms
    except Exception as error:  # a torchvision for another PyTorch raises all sorts
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"--against torchvision: it cannot be imported ({reason}); install the one "
            "that fits your PyTorch, or leave the option out to compare with the same "
            "transforms in Pillow and NumPy"
        ) from None

    torch.set_num_threads(1)
    chain = transforms.Compose(
        [
            transforms.RandomResizedCrop(image_size),
            transforms.RandomHorizontalFlip(),
            transforms.RandomRotation(10),
            transforms.ColorJitter(0.4, 0.4, 0.4, 0),
            transforms.ToTensor(),
            transforms.Normalize(_MEAN.ravel().tolist(), _STD.ravel().tolist()),
        ]
    )

    def apply(record: bytes, random: np.random.Generator) -> np.ndarray:
        del random  # it has its own
        tensor = chain(Image.open(io.BytesIO(record)).convert("RGB"))
        return np.asarray(tensor.numpy())

    return apply


def _random_box(
    width: int, height: int, random: np.random.Generator
) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * random.uniform(*_SCALE)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(random.integers(0, width - w + 1))
            top = int(random.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
