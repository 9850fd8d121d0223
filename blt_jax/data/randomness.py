"""Counter-based random numbers: a pure function of seed, stream and position.

Philox (Salmon et al. 2011) turns (key, counter) into four 64-bit words. The key holds
the seed and the stream, the counter holds the position, so that any draw can be
repeated alone, on any host, without replaying what came before.
"""

from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

# One number a purpose, so that equal seeds give unrelated draws. Changing one changes
# the data order of every run.
SHUFFLE = 1
BALANCE = 2
SEED_ROWS = 3
SEED_RECORDS = 4
CROP = 5
SYNTHETIC = 6
REPLACEMENT = 7
CLASSES = 8
WITHIN_CLASS = 9
BANK = 10
BANK_COPIES = 11

_HALF_UNIT = 2.0**-53


class _Key(ISeedSequence):
    """A Philox key handed over as it is.

    Philox(key=...) first asks the operating system for entropy that it never uses, and
    takes three times as long; the words are the same.
    """

    def __init__(self, seed: int, stream: int):
        self._key = np.array([seed, stream], np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> np.ndarray:
        del n_words, dtype
        return self._key


def check_seed(seed: int) -> int:
    """Return the seed as an int; it must fit into 64 bits without a sign."""
    if not 0 <= int(seed) < 2**64:
        raise ValueError(f"seed: {seed} is not in 0 ... 2**64 - 1")
    return int(seed)


def philox(
    seed: int, stream: int, *, low: int = 0, high: int = 0, step: int = 0
) -> np.random.Philox:
    """Return the bit generator at counter (low, 0, high, step).

    `low` is the number of blocks of four words to skip; the streams of different
    (`high`, `step`) do not overlap.
    """
    # NumPy's type stubs leave out the interface that it accepts.
    key: Any = _Key(seed, stream)
    return np.random.Philox(
        key,
        counter=np.array([low, 0, high, step], np.uint64),
    )


def generator(
    seed: int, stream: int, *, high: int = 0, step: int = 0
) -> np.random.Generator:
    """Return a NumPy generator for one position, for draws of unknown number."""
    return np.random.Generator(philox(seed, stream, high=high, step=step))


def uniform(words: np.ndarray) -> np.ndarray:
    """Turn uint64 words into float64 in [0, 1), as NumPy does, but fixed for good."""
    return (words >> np.uint64(11)) * _HALF_UNIT
