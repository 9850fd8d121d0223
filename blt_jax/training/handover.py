"""What stage 2 takes over from stage 1, and what it begins with beside that."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from blt_jax import losses
from blt_jax.config import ConfigError
from blt_jax.training.centroids import class_means
from blt_jax.training.checkpoint import find_checkpoint, load_checkpoint, load_meta
from blt_jax.training.feed import bad_files
from blt_jax.training.pretrained import check_backbone, load_backbone
from blt_jax.training.setup import Setup, eval_batches, image_dtype
from blt_jax.training.state import TrainState


def stage1_source(setup: Setup) -> Path | None:
    """The checkpoint that stage 2 goes on from; None: it begins with nothing."""
    config = setup.config
    if config.stage1.checkpoint:
        return find_checkpoint(config.stage1.checkpoint)
    if config.stage1.epochs:
        return find_checkpoint(setup.workdir / "stage1")
    return None


def take(
    source: Path,
    groups: Sequence[str],
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Groups of a checkpoint's parameters, with its statistics, in place of fresh ones.

    The backbone is one of them; attention that the checkpoint lacks stays as it is
    drawn. Where a memory is asked by a linear classifier, that of the checkpoint is
    taken if it is linear too. Raises ConfigError for a checkpoint of other shapes.
    """
    arrays, _ = load_checkpoint(source)
    trained, stats = arrays["params"], arrays["batch_stats"]
    backbone, head = params["backbone"], params["head"]
    fresh = {
        part: backbone[part]
        for part in ("attention",)
        if part in backbone and part not in trained["backbone"]
    }
    taken = {
        group: {**trained[group], **fresh} if group == "backbone" else trained[group]
        for group in groups
    }

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: tuple(leaf.shape), tree)

    fits = shapes(batch_stats) == shapes(stats)
    for group, found in taken.items():
        if shapes(params[group]) != shapes(found) or not fits:
            raise ConfigError(
                f"the {group} in {source} is not the configured one: set config.model "
                "as it was trained, or name another config.stage1.checkpoint"
            )
    if shapes(head.get("coefficients")) == shapes(trained["head"]):
        taken["head"] = {**head, "coefficients": trained["head"]}
    return {**params, **taken}, stats


def start_from_pretrained(
    setup: Setup, params: dict[str, Any], batch_stats: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configured pretrained backbone, if any, in place of a fresh one.

    Raises as `check_pretrained` and `load_backbone` do.
    """
    if not setup.config.model.pretrained:
        return params, batch_stats
    return load_backbone(check_pretrained(setup), setup.model, params, batch_stats)


def check_pretrained(setup: Setup) -> Path:
    """The checkpoint that config.model.pretrained means; only its description is read.

    Raises CheckpointError where there is none, or one of another backbone, and
    ConfigError for another normalisation.
    """
    folder = find_checkpoint(setup.config.model.pretrained)
    meta = load_meta(folder)
    check_backbone(folder, meta, setup.model)
    for name, ours in setup.normalisation._asdict().items():
        theirs = tuple(meta.get(name, ()))
        if theirs != ours:
            raise ConfigError(
                f"config.model.pretrained: {folder} was trained with {name} {theirs}, "
                f"not with {ours}: give --config.data.{name}='{theirs}'"
            )
    return folder


def start_from_prior(setup: Setup, params: dict[str, Any]) -> dict[str, Any]:
    """Under a sigmoid loss every class of a linear head starts at 1 / C."""
    config = setup.config
    if config.loss.name not in losses.SIGMOID or config.model.head != "linear":
        return params
    head = params["head"]
    bias = jnp.full_like(head["bias"], losses.prior_bias(setup.dataset.num_classes))
    return {**params, "head": {**head, "bias": bias}}


def fill_memory(setup: Setup, name: str, state: TrainState) -> TrainState:
    """A new stage's centroids: class means of the features that it begins with.

    All training images once, evaluation crop. Projection and backbone are those of
    stage 1 and fresh attention adds nothing, so these are stage 1's own features. (In
    the published code a freshly drawn projection lies between.)
    """
    if "memory" not in state.params:
        return state
    split = setup.dataset.train
    if jax.process_index() == 0:
        print(f"{name}: class means of {len(split)} training images", flush=True)
    centroids = class_means(
        setup.model,
        state.params,
        state.batch_stats,
        eval_batches(setup, split, bad_files=bad_files(setup)),
        mesh=setup.mesh,
        normalisation=setup.normalisation,
        dtype=image_dtype(setup.model),
    )
    return state._replace(params={**state.params, "memory": {"centroids": centroids}})
