"""Sources: a number -> the local part of a batch. Nothing here needs grain.

Worker processes unpickle these, so that they import neither grain nor, with it, jax.
"""

import numpy as np

from blt_jax.data import randomness
from blt_jax.data.bad_files import BadFiles, Policy
from blt_jax.data.decode import open_picture
from blt_jax.data.plan import BatchPlan, slot_layout
from blt_jax.data.split import Split
from blt_jax.data.threads import DecodingThreads
from blt_jax.data.transforms import BoxOf, Crop

Batch = dict[str, np.ndarray]


class Choice:
    """Step t -> the rows and slots of one host, as the plan has them."""

    def __init__(
        self, plan: BatchPlan, labels: np.ndarray, *, host: int, num_hosts: int
    ):
        self.plan = plan
        self._labels = labels
        self._host = host
        self._num_hosts = num_hosts

    def __call__(self, step: int) -> Batch:
        """Return a batch without its images."""
        plan = self.plan(step)
        rows = _part(np.arange(self.plan.batch_size), self._host, self._num_hosts)
        layout = slot_layout(plan, self.plan.num_devices)
        slots = _part(layout, self._host, self._num_hosts)
        valid = slots >= 0
        ordinals = np.zeros(len(slots), np.int32)
        ordinals[valid] = plan.seed_ordinals[slots[valid]]
        seed_records = np.full(len(slots), -1, np.int64)
        seed_records[valid] = plan.seeds[slots[valid]]
        records, labels = plan.records[rows], self._labels
        return {
            "label": labels[records],
            "index": rows.astype(np.int32),
            "record": records,
            "seed_label": np.where(valid, labels[seed_records], 0).astype(np.int32),
            "seed_index": ordinals,
            "seed_record": seed_records,
            "seed_valid": valid,
        }


class TrainSource:
    """Step t -> the local part of its batch."""

    def __init__(
        self,
        split: Split,
        choice: Choice,
        *,
        num_steps: int,
        row_crop: Crop,
        seed_crop: Crop,
        image_size: int,
        seed: int,
        pool: DecodingThreads,
        bad_files: BadFiles,
    ):
        self._split = split
        self._choice = choice
        self._num_steps = num_steps
        self._row_crop = row_crop
        self._seed_crop = seed_crop
        self._shape = (image_size, image_size, 3)
        self._seed = seed
        self._pool = pool
        self._bad_files = bad_files

    def __len__(self) -> int:
        return self._num_steps

    def __repr__(self) -> str:
        return f"TrainSource({self._split.name!r}, {self._num_steps} steps)"

    def __getitem__(self, item: int) -> Batch:
        step = int(item)
        batch = self._choice(step)
        records, seed_records = batch["record"], batch["seed_record"]
        rows, ordinals = batch["index"], batch["seed_index"]
        planned, seeds_planned = records.copy(), seed_records.copy()
        images = np.empty((len(rows), *self._shape), np.uint8)
        seed_images = np.zeros((len(ordinals), *self._shape), np.uint8)

        # A seed that is a row of this host is copied; others are read here.
        valid = batch["seed_valid"]
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
        return batch | {
            "image": images,
            "replaced": records != planned,
            "seed_image": seed_images,
            "seed_replaced": seed_records != seeds_planned,
        }

    def _cropped(self, step: int, ordinal: int, record: int) -> tuple[int, np.ndarray]:
        in_batch = ordinal < self._choice.plan.batch_size
        crop = self._row_crop if in_batch else self._seed_crop

        def read(record: int) -> np.ndarray:
            # Anew for a replacement, whose crop shall not depend on the bad image.
            return _read(
                self._split, record, crop, _crop_draws(self._seed, step, ordinal)
            )

        return self._bad_files.read(record, read)


class BoxSource:
    """Step t -> the local part of its batch, boxes of the crops in place of images.

    For images of one size that are somewhere else already: `box` [b, 4] and `seed_box`
    [k, 4] float32 are left, top, right, bottom, the same crops as TrainSource's.
    """

    def __init__(
        self,
        choice: Choice,
        *,
        num_steps: int,
        width: int,
        height: int,
        row_box: BoxOf,
        seed_box: BoxOf,
        seed: int,
    ):
        self._choice = choice
        self._num_steps = num_steps
        self._size = width, height
        self._row_box = row_box
        self._seed_box = seed_box
        self._seed = seed

    def __len__(self) -> int:
        return self._num_steps

    def __repr__(self) -> str:
        return f"BoxSource({self._num_steps} steps)"

    def __getitem__(self, item: int) -> Batch:
        step = int(item)
        batch = self._choice(step)
        return batch | {
            "box": self._boxes(step, batch["index"]),
            "seed_box": self._boxes(step, batch["seed_index"]),
            "replaced": np.zeros(len(batch["index"]), bool),
            "seed_replaced": np.zeros(len(batch["seed_index"]), bool),
        }

    def _boxes(self, step: int, ordinals: np.ndarray) -> np.ndarray:
        boxes = np.empty((len(ordinals), 4), np.float32)
        for place, ordinal in enumerate(ordinals.tolist()):
            in_batch = ordinal < self._choice.plan.batch_size
            box_of = self._row_box if in_batch else self._seed_box
            boxes[place] = box_of(*self._size, _crop_draws(self._seed, step, ordinal))
        return boxes


class EvalSource:
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
        bad_files: Policy | None,
    ):
        self._split = split
        self._bad_files = bad_files
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
        return f"EvalSource({self._split.name!r}, {len(self)} batches)"

    def __getitem__(self, item: int) -> Batch:
        rows = _part(np.arange(self._batch_size), self._host, self._num_hosts)
        records = int(item) * self._batch_size + rows
        valid = records < len(self._split)
        records = np.where(valid, records, -1)
        images = np.zeros((len(rows), *self._shape), np.uint8)

        def read(record: int) -> np.ndarray:
            return _read(self._split, record, self._crop, self._random)

        def fill(row: int) -> None:
            record, policy = int(records[row]), self._bad_files
            images[row] = policy.read(record, read)[1] if policy else read(record)

        # Padding is always at the end.
        self._pool.each(fill, int(valid.sum()))
        labels = np.where(valid, self._split.labels[records], 0)
        return {
            "image": images,
            "label": labels.astype(np.int32),
            "record": records,
            "valid": valid,
        }


def _crop_draws(seed: int, step: int, ordinal: int) -> np.random.Generator:
    """What an image's crop is drawn from: the same wherever it is read."""
    return randomness.generator(seed, randomness.CROP, high=ordinal, step=step)


def _read(
    split: Split, record: int, crop: Crop, random: np.random.Generator
) -> np.ndarray:
    return crop(open_picture(split.source[record], name=split.ids[record]), random)


def _part(array: np.ndarray, host: int, num_hosts: int) -> np.ndarray:
    size = len(array) // num_hosts
    return array[host * size : (host + 1) * size]
