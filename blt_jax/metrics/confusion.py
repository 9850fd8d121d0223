"""Confusion counts, from which every accuracy and every confusing class follow."""

import numpy as np
from numpy.typing import ArrayLike


def confusion_counts(
    labels: ArrayLike, predictions: ArrayLike, num_classes: int
) -> np.ndarray:
    """Count pairs of true and predicted class: [C, C] int64, [true, predicted].

    labels, predictions: [n] int. Counts of parts of a split can be added up.

    Raises:
      ValueError: lengths differ, or a class is outside [0, num_classes).
    """
    labels = _classes("labels", labels, num_classes)
    predictions = _classes("predictions", predictions, num_classes)
    if labels.shape != predictions.shape:
        raise ValueError(f"{labels.size} labels, but {predictions.size} predictions")
    pairs = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def per_class_accuracy(counts: ArrayLike) -> np.ndarray:
    """Part of each true class that was predicted right: [C] float64.

    counts: [C, C] of `confusion_counts`. NaN for a class without an example.
    """
    counts = np.asarray(counts)
    return divide_or_nan(np.diagonal(counts), counts.sum(axis=1))


def error_by_rank(counts: ArrayLike, tail: ArrayLike) -> np.ndarray:
    """Average error of the tail classes by rank of the mistaken class (Fig. 5d).

    Of each tail class: the parts of its examples that each other class took, largest
    first; averaged over the tail classes rank by rank. The sum is 1 - tail accuracy.

    counts: [C, C] of `confusion_counts`. tail: [C] bool.

    Returns:
      [C - 1] float64, never growing; [0] when no tail class has an example.

    Raises:
      ValueError: the two have different numbers of classes.
    """
    counts, tail = np.asarray(counts), np.asarray(tail, bool)
    if counts.shape != (tail.size, tail.size):
        raise ValueError(
            f"the confusion is {list(counts.shape)}, but the tail is of {tail.size}"
        )
    chosen = np.flatnonzero(tail & (counts.sum(axis=1) > 0))
    if not chosen.size:
        return np.zeros(0)
    rows = counts[chosen] / counts[chosen].sum(axis=1, keepdims=True)
    other = np.arange(tail.size)[None] != chosen[:, None]
    errors = rows[other].reshape(chosen.size, tail.size - 1)
    average: np.ndarray = -np.sort(-errors, axis=1).mean(axis=0)
    return average


def divide_or_nan(parts: ArrayLike, totals: ArrayLike) -> np.ndarray:
    """Divide [C] by [C], giving NaN where the total is 0; float64."""
    parts = np.asarray(parts, np.float64)
    totals = np.asarray(totals, np.float64)
    quotients = np.full(parts.shape, np.nan)
    np.divide(parts, totals, out=quotients, where=totals > 0)
    return quotients


def _classes(what: str, values: ArrayLike, num_classes: int) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise ValueError(
            f"{what} must be integers [n], not {values.dtype} {list(values.shape)}"
        )
    wrong = np.flatnonzero((values < 0) | (values >= num_classes))
    if wrong.size:
        raise ValueError(
            f"{what}[{wrong[0]}] is {values[wrong[0]]}, outside the classes"
            f" 0 to {num_classes - 1} ({wrong.size} such of {values.size})"
        )
    return values.astype(np.int64)
