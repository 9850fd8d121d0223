"""Training, validation and test images out of one pool, without an image in two."""

import numpy as np

from blt_jax.choices import choose
from blt_jax.data.profiles import long_tailed_indices, profile_counts


def take_out(
    labels: np.ndarray, per_class: int | np.ndarray, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split a pool: `per_class` images of each class, and the rest.

    labels: [N] int.
    per_class: one number, or one a class [C]; every class must have as many.

    Returns:
      record ids of those taken, sorted by class, and of the rest, in their order.
    """
    counts = np.full(int(labels.max(initial=-1)) + 1, per_class)
    taken = long_tailed_indices(labels, counts, seed=seed)
    rest = np.ones(len(labels), bool)
    rest[taken] = False
    return taken, np.flatnonzero(rest)


def long_tail(
    labels: np.ndarray,
    *,
    profile: str,
    imbalance: float,
    val_per_class: int,
    val_rule: str,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose training and validation records of a balanced pool.

    val_rule: "unused": the training images are exactly those of the published subsets
      (see `long_tailed_indices`), and validation takes the next ones of the same
      shuffle, which training leaves unused. The largest class uses all of its images
      and has none for validation, its neighbours may have few. "holdout": validation
      first takes its images of every class; the profile then starts at what is left
      (4,900 instead of 5,000), so the training images are not the published ones.

    Returns:
      record ids of training and of validation, sorted by class.
    """
    options = (profile, imbalance, val_per_class, seed)
    return choose("--val_rule", val_rule, VAL_RULES)(labels, *options)


def _unused(
    labels: np.ndarray, profile: str, imbalance: float, val_per_class: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    available = np.bincount(labels)
    counts = profile_counts(profile, available, imbalance=imbalance)
    train = long_tailed_indices(labels, counts, seed=seed)
    # The same shuffle, cut later: nested.
    more = np.minimum(counts + val_per_class, available)
    both = long_tailed_indices(labels, more, seed=seed)
    return train, both[~np.isin(both, train)]


def _holdout(
    labels: np.ndarray, profile: str, imbalance: float, val_per_class: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    val, rest = take_out(labels, val_per_class, seed=seed)
    counts = profile_counts(profile, np.bincount(labels[rest]), imbalance=imbalance)
    return rest[long_tailed_indices(labels[rest], counts, seed=seed)], val


VAL_RULES = {"unused": _unused, "holdout": _holdout}

BEST_ON_TEST = (
    "legacy_best_on_test: val.txt IS test.txt, so the checkpoint that is kept is the "
    "best one on the test images and its accuracy is too high; only to compare with "
    "published numbers that were made this way"
)
