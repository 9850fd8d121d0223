"""Batches: a grain MapDataset whose element t is the local part of step t's batch."""

from collections.abc import Iterator

import grain
import numpy as np

from blt_jax.data import randomness
from blt_jax.data.bad_files import BadFiles
from blt_jax.data.decode import open_picture
from blt_jax.data.plan import BatchPlan, slot_layout
from blt_jax.data.split import Split
from blt_jax.data.threads import DecodingThreads
from blt_jax.data.transforms import Crop, eval_crop, train_crop

Batch = dict[str, np.ndarray]
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
    num_threads: decoding threads of this data set, shared by all its elements.
    bad_files: what to do about images that cannot be read; None: raise.
    """
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
    source = _TrainSource(
        split,
        plan,
        num_steps=num_steps,
        row_crop=train_crop(crop, image_size=image_size, scale=crop_scale),
        seed_crop=train_crop(crop, image_size=image_size, scale=seed_crop_scale),
        image_size=image_size,
        seed=randomness.check_seed(seed),
        pool=DecodingThreads(num_threads),
        host=host,
        num_hosts=num_hosts,
        bad_files=bad_files or BadFiles("error", split),
    )
    return grain.MapDataset.source(source)


def eval_dataset(
    split: Split,
    *,
    batch_size: int,
    image_size: int,
    resize: int,
    num_threads: int = 2,
    host: int = 0,
    num_hosts: int = 1,
) -> "grain.MapDataset[Batch]":
    """Return the split in order, each record once, padded to whole batches.

    Element e: image [b, S, S, 3] uint8, label [b] int32, record [b] int64 (-1 where
    padded), valid [b] bool, with b = batch_size / hosts. Every host has
    ceil(N / batch_size) elements. An image that cannot be read raises BadImageError: a
    split without it would be another one.
    """
    if not 0 <= host < num_hosts or batch_size < 1 or batch_size % num_hosts:
        raise ValueError(
            f"evaluation.batch_size: {batch_size} is not a multiple of the {num_hosts} "
            "hosts"
        )
    source = _EvalSource(
        split,
        batch_size=batch_size,
        crop=eval_crop(image_size=image_size, resize=resize),
        image_size=image_size,
        pool=DecodingThreads(num_threads),
        host=host,
        num_hosts=num_hosts,
    )
    return grain.MapDataset.source(source)


def batches(
    dataset: "grain.MapDataset[Batch]", *, start: int = 0, buffer: int = 4
) -> Iterator[Batch]:
    """Iterate over the elements of a data set from `start` on, reading ahead.

    buffer: batches held ready at most, besides the one being used.
    """
    if buffer < 1:
        raise ValueError(f"data.buffer: {buffer} must be at least 1 batch")
    if start >= len(dataset):
        return iter(())
    # An element is a whole batch: grain's default buffer of 500 would hold gigabytes.
    options = grain.ReadOptions(
        num_threads=min(_READERS, buffer), prefetch_buffer_size=buffer
    )
    return iter(dataset[start:].to_iter_dataset(options))


class _TrainSource:
    """Step t -> the local part of its batch."""

    def __init__(
        self,
        split: Split,
        plan: BatchPlan,
        *,
        num_steps: int,
        row_crop: Crop,
        seed_crop: Crop,
        image_size: int,
        seed: int,
        pool: DecodingThreads,
        host: int,
        num_hosts: int,
        bad_files: BadFiles,
    ):
        self._split = split
        self._plan = plan
        self._num_steps = num_steps
        self._row_crop = row_crop
        self._seed_crop = seed_crop
        self._shape = (image_size, image_size, 3)
        self._seed = seed
        self._pool = pool
        self._host = host
        self._num_hosts = num_hosts
        self._bad_files = bad_files

    def __len__(self) -> int:
        return self._num_steps

    def __repr__(self) -> str:
        return f"_TrainSource({self._split.name!r}, {self._num_steps} steps)"

    def __getitem__(self, item: int) -> Batch:
        step = int(item)
        plan = self._plan(step)
        batch_size = self._plan.batch_size
        rows = _part(np.arange(batch_size), self._host, self._num_hosts)
        layout = slot_layout(plan, self._plan.num_devices)
        slots = _part(layout, self._host, self._num_hosts)
        valid = slots >= 0
        chosen = slots[valid]
        ordinals = np.zeros(len(slots), np.int32)
        ordinals[valid] = plan.seed_ordinals[chosen]
        seed_records = np.full(len(slots), -1, np.int64)
        seed_records[valid] = plan.seeds[chosen]
        records = plan.records[rows]
        labels = self._split.labels
        planned, seeds_planned = records.copy(), seed_records.copy()
        images = np.empty((len(rows), *self._shape), np.uint8)
        seed_images = np.zeros((len(slots), *self._shape), np.uint8)

        # A seed that is a row of this host is copied; others are read here.
        local = valid & (ordinals >= rows[0]) & (ordinals <= rows[-1])
        read = np.flatnonzero(valid & ~local)

        def fill(number: int) -> None:
            if number < len(rows):
                place, ordinal = number, rows[number]
                target, record = images, records
            else:
                place = read[number - len(rows)]
                ordinal = ordinals[place]
                target, record = seed_images, seed_records
            record[place], target[place] = self._cropped(
                step, int(ordinal), int(record[place])
            )

        self._pool.each(fill, len(rows) + len(read))
        copied = ordinals[local] - rows[0]
        seed_images[local] = images[copied]
        seed_records[local] = records[copied]
        return {
            "image": images,
            "label": labels[records],
            "index": rows.astype(np.int32),
            "record": records,
            "replaced": records != planned,
            "seed_image": seed_images,
            "seed_label": np.where(valid, labels[seed_records], 0).astype(np.int32),
            "seed_index": ordinals,
            "seed_record": seed_records,
            "seed_replaced": seed_records != seeds_planned,
            "seed_valid": valid,
        }

    def _cropped(self, step: int, ordinal: int, record: int) -> tuple[int, np.ndarray]:
        in_batch = ordinal < self._plan.batch_size
        crop = self._row_crop if in_batch else self._seed_crop

        def read(record: int) -> np.ndarray:
            # Anew for a replacement, whose crop shall not depend on the bad image.
            random = randomness.generator(
                self._seed, randomness.CROP, high=ordinal, step=step
            )
            return _read(self._split, record, crop, random)

        return self._bad_files.read(record, read)


class _EvalSource:
    """Element e -> the local part of the e-th batch of a split."""

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        crop: Crop,
        image_size: int,
        pool: DecodingThreads,
        host: int,
        num_hosts: int,
    ):
        self._split = split
        self._batch_size = batch_size
        self._crop = crop
        self._shape = (image_size, image_size, 3)
        self._pool = pool
        self._host = host
        self._num_hosts = num_hosts
        # No crop of the evaluation draws anything.
        self._random = randomness.generator(0, randomness.CROP)

    def __len__(self) -> int:
        return -(-len(self._split) // self._batch_size)

    def __repr__(self) -> str:
        return f"_EvalSource({self._split.name!r}, {len(self)} batches)"

    def __getitem__(self, item: int) -> Batch:
        rows = _part(np.arange(self._batch_size), self._host, self._num_hosts)
        records = int(item) * self._batch_size + rows
        valid = records < len(self._split)
        records = np.where(valid, records, -1)
        images = np.zeros((len(rows), *self._shape), np.uint8)

        def fill(row: int) -> None:
            images[row] = _read(
                self._split, int(records[row]), self._crop, self._random
            )

        # Padding is always at the end.
        self._pool.each(fill, int(valid.sum()))
        labels = np.where(valid, self._split.labels[records], 0)
        return {
            "image": images,
            "label": labels.astype(np.int32),
            "record": records,
            "valid": valid,
        }


def _read(
    split: Split, record: int, crop: Crop, random: np.random.Generator
) -> np.ndarray:
    return crop(open_picture(split.source[record], name=split.ids[record]), random)


def _part(array: np.ndarray, host: int, num_hosts: int) -> np.ndarray:
    size = len(array) // num_hosts
    return array[host * size : (host + 1) * size]
