"""The step's programs, one for each number of slots, compiled before the first step.

Compiling ahead keeps every later step free of surprises: a width that comes up in the
tenth epoch has been compiled as well. The programs are compiled side by side, and
none of it is ever part of a step's time.
"""

import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from blt_jax.hallucination.targets import Confusion
from blt_jax.training.mesh import sharded
from blt_jax.training.state import TrainState

# What a step takes from the host; records' ids stay there.
BATCH_FIELDS: dict[str, type] = {
    "image": np.uint8,
    "label": np.int32,
    "index": np.int32,
    "seed_image": np.uint8,
    "seed_label": np.int32,
    "seed_index": np.int32,
    "seed_valid": np.bool_,
}

# (state, batch, confusion, key) -> (state, sums)
Program = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


class Compiled(NamedTuple):
    """One program, and how long its compilation took."""

    program: Any
    seconds: float  # wall time; several compile at the same time


def keep_programs() -> None:
    """Keep compiled programs between runs, unless the user has chosen a place.

    Where the place cannot be written, programs are compiled anew each time.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(caches) / "blt_jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))


def compile_steps(
    train_step: Any,
    state: TrainState,
    confusion: Confusion,
    key: jax.Array,
    *,
    widths: Iterable[int],
    batch_size: int,
    image_size: int,
    mesh: Mesh,
    seed_dtype: type = np.uint8,
) -> dict[int, Compiled]:
    """Compile the jitted `train_step` for each number of slots in `widths`.

    state, confusion, key: as the step will get them; nothing is run. batch_size: B,
    over all devices; image_size: pixels; seed_dtype: of the seeds' images.
    """

    def compile_one(lowered: Any) -> Compiled:
        begin = time.monotonic()
        program = lowered.compile()
        return Compiled(program, time.monotonic() - begin)

    # Tracing holds Python, compiling does not.
    with _no_collection(), ThreadPoolExecutor(os.cpu_count()) as threads:
        compiling = {}
        for slots in widths:
            batch = abstract_batch(
                batch_size,
                slots,
                image_size=image_size,
                mesh=mesh,
                seed_dtype=seed_dtype,
            )
            lowered = train_step.lower(state, batch, confusion, key)
            compiling[slots] = threads.submit(compile_one, lowered)
        return {slots: future.result() for slots, future in compiling.items()}


@contextmanager
def _no_collection() -> Iterator[None]:
    """Tracing makes millions of objects that live on: looking for garbage among them
    takes a fifth of the time and finds next to none.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def abstract_batch(
    batch_size: int,
    slots: int,
    *,
    image_size: int,
    mesh: Mesh,
    seed_dtype: type = np.uint8,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a step's batch, over all hosts.

    batch_size rows and `slots` seeds of image_size x image_size pixels; seed_dtype:
    uint8, or float for seeds from a bank.
    """

    def array(name: str, dtype: type) -> jax.ShapeDtypeStruct:
        count = slots if name.startswith("seed_") else batch_size
        pixels = (image_size, image_size, 3) if name.endswith("image") else ()
        return jax.ShapeDtypeStruct((count, *pixels), dtype, sharding=sharded(mesh))

    fields = BATCH_FIELDS | {"seed_image": seed_dtype}
    return {name: array(name, dtype) for name, dtype in fields.items()}
