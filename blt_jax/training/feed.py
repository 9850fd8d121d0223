"""How a stage's batches are made on the host, and how they come to the devices."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from blt_jax.config import ConfigError
from blt_jax.data.bad_files import BadFiles
from blt_jax.data.pipeline import batches, box_dataset, train_dataset
from blt_jax.data.plan import BatchPlan
from blt_jax.training.mesh import put_batch
from blt_jax.training.programs import BATCH_FIELDS
from blt_jax.training.resident import ResidentImages
from blt_jax.training.setup import Setup

HostBatch = Mapping[str, np.ndarray]


class Feed(NamedTuple):
    """Batches from a step on, and the way of one to the devices."""

    batches: Callable[[int], Iterator[HostBatch]]
    place: Callable[[HostBatch], dict[str, jax.Array]]


def make_feed(setup: Setup, plan: BatchPlan, *, num_steps: int, seed: int) -> Feed:
    """The feed of one stage, as `config.data` says.

    seed: of the crops. With `data.on_device` the training images are read here.
    """
    data, dataset = setup.config.data, setup.dataset
    host = jax.process_index()
    common: dict[str, Any] = {
        "num_steps": num_steps,
        "image_size": data.image_size,
        "crop": data.crop,
        "crop_scale": tuple(data.crop_scale),
        "seed_crop_scale": tuple(data.seed_crop_scale),
        "seed": seed,
        "host": host,
        "num_hosts": jax.process_count(),
    }
    if data.on_device:
        if data.bad_files != "error":
            raise ConfigError("config.data.on_device needs data.bad_files 'error'")
        resident = ResidentImages(
            dataset.train,
            image_size=data.image_size,
            counts=(setup.config.batch_size, 0, *plan.widths),
            mesh=setup.mesh,
            threads=data.threads,
        )
        steps = box_dataset(
            dataset.train,
            plan,
            width=resident.width,
            height=resident.height,
            **common,
        )
        return Feed(
            lambda start: batches(
                steps,
                start=start,
                buffer=data.buffer,
                stall_seconds=data.stall_seconds,
            ),
            lambda batch: resident.place(batch, BATCH_FIELDS),
        )
    steps = train_dataset(
        dataset.train,
        plan,
        num_threads=data.threads,
        bad_files=bad_files(setup),
        **common,
    )
    return Feed(
        lambda start: batches(
            steps,
            start=start,
            buffer=data.buffer,
            num_workers=data.workers,
            stall_seconds=data.stall_seconds,
        ),
        lambda batch: put_batch({n: batch[n] for n in BATCH_FIELDS}, setup.mesh),
    )


def bad_files(setup: Setup) -> BadFiles:
    """The policy for training images that cannot be read.

    Every host lists the files that it met; the first host's file has the plain name.
    """
    host = jax.process_index()
    return BadFiles(
        setup.config.data.bad_files,
        setup.dataset.train,
        class_names=setup.dataset.class_names,
        csv_path=setup.workdir
        / (f"bad_files.host{host}.csv" if host else "bad_files.csv"),
    )
