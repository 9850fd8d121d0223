"""Data sets by kind: list files, class folders, records, TFDS, digits, arrays, ..."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blt_jax.choices import choose
from blt_jax.data import digits, synthetic
from blt_jax.data.folders import load_class_map, read_folder
from blt_jax.data.lists import names_from_folders, read_class_names, read_list
from blt_jax.data.profiles import exponential, long_tailed_indices, profile_counts
from blt_jax.data.records import RecordSource
from blt_jax.data.split import (
    Dataset,
    Split,
    empty_split,
    split_of_arrays,
    split_of_files,
)
from blt_jax.data.tfds import TfdsReader

__all__ = ["KINDS", "Dataset", "Split", "load_arrays", "load_dataset"]

NO_PROFILE = ("", "none")


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The arguments of `load_dataset`; each kind takes what it needs."""

    root: str
    # Name of a split -> its list file or folder, in the order of reading.
    files: dict[str, str]
    class_names: str
    tfds_name: str
    profile: str
    imbalance: float
    num_classes: int
    seed: int
    image_size: int
    class_map: tuple[str, ...] | None


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
    request = _Request(
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
            f"data: the classes of the data set ({_few(dataset.class_names)}) are not "
            f"those of the class map ({_few(tuple(class_map))}); use the data set that "
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
    thin = _thinned(dataset.train, dataset.class_counts, profile, imbalance, seed)
    return Dataset(thin, dataset.val, dataset.test, dataset.class_names)


def _lists(request: _Request) -> Dataset:
    def files(name: str, file: str, paths: list[str], labels: np.ndarray) -> Split:
        del file
        full = [f"{request.root}/{path}" for path in paths]
        return split_of_files(name, full, labels)

    return _listed(request, request.root, request.class_map, files)


def _records(request: _Request) -> Dataset:
    path = os.path.join(request.root, "class_map.json")
    names = request.class_map
    if not request.class_names and (names is None or os.path.exists(path)):
        names = load_class_map(path)
        if request.class_map not in (None, names):
            raise ValueError(
                f"{path}: {_few(names)} differs from the class map of the training run "
                f"({_few(request.class_map)}); use the data set of that run"
            )

    def shards(name: str, file: str, paths: list[str], labels: np.ndarray) -> Split:
        folder = os.path.join(request.root, "records")
        source = RecordSource(folder, Path(file).stem, len(paths))
        return Split(name, source, labels, paths)

    return _listed(request, None, names, shards)


def _listed(
    request: _Request,
    root: str | None,
    names: tuple[str, ...] | None,
    split_of: Callable[[str, str, list[str], np.ndarray], Split],
) -> Dataset:
    """Read the lists.

    root: where the listed files must be; None: nowhere.
    names: of the classes, in label order; None: from `class_names` or the folders.
    split_of: name, list file, paths and labels -> split.
    """
    if request.class_names:
        written = read_class_names(_find(request, request.class_names, "class_names"))
        if names is not None and names != written:
            raise ValueError(
                f"data.class_names: {request.class_names} ({_few(written)}) differs "
                f"from the class map ({_few(names)}); use the file of the training run"
            )
        names = written
    count = request.num_classes or (None if names is None else len(names))
    if names is not None and len(names) != count:
        raise ValueError(
            f"data.num_classes: {count}, but there are {len(names)} class names; set "
            "data.num_classes to that, or to 0"
        )
    splits: dict[str, Split] = {}
    for name, file in request.files.items():
        if not file:
            splits[name] = _left_out(request, name)
            continue
        paths, labels = read_list(
            _find(request, file, name),
            root,
            num_classes=count,
            every_class=name == "train",
        )
        if count is None:
            count = int(labels.max()) + 1
        if names is None:
            names = names_from_folders(paths, labels, count)
        splits[name] = split_of(name, file, paths, labels)
    assert names is not None  # _left_out refuses a missing train without a class map
    return _with_profile(Dataset(**splits, class_names=names), request)


def _folder(request: _Request) -> Dataset:
    names = request.class_map
    splits: dict[str, Split] = {}
    for name, folder in request.files.items():
        if not folder:
            splits[name] = _left_out(request, name)
            continue
        _check_below(request.root, folder, name)
        paths, labels, names = read_folder(
            os.path.join(request.root, folder),
            names,
            every_class=name == "train",
            root=request.root,
        )
        splits[name] = split_of_files(name, paths, labels)
    assert names is not None  # _left_out refuses a missing train without a class map
    return _with_profile(Dataset(**splits, class_names=names), request)


def _tfds(request: _Request) -> Dataset:
    reader = TfdsReader(request.tfds_name, request.root)
    splits = {
        name: reader.split(split) if split else _left_out(request, name)
        for name, split in request.files.items()
    }
    names = reader.class_names or request.class_map
    if names is None:
        labels = splits["train"].labels
        count = request.num_classes or int(labels.max(initial=-1)) + 1
        names = tuple(str(c) for c in range(count))
    dataset = Dataset(**splits, class_names=names)
    empty = np.flatnonzero(dataset.class_counts == 0)
    if len(dataset.train) and len(empty):
        raise ValueError(
            f"data.train: split {request.files['train']!r} of {request.tfds_name!r} "
            f"has no image for {len(empty)} of {len(names)} classes, the first is "
            f"{names[empty[0]]!r}; every class needs one"
        )
    return _with_profile(dataset, request)


def _digits(request: _Request) -> Dataset:
    return digits.digits(_counts(request, digits.LARGEST, digits.SMALLEST_SHARE))


def _synthetic(request: _Request) -> Dataset:
    return synthetic.synthetic(
        _counts(request, synthetic.LARGEST, synthetic.SMALLEST_SHARE),
        num_classes=request.num_classes,
        image_size=request.image_size,
        seed=request.seed,
    )


KINDS: dict[str, Callable[[_Request], Dataset]] = {
    "lists": _lists,
    "folder": _folder,
    "records": _records,
    "tfds": _tfds,
    "digits": _digits,
    "synthetic": _synthetic,
}


def _counts(
    request: _Request, largest: int, share: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the class counts for the sets that have a long tail of their own."""

    def counts_of(available: np.ndarray) -> np.ndarray:
        if request.profile in NO_PROFILE:
            return exponential(len(available), largest, share)
        return profile_counts(
            request.profile,
            np.minimum(available, largest),
            imbalance=request.imbalance,
        )

    return counts_of


def _with_profile(dataset: Dataset, request: _Request) -> Dataset:
    thin = _thinned(
        dataset.train,
        dataset.class_counts,
        request.profile,
        request.imbalance,
        request.seed,
    )
    return Dataset(thin, dataset.val, dataset.test, dataset.class_names)


def _thinned(
    split: Split, available: np.ndarray, profile: str, imbalance: float, seed: int
) -> Split:
    if profile in NO_PROFILE or not len(split):
        return split
    counts = profile_counts(profile, available, imbalance=imbalance)
    return split.select(long_tailed_indices(split.labels, counts, seed=seed))


def _find(request: _Request, file: str, field: str) -> str:
    """Return the path of a list or names file: below the root, else as it stands."""
    below = os.path.join(request.root, file)
    if os.path.exists(below):
        return below
    if os.path.exists(file):
        return file
    raise FileNotFoundError(
        f"{below}: no such file; set data.{field} to a file below data.root or to a "
        "full path"
    )


def _check_below(root: str, folder: str, field: str) -> None:
    """Refuse a relative folder that leaves the root; a full path is meant as it is."""
    if not os.path.isabs(folder) and ".." in folder.split(os.sep):
        raise ValueError(
            f"data.{field}: {folder!r} leaves data.root {root}; set data.root to a "
            "folder above, or give the full path"
        )


def _left_out(request: _Request, name: str) -> Split:
    if name != "test" and request.class_map is None:
        raise ValueError(
            f"data.{name}: empty; set it to a list file (data.kind 'lists' or "
            "'records'), a folder ('folder') or a split ('tfds')"
        )
    return empty_split(name)


def _few(names: tuple[str, ...]) -> str:
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)}: {', '.join(names[:3])}{more}"
