"""Batches: a grain MapDataset whose element t is the local part of step t's batch."""

import sys
import threading
from collections.abc import Iterator
from typing import Any

import grain

from blt_jax.data import randomness, workers
from blt_jax.data.bad_files import BadFiles, Policy
from blt_jax.data.plan import BatchPlan
from blt_jax.data.sources import Batch, BoxSource, Choice, EvalSource, TrainSource
from blt_jax.data.split import Split
from blt_jax.data.threads import DecodingThreads
from blt_jax.data.transforms import eval_crop, train_box, train_crop

__all__ = ["Batch", "batches", "box_dataset", "eval_dataset", "train_dataset"]

# Grain's own readers build whole batches; more than two only hold more memory.
_READERS = 2


def train_dataset(
    split: Split,
    plan: BatchPlan,
    *,
    num_steps: int,
    image_size: int,
    crop: str = "random_resized",
    crop_scale: tuple[float, float] = (0.08, 1.0),
    seed_crop_scale: tuple[float, float] = (0.3, 1.0),
    seed: int = 0,
    num_threads: int = 2,
    host: int = 0,
    num_hosts: int = 1,
    bad_files: BadFiles | None = None,
) -> "grain.MapDataset[Batch]":
    """Return the batches of one host by step; any step can be read alone.

    Element t, with b = B / hosts, k = K / hosts, S = image_size:
      image [b, S, S, 3] uint8, label [b] int32, index [b] int32 (row in the global
      batch), record [b] int64; seed_image [k, S, S, 3] uint8, seed_label [k] int32,
      seed_index [k] int32 (ordinal, see `plan.Plan`), seed_record [k] int64, seed_valid
      [k] bool. Padded slots hold zeros and record -1. replaced [b] bool, seed_replaced
      [k] bool: another image of the class was taken; record is then that one's.

    The crop of a row depends on (seed, step, ordinal) alone, so that a seed taken from
    the batch is pixel for pixel its row.

    crop, crop_scale: see `transforms.train_crop`; seeds from the data set take
      `seed_crop_scale`.
    num_threads: decoding threads of this data set, shared by all its elements; with
      worker processes (see `batches`) of each of them.
    bad_files: what to do about images that cannot be read; None: raise.
    """
    source = TrainSource(
        split,
        _choice(split, plan, host=host, num_hosts=num_hosts),
        num_steps=num_steps,
        row_crop=train_crop(crop, image_size=image_size, scale=crop_scale),
        seed_crop=train_crop(crop, image_size=image_size, scale=seed_crop_scale),
        image_size=image_size,
        seed=randomness.check_seed(seed),
        pool=DecodingThreads(num_threads),
        bad_files=bad_files or BadFiles("error", split),
    )
    return _Batches(source)


def box_dataset(
    split: Split,
    plan: BatchPlan,
    *,
    num_steps: int,
    width: int,
    height: int,
    image_size: int,
    crop: str = "random_resized",
    crop_scale: tuple[float, float] = (0.08, 1.0),
    seed_crop_scale: tuple[float, float] = (0.3, 1.0),
    seed: int = 0,
    host: int = 0,
    num_hosts: int = 1,
) -> "grain.MapDataset[Batch]":
    """Return the batches of `train_dataset` with boxes in place of images.

    For images that are elsewhere already, all of width x height pixels: `box` [b, 4]
    and `seed_box` [k, 4] float32, in pixels, say which part makes an S x S crop.
    """
    source = BoxSource(
        _choice(split, plan, host=host, num_hosts=num_hosts),
        num_steps=num_steps,
        width=width,
        height=height,
        row_box=train_box(crop, image_size=image_size, scale=crop_scale),
        seed_box=train_box(crop, image_size=image_size, scale=seed_crop_scale),
        seed=randomness.check_seed(seed),
    )
    return _Batches(source)


def eval_dataset(
    split: Split,
    *,
    batch_size: int,
    image_size: int,
    resize: int,
    num_threads: int = 2,
    host: int = 0,
    num_hosts: int = 1,
    bad_files: Policy | None = None,
) -> "grain.MapDataset[Batch]":
    """Return the split in order, each record once, padded to whole batches.

    Element e: image [b, S, S, 3] uint8, label [b] int32, record [b] int64 (-1 where
    padded), valid [b] bool, with b = batch_size / hosts. Every host has
    ceil(N / batch_size) elements. An image that cannot be read raises BadImageError: a
    split without it would be another one.

    bad_files: where something may take a bad image's place: for the training split,
      and for predictions.
    """
    if not 0 <= host < num_hosts or batch_size < 1 or batch_size % num_hosts:
        raise ValueError(
            f"evaluation.batch_size: {batch_size} is not a multiple of the {num_hosts} "
            "hosts"
        )
    source = EvalSource(
        split,
        batch_size=batch_size,
        crop=eval_crop(image_size=image_size, resize=resize),
        image_size=image_size,
        pool=DecodingThreads(num_threads),
        host=host,
        num_hosts=num_hosts,
        bad_files=bad_files,
    )
    return _Batches(source)


def batches(
    dataset: "grain.MapDataset[Batch]",
    *,
    start: int = 0,
    buffer: int = 4,
    num_workers: int = 0,
    stall_seconds: float = workers.STALL_SECONDS,
) -> Iterator[Batch]:
    """Iterate over the elements of a data set from `start` on, reading ahead.

    buffer: batches held ready or being made at most, besides the one being used.
    num_workers: processes that make them; 0: threads of this process do. The batches
      are the same. Scripts need the guard `if __name__ == "__main__"` for them.
    stall_seconds: the longest wait for a batch. A worker that gives none for so long
      ends the iteration. Threads that hang can be ended by nothing, nor can a process
      that has such threads end in good order: a line on stderr tells of them.

    Raises:
      ValueError: `buffer` is below 1 or below `num_workers`, `stall_seconds` not above
        0.
      WorkerError: while iterating, see `workers.batches`.
    """
    if buffer < 1:
        raise ValueError(f"data.buffer: {buffer} must be at least 1 batch")
    if not stall_seconds > 0:
        raise ValueError(f"data.stall_seconds: {stall_seconds} is not above 0")
    if start >= len(dataset):
        return iter(())
    if num_workers:
        if not isinstance(dataset, _Batches):
            raise ValueError(
                "data.workers: worker processes need the data set as train_dataset or "
                "eval_dataset made it, without further transformations"
            )
        return workers.batches(
            dataset.of,
            start,
            num_workers=num_workers,
            buffer=buffer,
            stall_seconds=stall_seconds,
        )
    # An element is a whole batch: grain's default buffer of 500 would hold gigabytes.
    options = grain.ReadOptions(
        num_threads=min(_READERS, buffer), prefetch_buffer_size=buffer
    )
    elements = iter(dataset[start:].to_iter_dataset(options))
    return _told(elements, range(start, len(dataset)), stall_seconds)


def _told(
    elements: Iterator[Batch], items: range, stall_seconds: float
) -> Iterator[Batch]:
    """The elements, and a line on stderr while one does not come."""
    awaited: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        before: list[int] = []
        while not ended.wait(min(stall_seconds, threading.TIMEOUT_MAX)):
            now = awaited.copy()
            if now and now == before:
                print(
                    f"batch {now[0]} is not there after {stall_seconds:g} seconds: a "
                    "file system that hangs, perhaps; with data.workers 1 or more this "
                    "would be an error and not a wait (data.stall_seconds)",
                    file=sys.stderr,
                    flush=True,
                )
            before = now

    threading.Thread(target=watch, name="blt-stall", daemon=True).start()
    try:
        for item in items:
            awaited.append(item)
            yield _next(elements, awaited)
    finally:
        ended.set()


def _next(elements: Iterator[Batch], awaited: list[int]) -> Batch:
    # A function, so that no name holds the batch while it is used.
    try:
        return next(elements)
    finally:
        awaited.clear()


def _choice(split: Split, plan: BatchPlan, *, host: int, num_hosts: int) -> Choice:
    if plan.num_records != len(split):
        raise ValueError(
            f"the plan is made for {plan.num_records} records, split {split.name!r} "
            f"has {len(split)}"
        )
    if not 0 <= host < num_hosts or plan.num_devices % num_hosts:
        raise ValueError(
            f"host {host} of {num_hosts} with {plan.num_devices} devices: every host "
            "needs as many devices, and at least one"
        )
    return Choice(plan, split.labels, host=host, num_hosts=num_hosts)


class _Batches(grain.MapDataset[Batch]):  # type: ignore[misc]
    """A source as grain's data set, which worker processes can do without."""

    def __init__(self, of: TrainSource | BoxSource | EvalSource):
        super().__init__()
        self.of = of

    def __len__(self) -> int:
        return len(self.of)

    def __str__(self) -> str:
        return f"Batches({self.of!r})"

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        return self.of[index % len(self.of)]
