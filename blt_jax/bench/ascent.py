"""The ascent alone: one plain loop, the cascade, and no loop at all.

All three do the same updates. `plain` evaluates every image until the slowest is done,
`cascade` leaves finished ones behind, `unrolled` evaluates every image as often as any
may need, without a loop.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blt_jax.bench.timing import Arm, interleave, milliseconds, ratio
from blt_jax.bench.workload import Workload
from blt_jax.hallucination.ascent import LogitsFn, Options, Problem, start, update
from blt_jax.hallucination.cascade import (
    Hallucination,
    choose_levels,
    evaluations,
    hallucinate,
)
from blt_jax.hallucination.targets import draw_targets, draw_thresholds
from blt_jax.models.classifier import Model
from blt_jax.training.augment import normalise

_COLUMNS = ("images_uint8", "targets", "thresholds")


class AscentSeeds(NamedTuple):
    """Seeds with all that their ascent depends on."""

    images: jax.Array  # [K, H, W, 3] normalised float32
    targets: jax.Array  # [K] int32
    thresholds: jax.Array  # [K] float32


def read_seeds(path: Path, workload: Workload) -> AscentSeeds:
    """Seeds of an .npz file with images_uint8, targets and thresholds."""
    with np.load(path) as arrays:
        missing = [name for name in _COLUMNS if name not in arrays]
        if missing:
            raise ValueError(f"{path} has no array {missing[0]!r}")
        images, targets, thresholds = (arrays[name] for name in _COLUMNS)
    return AscentSeeds(
        normalise(jnp.asarray(images), workload.setup.normalisation),
        jnp.asarray(targets, jnp.int32),
        jnp.asarray(thresholds, jnp.float32),
    )


def draw_seeds(workload: Workload, count: int) -> AscentSeeds:
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
    return AscentSeeds(
        normalise(jnp.asarray(images[:count]), workload.setup.normalisation),
        jnp.asarray(targets[:count], jnp.int32),
        draw_thresholds(uniform, interval=interval),
    )


def ascent(
    workload: Workload,
    seeds: AscentSeeds,
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
                "batch": len(seeds.targets),
                "image_size": seeds.images.shape[1],
            }
            for row in _forms(workload, seeds, options, rounds):
                yield columns | row


def _forms(
    workload: Workload, seeds: AscentSeeds, options: Options, rounds: int
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
    plain: Hallucination = timed["plain"].results[0]
    for form in FORMS:
        found: Hallucination = timed[form].results[0]
        count = len(seeds.targets)
        levels = choose_levels(count) if form == "cascade" else (count,)
        needed = int(jnp.sum(found.iterations + 1))
        done = (
            count * (options.max_iterations + 1)
            if form == "unrolled"
            else int(evaluations(found.iterations, jnp.ones(count, bool), levels))
        )
        yield {
            "form": form,
            "levels": list(levels),
            "ms": milliseconds(timed[form]),
            **ratio(timed[form], timed["plain"]),
            "mean_iterations": float(jnp.mean(found.iterations)),
            "iterations_histogram": np.bincount(
                found.iterations, minlength=options.max_iterations + 1
            ).tolist(),
            "reached": float(jnp.mean(found.reached)),
            "evaluations": done,
            "occupancy": done / needed,
            "temporary_mb": _temporary_bytes(programs[form]) / 1e6,
            "compile_seconds": compile_seconds[form],
            "largest_difference_from_plain": float(
                jnp.max(jnp.abs(found.images - plain.images))
            ),
        }


def _run(
    form: str, model: Model, options: Options, weights: Any, seeds: AscentSeeds
) -> Hallucination:
    params, batch_stats = weights

    def logits_fn(images: jax.Array) -> jax.Array:
        return model.apply_eval(params, batch_stats, images).logits

    return FORMS[form](logits_fn, seeds, options)


def _loop(
    logits_fn: LogitsFn, seeds: AscentSeeds, options: Options, *, plain: bool
) -> Hallucination:
    return hallucinate(
        logits_fn,
        *seeds,
        step_rule=options.step_rule,
        step_size=options.step_size,
        max_iterations=options.max_iterations,
        max_step=options.max_step,
        max_norm=options.max_norm,
        levels=(len(seeds.targets),) if plain else None,
    )


def _unrolled(
    logits_fn: LogitsFn, seeds: AscentSeeds, options: Options
) -> Hallucination:
    problem = Problem(*seeds)
    progress = start(problem, jnp.ones_like(seeds.targets, bool), options)
    for _ in range(options.max_iterations + 1):
        progress = jax.vmap(partial(update, logits_fn, options=options))(
            problem, progress
        )
    return Hallucination(
        progress.image,
        progress.iterations,
        progress.score,
        progress.reached,
        progress.finite,
    )


FORMS: dict[str, Callable[[LogitsFn, AscentSeeds, Options], Hallucination]] = {
    "plain": partial(_loop, plain=True),
    "cascade": partial(_loop, plain=False),
    "unrolled": _unrolled,
}


def _temporary_bytes(program: Any) -> int:
    """Memory for what a program keeps while it runs, besides arguments and results."""
    return int(program.memory_analysis().temp_size_in_bytes)
