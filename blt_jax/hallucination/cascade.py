"""Gradient ascent on many images, leaving finished ones behind.

`vmap(while_loop)` evaluates every image until the slowest is done. The cascade
evaluates only as many at a time as its width, always active ones while there are
enough, and goes on with a smaller width as soon as those still active fit it; so most
evaluations are needed ones.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
    images: jax.Array | np.ndarray,
    targets: jax.Array | np.ndarray,
    thresholds: jax.Array | np.ndarray | float,
    *,
    valid: jax.Array | np.ndarray | None = None,
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
      images: [K, H, W, c] normalised float images, the seeds; K may be 0.
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
      levels: falling widths of the cascade, K at most; None: chosen from K; (K,): one
        plain loop.

    Returns:
      Hallucination(images, iterations, scores, reached, finite).

    Raises:
      ValueError: an unknown step rule, levels that do not fall or exceed K, or
        shapes that do not match.
    """
    images, targets = jnp.asarray(images), jnp.asarray(targets)
    count = images.shape[0]
    thresholds = jnp.broadcast_to(jnp.asarray(thresholds), (count,))
    if not jnp.issubdtype(thresholds.dtype, jnp.floating):
        raise ValueError(f"thresholds must be floating, not {thresholds.dtype}")
    if targets.shape != (count,):
        raise ValueError(f"targets has shape {targets.shape}, expected ({count},)")
    check_choice("step_rule", step_rule, STEP_RULES)
    valid = jnp.ones_like(targets, bool) if valid is None else jnp.asarray(valid)
    options = Options(
        step_rule=step_rule,
        step_size=step_size,
        max_iterations=max_iterations,
        max_step=max_step,
        max_norm=max_norm,
        pixel_range=_pixel_range(clip_to_pixel_range, images),
    )
    problem = Problem(images, targets, thresholds)
    if not count:
        progress = start(problem, valid, options)
    else:
        levels = choose_levels(count) if levels is None else _checked(levels, count)
        progress, _ = cascade(logits_fn, problem, valid, options, levels)
    return Hallucination(
        images=jax.lax.stop_gradient(progress.image),
        iterations=progress.iterations,
        scores=progress.score,
        reached=progress.reached,
        finite=progress.finite,
    )


def cascade(
    logits_fn: LogitsFn,
    problem: Problem,
    valid: jax.Array,
    options: Options,
    levels: Sequence[int],
) -> tuple[Progress, jax.Array]:
    """Move K images until all are finished; `hallucinate` without its checks.

    problem, valid: of K images each. Returns where the images stand, and the number of
    evaluations done, [] int32, padding included. A valid image needs one more than its
    updates; evaluations done / needed is the occupancy.
    """
    updates = jax.vmap(partial(update, logits_fn, options=options))
    progress = start(problem, valid, options)
    count = len(valid)

    def turn(
        width: int, carry: tuple[Progress, jax.Array]
    ) -> tuple[Progress, jax.Array]:
        progress, turns = carry
        if width == count:
            return updates(problem, progress), turns + 1
        rows = _moved_least(progress, width)
        moved = updates(*_take((problem, progress), rows))
        return _put(progress, rows, moved), turns + 1

    evaluations = none = jnp.zeros_like(progress.iterations[0])
    for width, next_width in zip(levels, (*levels[1:], 0), strict=True):
        progress, turns = jax.lax.while_loop(
            partial(_more_active_than, next_width),
            partial(turn, width),
            (progress, none),
        )
        evaluations = evaluations + width * turns
    return progress, evaluations


def choose_levels(count: int) -> tuple[int, ...]:
    """Widths of the cascade for `count` images.

    Each level is another copy of the network to compile. On CPU: a half, a quarter, an
    eighth, of which few images need fewer; all at once would evaluate padding, and
    finished images until half are done, and a processor with few cores gains nothing
    by more images at a time. Occupancy of 32 slots: 1.01 (`gradient`) to 1.13
    (`newton`), of a plain loop 1.2 to 2.4. An accelerator is not filled by so few, so
    there the first level holds all.
    """
    if count <= 4:
        return (count,)
    half, quarter, eighth = (-(-count // part) for part in (2, 4, 8))
    if jax.default_backend() != "cpu":
        return (count, half, eighth) if count > 12 else (count, quarter)
    return (half, quarter, eighth) if count > 12 else (half, eighth)


def _more_active_than(count: int, carry: tuple[Progress, jax.Array]) -> jax.Array:
    return jnp.sum(carry[0].active) > count


def _moved_least(progress: Progress, width: int) -> jax.Array:
    """Active images first, and of them those with the fewest updates.

    So they go on together, and the last ones that need many updates share their turns.
    """
    last = jnp.iinfo(progress.iterations.dtype).max
    behind = jnp.where(progress.active, progress.iterations, last)
    return jnp.argsort(behind, stable=True)[:width]


def _take(tree: Any, rows: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _put(tree: Any, rows: jax.Array, part: Any) -> Any:
    return jax.tree.map(lambda leaf, new: leaf.at[rows].set(new), tree, part)


def _checked(levels: Sequence[int], count: int) -> tuple[int, ...]:
    levels = tuple(levels)
    falling = all(a > b for a, b in itertools.pairwise(levels))
    if not levels or levels[0] > count or not falling or levels[-1] < 1:
        raise ValueError(
            f"levels must fall, from at most the number of images, {count}, to at "
            f"least 1, not {levels}"
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
