"""The ascent alone: one plain loop, the cascade, and no loop at all.

All three do the same updates. `plain` evaluates every image until the slowest is done,
`cascade` leaves finished ones behind, `unrolled` evaluates every image as often as any
may need, without a loop.
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from blt_jax.bench.timing import Arm, interleave, milliseconds, ratio
from blt_jax.bench.workload import Workload
from blt_jax.hallucination.ascent import (
    LogitsFn,
    Options,
    Problem,
    Progress,
    start,
    update,
)
from blt_jax.hallucination.cascade import cascade, choose_levels
from blt_jax.hallucination.targets import draw_targets, draw_thresholds
from blt_jax.models.classifier import Model
from blt_jax.training.augment import normalise

FORMS = ("plain", "cascade", "unrolled")
_ARRAYS = ("images_uint8", "targets", "thresholds")


def read_seeds(path: Path, workload: Workload) -> Problem:
    """Seeds of an .npz file with images_uint8, targets and thresholds."""
    with np.load(path, allow_pickle=False) as arrays:
        missing = [name for name in _ARRAYS if name not in arrays]
        if missing:
            raise ValueError(f"{path} has no array {missing[0]!r}")
        images, targets, thresholds = (arrays[name] for name in _ARRAYS)
    return Problem(
        normalise(jnp.asarray(images), workload.setup.normalisation),
        jnp.asarray(targets, jnp.int32),
        jnp.asarray(thresholds, jnp.float32),
    )


def draw_seeds(workload: Workload, count: int) -> Problem:
    """The first `count` seeds of stage 2 that have a confusing class.

    Cropped as in training; targets from the validation confusion.
    """
    random = np.random.default_rng(workload.setup.config.seed)
    interval = tuple(workload.setup.config.hallucination.threshold)
    images: list[np.ndarray] = []
    targets: list[int] = []
    for batch in workload.stage({}).batches(0):
        valid = batch["seed_valid"]
        drawn, usable = draw_targets(
            jnp.asarray(random.random(valid.sum(), np.float32)),
            jnp.asarray(batch["seed_label"][valid]),
            workload.confusion,
        )
        images += list(batch["seed_image"][valid][np.asarray(usable)])
        targets += np.asarray(drawn)[np.asarray(usable)].tolist()
        if len(images) >= count:
            break
    else:
        raise ValueError(f"--count {count}: stage 2 has only {len(images)} such seeds")
    uniform = jnp.asarray(random.random(count, np.float32))
    return Problem(
        normalise(jnp.asarray(images[:count]), workload.setup.normalisation),
        jnp.asarray(targets[:count], jnp.int32),
        draw_thresholds(uniform, interval=interval),
    )


def ascent(
    workload: Workload,
    seeds: Problem,
    *,
    step_rules: Sequence[str],
    max_steps: Sequence[float],
    rounds: int,
) -> Iterator[dict[str, Any]]:
    """Rows for every rule and form; the forms of one rule are timed in turns.

    max_steps: bounds of newton's step; the other rules have none.
    """
    config = workload.setup.config.hallucination
    for rule in step_rules:
        for max_step in max_steps if rule == "newton" else max_steps[:1]:
            options = Options(
                step_rule=rule,
                step_size=config.step_size,
                max_iterations=config.max_iterations,
                max_step=max_step,
                max_norm=config.max_norm,
                pixel_range=None,
            )
            columns = {
                "step_rule": rule,
                "max_step": max_step if rule == "newton" else None,
                "max_iterations": options.max_iterations,
                "n": rounds,
                **workload.columns,
                "batch": len(seeds.target),
                "image_size": seeds.seed.shape[1],
            }
            for row in _forms(workload, seeds, options, rounds):
                yield columns | row


def _forms(
    workload: Workload, seeds: Problem, options: Options, rounds: int
) -> Iterator[dict[str, Any]]:
    programs, compile_seconds = {}, {}
    weights = workload.params, workload.batch_stats
    for form in FORMS:
        begin = time.perf_counter()
        programs[form] = (
            jax.jit(partial(_run, form, workload.setup.model, options))
            .lower(weights, seeds)
            .compile()
        )
        compile_seconds[form] = time.perf_counter() - begin

    def arm(form: str) -> Arm:
        return Arm(
            prepare=lambda number: (weights, seeds),
            run=lambda argument: jax.block_until_ready(programs[form](*argument)),
        )

    timed = interleave({form: arm(form) for form in FORMS}, rounds=rounds)
    plain: Progress = timed["plain"].results[0][0]
    for form in FORMS:
        found, evaluations = timed[form].results[0]
        yield {
            "form": form,
            "levels": list(_levels(form, seeds)),
            "ms": milliseconds(timed[form]),
            **ratio(timed[form], timed["plain"]),
            "mean_iterations": float(jnp.mean(found.iterations)),
            "iterations_histogram": np.bincount(
                found.iterations, minlength=options.max_iterations + 1
            ).tolist(),
            "reached": float(jnp.mean(found.reached)),
            "evaluations": int(evaluations),
            "occupancy": float(evaluations / jnp.sum(found.iterations + 1)),
            "temporary_mb": _temporary_bytes(programs[form]) / 1e6,
            "compile_seconds": compile_seconds[form],
            "largest_difference_from_plain": float(
                jnp.max(jnp.abs(found.image - plain.image))
            ),
        }


def _run(
    form: str, model: Model, options: Options, weights: Any, seeds: Problem
) -> tuple[Progress, jax.Array]:
    params, batch_stats = weights

    def logits_fn(images: jax.Array) -> jax.Array:
        return model.apply_eval(params, batch_stats, images).logits

    if form == "unrolled":
        return _unrolled(logits_fn, seeds, options)
    valid = jnp.ones_like(seeds.target, bool)
    return cascade(logits_fn, seeds, valid, options, _levels(form, seeds))


def _levels(form: str, seeds: Problem) -> tuple[int, ...]:
    count = len(seeds.target)
    return choose_levels(count) if form == "cascade" else (count,)


def _unrolled(
    logits_fn: LogitsFn, seeds: Problem, options: Options
) -> tuple[Progress, jax.Array]:
    progress = start(seeds, jnp.ones_like(seeds.target, bool), options)
    turns = options.max_iterations + 1
    for _ in range(turns):
        progress = jax.vmap(partial(update, logits_fn, options=options))(
            seeds, progress
        )
    return progress, jnp.asarray(turns * len(seeds.target))


def _temporary_bytes(program: Any) -> int:
    """Memory for what a program keeps while it runs, besides arguments and results."""
    return int(program.memory_analysis().temp_size_in_bytes)
