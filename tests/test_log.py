"""The meter of a logging interval."""

import json

import numpy as np

from blt_jax.training.log import StepMeter

PLAIN = {"not_finite": 0, "loss": 1.0, "trained": 8, "correct": 4}
MOVED = {"hallucinated": 3, "iterations": 4, "reached": 2, "evaluations": 8}


def meter(interval=None):
    return StepMeter(batch_size=8, total_steps=9, first_step=0, interval=interval)


def test_histogram_of_iterations_adds_up_over_steps_and_interruptions() -> None:
    first = meter()
    first.add(PLAIN)  # a step without slots has none
    first.add({**PLAIN, **MOVED, "iterations_histogram": np.array([1, 0, 2])})
    # What a checkpoint holds is JSON.
    second = meter(json.loads(json.dumps(first.interval())))
    second.add({**PLAIN, **MOVED, "iterations_histogram": np.array([0, 2, 1])})
    record = second.take(3)
    assert json.loads(json.dumps(record))["iterations_histogram"] == [1, 2, 3]
    assert record["hallucinated"] == 6
    # The next interval begins with nothing, and says so where nothing was moved.
    second.add(PLAIN)
    assert second.take(4)["iterations_histogram"] is None


def test_interval_of_an_earlier_version_has_no_histogram() -> None:
    interval = meter().interval()
    del interval["iterations_histogram"]
    assert meter(interval).interval()["iterations_histogram"] == []
