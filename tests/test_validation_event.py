"""What the log says of a validation."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from blt_jax.config import load_config
from blt_jax.training.evaluate import Evaluation
from blt_jax.training.loop import train_stage
from blt_jax.training.setup import prepare
from blt_jax.training.stage import Stage
from blt_jax.training.stages import make_plan, make_stage
from blt_jax.training.validation_event import validation_event, validation_line

DIGITS = Path(__file__).resolve().parents[1] / "configs" / "digits_lt.py"
# Each step takes nine tenths of every weight away.
DYING = {"optimizer.weight_decay": 9.0, "optimizer.momentum": 0.0}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    config = load_config(DIGITS, changes={**DYING, "stage1.epochs": 2})
    setup = prepare(config, tmp_path_factory.mktemp("run"))
    return make_stage(setup, "stage1", make_plan(setup, "stage1"))


def evaluation(labels: list[int], predictions: list[int]) -> Evaluation:
    return Evaluation(
        np.array(labels, np.int32),
        np.array(predictions, np.int32),
        np.ones(len(labels), bool),
        np.full(len(labels), 0.5, np.float32),
    )


def test_accuracies_and_classes_that_are_never_confused(stage: Stage) -> None:
    clear = dataclasses.replace(
        stage, never_confused=lambda evaluation: [f"class {n}" for n in range(7)]
    )
    scores = {"many": 0.5, "medium": None, "few": 1.0, "overall": 0.75}
    step = 2 * stage.steps_per_epoch
    event = validation_event(clear, step, evaluation([0, 1, 2], [0, 1, 0]), scores)
    assert event["kind"] == "validation" and event["epoch"] == 2
    assert event["never_confused"] == 7 and len(event["never_confused_classes"]) == 5
    assert event["only_prediction"] is None
    assert validation_line({**event, "seconds": 2.0}) == (
        "stage1 epoch 2 validation: many 50.0%, few 100.0%, overall 75.0% (2s); 7 tail "
        "classes never confused: class 0, class 1, class 2, class 3, class 4, ..."
    )


@pytest.mark.parametrize(
    "labels, predictions, only",
    [
        ([0, 1, 2], [1, 1, 1], 1),
        ([0, 1, 2], [1, 1, 0], None),
        # Nothing is amiss where the images are of one class, or there are none.
        ([1, 1, 1], [1, 1, 1], None),
        ([], [], None),
    ],
)
def test_one_class_for_all_images(
    stage: Stage, labels: list[int], predictions: list[int], only: int | None
) -> None:
    event = validation_event(stage, 1, evaluation(labels, predictions), {})
    names = stage.meta["class_names"]
    assert event["only_prediction"] == (None if only is None else names[only])


def test_a_network_that_died_is_told_of(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    train_stage(stage)
    lines = (stage.folder / "metrics.jsonl").read_text().splitlines()
    events = [one for one in map(json.loads, lines) if one["kind"] == "validation"]
    name = events[-1]["only_prediction"]
    assert name in stage.meta["class_names"]
    assert (
        f"; every image taken for {name}: if it stays so, lower stage1.backbone_lr "
        "or raise batch_size" in capsys.readouterr().out
    )
