"""Tiny ImageNet made long-tailed: 200 classes of 64 x 64 pixels."""

import re
from collections import defaultdict

import numpy as np

from blt_jax.data.prepare.archives import Archive, archives_in
from blt_jax.data.prepare.field_lists import parse_synsets
from blt_jax.data.prepare.folder import folder
from blt_jax.data.prepare.holdout import BEST_ON_TEST, long_tail
from blt_jax.data.prepare.images import files_below, locate, read_named
from blt_jax.data.prepare.request import SPLITS, Listing, Request, Selection
from blt_jax.data.profiles import index_hash

_TRAINING = re.compile(r"(n\d{8})_\d+\.JPEG")
_VALIDATION = re.compile(r"val_\d+\.JPEG")


def tiny_imagenet_lt(
    request: Request,
    *,
    profile: str = "exponential",
    imbalance: float = 100.0,
    val_per_class: int = 10,
    val_rule: str = "holdout",
    seed: int = 0,
    legacy_best_on_test: bool = False,
) -> Selection:
    """Tiny ImageNet made long-tailed: 490 ... 4 training images of each class.

    Classes are in the order of their WordNet ids and images in that of their names.
    Validation comes from the 500 training images of a class, see `holdout.long_tail`;
    the test split is the official validation set, 50 a class (the official test images
    have no labels).

    sources: `tiny-imagenet-200.zip` or its folder. A folder with train/, val/ and test/
      of class folders is long-tailed already and taken as it is.
    legacy_best_on_test: val.txt equals test.txt.
    """
    source = request.sources[0]
    ready = all((source / name).is_dir() for name in SPLITS)
    if ready and not (source / "val" / "val_annotations.txt").is_file():
        return folder(request)
    meta = read_named(request.sources, ["words.txt"])
    words = parse_synsets(meta.get("words.txt", b"").decode("utf-8"))
    annotations = _annotations(request)
    training = _training_names(request)
    ids = tuple(sorted(training))
    number = {name: label for label, name in enumerate(ids)}
    unknown = sorted(set(annotations.values()) - set(ids))
    if unknown:
        raise ValueError(
            f"val_annotations.txt: class {unknown[0]} has no training images; give the "
            "complete archive"
        )
    pool = [(name, number[wnid]) for wnid in ids for name in sorted(training[wnid])]
    labels = np.array([label for _, label in pool], np.int32)
    train, val = long_tail(
        labels,
        profile=profile,
        imbalance=imbalance,
        val_per_class=0 if legacy_best_on_test else val_per_class,
        val_rule="unused" if legacy_best_on_test else val_rule,
        seed=seed,
    )

    def listing(indices: np.ndarray) -> Listing:
        names = [pool[i][0] for i in indices.tolist()]
        return Listing(
            [f"train/{name.split('_')[0]}/images/{name}" for name in names],
            labels[indices],
        )

    test = Listing(
        [f"val/images/{name}" for name in annotations],
        np.array([number[wnid] for wnid in annotations.values()], np.int32),
    )
    splits = {
        "train": listing(train),
        "val": test if legacy_best_on_test else listing(val),
        "test": test,
    }
    paths, images = locate(
        request.sources, {name: split.paths for name, split in splits.items()}, key
    )
    return Selection(
        class_ids=ids,
        class_names=tuple(words.get(wnid, wnid) for wnid in ids),
        splits={name: splits[name]._replace(paths=paths[name]) for name in splits},
        images=images,
        rule=f"{profile} profile, imbalance {imbalance:g}; validation: "
        + ("the test images" if legacy_best_on_test else f"rule {val_rule}"),
        facts={"index_sha256": index_hash(train)},
        warnings=(BEST_ON_TEST,) if legacy_best_on_test else (),
    )


def key(path: str) -> str | None:
    """Return the file name; training and validation images have names of their own."""
    name = path.rpartition("/")[2]
    return name if _TRAINING.fullmatch(name) or _VALIDATION.fullmatch(name) else None


def _training_names(request: Request) -> dict[str, list[str]]:
    """Return the file names of the training images by WordNet id."""
    found: dict[str, list[str]] = defaultdict(list)
    for source in request.sources:
        archives = archives_in(source)
        for path in files_below(source) if not archives else []:
            _note(path, found)
        for archive in archives:
            for member in Archive(archive).members():
                _note(member.name, found)
    if not found:
        raise ValueError(
            f"--source {request.sources[0]}: no training images (n01443537_0.JPEG ...) "
            "in it; give tiny-imagenet-200.zip or its folder"
        )
    return found


def _note(path: str, found: dict[str, list[str]]) -> None:
    name = path.rpartition("/")[2]
    match = _TRAINING.fullmatch(name)
    if match:
        found[match[1]].append(name)


def _annotations(request: Request) -> dict[str, str]:
    """Return file name -> WordNet id of the official validation images."""
    sources = request.sources
    # In a folder the file lies in tiny-imagenet-200/val/.
    nested = [
        path.parent for s in sources if s.is_dir() for path in s.glob("*/val/*.txt")
    ]
    content = read_named([*sources, *nested], ["val_annotations.txt"])
    if not content:
        raise ValueError(
            f"--source {sources[0]}: no val_annotations.txt in it, which has "
            "the class of each validation image; give the complete archive or folder"
        )
    result = {}
    for line in content["val_annotations.txt"].decode("utf-8").splitlines():
        parts = line.split("\t")
        if len(parts) > 1:
            result[parts[0]] = parts[1]
    return result
