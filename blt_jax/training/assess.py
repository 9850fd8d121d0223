"""Assess a checkpoint on a split: accuracy by shot, each class, the confusion."""

from pathlib import Path
from typing import Any

import numpy as np

from blt_jax.choices import check_choice
from blt_jax.config import ConfigError
from blt_jax.metrics.confusion import confusion_counts, per_class_accuracy
from blt_jax.training.checkpoint import find_checkpoint, load_checkpoint
from blt_jax.training.mesh import put_replicated
from blt_jax.training.setup import Setup, evaluate_split, score, shots

SPLITS = ("train", "val", "test")


def assess(
    setup: Setup, checkpoint: str | Path, split: str, *, which: str = "best"
) -> dict[str, Any]:
    """Evaluate one checkpoint, as JSON-able values.

    Returns the accuracies as fractions (many, medium, few, overall, micro, top5),
    `images`, `step`, `group_classes` (classes of the split in each group), and for
    each class its accuracy and training count; the confusion is a list of [true,
    predicted, count] where count > 0. Raises
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
    return {
        "checkpoint": str(checkpoint),
        "split": split,
        "step": meta["step"],
        "images": len(evaluation.labels),
        **score(setup, evaluation),
        "group_classes": _group_classes(setup, counts),
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
    }


def _group_classes(setup: Setup, counts: np.ndarray) -> dict[str, int]:
    masks = shots(setup.config, setup.dataset.class_counts)
    present = counts.sum(axis=1) > 0
    return {
        "many": int((masks.many_shot & present).sum()),
        "medium": int((masks.medium_shot & present).sum()),
        "few": int((masks.few_shot & present).sum()),
    }
