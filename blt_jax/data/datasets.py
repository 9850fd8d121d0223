"""Data sets by kind: list files, records, class folders, TFDS, digits, arrays."""

import os
from collections.abc import Sequence

import numpy as np

from blt_jax.choices import choose
from blt_jax.data.kinds import KINDS, Request, few, thinned
from blt_jax.data.split import Dataset, Split, empty_split, split_of_arrays

__all__ = ["Dataset", "Split", "load_arrays", "load_dataset"]


def load_dataset(
    *,
    kind: str,
    root: str | os.PathLike[str] = "",
    train: str = "train",
    val: str = "val",
    test: str = "test",
    class_names: str = "",
    tfds_name: str = "",
    profile: str = "none",
    imbalance: float = 0.01,
    num_classes: int = 0,
    seed: int = 0,
    image_size: int = 64,
    class_map: Sequence[str] | None = None,
) -> Dataset:
    """Load a data set; nothing but lists and folders is read.

    kind: "lists": `train`, `val` and `test` are list files; "folder": they are
      folders of class folders; "records": list files of images that are kept in
      `records/` below the root (see `records.write_records`), with `class_map.json`;
      "tfds": splits of a data set that TFDS prepared as array_record below the root;
      "digits": real handwritten digits, 8 x 8; "synthetic": made-up images of
      `image_size`.
    root: list paths and folders are relative to it. List files and `class_names` may
      also be given by a path of their own.
    test: "" where there is none, then the split is empty. With a `class_map` `train`
      and `val` may be "" too.
    class_names: file of names, a line `id<TAB>name` or `name` a class ("lists" and
      "records").
    tfds_name: name of the data set, "name", "name/config" or "name:1.0.0" ("tfds").
    profile: "exponential" or "step" thins the training split out, by `imbalance` (see
      `profiles.smallest_share`) and `seed`. "none" leaves it as it is; digits and
      synthetic images then have a long tail of their own.
    num_classes: 0: from the class names, else from the largest training label.
    class_map: the names of an earlier run in label order, to be obeyed.

    Raises:
      ValueError, FileNotFoundError: one line that says what to mend.
    """
    request = Request(
        root=os.fspath(root) or ".",
        files={"train": train, "val": val, "test": test},
        class_names=class_names,
        tfds_name=tfds_name,
        profile=profile,
        imbalance=imbalance,
        num_classes=num_classes,
        seed=seed,
        image_size=image_size,
        class_map=None if class_map is None else tuple(class_map),
    )
    dataset = choose("data.kind", kind, KINDS)(request)
    if num_classes and num_classes != dataset.num_classes:
        raise ValueError(
            f"data.num_classes: {num_classes}, but the data set has "
            f"{dataset.num_classes} classes; set it to that, or to 0"
        )
    if class_map is not None and dataset.class_names != tuple(class_map):
        raise ValueError(
            f"data: the classes of the data set ({few(dataset.class_names)}) are not "
            f"those of the class map ({few(tuple(class_map))}); use the data set that "
            "the model was trained on"
        )
    return dataset


def load_arrays(
    train: tuple[np.ndarray, np.ndarray],
    val: tuple[np.ndarray, np.ndarray],
    *,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    class_names: Sequence[str] | None = None,
    profile: str = "none",
    imbalance: float = 0.01,
    seed: int = 0,
) -> Dataset:
    """Return a data set of arrays in memory.

    train, val, test: images uint8 [N, h, w, 3] or [N, h, w] and labels [N] int.
    class_names: [C]; None: the numbers up to the largest training label.
    profile, imbalance, seed: see `load_dataset`.
    """
    splits = {
        name: split_of_arrays(name, *pair) if pair is not None else empty_split(name)
        for name, pair in (("train", train), ("val", val), ("test", test))
    }
    labels = splits["train"].labels
    if not len(labels):
        raise ValueError("train images: there are none")
    if class_names is None:
        class_names = [str(c) for c in range(int(labels.max()) + 1)]
    dataset = Dataset(**splits, class_names=tuple(class_names))
    empty = np.flatnonzero(dataset.class_counts == 0)
    if len(empty):
        raise ValueError(f"train labels: no image for class {empty[0]}")
    thin = thinned(dataset.train, dataset.class_counts, profile, imbalance, seed)
    return Dataset(thin, dataset.val, dataset.test, dataset.class_names)
