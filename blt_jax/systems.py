"""The systems that the paper compares, each as changes of a configuration.

Stage 1 is plain training for all, shuffled epochs and cross-entropy, with the head that
the system has. A system is what stage 2 adds. `blt-jax train --system NAME` applies one
between the configuration file and the command line; `blt-jax reproduce` trains tables
of them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from blt_jax.choices import choose


class System(NamedTuple):
    """What a system is, and the fields that tell it from others, by dotted name.

    overrides: put on what all have in common (`system_fields`). stage1: fields in
    which its first stage differs from its second. frozen: the system whose finished
    run, of the same seed, makes its hard examples.
    """

    title: str
    overrides: Mapping[str, Any]
    stage1: Mapping[str, Any] = {}
    frozen: str = ""


# What a system consists of where it says nothing else, whatever the configuration file
# says: the defaults. What is not here (gamma, p, thresholds, rates) is of the recipe.
_COMMON: Mapping[str, Any] = {
    "sampler.name": "gamma",
    "model.head": "squashing_cosine",
    "model.feature_relu": True,
    "model.attention": False,
    "loss.name": "cross_entropy",
    "loss.margin": 1.0,
    "loss.annealing_start": 0.0,
    "loss.annealing_decay": 0.0,
    "loss.annealing_floor": 0.0,
    "loss.focus": 2.0,
    "loss.class_weights": "none",
    "loss.effective_beta": 0.999,
    "loss.batch": "none",
    "loss.batch_weight": 1.0,
    "loss.lifted_margin": 1.0,
    "loss.range_margin": 5.0,
    "loss.range_intra": 1e-3,
    "loss.range_inter": 0.1,
    "stage2.method": "classifier",
    "hallucination.enabled": True,
    "hallucination.step_rule": "gradient",
    "hallucination.seed_source": "batch",
    "hallucination.frozen_model": "",
}
_NO_HALLUCINATION = {"hallucination.enabled": False}
# The baselines classify by a dot product; the squashing cosine is part of BLT.
_BASELINE = {**_NO_HALLUCINATION, "model.head": "linear"}
_CLASS_AWARE = {**_BASELINE, "sampler.name": "class_aware"}
_EFFECTIVE_NUMBER = {
    "loss.class_weights": "effective_number",
    "loss.effective_beta": 0.999,
}
_SIGMOID_FOCAL = {"loss.name": "sigmoid_focal", "loss.focus": 0.5}

SYSTEMS: dict[str, System] = {
    "plain": System("Plain model", {**_BASELINE, "sampler.name": "shuffled"}),
    "sampling": System("Plain model + sampling", _BASELINE),
    "class_aware": System(
        "Plain model + class-aware sampling",
        _CLASS_AWARE,
    ),
    # Losses on pairs need several images of a class in a batch, and so do all of OLTR's
    # competitors have its sampler.
    "lifted_structure": System(
        "Lifted loss",
        {
            **_CLASS_AWARE,
            "loss.batch": "lifted_structure",
            "loss.batch_weight": 0.1,
        },
    ),
    "range": System("Range loss", {**_CLASS_AWARE, "loss.batch": "range"}),
    # A generator of classifier weights for tail classes (Gidaris & Komodakis 2018).
    "fslwf": System(
        "FSLwF",
        {
            **_CLASS_AWARE,
            "model.head": "cosine",
            "model.feature_relu": False,
            "stage2.method": "weight_generator",
            "stage2.head_lr": 0.01,
        },
    ),
    # Dynamic meta-embedding, modulated attention, centroid loss (Liu et al. 2019).
    "oltr": System(
        "OLTR",
        {
            **_CLASS_AWARE,
            "model.head": "meta_embedding",
            "model.attention": True,
            "loss.batch": "centroid",
            "loss.batch_weight": 0.01,
        },
        stage1={"model.head": "linear", "model.attention": False},
    ),
    # The paper's row is near that of plain sampling: focal on top of the balancer.
    "focal": System("Focal loss", {**_BASELINE, "loss.name": "focal"}),
    # Weights correct the imbalance once, on natural sampling (Cui et al. 2019); the
    # paper's rows, overall below the plain model, look like weights on top of sampling.
    "class_balanced": System(
        "CB", {**_BASELINE, **_EFFECTIVE_NUMBER, "sampler.name": "shuffled"}
    ),
    "class_balanced_focal": System(
        "CB focal loss",
        {
            **_BASELINE,
            **_EFFECTIVE_NUMBER,
            **_SIGMOID_FOCAL,
            "sampler.name": "shuffled",
        },
    ),
    "class_balanced_sampling": System(
        "CB + sampling", {**_BASELINE, **_EFFECTIVE_NUMBER}
    ),
    "class_balanced_focal_sampling": System(
        "CB focal loss + sampling",
        {**_BASELINE, **_EFFECTIVE_NUMBER, **_SIGMOID_FOCAL},
    ),
    "sigmoid": System(
        "Binary cross-entropy", {**_BASELINE, "loss.name": "sigmoid_cross_entropy"}
    ),
    # The loss that the paper names, with the annealing of Liu et al. 2016.
    "large_margin": System(
        "Large-margin softmax",
        {
            **_NO_HALLUCINATION,
            "loss.name": "large_margin_softmax",
            "loss.margin": 2.0,
            "loss.annealing_start": 1000.0,
            "loss.annealing_decay": 0.12,
            "loss.annealing_floor": 5.0,
        },
    ),
    # Features of a fixed length (beta 0): where the length is free, as in the squashing
    # cosine, it goes to zero, and with it the margin.
    "additive_margin": System(
        "Additive margin",
        {
            **_NO_HALLUCINATION,
            "model.alpha": 30.0,
            "model.beta": 0.0,
            "loss.name": "additive_margin_softmax",
            "loss.margin": 0.35,
        },
    ),
    # Table 1 and Fig. 3e: BLT without any image appended.
    "neither": System("Neither", _NO_HALLUCINATION),
    # The same number of the same tail images, without ascent (Fig. 3e).
    "augmentations": System(
        "Augmentations",
        {"hallucination.step_rule": "none", "hallucination.seed_source": "augmented"},
    ),
    "blt": System("BLT", {"hallucination.step_rule": "gradient"}),
    # What the released code does: the image gradient is never set to zero.
    "blt_accumulated": System(
        "BLT, accumulated gradients", {"hallucination.step_rule": "accumulated"}
    ),
    "blt_newton": System("BLT, Newton steps", {"hallucination.step_rule": "newton"}),
    # The released code's seeds: another training image of the class.
    "blt_dataset_seeds": System(
        "BLT, seeds from the data set",
        {
            "hallucination.step_rule": "gradient",
            "hallucination.seed_source": "dataset",
        },
    ),
    # Fig. 5c: images made once, by the finished "neither".
    "static_targeted": System(
        "BLT static targeted",
        {"hallucination.frozen_targets": "confusion"},
        frozen="neither",
    ),
    "static_random": System(
        "BLT static random",
        {"hallucination.frozen_targets": "random"},
        frozen="neither",
    ),
}


def system(name: str) -> System:
    """The system of that name; raises ValueError listing the names."""
    return choose("--system", name, SYSTEMS)


def system_fields(name: str) -> dict[str, Any]:
    """Every field that a system is made of, by dotted name: it is put on a file's.

    `System.overrides` on top of what all systems have in common. Raises ValueError
    listing the names.
    """
    return {**_COMMON, **system(name).overrides}
