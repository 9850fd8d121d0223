"""A person's own class folders: held-out images, and a long tail where wanted."""

import os
from pathlib import Path

import numpy as np

from blt_jax.data.folders import class_folders, read_folder
from blt_jax.data.lists import read_class_names
from blt_jax.data.prepare.holdout import take_out
from blt_jax.data.prepare.images import FolderImages
from blt_jax.data.prepare.request import SPLITS, Listing, Request, Selection
from blt_jax.data.profiles import index_hash, long_tailed_indices, profile_counts


def folder(
    request: Request,
    *,
    profile: str = "none",
    imbalance: float = 100.0,
    val_per_class: int = 0,
    test_per_class: int = 0,
    seed: int = 0,
) -> Selection:
    """Any folder of class folders, or of train/, val/ and test/ with class folders.

    sources: one folder. Classes are its folders, in natural order,
      or in that of a file `classes.txt` in it (`id<TAB>name`, the id is the folder).
    val_per_class, test_per_class: images of each class held out of training for a split
      that has no folder of its own.
    profile: "exponential" or "step" thins out what is left for training, by
      `imbalance`; "none" leaves it as it is.
    """
    if len(request.sources) != 1 or not request.sources[0].is_dir():
        raise ValueError("--source: give one folder of class folders")
    root = request.sources[0]
    per_class = {"val": val_per_class, "test": test_per_class}
    own = [name for name in SPLITS if (root / name).is_dir()]
    listings: dict[str, Listing] = {}
    start = "train" if "train" in own else ""
    ids, names = _known_classes(root, class_folders(root / start))
    pool = _listing(root, start, ids, every_class=True)
    for name, count in per_class.items():
        if "train" in own and name in own:
            if count:
                raise ValueError(
                    f"--{name}_per_class: {root / name} is that split already; leave "
                    "the option out, or remove the folder"
                )
            listings[name] = _listing(root, name, ids)
            continue
        if not count and name == "val":
            raise ValueError(
                f"--val_per_class: {root} has no val/ beside train/, so say how many "
                "images of each class shall be held out for validation"
            )
        smallest = int(np.bincount(pool.labels).min())
        if count >= smallest:
            label = int(np.bincount(pool.labels).argmin())
            raise ValueError(
                f"--{name}_per_class: {count}, but class {names[label]!r} has "
                f"{smallest} images left for training; hold out fewer, or leave the "
                "class out"
            )
        taken, rest = take_out(pool.labels, count, seed=seed)
        listings[name], pool = pool.select(taken), pool.select(rest)
    facts = {}
    if profile != "none":
        counts = profile_counts(profile, np.bincount(pool.labels), imbalance=imbalance)
        indices = long_tailed_indices(pool.labels, counts, seed=seed)
        pool, facts = pool.select(indices), {"index_sha256": index_hash(indices)}
    listings["train"] = pool
    return Selection(
        class_ids=ids,
        class_names=names,
        splits={name: listings[name] for name in SPLITS},
        images=FolderImages(root),
        rule="class folders"
        + (f", {profile} profile, imbalance {imbalance:g}" if facts else ""),
        facts=facts,
    )


def _listing(
    root: Path, split: str, ids: tuple[str, ...], *, every_class: bool = False
) -> Listing:
    paths, labels, _ = read_folder(root / split, ids, every_class=every_class)
    relative = [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]
    return Listing(relative, labels)


def _known_classes(
    root: Path, folders: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return ids and names in label order.

    Those of `classes.txt` (lines `id<TAB>name`) where its ids are the folders, else the
    folders in natural order.
    """
    path = root / "classes.txt"
    if path.is_file():
        names = read_class_names(path)
        lines = path.read_text("utf-8-sig").split("\n")
        ids = tuple(line.split("\t")[0].strip() for line in lines if line.strip())
        if sorted(ids) == sorted(folders):
            return ids, names
    return folders, folders
