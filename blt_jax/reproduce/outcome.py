"""What a finished run came to, as its record."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from blt_jax.bench.document import device_description
from blt_jax.models.flops import count_flops
from blt_jax.reports.records import (
    Ascent,
    Environment,
    Recipe,
    Record,
    evaluation_of,
)
from blt_jax.reports.run.files import Event, last_by_step, read_events
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
    stage1 = read_events(plan.stage1_workdir / "stage1" / "metrics.jsonl")
    stage2 = read_events(plan.workdir / "stage2" / "metrics.jsonl")
    made_with = environment()
    return Record(
        arm=plan.arm.name,
        system=plan.arm.system,
        seed=plan.seed,
        overrides=plan.arm.overrides(),
        recipe=Recipe(
            config=Path(config_file).stem,
            dataset=_dataset_name(config.data),
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
        ascent=_ascent(stage2, config.batch_size),
        seconds={"stage1": _seconds(stage1), "stage2": _seconds(stage2)},
        environment=Environment(
            device=device_description(),
            versions={
                name: made_with["versions"][name] for name in ("blt-jax", "jax", "flax")
            },
            revision=made_with["git_revision"],
        ),
    )


def _dataset_name(data: ConfigDict) -> str:
    """What tables call a data set; the root of tfds is the place of all of them."""
    if data.kind == "tfds":
        return re.split("[/:]", data.tfds_name)[0]
    return Path(data.root).name or str(data.kind)


def _ascent(events: Sequence[Event], batch_size: int) -> Ascent:
    totals: dict[str, float] = defaultdict(float)
    last = 0
    for step, event in last_by_step(events, "train").items():
        appended = event["hallucinated"]
        iterations = appended * (event["mean_iterations"] or 0.0)
        totals["hallucinated"] += appended
        totals["iterations"] += iterations
        totals["reached"] += appended * (event["reached_fraction"] or 0.0)
        totals["evaluations"] += (event["occupancy"] or 0.0) * (iterations + appended)
        totals["trained"] += appended + batch_size * (step - last)
        last = step
    # Every start makes the bank again, with the same images: one of them is the cost.
    banks = [event for event in events if event["kind"] == "bank"]
    if banks and banks[-1]["images"]:
        made = banks[-1]
        totals["evaluations"] += made["images"] * (made["mean_iterations"] + 1)
    return Ascent(**{name: round(total) for name, total in totals.items()})


def _seconds(events: Sequence[Event]) -> float | None:
    """Time in training steps, without validation, saving and compilation."""
    steps = last_by_step(events, "train").values()
    return sum(event["seconds"] for event in steps) if steps else None


def _flops(setup: Setup) -> int:
    """Of one image's forward pass, two for a multiply-add."""
    size = setup.config.data.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    state = jax.eval_shape(setup.model.init, jax.random.key(0))
    return count_flops(setup.model.apply_eval, *state, image)
