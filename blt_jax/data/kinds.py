"""The kinds of data sets by name, each read as its own files ask for it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blt_jax.data import digits, synthetic
from blt_jax.data.folders import load_class_map, read_folder
from blt_jax.data.lists import names_from_folders, read_class_names, read_list
from blt_jax.data.profiles import exponential, long_tailed_indices, profile_counts
from blt_jax.data.records import RecordSource
from blt_jax.data.split import (
    Dataset,
    Split,
    empty_split,
    split_of_files,
)
from blt_jax.data.tfds import TfdsReader

NO_PROFILE = ("", "none")


@dataclass(frozen=True, kw_only=True)
class Request:
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


def _lists(request: Request) -> Dataset:
    def files(name: str, file: str, paths: list[str], labels: np.ndarray) -> Split:
        del file
        full = [f"{request.root}/{path}" for path in paths]
        return split_of_files(name, full, labels)

    return _listed(request, request.root, request.class_map, files)


def _records(request: Request) -> Dataset:
    path = os.path.join(request.root, "class_map.json")
    names = request.class_map
    if not request.class_names and (names is None or os.path.exists(path)):
        names = load_class_map(path)
        if request.class_map not in (None, names):
            raise ValueError(
                f"{path}: {few(names)} differs from the class map of the training run "
                f"({few(request.class_map)}); use the data set of that run"
            )

    def shards(name: str, file: str, paths: list[str], labels: np.ndarray) -> Split:
        folder = os.path.join(request.root, "records")
        source = RecordSource(folder, Path(file).stem, len(paths))
        return Split(name, source, labels, paths)

    return _listed(request, None, names, shards)


def _listed(
    request: Request,
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
                f"data.class_names: {request.class_names} ({few(written)}) differs "
                f"from the class map ({few(names)}); use the file of the training run"
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


def _folder(request: Request) -> Dataset:
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


def _tfds(request: Request) -> Dataset:
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


def _digits(request: Request) -> Dataset:
    return digits.digits(_counts(request, digits.LARGEST, digits.SMALLEST_SHARE))


def _synthetic(request: Request) -> Dataset:
    return synthetic.synthetic(
        _counts(request, synthetic.LARGEST, synthetic.SMALLEST_SHARE),
        num_classes=request.num_classes,
        image_size=request.image_size,
        seed=request.seed,
    )


KINDS: dict[str, Callable[[Request], Dataset]] = {
    "lists": _lists,
    "folder": _folder,
    "records": _records,
    "tfds": _tfds,
    "digits": _digits,
    "synthetic": _synthetic,
}


def _counts(
    request: Request, largest: int, share: float
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


def _with_profile(dataset: Dataset, request: Request) -> Dataset:
    thin = thinned(
        dataset.train,
        dataset.class_counts,
        request.profile,
        request.imbalance,
        request.seed,
    )
    return Dataset(thin, dataset.val, dataset.test, dataset.class_names)


def thinned(
    split: Split, available: np.ndarray, profile: str, imbalance: float, seed: int
) -> Split:
    """Return the records that a profile leaves of a training split."""
    if profile in NO_PROFILE or not len(split):
        return split
    counts = profile_counts(profile, available, imbalance=imbalance)
    return split.select(long_tailed_indices(split.labels, counts, seed=seed))


def _find(request: Request, file: str, field: str) -> str:
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


def _left_out(request: Request, name: str) -> Split:
    if name != "test" and request.class_map is None:
        raise ValueError(
            f"data.{name}: empty; set it to a list file (data.kind 'lists' or "
            "'records'), a folder ('folder') or a split ('tfds')"
        )
    return empty_split(name)


def few(names: tuple[str, ...]) -> str:
    """Return how many names there are, and the first, for a message."""
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)}: {', '.join(names[:3])}{more}"
