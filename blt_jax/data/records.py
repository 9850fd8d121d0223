"""ArrayRecord shards of encoded images, read by number.

`SPLIT-00002-of-00007.array_record` holds whole JPEG, PNG, WebP or BMP files, in the
order of the list `SPLIT.txt`, and nothing else: labels and names are in the list.
"""

import bisect
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from blt_jax.data.decode import BadImageError

_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
SUFFIX = ".array_record"
# How the messages begin when a checksum is wrong; others are of the system's calls.
_CORRUPTED = "Corrupted"


def verify_records(folder: Path, shards: Sequence[dict[str, Any]]) -> None:
    """Compare shards with what `write_records` returned when it wrote them.

    Raises:
      FileNotFoundError, ValueError: names the first shard that is missing or differs.
    """
    for shard in shards:
        path = folder / shard["file"]
        if not path.is_file():
            raise FileNotFoundError(_missing(path))
        size = path.stat().st_size
        if size != shard["bytes"]:
            what = f"has {size} bytes instead of {shard['bytes']}"
        elif sha256(path) != shard["sha256"]:
            what = "has another SHA-256 than when it was written"
        else:
            continue
        raise ValueError(f"{path}: {what}; remove it and prepare the data set again")


class RecordSource:
    """Item i -> the i-th record of a split, bytes.

    For any number of threads. A pickled copy, for another process, opens the shards
    anew when it reads from them.

    count: how many records there must be.

    Every record has a checksum, and one that does not fit is a bad image, as a damaged
    file among others would be. A shard that is lost as a whole is none.

    Raises:
      FileNotFoundError, ValueError: a shard is missing, damaged or something else, or
        the number of records is another one.
      BadImageError: when a record is read that is damaged.
      OSError: when its shard has been cut short or removed since, or cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str, count: int):
        self._split = split
        self._paths = _find_shards(Path(folder), split)
        self._readers: dict[int, ArrayRecordReader] = {}
        self._lock = threading.Lock()
        numbers = [self._reader(k).num_records() for k in range(len(self._paths))]
        # Shard k holds the records from _starts[k] on, up to _starts[k + 1].
        self._starts = list(itertools.accumulate(numbers, initial=0))
        if len(self) != count:
            raise ValueError(
                f"{folder}: the shards of {split!r} hold {len(self)} records, but "
                f"{split}.txt lists {count} images; they belong to another list, so "
                "prepare the data set again"
            )

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, item: int) -> bytes:
        item = range(len(self))[item]
        shard = bisect.bisect_right(self._starts, item) - 1
        position = item - self._starts[shard]
        path = self._paths[shard]
        try:
            reader = self._reader(shard)
            # Reads at a position: needs no lock, other than seek() and read().
            record: bytes = reader.read([position])[0]
        except RuntimeError as error:
            _check_shard(path)
            raise record_error(f"{path}: record {position}", error) from None
        except (OSError, ValueError) as error:
            raise _of_shard(error) from None
        if not record:
            # What is found beyond the end of a file that was cut short since.
            _check_shard(path)
        return record

    def __repr__(self) -> str:
        return f"RecordSource({self._split!r}, {len(self)} records)"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_lock": threading.Lock()})

    def _reader(self, shard: int) -> ArrayRecordReader:
        reader = self._readers.get(shard)
        if reader is None:
            with self._lock:
                reader = self._readers.get(shard) or open_shard(self._paths[shard])
                self._readers[shard] = reader
        return reader


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find_shards(folder: Path, split: str) -> list[Path]:
    """Return the paths of all shards of a split, in order."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        names = []
    found = {
        name: number for name in names if (number := shards_in(name, split)) is not None
    }
    if not found:
        raise FileNotFoundError(
            f"{folder / split}-00000-of-*{SUFFIX}: no such shard; set data.root to a "
            "folder that was prepared with records"
        )
    totals = sorted(set(found.values()))
    if len(totals) > 1:
        raise ValueError(
            f"{folder}: shards of {split!r} of two writings, of {totals[0]} and of "
            f"{totals[1]}; remove those that do not belong here"
        )
    paths = [
        folder / f"{split}-{shard:05d}-of-{totals[0]:05d}{SUFFIX}"
        for shard in range(totals[0])
    ]
    for path in paths:
        if path.name not in found:
            raise FileNotFoundError(_missing(path))
    return paths


def shards_in(name: str, split: str) -> int | None:
    """Return how many shards there are, by the name of one; None: no shard of it."""
    match = re.fullmatch(rf"{re.escape(split)}-\d{{5}}-of-(\d{{5}}){SUFFIX}", name)
    return int(match[1]) if match else None


def open_shard(path: Path) -> ArrayRecordReader:
    """Open one shard. Raises FileNotFoundError or ValueError if there is none."""
    if not path.is_file():
        raise FileNotFoundError(_missing(path))
    reader = ArrayRecordReader(os.fspath(path), _READER_OPTIONS)
    if not reader.ok():
        raise ValueError(
            f"{path}: cut short, or not an ArrayRecord file; copy it again, or remove "
            "it and prepare the data set again"
        )
    return reader


def record_error(record: str, error: RuntimeError) -> Exception:
    """The error for a record, by what ArrayRecord says about it.

    Returns:
      BadImageError: a checksum does not fit; OSError: the machine could not read it.
    """
    problem = " ".join(str(error).split())
    if problem.startswith(_CORRUPTED):
        return BadImageError(
            f"{record} is damaged ({problem}); prepare the data set again"
        )
    return OSError(f"{record} cannot be read ({problem})")


def _check_shard(path: Path) -> None:
    """Raise an OSError if a shard, once opened, could not be opened again."""
    try:
        open_shard(path).close()
    except (OSError, ValueError) as error:
        raise _of_shard(error) from None


def _of_shard(error: Exception) -> OSError:
    # Plain: FileNotFoundError would be taken for an image's, and its images replaced.
    return OSError(str(error))


def _missing(path: Path) -> str:
    return f"{path}: this shard is missing; copy it here, or prepare the data set again"
