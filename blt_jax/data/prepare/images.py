"""Where the bytes of listed images come from: a folder, archives, or arrays."""

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from blt_jax.data.folders import EXTENSIONS
from blt_jax.data.prepare.archives import Archive, Place, archives_in
from blt_jax.data.whole_file import write_whole

Report = Callable[[int, int], None]
Read = Callable[[str], bytes]
# Relative path of a file -> what tells the image apart; None: no image of ours.
Key = Callable[[str], str | None]


class Images(Protocol):
    """The images of a data set by their listed paths."""

    @property
    def folder(self) -> Path | None:
        """The folder where they lie already; None: `write` puts them somewhere."""
        ...

    def write(self, paths: Sequence[str], folder: Path, report: Report) -> None:
        """Write the images below a folder; those already there are left as they are."""
        ...

    def reader(self, paths: Sequence[str], folder: Path, report: Report) -> Read:
        """Return a function path -> bytes for several threads.

        folder: images that can only be read in sequence are written there first.
        """
        ...


@dataclass(frozen=True)
class FolderImages:
    """Images that lie in a folder: nothing is copied."""

    folder: Path

    def write(self, paths: Sequence[str], folder: Path, report: Report) -> None:
        """Nothing to do."""

    def reader(self, paths: Sequence[str], folder: Path, report: Report) -> Read:
        """Return a function that reads the file."""
        return lambda path: (self.folder / path).read_bytes()


@dataclass(frozen=True)
class ArchiveImages:
    """Images in archives, found by `key`, which is equal for a path and its member."""

    archives: Sequence[Archive]
    key: Key
    folder: None = None

    def write(self, paths: Sequence[str], folder: Path, report: Report) -> None:
        """Write the images below a folder; those already there are left as they are."""
        wanted = _by_key(paths, self.key)
        # Images are renamed into place when whole, so one that is there is whole. A
        # machine that lost its power may leave empty ones.
        missing = {
            key: path
            for key, path in wanted.items()
            if not _size(folder / path)
        }  # fmt: skip
        done = len(wanted) - len(missing)
        report(done, len(wanted))
        for archive in self.archives:
            if not missing:
                return
            for member in archive.members():
                path = missing.pop(self.key(member.name) or "", None)
                if path is not None:
                    write_file(folder / path, member.read())
                    done += 1
                    report(done, len(wanted))
                    if not missing:
                        return
        _refuse_missing(missing.values(), _names(self.archives))

    def reader(self, paths: Sequence[str], folder: Path, report: Report) -> Read:
        """Return a function path -> bytes; compressed tar is unpacked first."""
        if not all(archive.random_access() for archive in self.archives):
            self.write(paths, folder, report)
            return FolderImages(folder).reader(paths, folder, report)
        wanted = _by_key(paths, self.key)
        places: dict[str, tuple[Callable[[Place], bytes], Place]] = {}
        for archive in self.archives:
            read_place = archive.reader()
            for member in archive.members():
                path = wanted.pop(self.key(member.name) or "", None)
                if path is not None:
                    places[path] = read_place, member.place
        _refuse_missing(wanted.values(), _names(self.archives))

        def read(path: str) -> bytes:
            read_place, place = places[path]
            return read_place(place)

        return read


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory, written as PNG, which loses nothing.

    arrays: name of an array -> uint8 [N, h, w, 3].
    place: path -> name of the array, and the number in it.
    """

    arrays: Mapping[str, np.ndarray]
    place: Mapping[str, tuple[str, int]]
    folder: None = None

    def write(self, paths: Sequence[str], folder: Path, report: Report) -> None:
        """Write the images below a folder; those already there are left as they are."""
        read = self.reader(paths, folder, report)
        paths = list(dict.fromkeys(paths))
        for done, path in enumerate(paths, 1):
            if not _size(folder / path):
                write_file(folder / path, read(path))
            report(done, len(paths))

    def reader(self, paths: Sequence[str], folder: Path, report: Report) -> Read:
        """Return a function that encodes an image as PNG."""

        def read(path: str) -> bytes:
            name, number = self.place[path]
            content = io.BytesIO()
            Image.fromarray(self.arrays[name][number]).save(content, "PNG")
            return content.getvalue()

        return read


def locate(
    sources: Sequence[Path], lists: Mapping[str, Sequence[str]], key: Key
) -> tuple[dict[str, list[str]], Images]:
    """Find listed images in the sources: the paths to list, and the images.

    In a folder the paths become those of the files that are there, relative to it. For
    archives they stay as they are.

    sources: archives, or one folder.
    lists: paths by split.

    Raises:
      ValueError, FileNotFoundError: one line; what cannot be found is counted.
    """
    found = [archives_in(source) for source in sources]
    if all(found):
        archives = [Archive(path) for paths in found for path in paths]
        return {name: list(paths) for name, paths in lists.items()}, ArchiveImages(
            archives, key
        )
    if len(sources) > 1:
        raise ValueError(
            "--source: give one folder, or archives only; put several folders into "
            "one (moving or linking them)"
        )
    folder = sources[0]
    wanted = _by_key([path for paths in lists.values() for path in paths], key)
    actual: dict[str, str] = {}
    for path in files_below(folder):
        known = wanted.get(key(path) or "")
        # Of two copies the one that lies where the list says is taken.
        if known is not None and (path == known or known not in actual):
            actual[known] = path
    _refuse_missing([p for p in wanted.values() if p not in actual], str(folder))
    return {
        name: [actual[path] for path in paths] for name, paths in lists.items()
    }, FolderImages(folder)


def files_below(folder: Path) -> Iterable[str]:
    """Yield the image files below a folder as paths relative to it; hidden left out."""
    root = os.fspath(folder)
    for base, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        start = os.path.relpath(base, root).replace(os.sep, "/")
        prefix = "" if start == "." else f"{start}/"
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield prefix + name


def write_file(path: Path, content: bytes) -> None:
    """Write a file, all or nothing."""
    try:
        write_whole(path, content)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


def read_named(sources: Sequence[Path], names: Iterable[str]) -> dict[str, bytes]:
    """Read files by their bare names, from folders (two levels deep) or archives.

    Those that are not there are left out; of several of one name the first counts.
    """
    wanted = set(names)
    found: dict[str, bytes] = {}
    for source in sources:
        archives = archives_in(source)
        if not archives:
            for pattern in ("*", "*/*"):
                for path in sorted(source.glob(pattern)):
                    if path.name in wanted - found.keys() and path.is_file():
                        found[path.name] = path.read_bytes()
        for archive in archives:
            for member in Archive(archive).members():
                name = member.name.rpartition("/")[2]
                if name in wanted - found.keys():
                    found[name] = member.read()
                    if len(found) == len(wanted):
                        return found
    return found


def _by_key(paths: Iterable[str], key: Key) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for path in paths:
        name = key(path)
        if name is None:
            raise ValueError(f"{path!r} in the lists: not an image of this data set")
        if wanted.setdefault(name, path) != path:
            raise ValueError(
                f"the lists name one image twice: {wanted[name]!r} and {path!r}"
            )
    return wanted


def _refuse_missing(paths: Iterable[str], where: str) -> None:
    paths = list(paths)
    if paths:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        raise FileNotFoundError(
            f"--source {where}: no image {paths[0]!r}{more}, which the lists name; "
            "give the complete archives or folders as the site ships them"
        )


def _names(archives: Sequence[Archive]) -> str:
    return ", ".join(str(archive.path) for archive in archives)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0
