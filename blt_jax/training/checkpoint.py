"""One checkpoint folder by Orbax: what a run needs to go on, and a user to load.

A folder `checkpoints/STEP` holds `params`, `batch_stats`, `opt_state` and `confusion`
as arrays, and as Orbax's custom metadata a description of the model, its data and the
digest of every array, so that one folder alone is enough for `blt_jax.load`. The
position in the data is the step itself.

Reading runs nothing that a folder says: it is Orbax's array format and JSON.
"""

import math
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from blt_jax.exit_codes import ExitCode
from blt_jax.training.digests import is_intact, leaf_digests, leaf_name, sealed, spec
from blt_jax.training.formats import (
    FORMAT,
    format_of,
    refusal,
    upgraded_arrays,
    upgraded_description,
)
from blt_jax.training.orbax_folder import (
    UnreadableError,
    read_arrays,
    read_description,
    read_structure,
    short_reason,
    without_empty,
)

FOLDER = "checkpoints"
DESCRIPTION = "_CHECKPOINT_METADATA"  # Orbax's name
# Bytes of arrays a byte on disk. Half of a fresh state may be zeros, which compress to
# nothing; trained parameters hardly compress.
_UNPACKED = 50


class CheckpointError(ValueError):
    """A checkpoint is missing, or not what was asked for."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not what was saved."""

    exit_code = ExitCode.NO_GOOD_CHECKPOINT


def describe(
    meta: Mapping[str, Any], arrays: Any, *, step: int, score: float | None = None
) -> dict[str, Any]:
    """The description of a checkpoint: `meta`, format, step, score and digests."""
    return sealed(
        {
            **meta,
            "format": FORMAT,
            "step": step,
            "score": score,
            "digests": leaf_digests(arrays),
        }
    )


def save_model(
    folder: Path, params: Any, batch_stats: Any, meta: Mapping[str, Any]
) -> None:
    """Write one checkpoint folder without optimizer state, as `import` does.

    Raises CheckpointError when something is there already.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} exists already: give another --out")
    arrays = without_empty({"params": params, "batch_stats": batch_stats})
    ocp.save_checkpointables(
        folder.resolve(), arrays, custom_metadata=describe(meta, arrays, step=0)
    )


def load_meta(folder: Path) -> dict[str, Any]:
    """The description in one checkpoint folder, as today's format has it.

    Its "format" and "digests" are those on disk. Raises CheckpointError for a folder
    that is not one of ours, or of a format that cannot be read, and
    DamagedCheckpointError for a description that is not as it was saved.
    """
    if not (folder / DESCRIPTION).exists():
        raise DamagedCheckpointError(
            f"{folder} is not a checkpoint of blt-jax, or is damaged: it has no "
            f"{DESCRIPTION}"
        )
    try:
        meta = read_description(folder)
        version = format_of(meta)
    except (UnreadableError, ValueError) as error:
        raise DamagedCheckpointError(
            f"{folder} is not a checkpoint of blt-jax, or is damaged "
            f"({short_reason(error)})"
        ) from None
    intact = is_intact(meta)
    why = refusal(version)
    if why and (intact or "seal" not in meta):  # format 1 had no seal
        raise CheckpointError(f"{folder} has {why}")
    if not intact:
        raise DamagedCheckpointError(
            f"{folder} is damaged: its description is not as it was saved"
        )
    # Anybody can seal a description of their own.
    digests = meta.get("digests")
    if not (isinstance(digests, dict) and all(map(_is_digest, digests.values()))):
        raise CheckpointError(f"{folder} is not a checkpoint of blt-jax: no digests")
    return upgraded_description(
        {name: value for name, value in meta.items() if name != "seal"}
    )


def load_arrays(folder: Path, meta: Mapping[str, Any], wanted: Any) -> Any:
    """Read arrays and hold them against their digests.

    wanted: a tree whose top level names some of the folder's items; leaves with shape
      and dtype. Returns the same tree of NumPy arrays, in the format on disk.

    Raises CheckpointError when the folder holds other arrays than wanted (it says
    which), and DamagedCheckpointError when they are not what was saved.
    """
    saved = meta["digests"]
    there = {name: saved[name].split()[0] for name in _names(meta, wanted)}
    here = {leaf_name(p): spec(leaf) for p, leaf in jax.tree.leaves_with_path(wanted)}
    for name in sorted(there | here):
        if there.get(name) != here.get(name):
            raise CheckpointError(
                f"{folder} does not fit this configuration: {name} is "
                f"{there.get(name, 'not')} there and {here.get(name, 'not')} here. Set "
                "config.model as it was trained, or use a new --workdir"
            )
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(wanted))
    on_disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > _UNPACKED * max(on_disk, 2**20):
        raise DamagedCheckpointError(
            f"{folder} is damaged, or made to fill the memory: it asks for {size} "
            f"bytes and has {on_disk}"
        )
    try:
        arrays = read_arrays(folder, wanted)
    except UnreadableError as error:
        raise DamagedCheckpointError(
            f"{folder} is damaged: its arrays cannot be read ({error})"
        ) from None
    for name, found in leaf_digests(arrays).items():
        if found != saved[name]:
            raise DamagedCheckpointError(
                f"{folder} is damaged: {name} is not as it was saved"
            )
    return arrays


def load_checkpoint(
    folder: Path, *, confusion: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a model, and with `confusion` its validation pools, from one folder.

    Returns ({"params", "batch_stats"[, "confusion"]} as NumPy arrays, meta), both as
    today's format has them, whichever the folder is of. Raises as
    `load_meta` and `load_arrays` do.
    """
    meta = load_meta(folder)
    items = ("params", "batch_stats", "confusion")[: 3 if confusion else 2]
    arrays = load_arrays(folder, meta, _saved_tree(folder, meta, items))
    # A network without batch normalisation has no statistics, and no such item.
    arrays.setdefault("batch_stats", {})
    return upgraded_arrays(meta["format"], arrays), meta


def verify_checkpoint(folder: Path) -> dict[str, Any]:
    """Hold every array of a folder against its digest; returns its description.

    Raises as `load_meta` and `load_arrays` do.
    """
    meta = load_meta(folder)
    load_arrays(folder, meta, _saved_tree(folder, meta))
    return meta


def find_checkpoint(path: str | Path, *, which: str = "best") -> Path:
    """The checkpoint folder that a user's path means.

    path: a working directory (its last stage that has one), a stage, or one
    checkpoint folder; which: "best" by validation, or "last". Raises CheckpointError,
    also when the best cannot be told because a description is damaged.
    """
    for folders in checkpoints_in(path):
        if which == "last":
            return folders[-1]
        scores = {folder: load_meta(folder)["score"] for folder in folders}
        scored = [folder for folder in folders if scores[folder] is not None]
        # The first of the highest, so ties go to the later.
        return max(reversed(scored or folders[-1:]), key=lambda f: scores[f] or 0.0)
    raise CheckpointError(
        f"no checkpoint in {path}: no finished {FOLDER}/STEP is there. Give a working "
        "directory, one of its stages, or one checkpoint folder"
    )


def checkpoints_in(path: str | Path) -> list[list[Path]]:
    """The checkpoint folders of each stage by step, the last stage first.

    path: as in `find_checkpoint`. Raises CheckpointError if it does not exist.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}: there is no such folder")
    if (path / DESCRIPTION).exists() or (path / "params").is_dir():
        return [[path]]
    stages = (step_folders(path / name / FOLDER) for name in ("stage2", "stage1", ""))
    return [folders for folders in stages if folders]


def step_folders(folder: Path) -> list[Path]:
    """The checkpoints in one stage's folder by step."""
    if not folder.is_dir():
        return []
    steps = (one for one in folder.iterdir() if one.name.isdecimal() and one.is_dir())
    return sorted(steps, key=lambda one: int(one.name))


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value.split()) == 2


def _saved_tree(
    folder: Path, meta: Mapping[str, Any], items: Container[str] | None = None
) -> dict[str, Any]:
    """What a folder's items hold (None: all of them), as Orbax describes it."""
    try:
        trees = read_structure(folder)
    except UnreadableError as error:
        raise DamagedCheckpointError(
            f"{folder} is damaged: what it holds cannot be told ({error})"
        ) from None
    saved = {name: trees[name] for name in trees if items is None or name in items}
    names = {leaf_name(path) for path, _ in jax.tree.leaves_with_path(saved)}
    if lost := sorted(names ^ _names(meta, items)):
        raise DamagedCheckpointError(f"{folder} is damaged: {lost[0]} is not as saved")
    return saved


def _names(meta: Mapping[str, Any], items: Container[str] | None) -> set[str]:
    """Names of the leaves that were saved in some items (None: in all of them)."""
    saved = meta["digests"]
    return {name for name in saved if items is None or name.split("/")[0] in items}
