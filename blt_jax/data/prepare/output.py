"""What a preparation leaves behind: lists, class map, and last prepared.json."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from blt_jax.data.folders import save_class_map
from blt_jax.data.lists import read_class_names
from blt_jax.data.prepare.images import write_file
from blt_jax.data.prepare.request import SPLITS, Selection
from blt_jax.data.record_writer import write_records
from blt_jax.data.shots import shot_masks

PREPARED, BEGUN = "prepared.json", "preparing.json"
CONFIG = "config.py"
_FORMAT = 1
_LISTS = "lists_sha256"


def begin(out: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Claim a folder for settings; return prepared.json if all is done already.

    Raises:
      ValueError: the folder holds a preparation with other settings, or list files of
        unknown origin.
    """
    for name in (PREPARED, BEGUN):
        path = out / name
        if not path.is_file():
            continue
        content = _read(path)
        _refuse_other(path, content.get("settings", {}), settings)
        if name == PREPARED:
            _check_lists(path, content)
            return content
        return None
    taken = [name for name in (f"{s}.txt" for s in SPLITS) if (out / name).exists()]
    if taken:
        raise ValueError(
            f"--out {out}: holds {taken[0]}, which no preparation has written; choose "
            "another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / BEGUN, {"format": _FORMAT, "settings": settings})
    return None


def finish(
    out: Path,
    selection: Selection,
    settings: Mapping[str, Any],
    *,
    data_root: str,
    records: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write lists, class names and class map, then prepared.json; return its content.

    data_root: what the lists' paths are relative to: a full path, or one below `out`.
    """
    num_classes = len(selection.class_ids)
    lines = [
        f"{key}\t{name}\n"
        for key, name in zip(selection.class_ids, selection.class_names, strict=True)
    ]
    _write(out / "classes.txt", "".join(lines))
    # Read back, so that the class map holds the names that training will see.
    save_class_map(out / "class_map.json", read_class_names(out / "classes.txt"))
    digests = {}
    for split in SPLITS:
        listing = selection.splits[split]
        if not len(listing.labels):
            continue
        text = "".join(
            f"{_checked(path)} {label}\n"
            for path, label in zip(listing.paths, listing.labels.tolist(), strict=True)
        )
        digests[f"{split}.txt"] = _write(out / f"{split}.txt", text)
    counts = {
        split: np.bincount(selection.splits[split].labels, minlength=num_classes)
        for split in SPLITS
    }
    masks = shot_masks(counts["train"])
    content = {
        "format": _FORMAT,
        "settings": dict(settings),
        "name": settings["name"],
        "rule": selection.rule,
        "warnings": list(selection.warnings),
        "data_root": data_root,
        "num_classes": num_classes,
        "images": {split: int(each.sum()) for split, each in counts.items()},
        "shots": {
            name.removesuffix("_shot"): int(mask.sum())
            for name, mask in masks._asdict().items()
        },
        **selection.facts,
        "lists_sha256": digests,
        "records": records,
        "class_counts": {split: each.tolist() for split, each in counts.items()},
    }
    _write_json(out / PREPARED, content)
    (out / BEGUN).unlink(missing_ok=True)
    return content


def describe(out: Path, content: Mapping[str, Any]) -> str:
    """Return what a person wants to see at the end, with the flags to train with."""
    images, shots = content["images"], content["shots"]
    counts = [count for count in content["class_counts"]["train"] if count]
    lines = [
        f"{content['name']}: {content['num_classes']} classes "
        f"({shots['many']} many-, {shots['medium']} medium-, {shots['few']} few-shot), "
        f"{max(counts)} to {min(counts)} training images a class",
        f"images: {images['train']} train, {images['val']} val, {images['test']} test",
        f"rule: {content['rule']}",
    ]
    lines += [f"WARNING: {warning}" for warning in content["warnings"]]
    flags = training_flags(out, content)
    shown = " \\\n    ".join(f"--config.data.{k}={v}" for k, v in flags.items())
    return "\n".join(
        [
            *lines,
            f"wrote {out}; to train:",
            f"blt-jax train --config={out / CONFIG} --workdir=runs/{content['name']}",
            "or, with a file of configs/, add to the command:",
            shown,
        ]
    )


def training_flags(out: Path, content: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of `config.data` that read what was prepared."""
    out = out.resolve()
    listed = {
        split: f"{split}.txt" if f"{split}.txt" in content["lists_sha256"] else ""
        for split in SPLITS
    }
    if content["records"]:
        return {"kind": "records", "root": str(out), **listed}
    lists = {split: file and str(out / file) for split, file in listed.items()}
    return {
        "kind": "lists",
        "root": str(out / content["data_root"]),
        **lists,
        "class_names": str(out / "classes.txt"),
        "num_classes": str(content["num_classes"]),
    }


def write_all_records(
    out: Path,
    selection: Selection,
    *,
    shorter_side: int | None,
    report: Callable[[str], Callable[[int, int], None]],
) -> dict[str, Any]:
    """Write each split as ArrayRecord below OUT/records; record i is line i.

    report: name of a task -> function (done, total).
    """
    paths = {split: selection.splits[split].paths for split in SPLITS}
    everything = [path for split in SPLITS for path in paths[split]]
    read = selection.images.reader(everything, out / "images", report("images"))
    result = {}
    for split, listed in paths.items():
        if listed:
            result[split] = write_records(
                out / "records",
                split,
                len(listed),
                partial(_nth, read, listed),
                shorter_side=shorter_side,
                report=report(f"{split} records"),
            )
    return result


def _nth(read: Callable[[str], bytes], paths: Sequence[str], item: int) -> bytes:
    return read(paths[item])


def _checked(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or "\n" in path or not path:
        raise ValueError(
            f"{path!r}: cannot stand in a list file; paths are relative, without '..' "
            "and line breaks; rename the file"
        )
    return path


def _refuse_other(
    path: Path, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    for name in now.keys() | before.keys():
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{path}: prepared with {ascii(name)[1:-1]:.200} "
                f"{before.get(name)!r:.200}, not {now.get(name)!r:.200}; choose "
                "another --out, or remove that folder to prepare it anew"
            )


def _check_lists(path: Path, content: Mapping[str, Any]) -> None:
    for name, digest in content.get(_LISTS, {}).items():
        file = path.parent / name
        if not file.is_file() or _sha256(file.read_bytes()) != digest:
            raise ValueError(
                f"{file}: changed or gone since it was prepared; remove {path} to "
                "write it again"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["format"] != _FORMAT or not (
            isinstance(content["settings"], dict)
            and all(re.fullmatch(r"[\w.-]+", n) for n in content.get(_LISTS, {}))
            and isinstance(content.get(_LISTS, {}), dict)
        ):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"{path}: not written by this command, or damaged; remove it, or choose "
            "another --out"
        ) from None
    return content


def _write(path: Path, text: str) -> str:
    content = text.encode("utf-8", "surrogateescape")
    write_file(path, content)
    return _sha256(content)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
