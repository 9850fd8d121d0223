"""CIFAR-10-LT and CIFAR-100-LT in the way of LDAM (Cao et al. 2019)."""

import numpy as np

from blt_jax.data.prepare.cifar_files import CIFAR10, CIFAR100, Layout, read_cifar
from blt_jax.data.prepare.holdout import BEST_ON_TEST, long_tail
from blt_jax.data.prepare.images import ArrayImages
from blt_jax.data.prepare.request import Listing, Request, Selection
from blt_jax.data.profiles import index_hash


def cifar10_lt(
    request: Request,
    *,
    profile: str = "exponential",
    imbalance: float = 100.0,
    val_per_class: int = 100,
    val_rule: str = "unused",
    seed: int = 0,
    legacy_best_on_test: bool = False,
) -> Selection:
    """CIFAR-10 made long-tailed: 12,406 training images at imbalance 100.

    Sizes n_max f^(i / (C - 1)), truncated, classes in their own order; images chosen by
    NumPy's legacy generator from the seed (the published subsets: 0). The test split is
    CIFAR's. The images become PNG files, `train/CLASS/NUMBER.png`, where the number is
    that of CIFAR's training set.

    sources: the binary or the Python version, `.tar.gz` or folder.
    val_per_class, val_rule: validation images out of CIFAR's training set; see
      `holdout.long_tail`. Never test images, unless
    legacy_best_on_test: val.txt equals test.txt.
    """
    return _cifar_lt(
        request,
        CIFAR10,
        options=(profile, imbalance, val_per_class, val_rule, seed),
        legacy_best_on_test=legacy_best_on_test,
    )


def cifar100_lt(
    request: Request,
    *,
    profile: str = "exponential",
    imbalance: float = 100.0,
    val_per_class: int = 20,
    val_rule: str = "unused",
    seed: int = 0,
    legacy_best_on_test: bool = False,
) -> Selection:
    """CIFAR-100 made long-tailed: 10,847 training images at imbalance 100.

    The fine labels; the rest is as in `cifar10_lt`.
    """
    return _cifar_lt(
        request,
        CIFAR100,
        options=(profile, imbalance, val_per_class, val_rule, seed),
        legacy_best_on_test=legacy_best_on_test,
    )


def _cifar_lt(
    request: Request,
    layout: Layout,
    *,
    options: tuple[str, float, int, str, int],
    legacy_best_on_test: bool,
) -> Selection:
    cifar = read_cifar(request.sources, layout)
    profile, imbalance, val_per_class, val_rule, seed = options
    labels = cifar.labels["train"]
    train, val = long_tail(
        labels,
        profile=profile,
        imbalance=imbalance,
        val_per_class=0 if legacy_best_on_test else val_per_class,
        val_rule="unused" if legacy_best_on_test else val_rule,
        seed=seed,
    )
    place: dict[str, tuple[str, int]] = {}

    def listing(split: str, indices: np.ndarray) -> Listing:
        chosen = cifar.labels[split][indices]
        paths = []
        for index, label in zip(indices.tolist(), chosen.tolist(), strict=True):
            path = f"{split}/{cifar.names[label]}/{index:05d}.png"
            place[path] = split, index
            paths.append(path)
        return Listing(paths, chosen)

    test = listing("test", np.arange(len(cifar.labels["test"])))
    warnings = [BEST_ON_TEST] if legacy_best_on_test else []
    short = np.flatnonzero(
        np.bincount(labels[val], minlength=layout.classes) < val_per_class
    )
    if len(short) and not legacy_best_on_test:
        warnings.append(
            f"classes {', '.join(cifar.names[c] for c in short.tolist())}: fewer than "
            f"{val_per_class} validation images, for training uses all or nearly all; "
            "--val_rule holdout takes them from training"
        )
    return Selection(
        class_ids=cifar.names,
        class_names=cifar.names,
        splits={
            "train": listing("train", train),
            "val": test if legacy_best_on_test else listing("train", val),
            "test": test,
        },
        images=ArrayImages(cifar.images, place),
        rule=f"{profile} profile, imbalance {imbalance:g} (Cao et al. 2019); "
        "validation: "
        + ("the test images" if legacy_best_on_test else f"rule {val_rule}"),
        facts={
            "index_sha256": index_hash(train),
            "val_index_sha256": None if legacy_best_on_test else index_hash(val),
        },
        warnings=tuple(warnings),
    )
