"""A bank of hard examples that a frozen model makes once (Sec. 4.1, Fig. 5c).

The static arms append these in place of examples made anew at every batch. A bank is a
pure function of the stage's seed, the records and the frozen model: it is never saved,
a resumed run makes the same one again.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from blt_jax.data import randomness
from blt_jax.data.progress import duration
from blt_jax.data.threads import DecodingThreads
from blt_jax.hallucination.targets import Confusion, draw_targets, draw_thresholds
from blt_jax.models.classifier import Model
from blt_jax.training.append import HallucinationOptions, Seeds, make_ascent
from blt_jax.training.augment import Augmentation, Normalisation, augment, normalise
from blt_jax.training.draws import bank_key, draw
from blt_jax.training.feed import Feed, HostBatch
from blt_jax.training.log import RunLog
from blt_jax.training.mesh import (
    per_device,
    put_batch,
    put_replicated,
    replicated,
    sharded,
)

DTYPE = np.float32


class Frozen(NamedTuple):
    """The model that makes the images, and what it takes for what.

    Without any confusion and with `confusion_fallback` "uniform" a target is any other
    class: the arm "static random".
    """

    model: Model
    params: Any
    batch_stats: Any
    confusion: Confusion


class Bank(NamedTuple):
    """Hard examples by record and copy, on every host."""

    records: np.ndarray  # [n] int64, ascending
    images: np.ndarray  # [n, copies, S, S, 3] float32, normalised
    targets: np.ndarray  # [n, copies] int32
    thresholds: np.ndarray  # [n, copies] float32
    usable: np.ndarray  # [n, copies] bool, False: no confusing class
    sums: Mapping[str, float]  # over the usable ones: iterations, reached, non_finite

    def seeds(
        self, records: np.ndarray, copies: np.ndarray, valid: np.ndarray
    ) -> dict[str, np.ndarray]:
        """What takes the place of a batch's seeds: seed_image and seed_valid.

        records, copies, valid: [K], as in the batch. A seed without a confusing class
        becomes a padded slot, and padded slots hold zeros.
        """
        rows = np.searchsorted(self.records, np.where(valid, records, self.records[0]))
        valid = valid & self.usable[rows, copies]
        images = np.zeros((len(rows), *self.images.shape[2:]), DTYPE)
        images[valid] = self.images[rows[valid], copies[valid]]
        return {"seed_image": images, "seed_valid": valid}

    def summary(self) -> dict[str, Any]:
        """Numbers for the log; means are over images that have a target, else None."""
        made = int(self.usable.sum())
        return {
            "images": made,
            "no_confusing_class": int((~self.usable).sum()),
            "mean_iterations": self.sums["iterations"] / made if made else None,
            "reached_fraction": self.sums["reached"] / made if made else None,
            "non_finite": int(self.sums["non_finite"]),
            "megabytes": self.images.nbytes / 1e6,
        }


def bank_bytes(num_records: int, copies: int, image_size: int) -> int:
    """Memory of the images on each host."""
    return num_records * copies * image_size**2 * 3 * np.dtype(DTYPE).itemsize


def make_bank(
    frozen: Frozen,
    options: HallucinationOptions,
    *,
    records: np.ndarray,
    labels: np.ndarray,
    read: Callable[[int, np.random.Generator], np.ndarray],
    copies: int,
    image_size: int,
    batch_size: int,
    mesh: Mesh,
    normalisation: Normalisation,
    augmentation: Augmentation,
    seed: int,
    root: jax.Array,
    threads: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Bank:
    """Crop and augment each record `copies` times, and push it to a target of its own.

    frozen: the model, and the confusions that targets are drawn from; options: the step
    rule, and where thresholds are drawn from. records: [n] int, ascending, n at least
    1; labels: [n] int32, their classes. read: (record, what the crop is drawn from) ->
    uint8 [S, S, 3]. batch_size: images at a time, over all devices. seed: of the crops;
    root: the stage's key, of what is drawn on the device. threads: for reading. report:
    told how many images are done, and of how many.
    """
    program = _program(frozen.model, options, mesh, normalisation, augmentation)
    same = put_replicated((*frozen[1:], bank_key(root)), mesh)
    pool, count = DecodingThreads(threads), len(records)
    images = np.empty((count, copies, image_size, image_size, 3), DTYPE)
    found = {
        name: np.empty((count, copies), dtype)
        for name, dtype in (("targets", "i4"), ("thresholds", "f4"), ("usable", "?"))
    }
    sums = {"iterations": 0.0, "reached": 0.0, "non_finite": 0.0}
    report(0, copies * count)
    for copy in range(copies):
        for start in range(0, count, batch_size):
            rows = slice(start, min(start + batch_size, count))
            batch = _read_part(
                records[rows],
                labels[rows],
                read,
                copy,
                batch_size,
                image_size,
                seed,
                pool,
            )
            step = put_replicated(np.int32(copy), mesh)
            made, numbers = jax.device_get(program(*same, step, put_batch(batch, mesh)))
            size = rows.stop - rows.start
            images[rows, copy] = made["images"][:size]
            for name, column in found.items():
                column[rows, copy] = made[name][:size]
            for name in sums:
                sums[name] += float(numbers[name])
            report(copy * count + rows.stop, copies * count)
    return Bank(records, images, sums=sums, **found)


def feed_from_bank(
    feed: Feed, bank: Callable[[], Bank], *, copies: int, seed: int, mesh: Mesh
) -> Feed:
    """The same batches with the bank's images as seeds.

    Which copy a seed is follows from (seed, step, its ordinal), on any host. bank:
    asked for when the first batch is placed.
    """

    def batches(start: int) -> Iterator[HostBatch]:
        for step, batch in enumerate(feed.batches(start), start):
            drawn = [
                _copy(seed, step, ordinal, copies)
                for ordinal in batch["seed_index"].tolist()
            ]
            yield {**batch, "seed_copy": np.array(drawn, np.int32)}

    def place(batch: HostBatch) -> dict[str, jax.Array]:
        seeds = bank().seeds(
            batch["seed_record"], batch["seed_copy"], batch["seed_valid"]
        )
        return {**feed.place(batch), **put_batch(seeds, mesh)}

    return Feed(batches, place)


def tell_of_bank(make: Callable[[], Bank], log: RunLog, *, stage: str) -> None:
    """Make the bank before a stage's first step; an event of its own in the log."""
    log.write(
        {"kind": "making_bank", "stage": stage},
        f"{stage}: making the bank of hard examples with the frozen model",
    )
    begin = time.monotonic()
    made = make().summary()
    seconds = time.monotonic() - begin
    ascents = ""
    if made["images"]:
        ascents = (
            f"{made['mean_iterations']:.1f} iterations, "
            f"{made['reached_fraction']:.0%} reached, "
        )
    log.write(
        {"kind": "bank", "stage": stage, **made, "seconds": seconds},
        f"{stage}: bank of {made['images']} images, {ascents}"
        f"{made['megabytes']:.3g} MB; {made['no_confusing_class']} have no confusing "
        f"class ({duration(seconds)})",
    )


def _copy(seed: int, step: int, ordinal: int, copies: int) -> int:
    if copies == 1:
        return 0
    words = randomness.philox(seed, randomness.BANK_COPIES, high=ordinal, step=step)
    return int(randomness.uniform(words.random_raw(1))[0] * copies)


def _read_part(
    records: np.ndarray,
    labels: np.ndarray,
    read: Callable[[int, np.random.Generator], np.ndarray],
    copy: int,
    batch_size: int,
    image_size: int,
    seed: int,
    pool: DecodingThreads,
) -> dict[str, np.ndarray]:
    """This host's part of a batch of records, padded to its size."""
    local = batch_size // jax.process_count()
    first = jax.process_index() * local
    records, labels = records[first : first + local], labels[first : first + local]
    missing = (0, local - len(records))
    images = np.zeros((local, image_size, image_size, 3), np.uint8)

    def fill(row: int) -> None:
        record = int(records[row])
        random = randomness.generator(seed, randomness.BANK, high=record, step=copy)
        images[row] = read(record, random)

    pool.each(fill, len(records))
    return {
        "image": images,
        "label": np.pad(labels, missing).astype(np.int32),
        "record": np.pad(records, missing).astype(np.int32),
        "valid": np.arange(local) < len(records),
    }


def _program(
    model: Model,
    options: HallucinationOptions,
    mesh: Mesh,
    normalisation: Normalisation,
    augmentation: Augmentation,
) -> Callable[..., Any]:
    """(params, batch_stats, confusion, key, copy, batch) -> arrays by image, sums."""
    ascend = make_ascent(model, options, normalisation)

    def on_one_device(*arguments: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        images, sums = ascend(*arguments)
        return images, jax.tree.map(lambda total: total[None], sums)

    everywhere = per_device(on_one_device, mesh, num_replicated=2)

    def make(
        params: Any,
        batch_stats: Any,
        confusion: Confusion,
        key: jax.Array,
        copy: jax.Array,
        batch: dict[str, jax.Array],
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        # A record's number and its copy stand where a step has ordinal and number.
        draws = draw(key, copy, batch["record"])
        images = normalise(
            augment(batch["image"], draws, augmentation, jnp.float32), normalisation
        )
        targets, drawn = draw_targets(
            draws.target, batch["label"], confusion, fallback=options.confusion_fallback
        )
        thresholds = draw_thresholds(
            draws.threshold, interval=options.threshold, grid=options.threshold_grid
        )
        seeds = Seeds(images, batch["label"], batch["valid"] & drawn)
        images, sums = everywhere(params, batch_stats, seeds, targets, thresholds)
        made = {
            "images": images,
            "targets": targets,
            "thresholds": thresholds,
            "usable": seeds.valid,
        }
        return made, {name: jnp.sum(each, axis=0) for name, each in sums.items()}

    whole, split = replicated(mesh), sharded(mesh)
    return jax.jit(
        make,
        in_shardings=(whole, whole, whole, whole, whole, split),
        out_shardings=whole,  # every host keeps all of it
    )
