"""What a log comes to, worked by hand."""

from pathlib import Path

import numpy as np
import pytest
from made_up_runs import events, make_run, train_event, validation_event

from blt_jax.reports.run.files import read_run
from blt_jax.reports.run.history import (
    ascent_by_epoch,
    ascent_share,
    losses,
    time_parts,
    validations,
)


def test_curves_stand_on_one_axis_of_epochs(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    # Stage 1, of another run, took 3 epochs.
    assert validations(run)["few"] == [(4, 0.4321), (5, 0.5432)]
    stage1, stage2 = losses(run)
    assert stage1 == []
    assert stage2 == [(3.5, 0.2), (4.0, 0.1), (4.5, 2 / 30), (5.0, 0.05)]


def test_many_losses_are_averaged_with_neighbours(tmp_path: Path) -> None:
    log = [
        train_event(1, step, loss=float(step % 2), total_steps=1200)
        for step in range(1, 1201)
    ]
    curve = losses(read_run(make_run(tmp_path / "run", log=log)))[1]
    assert len(curve) == 300
    assert {y for _, y in curve} == {0.5}  # four neighbours each


def test_a_resumed_run_counts_steps_once_and_time_twice(tmp_path: Path) -> None:
    again = [train_event(1, 20, loss=9.0), validation_event(1, 20, 0.9)]
    run = read_run(make_run(tmp_path / "run", log=events() + again))
    assert validations(run)["overall"] == [(4, 0.9), (5, 0.5432)]
    assert (4.0, 9.0) in losses(run)[1]
    once = time_parts(read_run(make_run(tmp_path / "other")))
    assert sum(time_parts(run).values()) == pytest.approx(sum(once.values()) + 4 + 2)


@pytest.mark.parametrize(
    ("how", "validated", "trained"),
    [
        ({"kind": "resumed", "step": 20}, [20], [10, 20, 25, 35, 40]),
        ({"kind": "begun", "step": 0}, [], [25, 35, 40]),
    ],
)
def test_steps_that_are_done_again_at_other_intervals_count_once(
    how: dict[str, str | int], validated: list[int], trained: list[int], tmp_path: Path
) -> None:
    again = [
        {"stage": "stage2", **how},
        *(train_event(2, step, loss=3.0) for step in (25, 35, 40)),
    ]
    run = read_run(make_run(tmp_path / "run", log=events() + again))
    assert list(run.last("stage2", "train")) == trained
    assert list(run.last("stage2", "validation")) == validated


@pytest.mark.parametrize(
    ("kind", "part"), [("bank", "ascent"), ("exemplars", "training")]
)
def test_passes_before_the_steps_count(kind: str, part: str, tmp_path: Path) -> None:
    event = {"kind": kind, "stage": "stage2", "images": 9, "seconds": 2.5}
    parts, without = (
        time_parts(read_run(make_run(tmp_path / name, log=log)))
        for name, log in (("with", [event, *events()]), ("without", events()))
    )
    assert parts.pop(part) == pytest.approx(without.pop(part) + 2.5)
    assert parts == without


def test_ascent_of_an_epoch_is_weighted_by_images(tmp_path: Path) -> None:
    found = ascent_by_epoch(read_run(make_run(tmp_path / "run")))
    assert list(found) == [2]  # the first hallucinates nothing
    assert found[2]["moved"] == 60
    assert found[2]["mean_iterations"] == pytest.approx((40 * 2 + 20 * 1) / 60)
    assert found[2]["reached"] == pytest.approx(40 * 0.75 / 60)
    np.testing.assert_array_equal(found[2]["histogram"], [10, 20, 10, 20])
    old = [train_event(2, 30), train_event(2, 40)]
    del old[0]["iterations_histogram"]
    found = ascent_by_epoch(read_run(make_run(tmp_path / "old", log=old)))
    assert found[2]["histogram"] is None and found[2]["moved"] == 80


def test_time_is_split_by_clock_and_by_operations(tmp_path: Path) -> None:
    parts = time_parts(read_run(make_run(tmp_path / "run")))
    assert parts["waiting for data"] == 4 * 0.25 * 4.0
    assert parts["compilation"] == 6.0
    assert parts["checkpoints"] == 2.0
    assert parts["evaluation"] == 2 * (3.0 - 1.0)  # saving is a part of its time
    # 40 images take 3 evaluations each, 1.5 times with padding, of 2 forward passes;
    # 80 + 40 images are trained with, 3 forward passes each.
    first = ascent_share(train_event(2, 30))
    assert first == pytest.approx(2 * 1.5 * 40 * 3 / (2 * 1.5 * 40 * 3 + 3 * 120))
    second = 2 * 1.5 * 20 * 2 / (2 * 1.5 * 20 * 2 + 3 * 100)
    assert parts["ascent"] == pytest.approx(3.0 * (first + second))
    assert parts["training"] + parts["ascent"] == pytest.approx(4 * 3.0)
