"""Class-aware sampling: all classes in turn, several images of each together."""

from collections.abc import Sequence

import numpy as np

from blt_jax.data import randomness
from blt_jax.data.sampler import checked_item, checked_labels, checked_range


class ClassAwareSampler:
    """Every class equally often, without replacement within a class.

    A cycle takes all classes in a fresh order, and `images_per_class` images of each,
    one after another; the images of a class come in a fresh order each time all of
    them have been taken. So a batch holds several images of its classes, which losses
    on pairs need. Liu et al. 2019 (OLTR, arXiv:1904.05160) take four; their sampler
    goes back to Shen et al. 2016. Classes without records are left out.

    labels: class of each record [N] int, >= 0.
    images_per_class: k, >= 1.
    seed: 0 ... 2**64 - 1.
    classes: those to take; None: all.
    """

    def __init__(
        self,
        labels: np.ndarray,
        *,
        images_per_class: int,
        seed: int,
        classes: Sequence[int] | np.ndarray | None = None,
    ):
        labels = checked_labels(labels)
        if images_per_class < 1:
            raise ValueError(f"sampler.images_per_class: {images_per_class} is below 1")
        self.images_per_class = int(images_per_class)
        self.seed = randomness.check_seed(seed)
        order = np.argsort(labels, kind="stable").astype(np.int64)
        counts = np.bincount(labels)
        self._classes = np.flatnonzero(counts)
        if classes is not None:
            self._classes = np.intersect1d(self._classes, classes)
        self._members = np.split(order, np.cumsum(counts)[:-1])
        self._length = len(labels)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, item: int) -> int:
        """Return the record id of one item (int), item >= 0."""
        item = checked_item(item)
        return int(self.take(item, item + 1)[0])

    def take(self, start: int, stop: int) -> np.ndarray:
        """Return the record ids of the items [start, stop) [stop - start] int64."""
        items = start + np.arange(checked_range(start, stop))
        groups, within = np.divmod(items, self.images_per_class)
        cycles, places = np.divmod(groups, len(self._classes))
        records = np.empty(len(items), np.int64)
        for cycle in np.unique(cycles):
            classes = self._classes[self._order(randomness.CLASSES, int(cycle))]
            for place in np.unique(places[cycles == cycle]):
                rows = np.flatnonzero((cycles == cycle) & (places == place))
                turns = cycle * self.images_per_class + within[rows]
                records[rows] = self._of_class(int(classes[place]), turns)
        return records

    def _of_class(self, label: int, turns: np.ndarray) -> np.ndarray:
        """The images that a class gives at these of its turns, counted from 0."""
        members = self._members[label]
        passes, positions = np.divmod(turns, len(members))
        orders = {
            int(number): self._order(randomness.WITHIN_CLASS, int(number), label)
            for number in np.unique(passes)
        }
        chosen = [
            orders[int(number)][position]
            for number, position in zip(passes, positions, strict=True)
        ]
        return members[chosen]

    def _order(self, stream: int, number: int, label: int | None = None) -> np.ndarray:
        """A permutation of the classes, or of the images of one."""
        count = len(self._classes if label is None else self._members[label])
        words = randomness.philox(self.seed, stream, high=label or 0, step=number)
        return np.argsort(words.random_raw(count), kind="stable")

    def __repr__(self) -> str:
        return (
            f"ClassAwareSampler({self._length} records, {len(self._classes)} classes, "
            f"images_per_class={self.images_per_class}, seed={self.seed})"
        )
