"""Made-up images with a class signal: for tests and benchmarks, nothing to read."""

from collections.abc import Callable

import numpy as np

from blt_jax.data import randomness
from blt_jax.data.split import Dataset, Split

LARGEST = 100
SMALLEST_SHARE = 0.05
VAL_PER_CLASS = 10
TEST_PER_CLASS = 20
_GRID = 4


class SyntheticSource:
    """Item i -> a coarse template of its class under noise, uint8 [S, S, 3].

    A pure function of (seed, split, i), made when asked for.
    """

    def __init__(self, labels: np.ndarray, *, image_size: int, seed: int, split: int):
        self._labels = labels
        self._size = image_size
        self._seed = seed
        self._split = split
        # Four by four coloured fields a class, the same for all splits.
        count = int(labels.max(initial=-1)) + 1
        random = randomness.generator(seed, randomness.SYNTHETIC)
        self._fields = random.integers(40, 216, (count, _GRID, _GRID, 3), np.uint8)
        self._rows = np.arange(image_size) * _GRID // image_size

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, item: int) -> np.ndarray:
        item = range(len(self))[item]
        random = randomness.generator(
            self._seed, randomness.SYNTHETIC, high=item, step=1 + self._split
        )
        field = self._fields[self._labels[item]][self._rows[:, None], self._rows]
        noise = random.integers(-40, 41, (self._size, self._size, 3), np.int16)
        return np.clip(field + noise, 0, 255).astype(np.uint8)


def synthetic(
    counts_of: Callable[[np.ndarray], np.ndarray],
    *,
    num_classes: int,
    image_size: int,
    seed: int,
) -> Dataset:
    """Return a data set of templates under noise; `num_classes` 0 means 10.

    counts_of: available images of each class [C] -> training images of each class.
    """
    if image_size < 1:
        raise ValueError(f"data.image_size: {image_size} must be at least 1")
    num_classes = num_classes or 10
    seed = randomness.check_seed(seed)
    counts = {
        "train": counts_of(np.full(num_classes, LARGEST)),
        "val": np.full(num_classes, VAL_PER_CLASS),
        "test": np.full(num_classes, TEST_PER_CLASS),
    }
    splits = {}
    for number, (name, each) in enumerate(counts.items()):
        labels = np.repeat(np.arange(num_classes, dtype=np.int32), each)
        source = SyntheticSource(labels, image_size=image_size, seed=seed, split=number)
        ids = [f"{name}[{i}]" for i in range(len(labels))]
        splits[name] = Split(name, source, labels, ids)
    return Dataset(**splits, class_names=tuple(str(c) for c in range(num_classes)))
