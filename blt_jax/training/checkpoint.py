"""Checkpoints by Orbax: what a run needs to go on, and a user to load a model.

A checkpoint folder `checkpoints/STEP` holds `params`, `batch_stats`, `opt_state` and
`confusion` as arrays, and as Orbax's custom metadata a description of the model and
its data, so that one folder alone is enough for `blt_jax.load`. The position in the
data is the step itself.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from blt_jax.hallucination.targets import Confusion
from blt_jax.training.state import TrainState

FORMAT = 1  # raised when what a checkpoint holds changes its meaning
FOLDER = "checkpoints"
_TEMPORARY = "*.orbax-checkpoint-tmp*"


class CheckpointError(ValueError):
    """A checkpoint is missing, unreadable, or not what was asked for."""


class Checkpointer:
    """Saves one stage's state; keeps the last checkpoints and the best.

    Best: the highest score (validation mean per-class accuracy), ties to the later
    step. Saving is asynchronous; leaving the context waits for the commit, and
    raises if it failed.
    """

    def __init__(self, stage_dir: Path, *, keep: int = 1) -> None:
        folder = stage_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        # Orbax leaves the folder of an interrupted save where it is, for ever.
        for leftover in folder.glob(_TEMPORARY):
            shutil.rmtree(leftover, ignore_errors=True)
        policies = ocp.training.preservation_policies
        self._orbax = ocp.training.Checkpointer(
            folder.resolve(),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep),
                    policies.BestN(
                        get_metric_fn=lambda metrics: metrics["score"],
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._orbax.close()

    @property
    def latest_step(self) -> int | None:
        """The last committed step, None when there is none."""
        latest = self._orbax.latest
        return None if latest is None else int(latest.step)

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

        meta: JSON-able description; score: None between validations.
        """
        self._orbax.save_checkpointables_async(
            step,
            {
                "params": state.params,
                "batch_stats": state.batch_stats,
                "opt_state": state.opt_state,
                "confusion": confusion,
            },
            custom_metadata={**meta, "format": FORMAT, "step": step},
            metrics=None if score is None else {"score": score},
            # When to save is the loop's decision, not Orbax's default interval.
            force=True,
            overwrite=True,
        )

    def wait(self) -> None:
        """Return once everything saved is committed; raises if a save failed."""
        self._orbax.wait()

    def restore(
        self, state: TrainState, confusion: Confusion, placement: Sharding
    ) -> tuple[TrainState, Confusion, dict[str, Any]]:
        """The latest checkpoint, in the arguments' structure, shapes and dtypes.

        Returns (state, confusion, meta). Raises CheckpointError.
        """
        step = self.latest_step
        folder = self._orbax.directory / str(step)
        wanted = {
            "params": state.params,
            "batch_stats": state.batch_stats,
            "opt_state": state.opt_state,
            "confusion": confusion,
        }
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=placement
            ),
            wanted,
        )
        try:
            meta = self._orbax.checkpointables_metadata(step).custom_metadata
            loaded = self._orbax.load_checkpointables(step, abstract)
        except Exception as error:  # Orbax raises many kinds for a damaged folder
            raise CheckpointError(
                f"cannot restore {folder}: it is damaged, or does not fit this "
                "configuration. Delete that folder to fall back to an earlier one, "
                f"or use a new --workdir ({_first_line(error)})"
            ) from error
        restored = TrainState(
            step=jax.device_put(np.asarray(step, np.int32), placement),
            params=loaded["params"],
            batch_stats=loaded["batch_stats"],
            opt_state=loaded["opt_state"],
        )
        return restored, loaded["confusion"], meta


def find_checkpoint(path: str | Path, *, which: str = "best") -> Path:
    """The checkpoint folder that a user's path means.

    path: a working directory (its last stage that has one), a stage, or one
    checkpoint folder; which: "best" by validation, or "last". Raises CheckpointError.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}: there is no such folder")
    if (path / "params").is_dir():
        return path
    for stage in (path / "stage2", path / "stage1", path):
        folder = stage / FOLDER
        if not folder.is_dir():
            continue
        with ocp.training.Checkpointer(folder.resolve()) as orbax:
            steps = [(int(c.step), c.metrics) for c in orbax.checkpoints]
        if not steps:
            continue
        last = max(step for step, _ in steps)
        scores = [(m["score"], step) for step, m in steps if m]
        best = max(scores)[1] if scores else last
        return folder / str(best if which == "best" else last)
    raise CheckpointError(
        f"no checkpoint in {path}: no finished {FOLDER}/STEP is there. Give a working "
        "directory, one of its stages, or one checkpoint folder"
    )


def load_meta(folder: Path) -> dict[str, Any]:
    """The description in one checkpoint folder. Raises CheckpointError."""
    try:
        meta = ocp.checkpointables_metadata(folder.resolve()).custom_metadata or {}
        version = meta["format"]
    except Exception as error:  # Orbax raises many kinds for a damaged folder
        raise CheckpointError(
            f"{folder} is not a checkpoint of blt-jax, or is damaged "
            f"({_first_line(error)})"
        ) from error
    if version > FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {version}; this version of blt-jax reads "
            f"up to {FORMAT}"
        )
    return dict(meta)


def load_checkpoint(
    folder: Path, *, confusion: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a model, and with `confusion` its validation pools, from one folder.

    Returns ({"params", "batch_stats"[, "confusion"]} as NumPy arrays, meta). Raises
    CheckpointError for a folder that is not one of ours, or of a newer format.
    """
    meta = load_meta(folder)
    try:
        saved = ocp.checkpointables_metadata(folder.resolve()).metadata
        names = ["params", "batch_stats"]
        if confusion and "confusion" in saved:
            names.append("confusion")
        abstract = {
            name: jax.tree.map(lambda m: np.empty(m.shape, m.dtype), saved[name])
            for name in names
        }
        arrays = ocp.load_checkpointables(folder.resolve(), abstract)
    except Exception as error:
        raise CheckpointError(
            f"cannot read the arrays of {folder} ({_first_line(error)})"
        ) from error
    return arrays, meta


def save_model(
    folder: Path, params: Any, batch_stats: Any, meta: Mapping[str, Any]
) -> None:
    """Write one checkpoint folder without optimizer state, as `import` does.

    Raises CheckpointError when something is there already.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} exists already: give another --out")
    ocp.save_checkpointables(
        folder.resolve(),
        {"params": params, "batch_stats": batch_stats},
        custom_metadata={**meta, "format": FORMAT, "step": 0},
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
