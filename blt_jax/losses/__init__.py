"""Losses of images, one each, and of whole batches, added to their mean.

`LOSSES`: `loss(output, labels, ...) -> [n]`, on the output of a head and labels [n].
`BATCH_LOSSES`: `loss(features, labels, counted, params, ...) -> []`, on features [n, F]
and labels [n]; rows where counted [n] is False do not matter. `get` and `get_batch`
give them with their settings, as the training step takes them. A loss of one's own is
one more entry, made before training (`examples/own_loss.py`).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from blt_jax.choices import check_choice, choose
from blt_jax.losses.additive_margin_softmax import additive_margin_softmax
from blt_jax.losses.centroid import centroid
from blt_jax.losses.cross_entropy import cross_entropy
from blt_jax.losses.effective_number import effective_number_weights, weigh_classes
from blt_jax.losses.focal import focal, sigmoid_focal
from blt_jax.losses.large_margin_softmax import (
    annealing_schedule,
    large_margin_softmax,
)
from blt_jax.losses.lifted_structure import lifted_structure
from blt_jax.losses.range_loss import range_loss
from blt_jax.losses.sigmoid_cross_entropy import prior_bias, sigmoid_cross_entropy

__all__ = [
    "BATCH_LOSSES",
    "LOSSES",
    "additive_margin_softmax",
    "centroid",
    "cross_entropy",
    "effective_number_weights",
    "focal",
    "get",
    "get_batch",
    "large_margin_softmax",
    "lifted_structure",
    "prior_bias",
    "range_loss",
    "sigmoid_cross_entropy",
    "sigmoid_focal",
    "weigh_classes",
]

# (output, labels [n], step []) -> [n]
Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]
# (features [n, F], labels [n], counted [n] bool or None, params) -> []
BatchLoss = Callable[[jax.Array, jax.Array, jax.Array | None, Any], jax.Array]

LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cross_entropy": cross_entropy,
    "large_margin_softmax": large_margin_softmax,
    "additive_margin_softmax": additive_margin_softmax,
    "focal": focal,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "sigmoid_focal": sigmoid_focal,
}
SIGMOID = ("sigmoid_cross_entropy", "sigmoid_focal")  # one against the rest
BATCH_LOSSES: dict[str, Callable[..., jax.Array]] = {
    "lifted_structure": lifted_structure,
    "range": range_loss,
    "centroid": centroid,
}


def get(
    name: str,
    *,
    margin: float = 1.0,
    annealing: tuple[float, float, float] = (0.0, 0.0, 0.0),
    focus: float = 2.0,
    class_weights: str = "none",
    effective_beta: float = 0.999,
    class_counts: np.ndarray | None = None,
) -> Loss:
    """Return the loss of that name as a function of (output, labels, step).

    Args:
      name: a key of LOSSES.
      margin: of the two losses that have one; 1 for all others.
      annealing: start, decay and floor of the large-margin softmax's lambda.
      focus: gamma of the two focal losses.
      class_weights: "none" or "effective_number".
      effective_beta: beta of the effective number.
      class_counts: [C] images of the training split, for the weights.

    Raises:
      ValueError: no such name, or a setting that it has not.
    """
    loss = choose("loss.name", name, LOSSES)
    check_choice("loss.class_weights", class_weights, ("none", "effective_number"))
    _check("loss.focus", focus, 0 <= focus < math.inf, "0 or more")
    named = dict(zip(("start", "decay", "floor"), annealing, strict=True))
    for part, value in named.items():
        _check(f"loss.annealing_{part}", value, 0 <= value < math.inf, "0 or more")
    if any(annealing) and name != "large_margin_softmax":
        raise ValueError(
            f"loss.annealing_start, _decay and _floor are {annealing}, but {name} has "
            "no annealing; set loss.name to large_margin_softmax or all three to 0"
        )
    result: Loss
    if name == "large_margin_softmax":
        if margin not in (1, 2, 3, 4):
            raise ValueError(f"loss.margin is {margin!r}; known: 1, 2, 3, 4")
        loss = partial(loss, margin=int(margin))
        result = _without_step(loss)
        if annealing[0] or annealing[2]:
            schedule = annealing_schedule(*annealing)
            result = _annealed(loss, schedule)
    elif name == "additive_margin_softmax":
        fits = 0 <= margin < 1
        _check("loss.margin", margin, fits, "a cosine, at least 0 and below 1")
        result = _without_step(partial(loss, margin=margin))
    elif margin != 1:
        raise ValueError(
            f"loss.margin is {margin!r}, but {name} has no margin; set loss.name to"
            " large_margin_softmax or additive_margin_softmax, or loss.margin to 1"
        )
    elif name in ("focal", "sigmoid_focal"):
        result = _without_step(partial(loss, focus=focus))
    else:
        result = _without_step(loss)
    if class_weights == "none":
        return result
    fits = 0 <= effective_beta < 1
    _check("loss.effective_beta", effective_beta, fits, "at least 0 and below 1")
    if class_counts is None:
        raise ValueError(f"loss.class_weights {class_weights!r} needs class counts")
    weights = effective_number_weights(class_counts, beta=effective_beta)
    return weigh_classes(result, weights)


def get_batch(
    name: str,
    *,
    weight: float = 1.0,
    lifted_margin: float = 1.0,
    range_margin: float = 5.0,
    range_intra: float = 1e-3,
    range_inter: float = 0.1,
) -> BatchLoss | None:
    """Return the batch loss of that name, times its weight; None for "none".

    Args:
      name: a key of BATCH_LOSSES, or "none".
      weight: of the whole, above 0.
      lifted_margin: of "lifted_structure", a distance of features.
      range_margin: of "range", a squared distance of features.
      range_intra: of "range", weight of the widest ranges.
      range_inter: of "range", weight of the nearest centres.

    Raises:
      ValueError: no such name, or a setting out of range.
    """
    check_choice("loss.batch", name, ("none", *BATCH_LOSSES))
    _check("loss.batch_weight", weight, 0 < weight < math.inf, "above 0")
    ranges = {
        "lifted_margin": lifted_margin,
        "range_margin": range_margin,
        "range_intra": range_intra,
        "range_inter": range_inter,
    }
    for field, value in ranges.items():
        _check(f"loss.{field}", value, 0 <= value < math.inf, "0 or more")
    if name == "none":
        return None
    settings = {
        "lifted_structure": {"margin": lifted_margin},
        "range": {"margin": range_margin, "intra": range_intra, "inter": range_inter},
    }
    loss = partial(BATCH_LOSSES[name], **settings.get(name, {}))
    return lambda *arguments: weight * loss(*arguments)


def _without_step(loss: Callable[..., jax.Array]) -> Loss:
    return lambda output, labels, step: loss(output, labels)


def _annealed(
    loss: Callable[..., jax.Array], schedule: Callable[[jax.Array], jax.Array]
) -> Loss:
    return lambda output, labels, step: loss(output, labels, annealing=schedule(step))


def _check(field: str, value: float, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"{field} is {value!r}; it must be {expected}")
