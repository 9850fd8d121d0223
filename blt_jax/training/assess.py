"""Assess a checkpoint on a split: accuracy by shot, each class, the confusion."""

from pathlib import Path
from typing import Any

import numpy as np

from blt_jax.choices import check_choice
from blt_jax.config import ConfigError
from blt_jax.data.shots import ShotMasks
from blt_jax.metrics.calibration import reliability
from blt_jax.metrics.confusion import confusion_counts, per_class_accuracy
from blt_jax.training.checkpoint import find_checkpoint, load_checkpoint
from blt_jax.training.evaluate import Evaluation
from blt_jax.training.mesh import put_replicated
from blt_jax.training.setup import Setup, evaluate_split, score, shots

SPLITS = ("train", "val", "test")
GROUPS = ("many", "medium", "few")


def assess(
    setup: Setup, checkpoint: str | Path, split: str, *, which: str = "best"
) -> dict[str, Any]:
    """Evaluate one checkpoint, as JSON-able values.

    Returns the accuracies as fractions (many, medium, few, overall, micro, top5),
    `images`, `step`, `group_classes` (classes of the split in each group), and for
    each class its accuracy and training count; the confusion is a list of [true,
    predicted, count] where count > 0; `calibration`, by the group of the true class,
    is `blt_jax.metrics.reliability`, or None where the group has no image. Raises
    ConfigError when the checkpoint's classes are not the data set's.
    """
    check_choice("split", split, SPLITS)
    folder = find_checkpoint(checkpoint, which=which)
    arrays, meta = load_checkpoint(folder)
    dataset = setup.dataset
    if len(meta["class_names"]) != dataset.num_classes:
        raise ConfigError(
            f"{folder} was trained on {len(meta['class_names'])} classes, but "
            f"{setup.config.data.root or setup.config.data.kind} has "
            f"{dataset.num_classes}"
        )
    params, batch_stats = put_replicated(
        (arrays["params"], arrays["batch_stats"]), setup.mesh
    )
    chosen = getattr(dataset, split)
    evaluation = evaluate_split(setup, chosen, params, batch_stats)
    counts = confusion_counts(
        evaluation.labels, evaluation.predictions, dataset.num_classes
    )
    true, predicted = np.nonzero(counts)
    accuracies = per_class_accuracy(counts)
    masks = shots(setup.config, dataset.class_counts)
    return {
        "checkpoint": str(checkpoint),
        "split": split,
        "step": meta["step"],
        "images": len(evaluation.labels),
        **score(setup, evaluation),
        "group_classes": _group_classes(masks, counts),
        "classes": [
            {
                "name": name,
                "training_images": int(count),
                "accuracy": None if np.isnan(accuracy) else float(accuracy),
            }
            for name, count, accuracy in zip(
                dataset.class_names, dataset.class_counts, accuracies, strict=True
            )
        ],
        "confusion": np.stack([true, predicted, counts[true, predicted]], 1).tolist(),
        "predictions": evaluation.predictions.tolist(),
        "calibration": _calibration(evaluation, masks),
    }


def _group_classes(masks: ShotMasks, counts: np.ndarray) -> dict[str, int]:
    present = counts.sum(axis=1) > 0
    return {
        name: int((mask & present).sum())
        for name, mask in zip(GROUPS, masks, strict=True)
    }


def _calibration(evaluation: Evaluation, masks: ShotMasks) -> dict[str, Any]:
    # Rounding may exceed 1; a network that gives NaN is sure of nothing.
    confidences = np.nan_to_num(evaluation.confidences).clip(0, 1)
    right = evaluation.predictions == evaluation.labels
    images = {name: m[evaluation.labels] for name, m in zip(GROUPS, masks, strict=True)}
    images["overall"] = np.ones(len(right), bool)
    return {
        name: reliability(confidences[of], right[of]) if of.any() else None
        for name, of in images.items()
    }
