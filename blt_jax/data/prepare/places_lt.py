"""Places-LT (Liu et al. 2019): the field's lists over Places365-Standard."""

import re

from blt_jax.data.prepare.field_lists import read_lists
from blt_jax.data.prepare.images import locate
from blt_jax.data.prepare.request import Request, Selection

NUM_CLASSES = 365
SITE = "the repository of OLTR (OpenLongTailRecognition) or of its successors"
_TRAINING = re.compile(r"\d{8}\.jpg")


def places_lt(request: Request, *, num_classes: int = NUM_CLASSES) -> Selection:
    """Places-LT: 62,500 training, 7,300 validation and 36,500 test images.

    sources: Places365-Standard, small (256 px) or large: a folder or the archives.
      Both layouts of the site are known: `train/airfield/00000001.jpg` (easy format)
      and `data_256/a/airfield/00000001.jpg`, where a class may be two folders deep.
    lists: `Places_LT_train.txt`, `..._val.txt`, `..._test.txt`, also as `.gz`.
    num_classes: for tests.
    """
    names = {s: f"Places_LT_{s}.txt" for s in ("train", "val", "test")}
    listings, ids = read_lists(request, names, num_classes=num_classes, site=SITE)
    paths, images = locate(
        request.sources, {s: listing.paths for s, listing in listings.items()}, key
    )
    return Selection(
        class_ids=ids,
        class_names=ids,
        splits={s: listings[s]._replace(paths=paths[s]) for s in listings},
        images=images,
        rule="the field's list files (Liu et al. 2019), unchanged",
    )


def key(path: str) -> str | None:
    """Return "CLASS/NUMBER.jpg" of a training image, the file name of a test image."""
    *folders, name = path.split("/")
    if name.startswith("Places365_val_"):
        return name
    if not _TRAINING.fullmatch(name):
        return None
    starts = [
        i for i, part in enumerate(folders) if part == "train" or part[:5] == "data_"
    ]
    folders = folders[starts[-1] + 1 :] if starts else folders
    if len(folders) > 1 and len(folders[0]) == 1:
        folders = folders[1:]  # "a/airfield": sorted under the first letter
    return f"{'-'.join(folders)}/{name}"
