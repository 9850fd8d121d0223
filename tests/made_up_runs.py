"""Working directories with made-up numbers, for the report under test."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from blt_jax.metrics import reliability
from blt_jax.reports.results import write_results

CLASSES = 6
COUNTS = [200, 120, 60, 30, 12, 5]
ACCURACIES = ("many", "medium", "few", "overall", "micro", "top5")


def train_event(epoch: int, step: int, **changes: Any) -> dict[str, Any]:
    """An interval of 10 steps of 8 images in 4 seconds, 1 of them waiting."""
    event = {
        "kind": "train",
        "stage": "stage2",
        "epoch": epoch,
        "epochs": 2,
        "step": step,
        "total_steps": 40,
        "loss": 2.0 / step,
        "images_per_second": 20.0,
        "hallucinated": 40,
        "mean_iterations": 2.0,
        "reached_fraction": 0.75,
        "iterations_histogram": [0, 20, 0, 20],
        "occupancy": 1.5,
        "data_wait": 0.25,
        "seconds": 4.0,
    }
    return event | changes


def validation_event(epoch: int, step: int, overall: float) -> dict[str, Any]:
    accuracies = dict.fromkeys(ACCURACIES, overall)
    return {
        "kind": "validation",
        "stage": "stage2",
        "epoch": epoch,
        "step": step,
        **accuracies,
        "seconds": 3.0,
    }


def events() -> list[dict[str, Any]]:
    """Stage 2: two epochs of 20 steps; the first hallucinates nothing."""
    nothing = {
        "hallucinated": 0,
        "mean_iterations": None,
        "reached_fraction": None,
        "iterations_histogram": None,
        "occupancy": None,
    }
    return [
        {"kind": "compile", "stage": "stage2", "slots": {"0": 5.0}, "seconds": 6.0},
        train_event(1, 10, **nothing),
        train_event(1, 20, **nothing),
        {"kind": "saving", "stage": "stage2", "step": 20, "seconds": 1.0},
        validation_event(1, 20, 0.4321),
        train_event(2, 30),
        train_event(2, 40, hallucinated=20, mean_iterations=1.0, reached_fraction=0.0)
        | {"iterations_histogram": [10, 0, 10, 0]},
        {"kind": "saving", "stage": "stage2", "step": 40, "seconds": 1.0},
        validation_event(2, 40, 0.5432),
    ]


def evaluation(names: list[str], *, few: float = 0.5) -> dict[str, Any]:
    """Of 10 images a class: the tail is taken for class 0, and how sure it was."""
    right = [10, 9, 8, 7, int(10 * few), int(10 * few)]
    confusion = [[c, c, n] for c, n in enumerate(right)]
    confusion += [[c, 0, 10 - n] for c, n in enumerate(right) if c and n < 10]
    accuracy = np.array(right) / 10
    sure = np.linspace(0.2, 1, 60)
    answers = np.arange(60) % 3 > 0
    one = reliability(sure, answers)
    return {
        "checkpoint": "run",
        "split": "test",
        "step": 40,
        "images": 60,
        "many": float(accuracy[:2].mean()),
        "medium": float(accuracy[2:4].mean()),
        "few": float(accuracy[4:].mean()),
        "overall": float(accuracy.mean()),
        "micro": float(accuracy.mean()),
        "top5": 1.0,
        "group_classes": {"many": 2, "medium": 2, "few": 2},
        "classes": [
            {"name": name, "training_images": count, "accuracy": float(share)}
            for name, count, share in zip(names, COUNTS, accuracy, strict=True)
        ],
        "confusion": confusion,
        "predictions": [],
        "calibration": {"overall": one, "many": one, "medium": one, "few": None},
    }


def make_run(
    workdir: Path,
    *,
    few: float = 0.5,
    names: list[str] | None = None,
    finished: bool = True,
    log: list[dict[str, Any]] | None = None,
) -> Path:
    """Write a run of two epochs; unfinished: without results and evaluation."""
    (workdir / "stage2").mkdir(parents=True)
    config = {
        "seed": 0,
        "batch_size": 8,
        "data": {"root": "data/shapes", "image_size": 16},
        "model": {"backbone": "resnet10_small"},
        "hallucination": {"enabled": True, "step_rule": "newton"},
        "evaluation": {"many": 100, "few": 20},
        "tail": {"rule": "threshold", "value": 20.0, "classes": []},
        "stage1": {"epochs": 3, "checkpoint": "other/stage1"},
        "stage2": {"epochs": 2},
        "derived": {"records": {}},
    }
    (workdir / "config.json").write_text(json.dumps(config))
    lines = [json.dumps(event) + "\n" for event in (log or events())]
    (workdir / "stage2" / "metrics.jsonl").write_text("".join(lines))
    if finished:
        environment = {"started": "2026-01-02T03:04:05+00:00", "python": "3.12.1"}
        (workdir / "environment.json").write_text(json.dumps(environment))
        found = evaluation(names or [f"class {c}" for c in range(CLASSES)], few=few)
        results = {"best": found, "last": found}
        write_results(workdir, arm=workdir.name, results=results)
        (workdir / "evaluation.json").write_text(json.dumps(found))
    return workdir
