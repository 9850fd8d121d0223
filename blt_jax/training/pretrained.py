"""A backbone that was trained before, as the beginning of another classifier."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from blt_jax.models.classifier import Model, Tree
from blt_jax.training.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    load_meta,
)

# Parts of a backbone that are drawn anew where the checkpoint has none of the shape.
_OPTIONAL = ("projection", "attention")


def load_backbone(
    checkpoint_dir: str | Path,
    model: Model,
    params: Tree,
    batch_stats: Tree,
    *,
    which: str = "best",
) -> tuple[Tree, Tree]:
    """Replace the backbone in `params` and `batch_stats` by a checkpoint's.

    checkpoint_dir: a working directory, a stage, or a checkpoint folder, trained here
      or imported; classes and head may be others than the model's.
    params, batch_stats: of `model`, as `Model.init` gives them.
    which: "best" by validation or "last".

    The projection and the attention are taken too, if they have the model's shape and
    were trained (an import may have drawn them). Raises CheckpointError for a
    checkpoint of another backbone.
    """
    folder = find_checkpoint(checkpoint_dir, which=which)
    check_backbone(folder, load_meta(folder), model)
    arrays, meta = load_checkpoint(folder)
    drawn = _drawn(meta)
    own, trained = params["backbone"], arrays["params"]["backbone"]
    taken: Tree = {}
    for part, fresh in own.items():
        found = trained.get(part)
        if part in _OPTIONAL and (
            part in drawn or found is None or _shapes(found) != _shapes(fresh)
        ):
            taken[part] = fresh
        else:
            taken[part] = found
    stats = arrays["batch_stats"].get("backbone", {})
    own_stats = batch_stats.get("backbone", {})
    if _shapes(taken) != _shapes(own) or _shapes(stats) != _shapes(own_stats):
        raise CheckpointError(
            f"the backbone in {folder} does not fit {model.spec.backbone} as it is "
            "configured here; take the other fields of config.model as it was trained"
        )
    if own_stats:
        batch_stats = {**batch_stats, "backbone": _as(own_stats, stats)}
    return {**params, "backbone": _as(own, taken)}, batch_stats


def check_backbone(folder: Path, meta: Mapping[str, Any], model: Model) -> None:
    """Raise CheckpointError unless a checkpoint's backbone is called as the model's."""
    theirs = meta.get("model", {}).get("backbone")
    if theirs != model.spec.backbone:
        raise CheckpointError(
            f"{folder} holds the backbone {theirs}, and config.model.backbone is "
            f"{model.spec.backbone}: give --config.model.backbone={theirs}, or another "
            "checkpoint"
        )


def _drawn(meta: Mapping[str, Any]) -> set[str]:
    """Parts of an imported backbone that nobody has trained."""
    names = meta.get("imported", {}).get("drawn", ())
    return {n.split(".")[1] for n in names if n.startswith("backbone.")}


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: tuple(leaf.shape), tree)


def _as(own: Tree, taken: Tree) -> Tree:
    """Arrays in the dtypes of the model's own."""
    return jax.tree.map(lambda leaf, array: jnp.asarray(array, leaf.dtype), own, taken)
