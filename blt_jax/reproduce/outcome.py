"""What a finished run came to, as its record."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from blt_jax.bench.document import device_description
from blt_jax.models.flops import count_flops
from blt_jax.reports.records import (
    Ascent,
    Environment,
    Recipe,
    Record,
    evaluation_of,
)
from blt_jax.reproduce.arms import Plan
from blt_jax.training.assess import assess
from blt_jax.training.environment import environment
from blt_jax.training.setup import Setup, tail


def make_record(plan: Plan, setup: Setup, config_file: str) -> Record:
    """Assess the best and the last checkpoint of a finished arm, and add its log up.

    This is the only place where the test split is read.
    """
    config, dataset = plan.config, setup.dataset
    tail_classes = tail(config, dataset.class_counts)
    results = {
        which: {
            split: evaluation_of(
                assess(setup, plan.workdir, split, which=which), tail_classes
            )
            for split in ("val", "test")
            if len(getattr(dataset, split))
        }
        for which in ("best", "last")
    }
    log = steps_of(plan.workdir / "stage2" / "metrics.jsonl")
    made_with = environment()
    return Record(
        arm=plan.arm.name,
        system=plan.arm.system,
        seed=plan.seed,
        overrides=plan.arm.overrides(),
        recipe=Recipe(
            config=Path(config_file).stem,
            dataset=Path(config.data.root).name or config.data.kind,
            backbone=config.model.backbone,
            image_size=config.data.image_size,
            batch_size=config.batch_size,
            epochs=(config.stage1.epochs, config.stage2.epochs),
            stage1=plan.stage1_digest,
            flops=_flops(setup),
            shots={"many": config.evaluation.many, "few": config.evaluation.few},
        ),
        class_names=tuple(dataset.class_names),
        class_counts=tuple(dataset.class_counts.tolist()),
        results=results,
        ascent=_ascent(log, config.batch_size),
        seconds={
            "stage1": _seconds(plan.stage1_workdir / "stage1" / "metrics.jsonl"),
            "stage2": _seconds(plan.workdir / "stage2" / "metrics.jsonl"),
        },
        environment=Environment(
            device=device_description(),
            versions={
                name: made_with["versions"][name] for name in ("blt-jax", "jax", "flax")
            },
            revision=made_with["git_revision"],
        ),
    )


def steps_of(log: Path) -> list[Mapping[str, Any]]:
    """The records of kind "train" of a log, one a step.

    A resumed run tells again of the steps after its checkpoint; the later one holds.
    """
    found: dict[int, Mapping[str, Any]] = {}
    if log.exists():
        for line in log.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["kind"] == "train":
                found[record["step"]] = record
    return [found[step] for step in sorted(found)]


def _ascent(log: list[Mapping[str, Any]], batch_size: int) -> Ascent:
    totals: dict[str, float] = defaultdict(float)
    last = 0
    for record in log:
        appended = record["hallucinated"]
        iterations = appended * (record["mean_iterations"] or 0.0)
        totals["hallucinated"] += appended
        totals["iterations"] += iterations
        totals["reached"] += appended * (record["reached_fraction"] or 0.0)
        totals["evaluations"] += (record["occupancy"] or 0.0) * (iterations + appended)
        totals["trained"] += appended + batch_size * (record["step"] - last)
        last = record["step"]
    return Ascent(**{name: round(total) for name, total in totals.items()})


def _seconds(log: Path) -> float | None:
    """Time in training steps, without validation, saving and compilation."""
    steps = steps_of(log)
    return sum(record["seconds"] for record in steps) if steps else None


def _flops(setup: Setup) -> int:
    """Of one image's forward pass, two for a multiply-add."""
    size = setup.config.data.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    state = jax.eval_shape(setup.model.init, jax.random.key(0))
    return count_flops(setup.model.apply_eval, *state, image)
