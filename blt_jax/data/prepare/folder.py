"""A person's own class folders: held-out images, and a long tail where wanted."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blt_jax.data.folders import read_folder
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

    sources: one folder. Classes are its folders, in natural order.
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
    pool, names = _listing(root, "train" if "train" in own else "", None)
    for name, count in per_class.items():
        if "train" in own and name in own:
            if count:
                raise ValueError(
                    f"--{name}_per_class: {root / name} is that split already; leave "
                    "the option out, or remove the folder"
                )
            listings[name], _ = _listing(root, name, names)
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
        listings[name], pool = _select(pool, taken), _select(pool, rest)
    facts = {}
    if profile != "none":
        counts = profile_counts(profile, np.bincount(pool.labels), imbalance=imbalance)
        indices = long_tailed_indices(pool.labels, counts, seed=seed)
        pool, facts = _select(pool, indices), {"index_sha256": index_hash(indices)}
    listings["train"] = pool
    ids, names = _known_names(root, names)
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
    root: Path, split: str, names: Sequence[str] | None
) -> tuple[Listing, tuple[str, ...]]:
    paths, labels, names = read_folder(
        root / split if split else root, names, every_class=names is None
    )
    relative = [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]
    return Listing(relative, labels), names


def _select(listing: Listing, indices: np.ndarray) -> Listing:
    return Listing(
        [listing.paths[i] for i in indices.tolist()], listing.labels[indices]
    )


def _known_names(
    root: Path, folders: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return ids and names: those of `classes.txt` where its ids are the folders."""
    path = root / "classes.txt"
    if path.is_file():
        names = read_class_names(path)
        lines = path.read_text("utf-8-sig").split("\n")
        ids = tuple(line.split("\t")[0].strip() for line in lines if line.strip())
        if ids == folders:
            return ids, names
    return folders, folders
