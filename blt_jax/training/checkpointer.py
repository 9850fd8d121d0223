"""A stage's checkpoints: which are kept, which is gone on from, what is damaged."""

import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from blt_jax.hallucination.targets import Confusion
from blt_jax.training.checkpoint import (
    FOLDER,
    CheckpointError,
    DamagedCheckpointError,
    describe,
    load_arrays,
    load_meta,
    step_folders,
    verify_checkpoint,
)
from blt_jax.training.digests import spec
from blt_jax.training.formats import FORMAT
from blt_jax.training.mesh import meet, put_replicated
from blt_jax.training.orbax_folder import quiet, short_reason, without_empty
from blt_jax.training.state import TrainState
from blt_jax.training.workdir import NotSavedError, make_folder

_REMOVED = ".removed"
# What a killed process leaves: Orbax's folder of an unfinished save, and our own of an
# unfinished removal.
_LEFTOVERS = ("*.orbax-checkpoint-tmp*", f"*{_REMOVED}")
# Scores of checkpoints between validations, and of those whose description is damaged.
_NONE, _UNKNOWN = -1.0, -2.0
# Seconds until a save is given up. Orbax (0.12.8) reads the clock on the wall: 20
# minutes, its default, are over when that is set, or when a laptop wakes up.
_TIMEOUT = 2 * 24 * 3600
_ASIDE = "damaged"  # folder beside the checkpoints


class Checkpointer:
    """Saves one stage's state; keeps the last checkpoints and the best.

    Best: the highest score (validation mean per-class accuracy), ties to the later
    step. Saving is asynchronous; leaving the context waits for the commit, and
    raises if it failed. A checkpoint appears and goes by one renaming, so that one
    that has a step for its name is whole, whenever the process is killed. Every
    process of a run has a Checkpointer and calls it alike.
    """

    def __init__(self, stage_dir: Path, *, keep: int = 2) -> None:
        self._folder = stage_dir.resolve() / FOLDER
        self._keep = keep
        self._saving: Any = None
        self._bytes = 0
        self._quiet = quiet()  # threads of Orbax's log while a save is under way
        if _first():
            make_folder(self._folder)
            for pattern in _LEFTOVERS:
                for leftover in self._folder.glob(pattern):
                    shutil.rmtree(leftover, ignore_errors=True)
        meet("leftovers of killed processes are removed")
        # Reading a description takes as long as some steps: not while training.
        self._scores: dict[int, float] = {}
        for folder in step_folders(self._folder):
            with suppress(CheckpointError):
                self._note(int(folder.name), load_meta(folder)["score"])

    def __enter__(self) -> Self:
        self._quiet.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except NotSavedError as failure:
            if error is None:
                raise
            print(failure, file=sys.stderr)  # besides what ended the run
        finally:
            self._quiet.__exit__(None, None, None)

    @property
    def latest_step(self) -> int | None:
        """The last committed step, damaged or not; None when there is none."""
        folders = step_folders(self._folder)
        return int(folders[-1].name) if folders else None

    def save(
        self,
        state: TrainState,
        confusion: Confusion,
        meta: Mapping[str, Any],
        *,
        step: int,
        score: float | None = None,
    ) -> None:
        """Copy the state off the devices and write it in the background.

        meta: JSON-able description; score: None between validations. Raises
        NotSavedError, also for the save before this one.
        """
        self.wait()
        arrays = _arrays(state, confusion)
        self._bytes = _size(arrays)
        self._note(step, score)
        try:
            with ocp.Context(
                async_options=ocp.options.AsyncOptions(timeout_secs=_TIMEOUT)
            ):
                self._saving = ocp.save_checkpointables_async(
                    self._folder / str(step),
                    without_empty(arrays),
                    custom_metadata=describe(meta, arrays, step=step, score=score),
                )
        except Exception as error:  # Orbax raises many kinds
            raise self._not_saved(error) from error

    def wait(self) -> None:
        """Return once everything saved is committed. Raises NotSavedError."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        try:
            saving.result()
        except Exception as error:  # as above
            raise self._not_saved(error) from error
        # Only now: older ones are good as long as the new one may fail.
        if _first():
            self._remove_others()

    def check_space(self, state: TrainState, confusion: Confusion) -> None:
        """Raise NotSavedError if the disk cannot take the checkpoints of a stage.

        state: arrays, or their shapes alone.
        """
        self._bytes = _size(_arrays(state, confusion))
        # The newest ones, the best, and the one that is being written.
        missing = self._keep + 2 - len(step_folders(self._folder))
        free = shutil.disk_usage(self._folder).free
        if free < missing * self._bytes:
            raise NotSavedError(
                f"{self._folder}: too little room for {missing} more checkpoints of "
                f"{_size_text(self._bytes)}, {_size_text(free)} are free; free some, "
                "or lower config.checkpoint.keep"
            )

    def newest_good(self) -> tuple[int | None, list[str]]:
        """The newest step whose checkpoint is what was saved; None: there is none yet.

        Every array of it is read. Damaged ones that are newer are moved into the
        folder `damaged`, and told in the second result.

        Raises DamagedCheckpointError if there are checkpoints, and none is good.
        """
        damaged: dict[Path, str] = {}
        good = None
        for folder in reversed(step_folders(self._folder)):
            try:
                verify_checkpoint(folder)
            except DamagedCheckpointError as error:
                damaged[folder] = str(error)
            else:
                good = int(folder.name)
                break
        if damaged and good is None:
            raise DamagedCheckpointError(
                f"no good checkpoint is left in {self._folder}: "
                f"{'; '.join(damaged.values())}. Put back a copy of one, or remove "
                f"{self._folder.parent} to train the stage anew"
            )
        # Every process has read them before one of them moves them.
        meet("the newest good checkpoint is known")
        told = []
        for folder, problem in damaged.items():
            aside = _free_name(self._folder.parent / _ASIDE / folder.name)
            if _first():
                aside.parent.mkdir(exist_ok=True)
                os.rename(folder, aside)
            told.append(f"{problem}; moved to {aside}")
        meet("damaged checkpoints are moved aside")
        return good, told

    def restore(
        self, state: TrainState, confusion: Confusion, mesh: Mesh
    ) -> tuple[TrainState, Confusion, dict[str, Any]]:
        """The last checkpoint, in the arguments' structure, shapes and dtypes.

        state: arrays, or their shapes alone. A confusion of another number of
        validation images is left where it is: that of the argument is returned.

        Returns state and confusion on all devices, and the description. Raises
        CheckpointError if it does not fit the arguments, and DamagedCheckpointError.
        """
        folder = step_folders(self._folder)[-1]
        meta = load_meta(folder)
        if meta["format"] != FORMAT:
            raise CheckpointError(
                f"{folder} has checkpoint format {meta['format']}, and a run goes on "
                f"only in format {FORMAT}: begin a new --workdir, with "
                f"--config.model.pretrained={folder} if it is to begin with this one"
            )
        wanted = _arrays(state, confusion)
        pools = meta["digests"].get("confusion/confused")
        if pools and pools.split()[0] != spec(confusion.confused):
            del wanted["confusion"]
        arrays = {"confusion": confusion, "step": np.int32(meta["step"])}
        arrays |= load_arrays(folder, meta, wanted)
        arrays = put_replicated(arrays, mesh)
        confusion = arrays.pop("confusion")
        return TrainState(**arrays), confusion, meta

    def _remove_others(self) -> None:
        """Remove all but the newest, the best, and any whose score cannot be told."""
        folders = step_folders(self._folder)
        scores = {f: self._scores.get(int(f.name), _UNKNOWN) for f in folders}
        keep = {f for f, score in scores.items() if score == _UNKNOWN}
        keep.update(folders[-self._keep :])
        keep.add(max(reversed(folders), key=lambda folder: scores[folder]))
        for folder in folders:
            if folder not in keep:
                removed = folder.with_name(folder.name + _REMOVED)
                os.rename(folder, removed)
                shutil.rmtree(removed)

    def _note(self, step: int, score: float | None) -> None:
        self._scores[step] = _NONE if score is None else score

    def _not_saved(self, error: Exception) -> NotSavedError:
        free = shutil.disk_usage(self._folder).free
        return NotSavedError(
            f"a checkpoint could not be written into {self._folder} "
            f"({short_reason(error)}); it takes {_size_text(self._bytes)}, "
            f"{_size_text(free)} are free. Those before it are whole: mend the cause, "
            "and the same command goes on from them"
        )


def _arrays(state: TrainState, confusion: Confusion) -> dict[str, Any]:
    # The step is in the description, and the folder's name.
    arrays = {n: x for n, x in state._asdict().items() if n != "step"}
    return {**arrays, "confusion": confusion}


def _size(arrays: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))


def _size_text(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count} bytes"


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.{n}") for n in range(1, sys.maxsize))
    return path if not path.exists() else next(p for p in names if not p.exists())


def _first() -> bool:
    return jax.process_index() == 0
