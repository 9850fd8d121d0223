"""Accuracy over many-, medium- and few-shot classes, as long-tailed papers give it."""

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from blt_jax.metrics.confusion import divide_or_nan


class Masks(Protocol):
    """Which classes had many, some and few training images."""

    @property
    def many_shot(self) -> np.ndarray:
        """[C] bool."""

    @property
    def medium_shot(self) -> np.ndarray:
        """[C] bool."""

    @property
    def few_shot(self) -> np.ndarray:
        """[C] bool."""


def shot_accuracies(counts: ArrayLike, masks: Masks) -> dict[str, float | None]:
    """Accuracies of confusion counts [C, C], as `group_accuracies` names them."""
    counts = np.asarray(counts)
    return group_accuracies(np.diagonal(counts), counts.sum(axis=1), masks)


def group_accuracies(
    correct: ArrayLike, total: ArrayLike, masks: Masks
) -> dict[str, float | None]:
    """Accuracies from the numbers of right answers and of examples per class.

    correct, total: [C] int; right may mean among the first k (`top_k_hits`).

    Returns:
      'many', 'medium', 'few' and 'overall' (all classes): means of per-class
      accuracies, over the classes that have examples; 'micro': right answers over
      all examples. Each in [0, 1], or None where there is no example at all.

    Raises:
      ValueError: the three have different numbers of classes.
    """
    correct, total = np.asarray(correct), np.asarray(total)
    groups = {
        "many": np.asarray(masks.many_shot, bool),
        "medium": np.asarray(masks.medium_shot, bool),
        "few": np.asarray(masks.few_shot, bool),
        "overall": np.ones(total.shape, bool),
    }
    for name, mask in groups.items():
        if mask.shape != total.shape or correct.shape != total.shape:
            raise ValueError(
                f"results are of {correct.size} and {total.size} classes, but the"
                f" mask {name!r} is of {mask.size}"
            )
    accuracy = divide_or_nan(correct, total)
    result: dict[str, float | None] = {}
    for name, mask in groups.items():
        present = accuracy[mask & (total > 0)]
        result[name] = float(present.mean()) if present.size else None
    examples = int(total.sum())
    result["micro"] = float(correct.sum() / examples) if examples else None
    return result


def absent_classes(counts: ArrayLike) -> list[int]:
    """Classes without an example in confusion counts [C, C], which no mean includes."""
    return np.flatnonzero(np.asarray(counts).sum(axis=1) == 0).tolist()


def top_k_hits(scores: ArrayLike, labels: ArrayLike, k: int) -> np.ndarray:
    """Whether the label is among the k classes of highest score: [n] bool.

    scores: [n, C]; labels: [n] int. Of equal scores the lower class comes first,
    as for argmax, so that k = 1 is argmax; a row with NaN is never a hit.

    Raises:
      ValueError: k below 1, or a label outside [0, C).
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if k < 1:
        raise ValueError(f"k is {k}, not >= 1")
    if labels.size and not 0 <= labels.min() <= labels.max() < scores.shape[1]:
        raise ValueError(f"a label is outside the classes 0 to {scores.shape[1] - 1}")
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(scores.shape[1])[None] < labels[:, None]
    rank = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    hits: np.ndarray = (rank < k) & ~np.isnan(scores).any(axis=1)
    return hits
