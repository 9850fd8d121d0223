"""The systems that the paper compares, each as changes of a configuration.

Stage 1 is the same for all: shuffled epochs, cross-entropy. A system is what stage 2
adds. `blt-jax train --system NAME` applies one between the configuration file and the
command line; `blt-jax reproduce` trains tables of them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from blt_jax.choices import choose


class System(NamedTuple):
    """What a system is, and the fields that make it, by dotted name.

    stage1: fields in which its first stage differs from its second.
    """

    title: str
    overrides: Mapping[str, Any]
    stage1: Mapping[str, Any] = {}


_NO_HALLUCINATION = {"hallucination.enabled": False}
# The baselines classify by a dot product; the squashing cosine is part of BLT.
_BASELINE = {**_NO_HALLUCINATION, "model.head": "linear"}

SYSTEMS: dict[str, System] = {
    "plain": System("Plain model", {**_BASELINE, "sampler.name": "shuffled"}),
    "sampling": System("Plain model + sampling", _BASELINE),
    "class_aware": System(
        "Plain model + class-aware sampling",
        {**_BASELINE, "sampler.name": "class_aware"},
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
}


def system(name: str) -> System:
    """The system of that name; raises ValueError listing the names."""
    return choose("--system", name, SYSTEMS)
