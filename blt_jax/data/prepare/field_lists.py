"""The field's list files: found by name, plain or gzip; names of WordNet classes."""

from collections.abc import Mapping
from pathlib import Path

from blt_jax.data.lists import read_list
from blt_jax.data.prepare.request import Listing, Request

SYNSET_FILES = ("words.txt", "LOC_synset_mapping.txt")


def find_list(folder: Path | None, name: str, *, site: str) -> Path:
    """Return the path of FOLDER/NAME or FOLDER/NAME.gz.

    site: where to get it, for the message.
    """
    if folder is None:
        raise ValueError(f"--lists: give the folder that holds {name} ({site})")
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{folder / name}: no such list file, nor {name}.gz; get it from {site} and "
        "give its folder as --lists"
    )


def read_lists(
    request: Request, names: Mapping[str, str], *, num_classes: int, site: str
) -> tuple[dict[str, Listing], tuple[str, ...]]:
    """Read a list file a split; also the class ids, the folders of the training list.

    names: split -> name of its file.
    num_classes: every label 0 ... num_classes - 1 must be in the training list.
    """
    paths = {
        split: find_list(request.lists, name, site=site)
        for split, name in names.items()
    }
    listings = {
        split: Listing(*read_list(path, None, num_classes=num_classes))
        for split, path in paths.items()
    }
    ids: dict[int, str] = {}
    for split, listing in listings.items():
        for path, label in zip(listing.paths, listing.labels.tolist(), strict=True):
            name = path.split("/")[-2] if "/" in path else ""
            if split != "train" and label not in ids:
                continue
            if ids.setdefault(label, name) != name:
                raise ValueError(
                    f"{paths[split]}: {path!r} has label {label}, which stands for "
                    f"{ids[label]!r} in {paths['train']}; the lists do not belong "
                    "together"
                )
    missing = sorted(set(range(num_classes)) - ids.keys())
    if missing:
        raise ValueError(
            f"{paths['train']}: no image for label {missing[0]} of {num_classes} "
            "classes; the list is not complete"
        )
    return listings, tuple(ids[label] for label in range(num_classes))


def synset_names(request: Request, ids: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words for WordNet ids where `SYNSET_FILES` say them, else the ids.

    Looked for in the folder of lists and in sources that are folders.
    """
    words: dict[str, str] = {}
    for folder in (request.lists, *request.sources):
        for name in SYNSET_FILES:
            path = None if folder is None else folder / name
            if path is not None and path.is_file():
                words |= parse_synsets(path.read_text("utf-8"))
    return tuple(words.get(name, name) for name in ids)


def parse_synsets(text: str) -> dict[str, str]:
    """Read lines `n01440764<TAB or space>tench, Tinca tinca`; the first word counts."""
    words = {}
    for line in text.splitlines():
        parts = line.split(None, 1)
        if len(parts) == 2:
            words[parts[0]] = parts[1].split(",")[0].strip()
    return words
