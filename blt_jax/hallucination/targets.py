"""Which class each seed is pushed to, and how far (Alg. 1 lines 10 and 12).

The confusion matrix reaches the device as a pool of predictions instead of C x C
counts: the validation images' predicted classes, sorted by true class, wrong ones
first. A uniform draw among the wrong images of class c is exactly a draw from row
c of the confusion matrix without its diagonal, and for thousands of classes the
pool is a thousand times smaller. Its shapes never change, so it is an argument of
the step and never causes another compilation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Confusion(NamedTuple):
    """Predictions on the validation split, as pools of wrong answers a class."""

    confused: np.ndarray | jax.Array  # [N_val] int32 predictions, by true class
    start: np.ndarray | jax.Array  # [C] int32, where the pool of a class begins
    wrong: np.ndarray | jax.Array  # [C] int32, length of the pool of a class


def confusion_pools(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> Confusion:
    """Sort validation predictions into pools of wrong answers, on the host.

    labels, predictions: [N_val] int. Raises ValueError for a label or prediction
    outside [0, num_classes).
    """
    for name, values in (("label", labels), ("prediction", predictions)):
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f"a validation {name} lies outside [0, {num_classes}): "
                f"found {values.min()} to {values.max()}"
            )
    order = np.lexsort((labels == predictions, labels))
    counts = np.bincount(labels, minlength=num_classes)
    wrong = np.bincount(labels[labels != predictions], minlength=num_classes)
    return Confusion(
        confused=predictions[order].astype(np.int32),
        start=(np.cumsum(counts) - counts).astype(np.int32),
        wrong=wrong.astype(np.int32),
    )


def empty_confusion(num_images: int, num_classes: int) -> Confusion:
    """What is known before the first validation: nothing, so no slot is valid."""
    return Confusion(
        confused=np.zeros(num_images, np.int32),
        start=np.zeros(num_classes, np.int32),
        wrong=np.zeros(num_classes, np.int32),
    )


def draw_targets(
    uniform: jax.Array,
    labels: jax.Array,
    confusion: Confusion,
    *,
    fallback: str = "skip",
) -> tuple[jax.Array, jax.Array]:
    """Draw a confusing class c' for each seed (Alg. 1 line 10, Sec. 3.2).

    Args:
      uniform: [K] numbers in [0, 1), one a seed.
      labels: [K] int, true class c of each seed.
      confusion: pools of the validation predictions.
      fallback: for a class that no validation image was mistaken in: "skip" (not
        valid) or "uniform" (any other class).

    Returns:
      targets [K] int32, and whether each is one, [K] bool.
    """
    confused, start, wrong = (jnp.asarray(part) for part in confusion)
    choices = wrong[labels]
    targets = confused[start[labels] + _one_of(uniform, choices)]
    if fallback == "skip":
        return targets, choices > 0
    other = _one_of(uniform, jnp.full_like(labels, len(wrong) - 1))
    other = other + (other >= labels)
    return jnp.where(choices > 0, targets, other), jnp.ones_like(choices, bool)


def draw_thresholds(
    uniform: jax.Array, *, interval: Sequence[float], grid: bool = False
) -> jax.Array:
    """Draw the score each seed must reach (Alg. 1 line 12, Sec. 3.2).

    uniform: [K] numbers in [0, 1). The score is uniform in the interval (low, high),
    or, as the released code has it, one of its ends and its middle (grid). An interval
    of three numbers or more means one of these, for that code's (0.5, 0.6, 0.75).
    Returns [K].
    """
    if len(interval) > 2:
        scores = jnp.asarray(interval, uniform.dtype)
        count = jnp.full_like(uniform, len(interval), jnp.int32)
        return scores[_one_of(uniform, count)]
    low, high = interval
    if grid:
        uniform = jnp.floor(3 * uniform) / 2
    return low + (high - low) * uniform


def _one_of(uniform: jax.Array, count: jax.Array) -> jax.Array:
    """A number below `count`, or 0 where there is none to choose."""
    place = jnp.floor(uniform * count).astype(jnp.int32)
    return jnp.clip(place, 0, jnp.maximum(count - 1, 0))
