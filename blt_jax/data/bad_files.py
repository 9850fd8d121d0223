"""Training images that cannot be read: stop, or take others of the class instead.

A bad record is replaced by a record of its class that depends on nothing but the number
of the bad record and on which files are bad: the same one in every step, on every
thread, process and host, and after a resume. A run is thus the same as one on a list
whose bad lines name the replacements, and `bad_files.csv` tells which.

Evaluation splits have no such policy: a split that lost images would no longer be the
one that others report on, so there a bad image always stops the run.
"""

import csv
import fcntl
import io
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from blt_jax.choices import check_choice
from blt_jax.data import randomness
from blt_jax.data.decode import BadImageError
from blt_jax.data.split import Split
from blt_jax.data.whole_file import write_whole

POLICIES = ("error", "skip")
# What is wrong with a file. Other errors, of a disk or a network, are the machine's:
# they stop the run under either policy, or the images would depend on the weather.
PROBLEMS = (
    BadImageError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
Read = Callable[[int], np.ndarray]


class Policy(Protocol):
    """What to do about images that cannot be read."""

    def read(self, record: int, read: Read, /) -> tuple[int, np.ndarray]:
        """Read a record or what takes its place: the number of that, its pixels."""


class BadFile(NamedTuple):
    """One bad file; the fields are the columns of `bad_files.csv`."""

    split: str
    record: int  # its number in the split
    path: str
    label: int
    kind: str  # "too large", "not an image", "damaged", "not pixels" or "unreadable"
    problem: str
    replaced_by: str = ""  # path; "" where nothing is replaced


def describe(split: Split, record: int, error: Exception) -> BadFile:
    """Put an error of PROBLEMS about a record into words, on one line."""
    return BadFile(
        split.name,
        record,
        split.ids[record],
        int(split.labels[record]),
        error.kind if isinstance(error, BadImageError) else "unreadable",
        " ".join(str(error).split()),
    )


class BadFiles:
    """The policy for one training split, and what it has met; for many threads.

    policy: "error": raise, with a line that says how to go on; "skip": replace.
    split: the training split.
    class_names: for the message about a class without a good image.
    csv_path: where bad files are listed, each path once; None: nowhere. Threads and
      processes of one machine may share the file; each host takes one of its own.
    """

    def __init__(
        self,
        policy: str,
        split: Split,
        *,
        class_names: Sequence[str] = (),
        csv_path: str | os.PathLike[str] | None = None,
    ):
        check_choice("data.bad_files", policy, POLICIES)
        self._skip = policy == "skip"
        self._split = split
        self._class_names = tuple(class_names)
        self._list = None if csv_path is None else BadFileList(csv_path)
        # Record -> what is wrong, and record -> the one taken instead. Each entry is
        # the same whichever thread finds it, so that none waits for another. No errors
        # are kept: they would hold on to the images.
        self._bad: dict[int, BadFile] = {}
        self._replaced_by: dict[int, int] = {}

    def read(self, record: int, read: Read) -> tuple[int, np.ndarray]:
        """Read a record or its replacement: the number of the one read, its pixels.

        read: record -> pixels; may be called for several records, so it draws nothing
          that would not be drawn again.

        Raises:
          BadImageError: policy "error", or no image of the class can be read.
          OSError: policy "error", or the machine fails.
        """
        if record not in self._bad:
            try:
                return record, read(record)
            except PROBLEMS as error:
                if not self._skip:
                    raise _with_advice(error) from None
                self._bad[record] = describe(self._split, record, error)
        for other in self._candidates(record):
            try:
                pixels = read(other)
            except PROBLEMS as error:
                self._bad[other] = describe(self._split, other, error)
                continue
            self._found(record, other)
            return other, pixels
        raise self._no_image_left(record)

    def _candidates(self, record: int) -> Iterable[int]:
        """Records of the class in the order of trying, those known as bad left out."""
        known = self._replaced_by.get(record)
        if known is not None:
            yield known
        labels = self._split.labels
        members = np.flatnonzero(labels == labels[record])
        words = randomness.philox(0, randomness.REPLACEMENT, high=record)
        order = np.argsort(words.random_raw(len(members)), kind="stable")
        for other in members[order].tolist():
            if other not in self._bad:
                yield other

    def _found(self, record: int, other: int) -> None:
        if self._replaced_by.get(record) == other:
            return
        self._replaced_by[record] = other
        if self._list is not None:
            replaced_by = self._split.ids[other]
            self._list.add(self._bad[record]._replace(replaced_by=replaced_by))

    def _no_image_left(self, record: int) -> BadImageError:
        label = int(self._split.labels[record])
        name = f" {self._class_names[label]!r}" if self._class_names else ""
        count = int((self._split.labels == label).sum())
        return BadImageError(
            f"no image of class {label}{name} can be read: all {count} of split "
            f"{self._split.name!r} are bad, the first because of "
            f"'{self._bad[record].problem}'; mend the files, or take the class out"
        )


class Noted:
    """The policy of predictions: a black image, and a note of why, for many threads.

    image_size: S of the image [S, S, 3]. errors: record -> one line; whoever reads one
    takes it out.
    """

    def __init__(self, image_size: int):
        self._shape = (image_size, image_size, 3)
        self.errors: dict[int, str] = {}

    def read(self, record: int, read: Read) -> tuple[int, np.ndarray]:
        """Read a record; one that cannot be read, whatever the reason, is black."""
        try:
            return record, read(record)
        except (BadImageError, OSError) as error:
            self.errors[record] = " ".join(str(error).split())
            return record, np.zeros(self._shape, np.uint8)


class BadFileList:
    """A CSV file to which several threads and processes add bad files, each once.

    What an earlier run has listed stays, and is not listed again.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = os.fspath(path)
        self._offset = 0
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def add(self, bad: BadFile) -> None:
        """Append a file unless it is listed."""
        with self._lock, open(self._path, "a+b") as file:
            # Released when the file is closed. One row is one write.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(self._offset)
            new = file.read()
            self._known |= _paths(new)
            rows = [] if self._offset or new else [BadFile._fields]
            if bad.path not in self._known:
                self._known.add(bad.path)
                # A process that was killed may have left half a row.
                half = b"\n" if new and not new.endswith(b"\n") else b""
                file.write(half + _rows([*rows, bad]))
                file.flush()
            self._offset = file.seek(0, os.SEEK_END)

    def __getstate__(self) -> dict[str, object]:
        """For another process: a lock of its own, and the file anew."""
        return {"path": self._path}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


def write_bad_files(path: str | os.PathLike[str], bad: Iterable[BadFile]) -> None:
    """Write a CSV file of bad files, all or nothing, in place of what was there."""
    write_whole(path, _rows([BadFile._fields, *bad]))


def _rows(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    # Names of files need not be text.
    return text.getvalue().encode("utf-8", "surrogateescape")


def _paths(content: bytes) -> set[str]:
    text = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
    column = BadFile._fields.index("path")
    return {row[column] for row in csv.reader(text) if len(row) == len(BadFile._fields)}


def _with_advice(error: Exception) -> Exception:
    """The same kind of error, with what a training run may do about it."""
    text = (
        f"{' '.join(str(error).split())}; or set data.bad_files to 'skip', to train "
        "with other images of the class instead"
    )
    if isinstance(error, BadImageError):
        return BadImageError(text, error.kind)
    return type(error)(text)
