"""iNaturalist 2018 as the paper uses it: validation from the training images."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from blt_jax.choices import choose
from blt_jax.data.lists import read_list
from blt_jax.data.prepare.holdout import BEST_ON_TEST, take_out
from blt_jax.data.prepare.images import locate
from blt_jax.data.prepare.request import Listing, Request, Selection

VAL_PER_CLASS = 5
PAPER_CLASSES = 8122
OFFICIAL = (8142, 437_513)  # classes, training images
# Rule -> training images that a class must have left after validation has taken its.
RULES = {"two_left": 2, "one_left": 1, "all": 0}


def inaturalist2018(
    request: Request,
    *,
    rule: str = "two_left",
    seed: int = 0,
    legacy_best_on_test: bool = False,
) -> Selection:
    """The 8,142 classes of iNaturalist 2018 less the smallest ones (paper, Sec. 4).

    Five training images of each class become the validation split, the official
    validation images of the classes kept (3 each) become the test split, and labels
    are numbered anew without gaps.

    sources: `train_val2018.tar.gz`, or the folder that holds `train_val2018/`.
    lists: folder of `train2018.json` and `val2018.json` (searched there and beside the
      images), or of the field's `iNaturalist18_train.txt` and `..._val.txt`.
    rule: which classes are kept. The paper says that it "discarded the classes with
      less than 5 samples" and that the others have 2 to 995 images. 995 = 1000 - 5:
      these are counts after validation has taken its five, so that the smallest class
      kept had 2 + 5 = 7. How many classes each rule keeps stands in prepared.json, to
      be compared with the 8,122 of the paper.
      "two_left": at least 7 images, so that 2 are left: the only rule that drops
        classes and cannot leave fewer than the paper's minimum; the default.
      "one_left": at least 6, the nearest to the paper's sentence that leaves every
        class an image (one with 5 would keep none). Its minimum is 1 where a class has
        6, so it is the paper's only if no class has 5 or 6.
      "all": no class is dropped; small classes give at most half of their images.
    legacy_best_on_test: the habit of the field: all training images train and val.txt
      equals test.txt; with rule "all".
    """
    left = choose("--rule", rule, RULES)
    if legacy_best_on_test and rule != "all":
        raise ValueError(
            "--legacy_best_on_test: is the field's split of all classes; use it with "
            "--rule all"
        )
    train, ids, names = _read(request, "train")
    official, _, _ = _read(request, "val")
    counts = np.bincount(train.labels, minlength=len(ids))
    keep = np.flatnonzero(counts >= _needed(rule))
    if not len(keep):
        raise ValueError(f"--rule {rule}: no class has {_needed(rule)} training images")
    train, official = _kept(train, keep), _kept(official, keep)
    if legacy_best_on_test:
        val, test = official, official
    else:
        per_class = np.minimum(counts[keep], VAL_PER_CLASS)
        if not left:
            per_class = np.minimum(per_class, counts[keep] // 2)
        chosen, rest = take_out(train.labels, per_class, seed=seed)
        val, train, test = train.select(chosen), train.select(rest), official
    splits = {"train": train, "val": val, "test": test}
    paths, images = locate(
        request.sources, {name: listing.paths for name, listing in splits.items()}, key
    )
    kept = {name: int((counts >= _needed(name)).sum()) for name in RULES}
    warnings = [BEST_ON_TEST] if legacy_best_on_test else []
    if (len(ids), int(counts.sum())) == OFFICIAL and (
        rule == "two_left" and len(keep) != PAPER_CLASSES
    ):
        warnings.append(
            f"rule {rule!r} keeps {len(keep)} classes, the paper has {PAPER_CLASSES}; "
            f"classes that each rule keeps: {kept}"
        )
    share = f"{VAL_PER_CLASS} images of each" if left else "at most 5 and half of each"
    return Selection(
        class_ids=tuple(ids[c] for c in keep.tolist()),
        class_names=tuple(names[c] for c in keep.tolist()),
        splits={name: splits[name]._replace(paths=paths[name]) for name in splits},
        images=images,
        rule=f"{rule}: classes with at least {_needed(rule)} training images; "
        f"validation: {'the test images' if legacy_best_on_test else share}",
        facts={"classes_kept_by_rule": kept, "classes_in_source": len(ids)},
        warnings=tuple(warnings),
    )


def key(path: str) -> str | None:
    """Return "KINGDOM/CLASS/HASH.jpg"."""
    parts = path.split("/")
    return "/".join(parts[-3:]) if path.endswith(".jpg") and len(parts) > 2 else None


def _needed(rule: str) -> int:
    """Return the training images that a class must have to be kept."""
    return VAL_PER_CLASS + RULES[rule] if RULES[rule] else 1


def _kept(listing: Listing, keep: np.ndarray) -> Listing:
    """Return the images of the kept classes, numbered anew."""
    new = np.full(max(int(listing.labels.max()), int(keep.max())) + 1, -1, np.int32)
    new[keep] = np.arange(len(keep))
    labels = new[listing.labels]
    return listing._replace(labels=labels).select(np.flatnonzero(labels >= 0))


def _read(request: Request, split: str) -> tuple[Listing, list[str], list[str]]:
    """Read an official split: its images, and ids and names of all classes."""
    folders = [request.lists, *request.sources, *(s.parent for s in request.sources)]
    searched = [folder for folder in folders if folder is not None and folder.is_dir()]
    for folder in searched:
        path = folder / f"{split}2018.json"
        if path.is_file():
            return _read_json(path)
        for name in (f"iNaturalist18_{split}.txt", f"iNaturalist18_{split}.txt.gz"):
            path = folder / name
            if path.is_file():
                listing = Listing(*read_list(path, None))
                ids = [str(c) for c in range(int(listing.labels.max()) + 1)]
                return listing, ids, ids
    raise FileNotFoundError(
        f"{split}2018.json: not found beside the images; give its folder as --lists "
        "(the competition's page has it, in a .tar.gz to be unpacked)"
    )


def _read_json(path: Path) -> tuple[Listing, list[str], list[str]]:
    try:
        with open(path, encoding="utf-8") as file:
            content: dict[str, Any] = json.load(file)
        classes = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        files = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        labels = {
            entry["image_id"]: int(entry["category_id"])
            for entry in content["annotations"]
        }
        paths = list(files.values())
        numbers = np.array([labels[image] for image in files], np.int32)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: not the competition's JSON (images, annotations, categories): "
            f"{type(error).__name__} {error}"
        ) from None
    if (
        not paths
        or sorted(classes) != list(range(len(classes)))
        or (numbers.min() < 0 or numbers.max() >= len(classes))
    ):
        raise ValueError(
            f"{path}: categories and annotations do not fit: ids must run from 0, and "
            "every annotation must be of one of them"
        )
    ids = [str(c) for c in range(len(classes))]
    return Listing(paths, numbers), ids, [classes[c] for c in range(len(classes))]
