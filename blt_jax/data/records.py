"""ArrayRecord shards of encoded images: written once, then read by number.

`SPLIT-00002-of-00007.array_record` holds whole JPEG, PNG, WebP or BMP files, in the
order of the list `SPLIT.txt`, and nothing else: labels and names are in the list.
"""

import bisect
import hashlib
import io
import itertools
import json
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

from blt_jax.data.decode import BadImageError, open_picture

T = TypeVar("T")

RECORDS_PER_SHARD = 4096
# 146 ImageNet photographs at shorter side 256, one thread, simplejpeg, best of four:
# kB an image, PSNR in dB, images decoded a second. 4:2:0: quality 85 25, 33.9, 3286;
# 90 32, 35.3, 2842; 95 45, 37.4, 2364. 4:4:4: 85 32, 35.3, 2302; 90 40, 37.2, 2091,
# which is what 4:2:0 gives one step higher, 12 to 19 % slower. Originals: 828 a second.
QUALITY = 90
SUBSAMPLING = "4:2:0"
# One record can be read without its neighbours; JPEG does not compress any further.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_SUFFIX = ".array_record"
_PARTIAL = ".partial"
_REPORT_EVERY = 200


def write_records(
    folder: Path,
    split: str,
    count: int,
    read: Callable[[int], bytes],
    *,
    shorter_side: int | None = None,
    threads: int = 2,
    report: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Write images into shards; the same call again goes on where it was interrupted.

    A shard gets its name when it is complete. The shards depend on the images alone,
    not on threads or interruptions. `SPLIT.json` beside them says how they were made.

    count, read: image i is read(i), for i below count; called from `threads` threads.
    shorter_side: an image whose shorter side, upright, is longer is resized to it
      (Lanczos) and encoded as JPEG of `QUALITY`; its EXIF and colour profile go. All
      others keep their bytes. None: all do. Every image is decoded, so that a damaged
      one is found here and not in the middle of a training.
    report: report(images done, count), now and then.

    Returns:
      {"file": name, "records": number, "bytes": size, "sha256": hexadecimal} a shard.

    Raises:
      BadImageError: an image that cannot be used, by number; finished shards stay.
      ValueError: the folder holds shards of another number or size of images.
      OSError: cannot be written (disk full, no permission).
    """
    if shorter_side is not None and shorter_side < 1:
        raise ValueError(f"shorter side {shorter_side} must be at least 1 pixel")
    folder.mkdir(parents=True, exist_ok=True)
    _settle(folder, split, count=count, shorter_side=shorter_side)
    shards = -(-count // RECORDS_PER_SHARD)
    result = []
    with ThreadPoolExecutor(max(1, threads), "blt-records") as executor:
        for shard in range(shards):
            start, end = count * shard // shards, count * (shard + 1) // shards
            path = folder / f"{split}-{shard:05d}-of-{shards:05d}{_SUFFIX}"
            if not path.exists():
                work = partial(_prepared, split, read, shorter_side=shorter_side)
                records = _in_order(executor, work, range(start, end), 4 * threads)
                if report is not None:
                    records = _reported(records, start, count, report)
                write_shard(path, records)
            result.append(_described(path, end - start))
            if report is not None:
                report(end, count)
    return result


def write_shard(path: Path, records: Iterable[bytes]) -> None:
    """Write one ArrayRecord file; it gets its name when it is complete.

    Raises:
      OSError: cannot be written (disk full, no permission).
    """
    partial_path = path.with_name(path.name + _PARTIAL)
    # The writer itself would only say so at the first record, as a RuntimeError.
    partial_path.touch()
    try:
        writer = ArrayRecordWriter(os.fspath(partial_path), _WRITER_OPTIONS)
        for record in records:
            writer.write(record)
        writer.close()
    except RuntimeError as error:
        raise OSError(f"{partial_path}: cannot be written ({error})") from None
    with open(partial_path, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial_path, path)


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
        elif _sha256(path) != shard["sha256"]:
            what = "has another SHA-256 than when it was written"
        else:
            continue
        raise ValueError(f"{path}: {what}; remove it and prepare the data set again")


class RecordSource:
    """Item i -> the i-th record of a split, bytes.

    For any number of threads. A pickled copy, for another process, opens the shards
    anew when it reads from them.

    count: how many records there must be.

    Raises:
      FileNotFoundError, ValueError: a shard is missing, damaged or something else, or
        the number of records is another one.
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
        try:
            # Reads at a position: needs no lock, other than seek() and read().
            return self._reader(shard).read([position])[0]
        except RuntimeError as error:
            raise ValueError(
                f"{self._paths[shard]}: record {position} is damaged ({error}); remove "
                "the file and prepare the data set again"
            ) from None

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
                reader = self._readers.get(shard) or _open(self._paths[shard])
                self._readers[shard] = reader
        return reader


def _settle(folder: Path, split: str, *, count: int, shorter_side: int | None) -> None:
    """Remove leftovers, and refuse shards that were made in another way."""
    for path in folder.glob(f"*{_SUFFIX}{_PARTIAL}"):
        if _shards(path.name.removesuffix(_PARTIAL), split) is not None:
            path.unlink()
    settings = {
        "records": count,
        "shorter_side": shorter_side,
        "jpeg": None if shorter_side is None else [QUALITY, SUBSAMPLING],
    }
    path = folder / f"{split}.json"
    try:
        before = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        before = None
    if before == settings:
        return
    if any(_shards(entry.name, split) is not None for entry in folder.iterdir()):
        raise ValueError(
            f"{folder}: holds shards of {split!r} that were made otherwise ({before}, "
            f"now {settings}); remove them to write new ones, or choose another folder"
        )
    partial_path = folder / f"{split}.json{_PARTIAL}"
    partial_path.write_text(json.dumps(settings) + "\n", "utf-8")
    os.replace(partial_path, path)


def _prepared(
    split: str, read: Callable[[int], bytes], item: int, *, shorter_side: int | None
) -> bytes:
    """Return the bytes to be stored for an image."""
    record = read(item)
    picture = open_picture(record, name=f"{split}[{item}]")
    shorter = min(picture.width, picture.height)
    if shorter_side is None or shorter <= shorter_side:
        picture.load(1)
        return record
    width = round(picture.width * shorter_side / shorter)
    height = round(picture.height * shorter_side / shorter)
    # Large photographs: decode to half, while that leaves Lanczos a factor of two.
    reduce = next((k for k in (8, 4, 2) if shorter >= 2 * k * shorter_side), 1)
    image = picture.load(reduce).resize((width, height), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    try:
        image.save(encoded, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
    except OSError:
        raise BadImageError(
            f"{picture.name}: {width} x {height} pixels cannot be written as JPEG; "
            "take the image out of the list"
        ) from None
    return encoded.getvalue()


def _in_order(
    executor: ThreadPoolExecutor,
    work: Callable[[int], T],
    items: Iterable[int],
    ahead: int,
) -> Iterator[T]:
    """Yield work(item) in order; at most `ahead` results wait in memory."""
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(executor.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _reported(
    records: Iterable[T], done: int, count: int, report: Callable[[int, int], None]
) -> Iterator[T]:
    for number, record in enumerate(records, done + 1):
        yield record
        if number % _REPORT_EVERY == 0:
            report(number, count)


def _described(path: Path, expected: int) -> dict[str, Any]:
    reader = _open(path)
    records = reader.num_records()
    reader.close()
    if records != expected:
        raise ValueError(
            f"{path}: holds {records} records instead of {expected}; remove it and "
            "call again"
        )
    return {
        "file": path.name,
        "records": records,
        "bytes": path.stat().st_size,
        "sha256": _sha256(path),
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find_shards(folder: Path, split: str) -> list[Path]:
    """Return the paths of all shards of a split, in order."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        names = []
    found = {
        name: number for name in names if (number := _shards(name, split)) is not None
    }
    if not found:
        raise FileNotFoundError(
            f"{folder / split}-00000-of-*{_SUFFIX}: no such shard; set data.root to a "
            "folder that was prepared with records"
        )
    totals = sorted(set(found.values()))
    if len(totals) > 1:
        raise ValueError(
            f"{folder}: shards of {split!r} of two writings, of {totals[0]} and of "
            f"{totals[1]}; remove those that do not belong here"
        )
    paths = [
        folder / f"{split}-{shard:05d}-of-{totals[0]:05d}{_SUFFIX}"
        for shard in range(totals[0])
    ]
    for path in paths:
        if path.name not in found:
            raise FileNotFoundError(_missing(path))
    return paths


def _shards(name: str, split: str) -> int | None:
    """Return how many shards there are, by the name of one; None: no shard of it."""
    match = re.fullmatch(rf"{re.escape(split)}-\d{{5}}-of-(\d{{5}}){_SUFFIX}", name)
    return int(match[1]) if match else None


def _open(path: Path) -> ArrayRecordReader:
    if not path.is_file():
        raise FileNotFoundError(_missing(path))
    reader = ArrayRecordReader(os.fspath(path), _READER_OPTIONS)
    if not reader.ok():
        raise ValueError(
            f"{path}: cut short, or not an ArrayRecord file; copy it again, or remove "
            "it and prepare the data set again"
        )
    return reader


def _missing(path: Path) -> str:
    return f"{path}: this shard is missing; copy it here, or prepare the data set again"
