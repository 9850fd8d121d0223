"""Reading archives that somebody downloaded: member by member, nothing unpacked unseen.

No member's name ever becomes a place on the disk: callers choose the place. Names are
checked all the same, for an archive with a hostile name is not what the site ships.
"""

import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")
_GIB = 2**30


class Limits(NamedTuple):
    """Bytes that a member, an archive inside the archive, and all of them may have."""

    member: int = _GIB // 4
    inner: int = 8 * _GIB
    total: int = 2048 * _GIB


class Place(NamedTuple):
    """Where a regular file is in an archive.

    name: relative path with "/"; of a file in an inner archive "INNER/NAME".
    size: bytes when unpacked.
    offset: where its bytes start in the file of the archive; None: compressed.
    """

    name: str
    size: int
    offset: int | None


class Member(NamedTuple):
    """A regular file in an archive, while the archive is gone through.

    read: its bytes; only until the next member is asked for.
    """

    place: Place
    read: Callable[[], bytes]

    @property
    def name(self) -> str:
        """Relative path."""
        return self.place.name


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Archive:
    """A tar, compressed tar or zip file."""

    path: Path
    limits: Limits = DEFAULT_LIMITS

    def is_zip(self) -> bool:
        """True for a zip file, told by its first bytes."""
        return self._start(4) in (b"PK\x03\x04", b"PK\x05\x06")

    def random_access(self) -> bool:
        """True where `reader` works: zip, and tar that is not compressed."""
        if self.is_zip():
            return True
        return self._start(2) not in (b"\x1f\x8b", b"BZ") and self._start(6) != (
            b"\xfd7zXZ\0"
        )

    def members(self) -> Iterator[Member]:
        """Yield the regular files in the order of the archive.

        Raises:
          ValueError: a hostile name, a link or a device where a file should be, above
            the limits, damaged, or cut short; one line with archive and member.
        """
        total = 0
        with self._plain_errors():
            walk = self._zip_members() if self.is_zip() else self._tar_members()
            for member in walk:
                total += member.place.size
                if total > self.limits.total:
                    raise ValueError(
                        f"{self.path}: more than {self.limits.total} bytes when "
                        "unpacked; that is no archive of images"
                    )
                yield member

    def reader(self) -> Callable[[Place], bytes]:
        """Return a function that reads a file of an archive with random access.

        It may be called by several threads at once, at any time, in any order.
        """
        opened, stored = None, {}
        if self.is_zip():
            # Opened once: the directory of a zip file is long.
            opened = zipfile.ZipFile(self.path)
            stored = {self._checked(e.filename): e for e in opened.infolist()}

        def read(place: Place) -> bytes:
            with self._plain_errors():
                if opened is not None:
                    content = opened.read(stored[place.name])
                else:
                    # A file of its own for each call: no position is shared.
                    with open(self.path, "rb") as file:
                        file.seek(place.offset or 0)
                        content = file.read(place.size)
            if len(content) != place.size:
                raise ValueError(f"{self.path}: {place.name!r} is cut short")
            return content

        return read

    def _tar_members(self) -> Iterator[Member]:
        with tarfile.open(self.path, "r:*") as outer:
            plain = self.random_access()
            for entry in _entries(outer):
                name = self._checked(entry.name)
                if entry.isdir():
                    continue
                if not name.endswith(".tar"):
                    yield self._tar_member(outer, entry, name, 0 if plain else None)
                    continue
                # ImageNet's training archive holds one archive a class.
                self._check_size(name, entry.size, self.limits.inner)
                self._check_regular(entry, name)
                start = entry.offset_data if plain else None
                with tarfile.open(fileobj=outer.extractfile(entry), mode="r:") as inner:
                    for below in _entries(inner):
                        below_name = self._checked(below.name)
                        if not below.isdir():
                            full = f"{name.removesuffix('.tar')}/{below_name}"
                            yield self._tar_member(inner, below, full, start)

    def _tar_member(
        self, tar: tarfile.TarFile, entry: tarfile.TarInfo, name: str, start: int | None
    ) -> Member:
        self._check_regular(entry, name)
        self._check_size(name, entry.size, self.limits.member)

        def read() -> bytes:
            with self._plain_errors():
                file = tar.extractfile(entry)
                content = b"" if file is None else file.read(entry.size)
            if len(content) != entry.size:
                raise ValueError(f"{self.path}: {name!r} is cut short; fetch it again")
            return content

        offset = None if start is None else start + entry.offset_data
        return Member(Place(name, entry.size, offset), read)

    def _zip_members(self) -> Iterator[Member]:
        with zipfile.ZipFile(self.path) as archive:
            for entry in archive.infolist():
                name = self._checked(entry.filename)
                if entry.is_dir():
                    continue
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if kind not in (0, stat.S_IFREG) or entry.flag_bits & 1:
                    raise ValueError(
                        f"{self.path}: {name!r} is a link, a device or encrypted, not "
                        "a plain file; fetch the archive from the site again"
                    )
                self._check_size(name, entry.file_size, self.limits.member)

                def read(entry: zipfile.ZipInfo = entry, name: str = name) -> bytes:
                    with self._plain_errors():
                        content = archive.read(entry)
                    if len(content) != entry.file_size:
                        raise ValueError(
                            f"{self.path}: {name!r} is cut short; fetch it again"
                        )
                    return content

                yield Member(Place(name, entry.file_size, None), read)

    def _checked(self, name: str) -> str:
        parts = name.replace("\\", "/").split("/")
        if parts[0] == "" or parts[0].endswith(":") or ".." in parts or "\0" in name:
            raise ValueError(
                f"{self.path}: the member {name!r} leads out of the folder; this is "
                "not what the site ships, so fetch the archive again"
            )
        return "/".join(part for part in parts if part not in ("", "."))

    def _check_regular(self, entry: tarfile.TarInfo, name: str) -> None:
        try:
            tarfile.data_filter(entry, os.fspath(self.path.parent))
        except tarfile.FilterError as error:
            raise ValueError(
                f"{self.path}: {name!r} is refused: {error}; fetch the archive again"
            ) from None
        # Sparse files would be bytes that are nowhere in the archive.
        if not entry.isreg() or entry.issparse():
            raise ValueError(
                f"{self.path}: {name!r} is a link or a device, not a plain file; "
                "fetch the archive from the site again"
            )

    def _check_size(self, name: str, size: int, most: int) -> None:
        if size > most:
            raise ValueError(
                f"{self.path}: {name!r} has {size} bytes when unpacked, more than the "
                f"{most} that are allowed"
            )

    def _start(self, count: int) -> bytes:
        with open(self.path, "rb") as file:
            return file.read(count)

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except (
            tarfile.TarError,
            zipfile.BadZipFile,
            gzip.BadGzipFile,
            lzma.LZMAError,
            zlib.error,
            EOFError,
            NotImplementedError,
            MemoryError,
            OverflowError,
            RuntimeError,
            ValueError,
            OSError,
            struct.error,
        ) as error:
            if os.fspath(self.path) in str(error):  # said already; a fault of the disk
                raise
            # The message may have a line for each kind of archive that was tried.
            line = str(error).split("\n")[0].rstrip(":")[:300]
            reason = "".join(c if c.isprintable() else "?" for c in line)
            raise ValueError(
                f"{self.path}: damaged, cut short or no tar or zip archive ({reason}); "
                "fetch it again"
            ) from None
        except KeyError:
            raise ValueError(f"{self.path}: has changed; start again") from None


def archives_in(source: Path) -> list[Path]:
    """Return the archives that a source stands for; none: it is a folder of files.

    A folder counts as its archives where it holds archives and no folders.
    """
    if not source.is_dir():
        if not source.exists():
            raise FileNotFoundError(f"--source {source}: no such file or folder")
        return [source]
    entries = sorted(source.iterdir())
    if any(entry.is_dir() and not entry.name.startswith(".") for entry in entries):
        return []
    return [entry for entry in entries if entry.name.endswith(ENDINGS)]


def _entries(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (entry := tar.next()) is not None:
        yield entry
        # It would remember all of them: gigabytes for a million images.
        tar.members.clear()  # type: ignore[attr-defined]
