"""The host's part of training: encoded images to augmented batches, and its parts.

Every arm of a round makes a batch of the same images. `ratio` is how many times as many
images as the released code's transforms it makes in the same time on the same cores.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from blt_jax.bench.released import (
    Transform,
    pillow_transform,
    torchvision_transform,
)
from blt_jax.bench.timing import Arm, forgetting, interleave, milliseconds, ratio
from blt_jax.data import randomness
from blt_jax.data.decode import Picture, open_picture
from blt_jax.data.folders import image_files
from blt_jax.data.pipeline import train_dataset
from blt_jax.data.plan import BatchPlan
from blt_jax.data.record_writer import write_records
from blt_jax.data.records import RecordSource
from blt_jax.data.sampler import ShuffledSampler
from blt_jax.data.split import FileSource, Source, Split
from blt_jax.data.threads import DecodingThreads
from blt_jax.data.transforms import train_crop
from blt_jax.training.augment import Augmentation, Normalisation, augment, normalise
from blt_jax.training.draws import draw

MOST_IMAGES = 2048
RECORD_SIDE = 256
_SEED = 0
_SPLIT = "train"
_NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_AUGMENTATION = Augmentation(True, 10.0, 0.4, 0.4, 0.4)
_BASELINE = ("released", "host", None)

Key = tuple[str, str, str | None]  # source, stage, page cache


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """What is measured.

    source: folder of photographs, at any depth.
    batch, image_size: B and S.
    cores: the process is confined to so many; None: all that it may use.
    torchvision: it is the baseline, and not the same transforms in Pillow and NumPy.
    """

    source: Path
    batch: int = 64
    image_size: int = 224
    cores: int | None = None
    torchvision: bool = False


def input_rows(
    options: InputOptions, *, rounds: int, demand: float | None = None
) -> Iterator[dict[str, Any]]:
    """Rows for every source and stage; all arms are timed in turns.

    demand: images a second that a training step consumes; rows then say which part of
      it they meet.
    """
    with _confined(options.cores) as cores, tempfile.TemporaryDirectory() as folder:
        bench = _Bench(options, cores, Path(folder))
        timed = interleave(bench.arms(), rounds=rounds)
        baseline = timed[str(_BASELINE)]
        for key in bench.keys:
            source, stage, cache = key
            mine = timed[str(key)]
            took = milliseconds(mine)
            speed = 1000 * bench.batch / took["median"]
            # Times as many images, hence the baseline's time over this one's.
            row = {
                "source": source,
                "stage": stage,
                "cache": cache,
                "library": bench.library if key == _BASELINE else "blt_jax",
                "n": rounds,
                "batch": bench.batch,
                "image_size": options.image_size,
                "cores": cores,
                "ms": took,
                "images_per_second": speed,
                "images_per_second_per_core": speed / cores,
                **ratio(baseline, mine),
                "ratio_to": "released",
            }
            if demand is not None:
                row |= {"demand": demand, "share_of_demand": speed / demand}
            yield row


class _Bench:
    """The arms, in the order of their rows, and the batches that they make."""

    def __init__(self, options: InputOptions, cores: int, folder: Path):
        found = image_files(options.source) if options.source.is_dir() else []
        if not found:
            raise ValueError(f"--source {options.source}: no images in it")
        # They are held in memory: no more than these, from the whole folder.
        self.paths = found[:: -(-len(found) // MOST_IMAGES)]
        self.batch = min(options.batch, len(self.paths))
        self.image_size = options.image_size
        self.library = "torchvision" if options.torchvision else "Pillow and NumPy"
        make = torchvision_transform if options.torchvision else pillow_transform
        self.transform: Transform = make(options.image_size)
        self.crop = train_crop("random_resized", image_size=options.image_size)
        self.threads = DecodingThreads(cores)
        self.num_threads = cores
        count = len(self.paths)
        self.plan = BatchPlan(
            np.zeros(count, np.int32),
            ShuffledSampler(
                count, per_epoch=count // self.batch * self.batch, seed=_SEED
            ),
            batch_size=self.batch,
            tail_mask=np.zeros(1, bool),
            tail_fraction=0.0,
            seed=_SEED,
        )
        self.records = [Path(path).read_bytes() for path in self.paths]
        # One whose pages are dropped, another whose pages stay.
        self.warm, self.cold = folder / "warm", folder / "cold"
        for records in (self.warm, self.cold):
            write_records(
                records,
                _SPLIT,
                count,
                self.records.__getitem__,
                shorter_side=RECORD_SIDE,
            )
        # The baseline's batch, in memory used again: four times ours, fresh pages for
        # it would count against the baseline.
        self.floats = np.zeros(
            (self.batch, 3, self.image_size, self.image_size), np.float32
        )
        self.keys: list[Key] = []

    def arms(self) -> dict[str, Arm]:
        """Every arm by the text of its key."""
        jpeg, count = self.records, len(self.records)
        archive = RecordSource(self.warm, _SPLIT, count)
        stored = [archive[item] for item in range(count)]
        arms: dict[Key, Arm] = {
            _BASELINE: Arm(lambda number: number, self._released),
            ("jpeg", "decode", None): self._decode(jpeg),
            ("jpeg", "crop", None): self._cut(jpeg),
            ("jpeg", "host", None): self._host(jpeg),
            ("folder", "host", "warm"): self._host(FileSource(self.paths)),
            ("arrayrecord", "decode", None): self._decode(stored),
            ("arrayrecord", "crop", None): self._cut(stored),
            ("arrayrecord", "host", "warm"): self._host(archive),
            ("batch", "transfer", None): self._transfer(),
            ("jpeg", "all", None): self._all(jpeg),
            ("arrayrecord", "all", "warm"): self._all(archive),
        }
        if hasattr(os, "posix_fadvise"):
            arms["folder", "host", "cold"] = self._host(
                FileSource(self.paths), cold=self._files_of
            )
            arms["arrayrecord", "host", "cold"] = self._host(
                RecordSource(self.cold, _SPLIT, count),
                cold=lambda number: list(self.cold.glob("*.array_record")),
            )
        self.keys = list(arms)
        return {str(key): forgetting(arm) for key, arm in arms.items()}

    def _files_of(self, number: int) -> list[Path]:
        return [Path(self.paths[i]) for i in self.plan(number).records]

    def _released(self, number: int) -> np.ndarray:
        images, records = self.floats, self.plan(number).records

        def fill(row: int) -> None:
            random = randomness.generator(_SEED, randomness.CROP, high=row, step=number)
            images[row] = self.transform(self.records[records[row]], random)

        self.threads.each(fill, self.batch)
        return images

    def _host(
        self, source: Source, cold: Callable[[int], Sequence[Path]] | None = None
    ) -> Arm:
        ids = [str(path) for path in self.paths]
        labels = np.zeros(len(ids), np.int32)
        dataset = train_dataset(
            Split("bench", source, labels, ids),
            self.plan,
            num_steps=2**31,
            image_size=self.image_size,
            seed=_SEED,
            num_threads=self.num_threads,
        )

        def prepare(number: int) -> int:
            for path in cold(number) if cold else ():
                forget(path)
            return number

        return Arm(prepare, lambda number: dataset[number])

    def _pictures(
        self, records: Sequence[bytes], number: int
    ) -> list[tuple[Picture, np.random.Generator]]:
        return [
            (
                open_picture(records[record], name=str(self.paths[record])),
                randomness.generator(_SEED, randomness.CROP, high=row, step=number),
            )
            for row, record in enumerate(self.plan(number).records)
        ]

    def _decode(self, records: Sequence[bytes]) -> Arm:
        """Decoding at the scale that the crops need, without the crops."""

        def prepare(number: int) -> list[Callable[[], Any]]:
            asked: list[Callable[[], Any]] = []
            for picture, random in self._pictures(records, number):
                self.crop(_noting(picture, asked), random)
            return asked

        def run(asked: list[Callable[[], Any]]) -> None:
            self.threads.each(lambda row: asked[row](), len(asked))

        return Arm(prepare, run)

    def _cut(self, records: Sequence[bytes]) -> Arm:
        """Crops of pixels that have been decoded."""

        def prepare(number: int) -> list[Callable[[], Any]]:
            ready: list[Callable[[], Any]] = []
            for row, (picture, random) in enumerate(self._pictures(records, number)):
                asked: list[Callable[[], Any]] = []
                self.crop(_noting(picture, asked), random)
                again = randomness.generator(
                    _SEED, randomness.CROP, high=row, step=number
                )
                ready.append(partial(self.crop, _decoded(picture, asked[0]()), again))
            return ready

        def run(ready: list[Callable[[], Any]]) -> None:
            self.threads.each(lambda row: ready[row](), len(ready))

        return Arm(prepare, run)

    def _transfer(self) -> Arm:
        shape = (self.batch, self.image_size, self.image_size, 3)
        random = np.random.default_rng(_SEED)

        def prepare(number: int) -> np.ndarray:
            del number
            return random.integers(0, 256, shape, np.uint8)

        return Arm(prepare, lambda images: jax.block_until_ready(jnp.array(images)))

    def _all(self, source: Source) -> Arm:
        """A batch made, sent, augmented and normalised."""
        host = self._host(source)
        key = jax.random.key(_SEED)

        @jax.jit
        def on_device(images: jax.Array, ordinals: jax.Array) -> jax.Array:
            draws = draw(key, 0, ordinals)
            dtype = jnp.dtype(jnp.float32)
            return normalise(
                augment(images, draws, _AUGMENTATION, dtype), _NORMALISATION
            )

        def run(number: int) -> jax.Array:
            batch: Mapping[str, np.ndarray] = host.run(number)
            return jax.block_until_ready(on_device(batch["image"], batch["index"]))

        return Arm(host.prepare, run)


def _noting(picture: Picture, asked: list[Callable[[], Any]]) -> Picture:
    """The picture, writing down what a crop asks it to decode."""

    def noted(decode: Callable[[int], Any]) -> Callable[[int], Any]:
        def note(reduce: int) -> Any:
            asked.append(partial(decode, reduce))
            return decode(reduce)

        return note

    pixels = picture.pixels
    return picture._replace(
        load=noted(picture.load), pixels=None if pixels is None else noted(pixels)
    )


def _decoded(picture: Picture, found: Any) -> Picture:
    """The picture with what it has decoded already."""
    if isinstance(found, np.ndarray):
        return picture._replace(pixels=lambda reduce: found)
    return picture._replace(load=lambda reduce: found, pixels=None)


def forget(path: Path) -> None:
    """Take a file out of the page cache, so that it is read from the disk again."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Pages that wait to be written cannot be dropped.
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _confined(cores: int | None) -> Iterator[int]:
    """Keep this thread, and those that it starts, on some cores; gives their number."""
    if not hasattr(os, "sched_getaffinity"):
        if cores is not None:
            raise ValueError("--cores: this system cannot bind a process to cores")
        yield os.cpu_count() or 1
        return
    before = os.sched_getaffinity(0)
    if cores is not None and not 1 <= cores <= len(before):
        raise ValueError(f"--cores {cores}: this process may use {len(before)}")
    try:
        os.sched_setaffinity(0, sorted(before)[: cores or len(before)])
        yield cores or len(before)
    finally:
        os.sched_setaffinity(0, before)
