"""ImageNet-LT (Liu et al. 2019): the field's lists over ImageNet's 2012 images."""

import re

from blt_jax.data.prepare.field_lists import read_lists, synset_names
from blt_jax.data.prepare.images import locate
from blt_jax.data.prepare.request import Request, Selection

NUM_CLASSES = 1000
SITE = "the repository of OLTR (OpenLongTailRecognition) or of its successors"
_IMAGE = re.compile(r"(?:n\d{8}_\d+|ILSVRC2012_val_\d{8})\.JPEG")


def imagenet_lt(request: Request, *, num_classes: int = NUM_CLASSES) -> Selection:
    """ImageNet-LT: 115,846 training, 20,000 validation and 50,000 test images.

    sources: `ILSVRC2012_img_train.tar` (an archive of archives) and
      `ILSVRC2012_img_val.tar`, or a folder with train/ and val/ in any layout: an image
      is known by its file name.
    lists: `ImageNet_LT_train.txt`, `..._val.txt`, `..._test.txt`, also as `.gz`. The
      validation images are other images of ImageNet's training set, the test images
      are ImageNet's validation set.
    num_classes: for tests.
    """
    names = {s: f"ImageNet_LT_{s}.txt" for s in ("train", "val", "test")}
    listings, ids = read_lists(request, names, num_classes=num_classes, site=SITE)
    paths, images = locate(
        request.sources, {s: listing.paths for s, listing in listings.items()}, key
    )
    return Selection(
        class_ids=ids,
        class_names=synset_names(request, ids),
        splits={s: listings[s]._replace(paths=paths[s]) for s in listings},
        images=images,
        rule="the field's list files (Liu et al. 2019), unchanged",
    )


def key(path: str) -> str | None:
    """Return the file name, which is unique in ImageNet."""
    name = path.rpartition("/")[2]
    return name if _IMAGE.fullmatch(name) else None
