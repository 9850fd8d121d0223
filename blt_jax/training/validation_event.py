"""A validation as the log tells it: the accuracies, and what there is to see to."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from blt_jax.data.progress import duration
from blt_jax.training.evaluate import Evaluation
from blt_jax.training.stage import Stage

# Classes that an event names; it counts them all.
_NAMED = 5


def validation_event(
    stage: Stage, step: int, evaluation: Evaluation, scores: Mapping[str, Any]
) -> dict[str, Any]:
    """The event after so many steps, JSON-able; scores: accuracies, as fractions.

    `never_confused` counts the tail classes that have no confusing class now, and
    `never_confused_classes` names the first few. `only_prediction` names the class
    that every image is taken for, of whatever class it is; else it is None.
    """
    names = stage.never_confused(evaluation)
    return {
        "kind": "validation",
        "stage": stage.name,
        "epoch": step // stage.steps_per_epoch,
        "step": step,
        **scores,
        "never_confused": len(names),
        "never_confused_classes": list(names[:_NAMED]),
        "only_prediction": _only_prediction(stage, evaluation),
    }


def validation_line(event: Mapping[str, Any]) -> str:
    """The event, with its `seconds`, as a line for people."""
    shots = ", ".join(
        f"{name} {event[name]:.1%}"
        for name in ("many", "medium", "few", "overall")
        if event.get(name) is not None
    )
    told = ""
    if event["never_confused"]:
        named = ", ".join(event["never_confused_classes"])
        more = ", ..." if event["never_confused"] > _NAMED else ""
        told = f"; {event['never_confused']} tail classes never confused: {named}{more}"
    if event["only_prediction"] is not None:
        told = (
            f"; every image taken for {event['only_prediction']}: if it stays so, "
            f"lower {event['stage']}.backbone_lr or raise batch_size"
        )
    return (
        f"{event['stage']} epoch {event['epoch']} validation: {shots} "
        f"({duration(event['seconds'])}){told}"
    )


def _only_prediction(stage: Stage, evaluation: Evaluation) -> str | None:
    """A network whose features have died gives the same scores to every image."""
    predicted = np.unique(evaluation.predictions)
    if len(predicted) != 1 or len(np.unique(evaluation.labels)) == 1:
        return None
    name: str = stage.meta["class_names"][predicted[0]]
    return name
