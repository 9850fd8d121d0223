"""Many-, medium- and few-shot classes, and which classes are the tail."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from blt_jax.choices import choose


class ShotMasks(NamedTuple):
    """[C] bool each; every class is in exactly one (Liu et al. 2019, OLTR)."""

    many_shot: np.ndarray
    medium_shot: np.ndarray
    few_shot: np.ndarray


def shot_masks(
    class_counts: np.ndarray, *, many: int = 100, few: int = 20
) -> ShotMasks:
    """Split classes by training images: > many, few + 1 ... many, <= few.

    class_counts: [C] int, training images of each class.
    """
    if not 0 <= few <= many:
        raise ValueError(
            f"evaluation.few, evaluation.many: {few} and {many} must be in order, "
            "0 <= few <= many"
        )
    counts = np.asarray(class_counts)
    return ShotMasks(counts > many, (counts > few) & (counts <= many), counts <= few)


def tail_mask(
    class_counts: np.ndarray,
    *,
    rule: str = "threshold",
    value: float = 20.0,
    classes: Sequence[int] = (),
) -> np.ndarray:
    """Return the tail classes [C] bool.

    class_counts: [C] int, training images of each class.
    rule: "threshold": at most `value` images (the paper: 20); "quantile": the share
      `value` of the classes that has the fewest images, ties to the lower label;
      "fraction": at most `value` times the images of the largest class; "classes":
      those of `classes`.
    """
    counts = np.asarray(class_counts)
    return choose("tail.rule", rule, TAIL_RULES)(counts, value, classes)


def _threshold(counts: np.ndarray, value: float, classes: Sequence[int]) -> np.ndarray:
    del classes
    if value < 0:
        raise ValueError(f"tail.value: {value} images is below 0")
    return counts <= value


def _quantile(counts: np.ndarray, value: float, classes: Sequence[int]) -> np.ndarray:
    del classes
    _check_share("quantile", value)
    number = round(value * len(counts))
    mask = np.zeros(len(counts), bool)
    mask[np.argsort(counts, kind="stable")[:number]] = True
    return mask


def _fraction(counts: np.ndarray, value: float, classes: Sequence[int]) -> np.ndarray:
    del classes
    _check_share("fraction", value)
    return counts <= value * counts.max()


def _classes(counts: np.ndarray, value: float, classes: Sequence[int]) -> np.ndarray:
    del value
    mask = np.zeros(len(counts), bool)
    for label in classes:
        if not 0 <= label < len(counts):
            raise ValueError(
                f"tail.classes: {label} is not a class; labels run from 0 to "
                f"{len(counts) - 1}"
            )
        mask[label] = True
    if not mask.any():
        raise ValueError("tail.classes: empty, but tail.rule is 'classes'; list labels")
    return mask


def _check_share(rule: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(
            f"tail.value: {value} is not in [0, 1], as tail.rule {rule!r} needs"
        )


TAIL_RULES: dict[str, Callable[[np.ndarray, float, Sequence[int]], np.ndarray]] = {
    "threshold": _threshold,
    "quantile": _quantile,
    "fraction": _fraction,
    "classes": _classes,
}
