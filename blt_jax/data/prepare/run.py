"""`blt-jax prepare`: the data sets by name, and the steps that all of them share."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blt_jax.choices import choose
from blt_jax.data.prepare.cifar_lt import cifar10_lt, cifar100_lt
from blt_jax.data.prepare.config_file import write_config
from blt_jax.data.prepare.folder import folder
from blt_jax.data.prepare.imagenet_lt import imagenet_lt
from blt_jax.data.prepare.inaturalist2018 import inaturalist2018
from blt_jax.data.prepare.output import (
    begin,
    describe,
    file_digest,
    finish,
    write_all_records,
)
from blt_jax.data.prepare.places_lt import places_lt
from blt_jax.data.prepare.request import SPLITS, Preparation, Request, Selection
from blt_jax.data.prepare.tiny_imagenet_lt import tiny_imagenet_lt
from blt_jax.data.progress import Progress
from blt_jax.data.records import verify_records

PREPARATIONS: dict[str, Preparation] = {
    "imagenet_lt": imagenet_lt,
    "places_lt": places_lt,
    "inaturalist2018": inaturalist2018,
    "cifar10_lt": cifar10_lt,
    "cifar100_lt": cifar100_lt,
    "tiny_imagenet_lt": tiny_imagenet_lt,
    "folder": folder,
}
# Those of a preparation's arguments that are not options of the command.
_FIXED = ("request", "num_classes")


def prepare(
    name: str,
    sources: Sequence[Path],
    *,
    out: Path,
    lists: Path | None = None,
    records: bool = False,
    shorter_side: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Prepare a data set and return the closing message.

    The same call goes on where an interrupted one stopped. When all is done it compares
    lists and records with their checksums, and changes nothing.

    name: a name in `PREPARATIONS`.
    sources, lists: see there.
    out: folder for the lists, and for images that come out of archives.
    records: write ArrayRecord below OUT/records as well.
    shorter_side: pixels to shrink images to in the records; None: as they are.
    options: those of the preparation; what is left out has its default.

    Raises:
      ValueError, OSError: one line that says what to mend.
    """
    function = choose("prepare", name, PREPARATIONS)
    options = {**options_of(name), **_known(name, options or {})}
    if shorter_side is not None and not (records and shorter_side > 0):
        raise ValueError("--shorter_side: a number of pixels, together with --records")
    settings = {
        "name": name,
        "sources": [str(source.resolve()) for source in sources],
        "lists": _digests(lists),
        "records": records,
        "shorter_side": shorter_side,
        **options,
    }
    done = begin(out, settings)
    if done is not None:
        for shards in (done["records"] or {}).values():
            verify_records(out / "records", shards)
        write_config(out, done)
        return f"prepared already, and as it was written\n{describe(out, done)}"
    selection = function(Request(sources=tuple(sources), lists=lists), **options)
    content = finish(
        out,
        selection,
        settings,
        data_root=_place_images(out, selection, records),
        records=write_all_records(
            out, selection, shorter_side=shorter_side, report=Progress
        )
        if records
        else None,
    )
    write_config(out, content)
    return describe(out, content)


def options_of(name: str) -> dict[str, Any]:
    """Return the options of a preparation with their defaults."""
    parameters = inspect.signature(choose("prepare", name, PREPARATIONS)).parameters
    return {key: p.default for key, p in parameters.items() if key not in _FIXED}


def _known(name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    known = options_of(name)
    for option in options:
        if option not in known:
            others = ", ".join(f"--{key}" for key in known) or "none"
            raise ValueError(f"--{option}: not an option of {name}; it has: {others}")
        if isinstance(known[option], int) and options[option] < 0:
            raise ValueError(f"--{option}: {options[option]} is below 0")
    return options


def _place_images(out: Path, selection: Selection, records: bool) -> str:
    """See that the listed images are there; return the root of their paths."""
    if selection.images.folder is not None:
        return str(selection.images.folder.resolve())
    if not records:
        paths = [path for split in SPLITS for path in selection.splits[split].paths]
        selection.images.write(paths, out / "images", Progress("images"))
    return "images"


def _digests(lists: Path | None) -> dict[str, str] | None:
    """Return the SHA-256 of each list file: with other lists it is another set."""
    if lists is None:
        return None
    if not lists.is_dir():
        raise FileNotFoundError(f"--lists {lists}: no such folder")
    files = [p for p in sorted(lists.iterdir()) if p.name.endswith((".txt", ".gz"))]
    return {path.name: file_digest(path) for path in files if path.is_file()}
