"""The handwritten digits of scikit-learn, made long-tailed: real, small, offline."""

from collections.abc import Callable

import numpy as np

from blt_jax.data.profiles import long_tailed_indices
from blt_jax.data.split import Dataset, split_of_arrays

VAL_PER_CLASS = 15
TEST_PER_CLASS = 45
# 110, 78, 55, 39, 27, 19, 13, 9, 7, 5: one many-, four medium-, five few-shot classes.
LARGEST = 110
SMALLEST_SHARE = 5 / 110
_SPLIT_SEED = 0


def digits(counts_of: Callable[[np.ndarray], np.ndarray]) -> Dataset:
    """Return 8 x 8 grey digits as uint8 RGB, 0 ... 16 stretched to 0 ... 255.

    Validation and test are balanced and the same for every profile and seed: training
    images are chosen from what is left.

    counts_of: available images of each class [C] -> training images of each class.

    Raises:
      ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError(
            "data.kind 'digits' needs scikit-learn; install the extra: "
            "pip install 'blt-jax[demo]'"
        ) from None
    raw = load_digits()
    grey = np.round(np.asarray(raw.images) * (255.0 / 16.0)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    labels = np.asarray(raw.target)
    # One shuffled order of each class; validation, test and training follow in it.
    order = long_tailed_indices(labels, np.bincount(labels), seed=_SPLIT_SEED)
    by_class = np.split(order, np.cumsum(np.bincount(labels))[:-1])
    held_out = VAL_PER_CLASS + TEST_PER_CLASS
    available = np.array([len(members) - held_out for members in by_class])
    counts = counts_of(available)
    parts = {
        "val": [members[:VAL_PER_CLASS] for members in by_class],
        "test": [members[VAL_PER_CLASS:held_out] for members in by_class],
        "train": [
            members[held_out : held_out + count]
            for members, count in zip(by_class, counts, strict=True)
        ],
    }
    chosen = {name: np.concatenate(part) for name, part in parts.items()}
    splits = {
        name: split_of_arrays(name, images[rows], labels[rows])
        for name, rows in chosen.items()
    }
    return Dataset(**splits, class_names=tuple(str(digit) for digit in range(10)))
