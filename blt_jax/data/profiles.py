"""Long-tail profiles: how many images each class keeps, and which."""

import hashlib
from collections.abc import Callable

import numpy as np

from blt_jax.choices import choose


def exponential(num_classes: int, largest: int, smallest_share: float) -> np.ndarray:
    """Return int(n_max f^(i / (C - 1))) [C] int64, truncated (Cui et al. 2019)."""
    if num_classes == 1:
        return np.array([largest], np.int64)
    # One power a class in Python floats, as the published subsets were made.
    return np.array(
        [
            int(largest * smallest_share ** (i / (num_classes - 1.0)))
            for i in range(num_classes)
        ],
        np.int64,
    )


def step(num_classes: int, largest: int, smallest_share: float) -> np.ndarray:
    """Return n_max for the first half of the classes, then n_max f [C] int64."""
    counts = np.full(num_classes, largest, np.int64)
    counts[num_classes // 2 :] = int(largest * smallest_share)
    return counts


PROFILES: dict[str, Callable[[int, int, float], np.ndarray]] = {
    "exponential": exponential,
    "step": step,
}


def smallest_share(imbalance: float) -> float:
    """Return f = smallest class / largest class.

    `imbalance` is either f itself, in (0, 1), or the imbalance factor 1 / f, >= 1.
    """
    if not (np.isfinite(imbalance) and imbalance > 0):
        raise ValueError(
            f"data.imbalance: {imbalance} is neither a factor >= 1 (100: the largest "
            "class has 100 times the images of the smallest) nor a share in (0, 1)"
        )
    return 1.0 / imbalance if imbalance >= 1 else float(imbalance)


def profile_counts(
    profile: str, available: np.ndarray, *, imbalance: float
) -> np.ndarray:
    """Return the class counts [C] int64 of a profile that the images allow.

    n_max is the largest number for which no class needs more images than it has; for a
    balanced data set, its images a class.

    available: [C] int, images of each class.
    """
    function = choose("data.profile", profile, PROFILES)
    available = np.asarray(available, np.int64)
    share = smallest_share(imbalance)
    for largest in range(int(available.max(initial=0)), 0, -1):
        counts = function(len(available), largest, share)
        if (counts <= available).all():
            break
    else:
        raise ValueError("data.profile: a class without images cannot be thinned out")
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise ValueError(
            f"data.imbalance: {imbalance} leaves class {empty[0]} without images "
            f"(largest class {largest}); use a milder imbalance"
        )
    return counts


def long_tailed_indices(
    labels: np.ndarray, counts: np.ndarray, *, seed: int
) -> np.ndarray:
    """Choose `counts[c]` records of each class c (Cao et al. 2019, LDAM).

    Legacy MT19937, each class shuffled in full in label order and cut, so that the
    subsets are those of the published code and nested over imbalances of one seed.

    Returns:
      record ids [sum(counts)] int64, sorted by class.
    """
    labels = np.asarray(labels)
    random = np.random.RandomState(seed)
    chosen = []
    for label, count in enumerate(np.asarray(counts).tolist()):
        members = np.where(labels == label)[0]
        if count > len(members):
            raise ValueError(
                f"class {label} has {len(members)} images, fewer than the {count} of "
                "the profile"
            )
        random.shuffle(members)
        chosen.append(members[:count])
    return np.concatenate(chosen).astype(np.int64)


def index_hash(indices: np.ndarray) -> str:
    """Return the SHA-256 of the indices as little-endian int64, in hexadecimal."""
    return hashlib.sha256(np.asarray(indices).astype("<i8").tobytes()).hexdigest()
