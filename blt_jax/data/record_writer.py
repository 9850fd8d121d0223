"""Write encoded images as ArrayRecord shards, resumably; `records` reads them."""

import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from blt_jax.data.decode import BadImageError, open_picture
from blt_jax.data.records import SUFFIX, open_shard, sha256, shards_in
from blt_jax.data.whole_file import write_whole

T = TypeVar("T")

RECORDS_PER_SHARD = 4096
# 146 ImageNet photographs at shorter side 256, one thread, simplejpeg, best of four:
# kB an image, PSNR in dB, images decoded a second. 4:2:0: quality 85 25, 33.9, 3286;
# 90 32, 35.3, 2842; 95 45, 37.4, 2364. 4:4:4: 85 32, 35.3, 2302; 90 40, 37.2, 2091.
# Originals: 828 a second.
QUALITY = 85
SUBSAMPLING = "4:2:0"
# One record can be read without its neighbours; JPEG does not compress any further.
_WRITER_OPTIONS = "group_size:1,uncompressed"
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
            path = folder / f"{split}-{shard:05d}-of-{shards:05d}{SUFFIX}"
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


def _settle(folder: Path, split: str, *, count: int, shorter_side: int | None) -> None:
    """Remove leftovers, and refuse shards that were made in another way."""
    for path in folder.glob(f"*{SUFFIX}{_PARTIAL}"):
        if shards_in(path.name.removesuffix(_PARTIAL), split) is not None:
            path.unlink()
    settings = {
        "records": count,
        "shorter_side": shorter_side,
        "jpeg": None if shorter_side is None else [QUALITY, SUBSAMPLING],
    }
    path = folder / f"{split}.json"
    try:
        before = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        before = None
    if before == settings:
        return
    if any(shards_in(entry.name, split) is not None for entry in folder.iterdir()):
        raise ValueError(
            f"{folder}: holds shards of {split!r} that were made otherwise ({before}, "
            f"now {settings}); remove them to write new ones, or choose another folder"
        )
    write_whole(path, json.dumps(settings) + "\n")


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
    reader = open_shard(path)
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
        "sha256": sha256(path),
    }
