"""Records with plausible made-up numbers, for tables and figures under test."""

from dataclasses import replace
from typing import Any

import numpy as np

from blt_jax.reports.records import (
    Ascent,
    DetailedEvaluation,
    Environment,
    Recipe,
    Record,
)

ENVIRONMENT = Environment(device="cpu", versions={"jax": "0.10.2"}, revision="abc")


def recipe(**changes: Any) -> Recipe:
    known = Recipe(
        config="tiny_imagenet_lt_small",
        dataset="tiny_imagenet_lt",
        backbone="resnet10_narrow",
        image_size=32,
        batch_size=128,
        epochs=(20, 10),
        stage1="d1",
        flops=2.5e7,
    )
    return replace(known, **changes)


def record(
    arm: str = "blt",
    seed: int = 0,
    *,
    shots: tuple[float, float, float] = (0.3, 0.2, 0.1),
    classes: int = 60,
    overrides: dict[str, Any] | None = None,
    evaluations: int = 0,
    noise: float = 0.005,
    with_few: bool = True,
    **changes: Any,
) -> Record:
    """One arm and seed whose accuracies by shot lie around those given."""
    rng = np.random.default_rng([seed, *arm.encode()])
    largest, smallest = 600, 6 if with_few else 30
    steps = np.arange(classes) / (classes - 1)
    counts = (largest * (smallest / largest) ** steps).astype(int)
    group = np.where(counts > 100, 0, np.where(counts > 20, 1, 2))
    around = np.array(shots)[group] + rng.normal(0, noise)
    per_class = np.clip(around + rng.normal(0, 0.06, classes), 0.0, 1.0).round(4)

    def mean(number: int) -> float | None:
        values = per_class[group == number]
        return float(values.mean()) if values.size else None

    overall = float(per_class.mean())
    ranks = 0.3 / (1 + np.arange(classes - 1.0)) ** 1.2
    error = (ranks * (1 - shots[2]) / ranks.sum()).round(6)
    evaluation = DetailedEvaluation(
        step=100,
        images=classes * 50,
        many=mean(0),
        medium=mean(1),
        few=mean(2),
        overall=overall,
        micro=overall,
        top5=min(1.0, 2 * overall),
        group_classes={
            name: int((group == number).sum())
            for number, name in enumerate(("many", "medium", "few"))
        },
        per_class=tuple(per_class.tolist()),
        error_by_rank=tuple(error.tolist()) if with_few else (),
    )
    results = {
        name: {"val": evaluation, "test": evaluation} for name in ("best", "last")
    }
    appended = 1000 if evaluations else 0
    known = Record(
        arm=arm,
        system="blt",
        seed=seed,
        overrides=overrides or {},
        recipe=recipe(),
        class_names=tuple(f"class {number}" for number in range(classes)),
        class_counts=tuple(counts.tolist()),
        results=results,
        ascent=Ascent(
            hallucinated=appended,
            iterations=max(0, evaluations - appended),
            reached=appended // 2,
            evaluations=evaluations,
            trained=8000 + appended,
        ),
        seconds={"stage1": 180.0, "stage2": 240.0},
        environment=ENVIRONMENT,
    )
    return replace(known, **changes)


# Arm -> accuracies of many, medium and few, and evaluations of the image gradient.
ARMS: dict[str, tuple[tuple[float, float, float], int]] = {
    "Plain": ((0.524, 0.231, 0.045), 0),
    "Sampling": ((0.406, 0.315, 0.147), 0),
    "Lifted loss": ((0.358, 0.304, 0.179), 0),
    "Range loss": ((0.358, 0.303, 0.176), 0),
    "FSLwF": ((0.409, 0.221, 0.150), 0),
    "OLTR": ((0.432, 0.351, 0.185), 0),
    "Focal": ((0.378, 0.312, 0.150), 0),
    "Class-balanced": ((0.297, 0.247, 0.174), 0),
    "Augmentations": ((0.420, 0.330, 0.195), 1000),
    "BLT gradient": ((0.444, 0.335, 0.255), 13500),
    "BLT accumulated": ((0.450, 0.330, 0.235), 9800),
    "BLT newton": ((0.430, 0.336, 0.272), 5300),
}


def arms(names: list[str], *, seeds: int = 3, **rest: Any) -> dict[str, list[Record]]:
    return {
        name: [
            record(name, s, shots=ARMS[name][0], evaluations=ARMS[name][1], **rest)
            for s in range(seeds)
        ]
        for name in names
    }
