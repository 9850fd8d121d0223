"""Stateless samplers: item i -> record id, a pure function of (seed, i)."""

import bisect
import hashlib
from typing import Protocol

import numpy as np

from blt_jax.data import randomness


class Sampler(Protocol):
    """What the batch plan needs: the record ids of the items [start, stop)."""

    def __getitem__(self, item: int) -> int: ...

    def take(self, start: int, stop: int) -> np.ndarray:
        """Return the record ids of the items [start, stop) [stop - start] int64."""
        ...


class GammaBalancedSampler:
    """Class balancing of strength gamma (Eq. 1), with replacement.

    A record of a class with n records is drawn with probability proportional to
    n^-gamma, hence P(class) is proportional to n^(1 - gamma), uniform within the class:
    gamma 0 is the natural distribution, gamma 1 makes all classes equal. Classes
    without records are never drawn.

    labels: class of each record [N] int, >= 0.
    gamma: strength, >= 0.
    seed: 0 ... 2**64 - 1.
    length: number of items for `len()`, which grain asks of a source; items beyond
      it can be drawn all the same. None: N.
    """

    def __init__(
        self,
        labels: np.ndarray,
        *,
        gamma: float,
        seed: int,
        length: int | None = None,
    ):
        labels = checked_labels(labels)
        if not (np.isfinite(gamma) and gamma >= 0):
            raise ValueError(f"sampler.gamma: {gamma} is not a finite number >= 0")
        self.gamma = float(gamma)
        self.seed = randomness.check_seed(seed)
        self.length = len(labels) if length is None else int(length)
        counts = np.bincount(labels)
        classes = np.flatnonzero(counts)
        sizes = counts[classes].astype(np.int64)
        # In logarithms, so that no gamma over- or underflows.
        weights = (1.0 - self.gamma) * np.log(sizes)
        weights = np.exp(weights - weights.max())
        cumulative = np.cumsum(weights / weights.sum())
        cumulative[-1] = 1.0
        self._cumulative = cumulative
        self._cumulative_list = cumulative.tolist()
        self._sizes = sizes
        self._records = np.argsort(labels, kind="stable").astype(np.int64)
        self._starts = np.cumsum(sizes) - sizes
        self._labels_hash = _short_hash(labels)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> int:
        """Return the record id of one item (int), item >= 0."""
        item = checked_item(item)
        bits = randomness.philox(self.seed, randomness.BALANCE, low=item)
        first, second = randomness.uniform(bits.random_raw(2)).tolist()
        row = bisect.bisect_right(self._cumulative_list, first)
        size = int(self._sizes[row])
        return int(self._records[self._starts[row] + min(int(second * size), size - 1)])

    def take(self, start: int, stop: int) -> np.ndarray:
        """Return the record ids of the items [start, stop) [stop - start] int64."""
        count = checked_range(start, stop)
        bits = randomness.philox(self.seed, randomness.BALANCE, low=start)
        # Item i owns the i-th block of four words and uses two of them.
        draws = randomness.uniform(bits.random_raw(4 * count).reshape(count, 4))
        rows = np.searchsorted(self._cumulative, draws[:, 0], side="right")
        sizes = self._sizes[rows]
        within = np.minimum((draws[:, 1] * sizes).astype(np.int64), sizes - 1)
        records: np.ndarray = self._records[self._starts[rows] + within]
        return records

    def __repr__(self) -> str:
        return (
            f"GammaBalancedSampler(labels={self._labels_hash}, gamma={self.gamma}, "
            f"seed={self.seed}, length={self.length})"
        )


class ShuffledSampler:
    """Epochs without replacement: a fresh permutation of the records every epoch.

    Item i is entry i % per_epoch of the permutation of epoch i // per_epoch. With
    `per_epoch` below `num_records` (whole batches only) each epoch leaves out others.
    """

    def __init__(self, num_records: int, *, per_epoch: int, seed: int):
        if not 1 <= per_epoch <= num_records:
            raise ValueError(
                f"per_epoch: {per_epoch} items cannot be taken from {num_records} "
                "records; use a batch size not above the number of training images"
            )
        self.num_records = int(num_records)
        self.per_epoch = int(per_epoch)
        self.seed = randomness.check_seed(seed)
        self._latest: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return self.per_epoch

    def __getitem__(self, item: int) -> int:
        """Return the record id of one item (int), item >= 0."""
        epoch, position = divmod(checked_item(item), self.per_epoch)
        return int(self._permutation(epoch)[position])

    def take(self, start: int, stop: int) -> np.ndarray:
        """Return the record ids of the items [start, stop) [stop - start] int64."""
        records = np.empty(checked_range(start, stop), np.int64)
        filled = 0
        while filled < len(records):
            epoch, position = divmod(start + filled, self.per_epoch)
            part = self._permutation(epoch)[position : self.per_epoch]
            part = part[: len(records) - filled]
            records[filled : filled + len(part)] = part
            filled += len(part)
        return records

    def _permutation(self, epoch: int) -> np.ndarray:
        # Read and replaced as one object: readers in other threads see old or new.
        latest, permutation = self._latest
        if latest != epoch:
            bits = randomness.philox(self.seed, randomness.SHUFFLE, step=epoch)
            # Sorting words is fixed for good; Generator.permutation may change.
            words = bits.random_raw(self.num_records)
            permutation = np.argsort(words, kind="stable").astype(np.int64)
            self._latest = (epoch, permutation)
        return permutation

    def __repr__(self) -> str:
        return (
            f"ShuffledSampler(num_records={self.num_records}, "
            f"per_epoch={self.per_epoch}, seed={self.seed})"
        )


def checked_labels(labels: np.ndarray) -> np.ndarray:
    """Labels as int64 [N]; raises ValueError for none, a negative or no integers."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels: expected one integer a record, got an array of shape "
            f"{labels.shape} and type {labels.dtype}"
        )
    if not len(labels):
        raise ValueError("labels: there are no records to draw from")
    if labels.min() < 0:
        raise ValueError(f"labels: {labels.min()} is below 0")
    return labels.astype(np.int64)


def checked_item(item: int) -> int:
    """The item as an int; raises IndexError below 0."""
    if item < 0:
        raise IndexError(f"item {item} of a sampler: items start at 0")
    return int(item)


def checked_range(start: int, stop: int) -> int:
    """The number of items in [start, stop); raises IndexError for no such range."""
    if not 0 <= start <= stop:
        raise IndexError(f"items [{start}, {stop}) of a sampler: not a range from 0 on")
    return stop - start


def _short_hash(labels: np.ndarray) -> str:
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()[:16]
