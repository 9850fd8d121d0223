"""Gradient ascent on many images, leaving finished ones behind.

`vmap(while_loop)` evaluates every image until the slowest is done. The cascade
leaves its loop as soon as the images still active fit a smaller width, gathers
them and goes on there, so that most evaluations are needed ones.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from blt_jax.choices import check_choice
from blt_jax.hallucination.ascent import (
    STEP_RULES,
    LogitsFn,
    Options,
    Problem,
    Progress,
    start,
    update,
)

# Black and white under the usual ImageNet normalisation, for `clip_to_pixel_range`.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class Hallucination(NamedTuple):
    """What became of each image."""

    images: jax.Array  # [K, H, W, c], constants for any outer differentiation
    iterations: jax.Array  # [K] int32, updates applied
    scores: jax.Array  # [K] probability of the target after the last update
    reached: jax.Array  # [K] bool, the score met its threshold
    finite: jax.Array  # [K] bool, False: a NaN or infinity; image is the seed


def hallucinate(
    logits_fn: LogitsFn,
    images: jax.Array,
    targets: jax.Array,
    thresholds: jax.Array,
    *,
    valid: jax.Array | None = None,
    step_rule: str = "gradient",
    step_size: float = 0.7,
    max_iterations: int = 15,
    max_step: float = 0.09,
    max_norm: float | None = None,
    clip_to_pixel_range: bool | tuple[jax.Array, jax.Array] = False,
    levels: Sequence[int] | None = None,
) -> Hallucination:
    """Perturb images until a classifier half believes a wrong class (Alg. 1 line 14).

    Works under `jax.jit` and inside `jax.shard_map`, without collectives.

    Args:
      logits_fn: [n, H, W, c] float32 -> [n, C] logits; pure, each row on its own
        (BatchNorm in evaluation mode).
      images: [K, H, W, c] normalised float images, the seeds.
      targets: [K] int, the confusing class c' of each image.
      thresholds: [K] softmax probability of the target that is enough; a scalar
        serves all images.
      valid: [K] bool; False: the image is not evaluated, comes back bit for bit,
        and never keeps the loop going. None: all are valid.
      step_rule: "gradient" (Sec. 3.1), "accumulated" (the released code) or
        "newton" (the linearised log-odds meet the threshold).
      step_size: delta of the first two rules, normalised pixels per unit gradient.
      max_iterations: updates at most.
      max_step: newton's longest step, root-mean-square per value.
      max_norm: longest perturbation as a whole (L2), None for no bound.
      clip_to_pixel_range: keep images between black and white: True for ImageNet's
        normalisation, or the pair of normalised values (black [c], white [c]).
      levels: widths of the cascade, from K downwards; None: chosen from K; (K,):
        one plain loop.

    Returns:
      Hallucination(images, iterations, scores, reached, finite).

    Raises:
      ValueError: an unknown step rule, levels that do not decrease from K, or
        shapes that do not match.
    """
    count = images.shape[0]
    thresholds = jnp.broadcast_to(jnp.asarray(thresholds), (count,))
    if not jnp.issubdtype(thresholds.dtype, jnp.floating):
        raise ValueError(f"thresholds must be floating, not {thresholds.dtype}")
    if targets.shape != (count,):
        raise ValueError(f"targets has shape {targets.shape}, expected ({count},)")
    check_choice("step_rule", step_rule, STEP_RULES)
    if valid is None:
        valid = jnp.ones_like(targets, bool)
    options = Options(
        step_rule=step_rule,
        step_size=step_size,
        max_iterations=max_iterations,
        max_step=max_step,
        max_norm=max_norm,
        pixel_range=_pixel_range(clip_to_pixel_range, images),
    )
    levels = choose_levels(count) if levels is None else _checked(levels, count)
    problem = Problem(images, targets, thresholds)
    progress = start(problem, valid, options)
    updates = jax.vmap(partial(update, logits_fn, options=options))

    for width, next_width in zip(levels, (*levels[1:], 0), strict=True):
        # Images still active come first; at full width all of them fit as they are.
        rows = jnp.argsort(~progress.active, stable=True)[:width]
        whole = width == count
        level = (problem, progress) if whole else _take((problem, progress), rows)
        moved = jax.lax.while_loop(
            partial(_more_active_than, next_width), partial(updates, level[0]), level[1]
        )
        progress = moved if whole else _put(progress, rows, moved)
    return Hallucination(
        images=jax.lax.stop_gradient(progress.image),
        iterations=progress.iterations,
        scores=progress.score,
        reached=progress.reached,
        finite=progress.finite,
    )


def choose_levels(count: int) -> tuple[int, ...]:
    """Widths of the cascade for `count` images: all, a half, a sixth.

    Each level is another copy of the network to compile. Three keep the occupancy of
    32 slots at 1.2 to 1.3 for every step rule, where one level has up to 2.4 and a
    fourth gains less than 0.05; few images need fewer levels.
    """
    if count <= 4:
        return (count,)
    if count <= 12:
        return (count, -(-count // 3))
    return (count, -(-count // 2), -(-count // 6))


def evaluations(
    iterations: jax.Array, valid: jax.Array, levels: Sequence[int]
) -> jax.Array:
    """Evaluations that the cascade does, padding included.

    A valid image needs `iterations` + 1 of them. A level of width w runs until the
    images still active fit the next width v, that is up to the (v + 1)-th largest
    need. Divided by the sum of needs this is the occupancy.

    iterations: [K] int; valid: [K] bool. Returns [] int32.
    """
    needs = -jnp.sort(-jnp.where(valid, iterations + 1, 0))
    ends = jnp.stack([needs[v] for v in (*levels[1:], 0)])
    trips = jnp.diff(ends, prepend=0)
    return jnp.sum(trips * jnp.asarray(levels, trips.dtype))


def _more_active_than(count: int, progress: Progress) -> jax.Array:
    return jnp.sum(progress.active) > count


def _take(tree: Any, rows: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _put(tree: Any, rows: jax.Array, part: Any) -> Any:
    return jax.tree.map(lambda leaf, new: leaf.at[rows].set(new), tree, part)


def _checked(levels: Sequence[int], count: int) -> tuple[int, ...]:
    levels = tuple(levels)
    falling = all(a > b for a, b in itertools.pairwise(levels))
    if not levels or levels[0] != count or not falling or levels[-1] < 1:
        raise ValueError(
            f"levels must fall from the number of images, {count}, to at least 1, "
            f"not {levels}"
        )
    return levels


def _pixel_range(
    clip: bool | tuple[jax.Array, jax.Array], images: jax.Array
) -> tuple[jax.Array, jax.Array] | None:
    if clip is False:
        return None
    if clip is True:
        if images.shape[-1] != len(_MEAN):
            raise ValueError(
                "clip_to_pixel_range=True means ImageNet's normalisation of three "
                f"channels; for {images.shape[-1]} give the pair (black, white)"
            )
        mean, std = jnp.asarray(_MEAN), jnp.asarray(_STD)
        clip = (-mean / std, (1 - mean) / std)
    black, white = clip
    return jnp.asarray(black, images.dtype), jnp.asarray(white, images.dtype)
