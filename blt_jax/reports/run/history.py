"""What the log of a run comes to: curves, iterations by epoch, and where time went."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from blt_jax.reports.results import ACCURACIES
from blt_jax.reports.run.files import STAGES, Event, Run

HISTOGRAM = "iterations_histogram"
# Parts of a run's time. Training and ascent are told apart by calculation, the others
# are measured.
TIME_PARTS = (
    "waiting for data",
    "training",
    "ascent",
    "evaluation",
    "checkpoints",
    "compilation",
)
_POINTS = 300  # of a curve of losses; more would not be seen
Points = list[tuple[float, float]]


def stage_offset(run: Run, stage: str) -> int:
    """Epochs before a stage, so that all stages stand on one axis."""
    return run.planned_epochs("stage1") if stage == "stage2" else 0


def validations(run: Run) -> dict[str, Points]:
    """By accuracy, (epoch over all stages, share) after each epoch."""
    curves: dict[str, Points] = {name: [] for name in ACCURACIES}
    for stage in STAGES:
        for event in run.last(stage, "validation").values():
            epoch = stage_offset(run, stage) + event["epoch"]
            for name, curve in curves.items():
                if event.get(name) is not None:
                    curve.append((epoch, event[name]))
    return curves


def losses(run: Run) -> list[Points]:
    """(epoch, training loss) of each stage; many are averaged with neighbours."""
    curves = []
    for stage in STAGES:
        offset, curve = stage_offset(run, stage), []
        for step, event in run.last(stage, "train").items():
            if event["loss"] is not None:
                done = step * event["epochs"] / event["total_steps"]
                curve.append((offset + done, event["loss"]))
        curves.append(_thinned(curve))
    return curves


def _thinned(points: Points) -> Points:
    if len(points) <= _POINTS:
        return points
    parts = np.array_split(np.array(points), _POINTS)
    return [(float(x), float(y)) for x, y in (part.mean(axis=0) for part in parts)]


def ascent_by_epoch(run: Run) -> dict[int, dict[str, Any]]:
    """By epoch of stage 2 in which images were moved: their number and their means.

    Each has `moved`, `mean_iterations`, `reached` (share) and `histogram`, images that
    took 0, 1, ... updates, or None where the log does not say.
    """
    epochs: dict[int, list[Event]] = defaultdict(list)
    for event in run.last("stage2", "train").values():
        if event["hallucinated"] and event["mean_iterations"] is not None:
            epochs[event["epoch"]].append(event)
    return {epoch: _ascent(events) for epoch, events in epochs.items()}


def _ascent(events: Sequence[Event]) -> dict[str, Any]:
    moved = np.array([event["hallucinated"] for event in events])

    def mean(name: str) -> float:
        values = [event[name] for event in events]
        return float(moved @ np.array(values) / moved.sum())

    found = [event[HISTOGRAM] for event in events if event.get(HISTOGRAM)]
    complete = len(found) == len(events)
    return {
        "moved": int(moved.sum()),
        "mean_iterations": mean("mean_iterations"),
        "reached": mean("reached_fraction"),
        "histogram": np.sum(found, axis=0) if complete else None,
    }


def time_parts(run: Run) -> dict[str, float]:
    """Seconds of each of TIME_PARTS, over all stages and every start of this run.

    Ascent and training run in one step, whose time is split by their operations: an
    evaluation of the ascent costs 2 forward passes, an image trained with 3. Images
    that are made once, before the steps, are ascent as well; FSLwF's reading of the
    tail classes' images is training.
    """
    parts = dict.fromkeys(TIME_PARTS, 0.0)
    for stage in STAGES:
        saved = defaultdict(float)
        for event in run.events[stage]:
            kind, seconds = event["kind"], event.get("seconds", 0.0)
            if kind == "compile":
                parts["compilation"] += seconds
            elif kind == "bank":
                parts["ascent"] += seconds
            elif kind == "exemplars":
                parts["training"] += seconds
            elif kind == "saving":
                parts["checkpoints"] += seconds
                saved[event["step"]] = seconds
            elif kind == "validation":
                # Of a validation's time its saving is a part.
                parts["evaluation"] += max(seconds - saved[event["step"]], 0.0)
            elif kind == "train":
                waited = event["data_wait"] * seconds
                ascent = ascent_share(event) * (seconds - waited)
                parts["waiting for data"] += waited
                parts["ascent"] += ascent
                parts["training"] += seconds - waited - ascent
    return parts


def ascent_share(event: Event) -> float:
    """Part of the operations of an interval's steps that is the ascent's, estimated."""
    appended = event["hallucinated"]
    if not appended or event["mean_iterations"] is None:
        return 0.0
    needed = appended * (event["mean_iterations"] + 1)
    ascent = 2 * (event["occupancy"] or 1.0) * needed
    trained = appended + event["images_per_second"] * event["seconds"]
    return float(ascent / (ascent + 3 * trained))
