"""A split: records that can be read by number, their labels and their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Source(Protocol):
    """Records by number: encoded images (bytes) or uint8 [h, w, 3] or [h, w]."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: int, /) -> Any: ...


class FileSource:
    """Item i -> the bytes of the i-th file."""

    def __init__(self, paths: Sequence[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> bytes:
        path = self.paths[item]
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path}: the image has gone since the data set was scanned; put it "
                "back, or scan again by starting anew"
            ) from None


class SelectedSource:
    """Some items of another source, in a given order."""

    def __init__(self, source: Source, indices: np.ndarray):
        self._source = source
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, item: int) -> Any:
        return self._source[int(self._indices[item])]


@dataclass(frozen=True, eq=False)
class Split:
    """Records of one split.

    name: for messages.
    source: the images by number.
    labels: [N] int32.
    ids: [N] path or name of each record, for messages and predictions.
    """

    name: str
    source: Source
    labels: np.ndarray
    ids: Sequence[str]

    def __post_init__(self) -> None:
        if not len(self.source) == len(self.labels) == len(self.ids):
            raise ValueError(
                f"split {self.name!r}: {len(self.source)} records, "
                f"{len(self.labels)} labels and {len(self.ids)} ids must be as many"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: np.ndarray) -> "Split":
        """Return the split of the given records, in the given order."""
        indices = np.asarray(indices, np.int64)
        return Split(
            self.name,
            SelectedSource(self.source, indices),
            self.labels[indices],
            [self.ids[i] for i in indices.tolist()],
        )

    def head(self, num_records: int) -> "Split":
        """Return the split of the first records, at most `num_records`."""
        return self.select(np.arange(min(num_records, len(self))))


def split_of_files(
    name: str, paths: Sequence[str], labels: np.ndarray | None = None
) -> Split:
    """Return a split of image files; without labels (prediction) all labels are 0."""
    if labels is None:
        labels = np.zeros(len(paths), np.int32)
    return Split(name, FileSource(paths), np.asarray(labels, np.int32), paths)


def split_of_arrays(name: str, images: np.ndarray, labels: np.ndarray) -> Split:
    """Return a split of images in memory, uint8 [N, h, w, 3] or [N, h, w]."""
    images = np.asarray(images)
    labels = np.asarray(labels)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"{name} images: expected uint8 [N, h, w, 3] or [N, h, w], got "
            f"{images.dtype} {list(images.shape)}; scale to 0 ... 255 and use "
            ".astype('uint8')"
        )
    if images.ndim == 4 and images.shape[-1] != 3:
        raise ValueError(
            f"{name} images: {images.shape[-1]} channels in the last axis of "
            f"{list(images.shape)}; expected 3"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(images):
        raise ValueError(
            f"{name} labels: expected {len(images)} integers, one an image, got "
            f"{labels.dtype} {list(labels.shape)}"
        )
    if len(labels) and labels.min() < 0:
        raise ValueError(f"{name} labels: {labels.min()} is below 0")
    ids = [f"{name}[{i}]" for i in range(len(labels))]
    return Split(name, images, labels.astype(np.int32), ids)


def empty_split(name: str) -> Split:
    """Return a split without records."""
    return split_of_files(name, [])


@dataclass(frozen=True, eq=False)
class Dataset:
    """The three splits and the class map that they share."""

    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for split in (self.train, self.val, self.test):
            if len(split) and int(split.labels.max()) >= self.num_classes:
                record = int(np.argmax(split.labels))
                raise ValueError(
                    f"{split.name}: {split.ids[record]} has label "
                    f"{split.labels[record]}, but there are {self.num_classes} classes"
                )
            if len(split) and int(split.labels.min()) < 0:
                record = int(np.argmin(split.labels))
                raise ValueError(
                    f"{split.name}: {split.ids[record]} has label "
                    f"{split.labels[record]}, below 0"
                )

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def class_counts(self) -> np.ndarray:
        """Training images of each class [C] int64."""
        counts = np.bincount(self.train.labels, minlength=self.num_classes)
        return counts.astype(np.int64)

    @property
    def missing_in_val(self) -> tuple[str, ...]:
        """Names of the classes without a validation image: they have no confusion."""
        counts = np.bincount(self.val.labels, minlength=self.num_classes)
        return tuple(self.class_names[c] for c in np.flatnonzero(counts == 0))
