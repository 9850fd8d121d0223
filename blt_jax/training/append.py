"""Hard examples for the tail images of a batch, appended to it (Alg. 1 lines 6-17)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from blt_jax.hallucination.ascent import Options, Problem
from blt_jax.hallucination.cascade import cascade, choose_levels
from blt_jax.hallucination.targets import Confusion, draw_targets, draw_thresholds
from blt_jax.models.classifier import Model
from blt_jax.training.augment import Normalisation
from blt_jax.training.draws import Draws
from blt_jax.training.log import HISTOGRAM
from blt_jax.training.mesh import per_device


class HallucinationOptions(NamedTuple):
    """How seeds become hard examples (Sec. 3.2); rule "none": not at all."""

    step_rule: str = "gradient"
    step_size: float = 0.7  # delta
    max_iterations: int = 15
    max_step: float = 0.09
    max_norm: float | None = None
    clip_to_pixel_range: bool = False
    threshold: tuple[float, ...] = (0.15, 0.25)  # s_c', see `draw_thresholds`
    threshold_grid: bool = False  # both ends and the middle only: released code
    weight: float = 1.0  # lambda of Eq. 3
    confusion_fallback: str = "skip"
    from_bank: bool = False  # seeds come moved already; none has to be now


class Rows(NamedTuple):
    """Images to train on."""

    images: jax.Array  # [n, H, W, 3] normalised
    labels: jax.Array  # [n] int32
    weights: jax.Array  # [n], 1 for an original, lambda or 0 for a slot


class Seeds(NamedTuple):
    """The slots of a batch."""

    images: jax.Array  # [K, H, W, 3] normalised and augmented
    labels: jax.Array  # [K] int32
    valid: jax.Array  # [K] bool, False in padded slots


Append = Callable[
    [Any, Any, Rows, Seeds, Draws, Confusion], tuple[Rows, dict[str, jax.Array]]
]


def make_append(
    model: Model,
    options: HallucinationOptions,
    *,
    mesh: Mesh,
    normalisation: Normalisation,
) -> Append:
    """Build `append(params, batch_stats, rows, seeds, draws, confusion)`.

    It perturbs the seeds by the model as it is, with frozen parameters and running
    statistics, and returns the longer batch with sums over its slots. Every device
    works on its own rows and slots: the loops hold no communication, and appending
    moves nothing between devices.
    """
    perturb = (
        _keep_seeds
        if options.from_bank or options.step_rule == "none"
        else make_ascent(model, options, normalisation)
    )

    def on_one_device(
        params: Any,
        batch_stats: Any,
        rows: Rows,
        seeds: Seeds,
        targets: jax.Array,
        thresholds: jax.Array,
    ) -> tuple[Rows, dict[str, jax.Array]]:
        images, sums = perturb(params, batch_stats, seeds, targets, thresholds)
        sums["hallucinated"] = jnp.sum(seeds.valid)
        weights = jnp.where(seeds.valid, options.weight, 0).astype(rows.weights.dtype)
        hard = Rows(jax.lax.stop_gradient(images), seeds.labels, weights)
        together = jax.tree.map(lambda *parts: jnp.concatenate(parts), rows, hard)
        return together, jax.tree.map(lambda total: total[None], sums)

    everywhere = per_device(on_one_device, mesh, num_replicated=2)

    def append(
        params: Any,
        batch_stats: Any,
        rows: Rows,
        seeds: Seeds,
        draws: Draws,
        confusion: Confusion,
    ) -> tuple[Rows, dict[str, jax.Array]]:
        targets, drawn = seeds.labels, jnp.ones_like(seeds.valid)
        if not options.from_bank:
            targets, drawn = draw_targets(
                draws.target,
                seeds.labels,
                confusion,
                fallback=options.confusion_fallback,
            )
        thresholds = draw_thresholds(
            draws.threshold, interval=options.threshold, grid=options.threshold_grid
        )
        usable = seeds._replace(valid=seeds.valid & drawn)
        rows, sums = everywhere(params, batch_stats, rows, usable, targets, thresholds)
        sums = {name: jnp.sum(each, axis=0) for name, each in sums.items()}
        sums["no_confusing_class"] = jnp.sum(seeds.valid & ~drawn)
        sums["padded"] = jnp.sum(~seeds.valid)
        return rows, sums

    return append


# (params, batch_stats, seeds, targets, thresholds) -> images [K, H, W, 3], sums
_Perturb = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def _keep_seeds(
    params: Any, batch_stats: Any, seeds: Seeds, targets: Any, thresholds: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Zero steps of ascent: common augmentations (Sec. 4.1), or images of a bank."""
    return seeds.images, {}


def make_ascent(
    model: Model, options: HallucinationOptions, normalisation: Normalisation
) -> _Perturb:
    """Build `perturb(params, batch_stats, seeds, targets, thresholds)` for one device.

    It returns the images [K, H, W, 3] and sums over its valid seeds; among them how
    many needed 0, 1, ... updates, [max_iterations + 1].
    """
    ascent = Options(
        step_rule=options.step_rule,
        step_size=options.step_size,
        max_iterations=options.max_iterations,
        max_step=options.max_step,
        max_norm=options.max_norm,
        pixel_range=(
            normalisation.pixel_range() if options.clip_to_pixel_range else None
        ),
    )

    def perturb(
        params: Any,
        batch_stats: Any,
        seeds: Seeds,
        targets: jax.Array,
        thresholds: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        result, evaluations = cascade(
            lambda images: model.apply_eval(params, batch_stats, images).logits,
            Problem(seeds.images, targets, thresholds),
            seeds.valid,
            ascent,
            choose_levels(len(targets)),
        )
        valid, early = seeds.valid, result.iterations < options.max_iterations
        updates = jnp.arange(options.max_iterations + 1)
        took = valid[:, None] & (result.iterations[:, None] == updates[None])
        return result.image, {
            "iterations": jnp.sum(result.iterations),
            HISTOGRAM: jnp.sum(took, axis=0),
            "reached": jnp.sum(valid & result.reached),
            "non_finite": jnp.sum(valid & ~result.finite),
            "stopped_early": jnp.sum(valid & ~result.reached & early),
            "evaluations": evaluations,
        }

    return perturb
