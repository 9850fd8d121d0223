"""Class folders, their natural order, and the class map that a run saves."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from blt_jax.data.whole_file import write_whole

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_CLASS_MAP_FORMAT = 1


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names as people do: "2" before "10"; equal to the eye, by code point."""

    def key(name: str) -> tuple[list[str | int], str]:
        # Odd parts are the digits, so that equal places always compare like types.
        parts = re.split(r"([0-9]+)", name)
        return [int(p) if i % 2 else p.casefold() for i, p in enumerate(parts)], name

    return sorted(names, key=key)


def class_folders(
    folder: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> tuple[str, ...]:
    """Return the names of the class folders in natural order; hidden ones left out.

    root: see `image_files`.
    """
    roots = _real(folder, root)
    names = []
    try:
        with os.scandir(os.fspath(folder)) as entries:
            for entry in entries:
                if _hidden(entry.name) or not entry.is_dir():
                    continue
                if entry.is_symlink():
                    _check_inside(entry.path, roots)
                names.append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{os.fspath(folder)}: no such folder; set data.root to the folder that "
            "holds it, and data.train, data.val, data.test to its name"
        ) from None
    if not names:
        raise ValueError(
            f"{os.fspath(folder)}: no class folders in it; put the images of each "
            "class into a folder of its own"
        )
    return tuple(natural_order(names))


def image_files(
    folder: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> list[str]:
    """Return the paths of all images below a folder, in natural order.

    Images are told by their extension; hidden files and folders are left out, links to
    folders are not followed.

    root: links to images may lead to anywhere below it, or below the folder; None:
      below the folder only.

    Raises:
      ValueError: a link that leads elsewhere, or what is no file (a pipe, a device).
      FileNotFoundError: a link that leads nowhere.
    """
    roots = _real(folder, root)
    found = []
    for entry in _images(folder):
        _check_file(entry, roots)
        found.append(entry.path)
    return natural_order(found)


def loose_images(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the images that a person names, to be looked at and not learned from.

    paths: a file is taken as it is, of a folder what `image_files` finds. Links to
      images may lead anywhere, and what cannot be read is among them.

    Raises:
      FileNotFoundError: a path that is not there.
      ValueError: no image at all.
    """
    found: list[str] = []
    folders = []
    for path in [os.fspath(path) for path in paths]:
        if os.path.isdir(path):
            folders.append(path)
            found += natural_order(entry.path for entry in _images(path))
        elif os.path.lexists(path):
            found.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    if not found:
        raise ValueError(
            f"{', '.join(folders)}: no images there; known extensions: "
            + ", ".join(EXTENSIONS)
        )
    return found


def _images(folder: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """What is called as an image below a folder, in any order."""
    unread = [os.fspath(folder)]
    while unread:
        with os.scandir(unread.pop()) as entries:
            for entry in entries:
                if _hidden(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    unread.append(entry.path)
                elif entry.name.lower().endswith(EXTENSIONS) and not entry.is_dir():
                    yield entry


def read_folder(
    folder: str | os.PathLike[str],
    class_names: Sequence[str] | None = None,
    *,
    every_class: bool = False,
    root: str | os.PathLike[str] | None = None,
) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Read class folders: paths [N], labels [N] int32, class names [C].

    class_names: the class map to obey; a class without a folder is allowed, a folder
      that is no class is refused. None: the folders are the classes.
    every_class: refuse a class without images (training).
    root: of the data set; links that lead out of it are refused.
    """
    root = folder if root is None else root
    found = class_folders(folder, root=root)
    names = found if class_names is None else tuple(class_names)
    unknown = [name for name in found if name not in set(names)]
    if unknown:
        raise ValueError(
            f"{os.path.join(folder, unknown[0])}: {unknown[0]!r} is not one of the "
            f"{len(names)} classes of the class map (made from the training folders); "
            "rename or remove the folder"
        )
    paths: list[str] = []
    labels: list[int] = []
    present = set(found)
    for label, name in enumerate(names):
        files = (
            image_files(os.path.join(folder, name), root=root)
            if name in present
            else []
        )
        if every_class and not files:
            raise ValueError(
                f"{os.path.join(folder, name)}: no image for class {name!r}; add "
                f"images ({', '.join(EXTENSIONS)}) or remove the class"
            )
        paths += files
        labels += [label] * len(files)
    if not paths:
        raise ValueError(
            f"{os.fspath(folder)}: no images in its class folders; known extensions: "
            + ", ".join(EXTENSIONS)
        )
    return paths, np.array(labels, np.int32), names


def save_class_map(path: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Write the class names in label order as JSON, all or nothing."""
    content = {"format": _CLASS_MAP_FORMAT, "class_names": list(names)}
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def load_class_map(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read class names that `save_class_map` wrote; the position is the label."""
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        names = content["class_names"]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{os.fspath(path)}: no such class map; copy the file of the training run, "
            "or prepare the data set again"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        names = None
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) != len(names)
    ):
        raise ValueError(
            f"{os.fspath(path)}: not a class map; expected JSON with a list of "
            "different names under 'class_names'; copy the file of the training run"
        )
    return tuple(names)


def _real(*folders: str | os.PathLike[str] | None) -> list[str]:
    return [os.path.realpath(folder) for folder in folders if folder is not None]


def _check_inside(path: str, roots: Sequence[str]) -> None:
    real = os.path.realpath(path)
    if not any(os.path.commonpath([real, root]) == root for root in roots):
        raise ValueError(
            f"{path}: a link out of {roots[-1]}, to {real}; put the images below "
            "data.root, or set data.root to a folder above both"
        )


def _check_file(entry: os.DirEntry[str], roots: Sequence[str]) -> None:
    if entry.is_symlink():
        _check_inside(entry.path, roots)
    if entry.is_file():
        return
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise FileNotFoundError(
            f"{entry.path}: a link to a file that is not there; mend or remove it"
        )
    raise ValueError(f"{entry.path}: not a file; remove it or give it another name")


def _hidden(name: str) -> bool:
    return name.startswith(".")
