"""CIFAR-10 and CIFAR-100 as their site ships them: binary and Python versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blt_jax.data.prepare.images import read_named
from blt_jax.data.prepare.pickled import as_text, byte_array, read_pickled

PIXELS = 3 * 32 * 32


class Cifar(NamedTuple):
    """Images uint8 [N, 32, 32, 3] and labels [N] int32 by split, and class names."""

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Names in the files of one of the two sets.

    label_bytes: bytes before the pixels of a binary record; the last one is the label.
    """

    classes: int
    label_bytes: int
    binary: Mapping[str, Sequence[str]]
    binary_names: str
    pickled: Mapping[str, Sequence[str]]
    pickled_names: str
    labels_key: str
    names_key: str


_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
CIFAR10 = Layout(
    classes=10,
    label_bytes=1,
    binary={"train": [f"{b}.bin" for b in _BATCHES], "test": ["test_batch.bin"]},
    binary_names="batches.meta.txt",
    pickled={"train": _BATCHES, "test": ["test_batch"]},
    pickled_names="batches.meta",
    labels_key="labels",
    names_key="label_names",
)
CIFAR100 = Layout(
    classes=100,
    label_bytes=2,
    binary={"train": ["train.bin"], "test": ["test.bin"]},
    binary_names="fine_label_names.txt",
    pickled={"train": ["train"], "test": ["test"]},
    pickled_names="meta",
    labels_key="fine_labels",
    names_key="fine_label_names",
)


def read_cifar(sources: Sequence[Path], layout: Layout) -> Cifar:
    """Read the binary version, else the Python version, which is never unpickled.

    sources: `cifar-10-binary.tar.gz`, `cifar-10-python.tar.gz`, those of CIFAR-100, or
      the unpacked folder.

    Raises:
      ValueError: files missing or damaged.
    """
    where = ", ".join(map(str, sources))
    for files, names, read, read_names in (
        (layout.binary, layout.binary_names, _binary, _text_names),
        (layout.pickled, layout.pickled_names, _pickled, _pickled_names),
    ):
        wanted = [name for batch in files.values() for name in batch]
        found = read_named(sources, [*wanted, names])
        if not any(name in found for name in wanted):
            continue
        missing = [name for name in [*wanted, names] if name not in found]
        if missing:
            raise ValueError(f"--source {where}: {missing[0]} is missing in it")
        images, labels = {}, {}
        for split, batches in files.items():
            parts = [read(found[batch], layout, batch) for batch in batches]
            images[split] = np.concatenate([pixels for pixels, _ in parts])
            labels[split] = np.concatenate([numbers for _, numbers in parts])
            if labels[split].max(initial=0) >= layout.classes:
                raise ValueError(
                    f"--source {where}: a label is {labels[split].max()}, but there "
                    f"are {layout.classes} classes; is it the other CIFAR?"
                )
        class_names = read_names(found[names], layout, names)
        if len(class_names) != layout.classes:
            raise ValueError(
                f"{names}: {len(class_names)} names for {layout.classes} classes"
            )
        return Cifar(images, labels, class_names)
    raise ValueError(
        f"--source {where}: neither the binary version ({wanted_names(layout.binary)}) "
        f"nor the Python version ({wanted_names(layout.pickled)}) of CIFAR is in it"
    )


def wanted_names(files: Mapping[str, Sequence[str]]) -> str:
    """Return the names of files for a message."""
    return ", ".join(name for batch in files.values() for name in batch)


def _binary(content: bytes, layout: Layout, name: str) -> tuple[np.ndarray, np.ndarray]:
    record = layout.label_bytes + PIXELS
    if not content or len(content) % record:
        raise ValueError(
            f"{name}: {len(content)} bytes are not whole records of {record}; it is "
            "cut short or of the other CIFAR"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = rows[:, layout.label_bytes - 1].astype(np.int32)
    return _images(rows[:, layout.label_bytes :]), labels


def _pickled(
    content: bytes, layout: Layout, name: str
) -> tuple[np.ndarray, np.ndarray]:
    batch = _dictionary(content, name)
    pixels = byte_array(_entry(batch, "data", name), name=name)
    labels = _entry(batch, layout.labels_key, name)
    if (
        pixels.ndim != 2
        or pixels.shape[1] != PIXELS
        or not isinstance(labels, list)
        or len(labels) != len(pixels)
        or not all(type(label) is int and label >= 0 for label in labels)
    ):
        raise ValueError(f"{name}: images and labels in it are not those of CIFAR")
    return _images(pixels), np.array(labels, np.int32)


def _images(rows: np.ndarray) -> np.ndarray:
    """Turn rows of red, green and blue planes into [N, 32, 32, 3]."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _text_names(content: bytes, layout: Layout, name: str) -> tuple[str, ...]:
    del layout
    try:
        return tuple(content.decode("utf-8").split())
    except UnicodeDecodeError:
        raise ValueError(f"{name}: not UTF-8 text; fetch it again") from None


def _pickled_names(content: bytes, layout: Layout, name: str) -> tuple[str, ...]:
    names = _entry(_dictionary(content, name), layout.names_key, name)
    return tuple(as_text(text) for text in names)


def _dictionary(content: bytes, name: str) -> dict[str, Any]:
    value = read_pickled(content, name=name)
    if not isinstance(value, dict):
        raise ValueError(f"{name}: not a file of CIFAR's Python version")
    return value


def _entry(batch: dict[str, Any], key: str, name: str) -> Any:
    if key not in batch:
        raise ValueError(f"{name}: no {key!r} in it; is it the other CIFAR?")
    return batch[key]
