"""Metrics on the host, in NumPy; `blt_jax.metrics` knows no model and no data set."""

from blt_jax.metrics.accuracy import (
    absent_classes,
    group_accuracies,
    shot_accuracies,
    top_k_hits,
)
from blt_jax.metrics.calibration import reliability
from blt_jax.metrics.confusion import (
    confusion_counts,
    error_by_rank,
    per_class_accuracy,
)

__all__ = [
    "absent_classes",
    "confusion_counts",
    "error_by_rank",
    "group_accuracies",
    "per_class_accuracy",
    "reliability",
    "shot_accuracies",
    "top_k_hits",
]
