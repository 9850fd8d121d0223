"""Runs that meet NaN: stopped with everything finite saved, or stepped over."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest

from blt_jax import main
from blt_jax.config import load_config
from blt_jax.exit_codes import ExitCode
from blt_jax.training import loop, stages
from blt_jax.training.checkpoint import find_checkpoint, load_checkpoint
from blt_jax.training.log import RunLog, StepMeter, progress_line
from blt_jax.training.loop import train_stage
from blt_jax.training.not_finite import NotFiniteError, Watch
from blt_jax.training.setup import prepare
from blt_jax.training.stages import make_plan, make_stage

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "batch_size": 32,
        "data": {"kind": "synthetic", "num_classes": 4, "image_size": 8, "resize": 8,
                 "crop": "pad"},
        "model": {"backbone": "resnet10_small"},
        "stage1": {"epochs": 3, "backbone_lr": 0.02, "head_lr": 0.02,
                   "milestones": (3,)},
        "stage2": {"epochs": 0},
        "evaluation": {"batch_size": 32},
        "log_every": 2,
    })
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def finished(config_file, tmp_path_factory):
    """A working directory of a run in which everything stayed finite."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    assert main.run(command(config_file, workdir)) == ExitCode.FINISHED
    return workdir


def command(config_file, workdir, *more):
    return ["train", f"--config={config_file}", f"--workdir={workdir}", *more]


def records(workdir, kind):
    lines = (workdir / "stage1" / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


def saved_steps(workdir):
    folder = workdir / "stage1" / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def assert_same_end(mine, theirs):
    arrays = [
        load_checkpoint(find_checkpoint(w, which="last"))[0] for w in (mine, theirs)
    ]
    jax.tree.map(np.testing.assert_array_equal, *arrays)


@pytest.fixture
def poisoned(monkeypatch):
    """A list of steps, whose labels are no class, so that the loss is NaN."""
    steps = []
    make_feed = stages.make_feed

    def make_poisoned_feed(*arguments, **options):
        feed = make_feed(*arguments, **options)

        def batches(start):
            for step, batch in enumerate(feed.batches(start), start):
                if step in steps:
                    batch = {**batch, "label": np.full_like(batch["label"], 4)}
                yield batch

        return feed._replace(batches=batches)

    monkeypatch.setattr(stages, "make_feed", make_poisoned_feed)
    return steps


@pytest.mark.slow
def test_a_learning_rate_that_explodes_stops_the_run(config_file, tmp_path, capsys):
    workdir = tmp_path / "run"
    # From epoch 3 on the learning rate is 2e36.
    explodes = command(config_file, workdir, "--config.stage1.decay=1e38")
    assert main.run(explodes) == ExitCode.NOT_FINITE
    (error,) = capsys.readouterr().err.strip().splitlines()
    setup = prepare(load_config(config_file), workdir)
    stage = make_stage(setup, "stage1", make_plan(setup, "stage1"))
    last = 2 * stage.steps_per_epoch
    assert saved_steps(workdir)[-1] == last
    (record,) = records(workdir, "not_finite")
    assert last < record["step"] <= last + 3
    assert f"stage1 step {record['step']}/{stage.total_steps}: " in error
    assert (
        f"The last finite checkpoint is {workdir}/stage1/checkpoints/{last};" in error
    )
    assert "--allow_change" in error and "--config.skip_not_finite=1" in error

    plan = make_plan(setup, "stage1")(record["step"] - 1)
    assert record["images"] == [setup.dataset.train.ids[r] for r in plan.records]
    assert f"Its batch: {', '.join(record['images'][:3])}, ... (all 32 images" in error
    arrays, _ = load_checkpoint(find_checkpoint(workdir, which="last"))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(arrays))

    # Another rate must be meant.
    lowered = command(config_file, workdir, "--config.stage1.decay=0.1")
    assert main.run(lowered) == ExitCode.WRONG_USE
    assert "stage1.decay" in capsys.readouterr().err
    assert saved_steps(workdir)[-1] == last
    assert main.run([*lowered, "--allow_change=stage1.decay"]) == ExitCode.FINISHED
    assert saved_steps(workdir)[-1] == stage.total_steps
    (change,) = json.loads((workdir / "config.json").read_text())["derived"]["changes"]
    assert change == {
        "field": "stage1.decay",
        "from": 1e38,
        "to": 0.1,
        "steps": {"stage1": last},
    }
    (told,) = records(workdir, "config_changed")
    assert (told["step"], told["changes"]) == (last, [change])


def test_the_step_that_is_saved_has_been_seen(config_file, tmp_path, poisoned):
    workdir = tmp_path / "run"
    poisoned.append(5)
    arguments = command(config_file, workdir, "--config.checkpoint.every_steps=3")
    assert main.run(arguments) == ExitCode.NOT_FINITE
    # Step 6 is the bad one, and one to be saved; step 4 ends an epoch.
    assert saved_steps(workdir) == [3, 4]
    assert [r["step"] for r in records(workdir, "not_finite")] == [6]
    arrays, _ = load_checkpoint(find_checkpoint(workdir, which="last"))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(arrays))


def make_small_stage(config_file, workdir, *, epochs=1, steps_per_epoch=4, **options):
    setup = prepare(load_config(config_file), workdir)
    stage = make_stage(setup, "stage1", make_plan(setup, "stage1"))
    return dataclasses.replace(
        stage, epochs=epochs, steps_per_epoch=steps_per_epoch, **options
    )


@pytest.mark.parametrize("reason", ["asked to stop", "end of an epoch"])
def test_a_bad_state_is_not_saved_at(reason, config_file, tmp_path, poisoned):
    poisoned.append(3)
    stage = make_small_stage(
        config_file, tmp_path, steps_per_epoch=4 if reason == "end of an epoch" else 8
    )
    with pytest.raises(NotFiniteError, match=r"step 4/.* does not exist yet"):
        train_stage(stage, lambda done: reason == "asked to stop" and done == 4)
    assert saved_steps(tmp_path) == []


@pytest.mark.slow
def test_steps_are_left_out_up_to_so_many_in_a_row(
    config_file, tmp_path, poisoned, finished, capsys
):
    workdir = tmp_path / "run"
    poisoned += [1, 4, 5]
    skip = "--config.skip_not_finite={}".format
    arguments = command(config_file, workdir, "--config.checkpoint.every_steps=3")
    # Two in a row are one more than allowed; without either the first one stops.
    assert main.run([*arguments, skip(1)]) == ExitCode.NOT_FINITE
    error = capsys.readouterr().err
    assert "step 6/" in error and skip(2) in error
    assert saved_steps(workdir) == [3, 4]
    assert main.run([*arguments, skip(2)]) == ExitCode.FINISHED
    found = {(r["step"], r["skipped"]) for r in records(workdir, "not_finite")}
    assert found == {(2, True), (5, True), (6, False), (6, True)}
    trained = records(workdir, "train")
    by_step = {r["step"]: r["not_finite_steps"] for r in trained}
    assert (by_step[2], by_step[4]) == (1, 0)
    assert sum(by_step.values()) == 3
    assert all(r["loss"] is None or np.isfinite(r["loss"]) for r in trained)
    assert trained[-1]["step"] == records(finished, "train")[-1]["step"]


def test_a_step_is_dispatched_before_the_one_before_it_is_read(
    config_file, tmp_path, monkeypatch
):
    stage = make_small_stage(config_file, tmp_path, steps_per_epoch=5, epochs=1)
    events = []
    compile_steps, device_get = loop._compile, jax.device_get

    def compile_recorded(*arguments):
        def recorded(program):
            def run(*arguments):
                events.append("step")
                return program(*arguments)

            return run

        return {k: recorded(p) for k, p in compile_steps(*arguments).items()}

    def read(tree):
        if isinstance(tree, dict) and "not_finite" in tree:
            events.append("read")
        return device_get(tree)

    monkeypatch.setattr(loop, "_compile", compile_recorded)
    monkeypatch.setattr(jax, "device_get", read)
    train_stage(stage)
    assert events == ["step", *["step", "read"] * 4, "read"]


@pytest.mark.slow
def test_neither_skipping_nor_a_clock_set_back_changes_a_finite_run(
    config_file, tmp_path, finished, monkeypatch
):
    begin, calls = time.time(), []

    def set_back():
        """A day earlier each time it is asked."""
        calls.append(begin - 86400 * len(calls))
        return calls[-1]

    monkeypatch.setattr(time, "time", set_back)
    workdir = tmp_path / "run"
    arguments = command(config_file, workdir, "--config.checkpoint.keep=9")
    assert main.run([*arguments, "--config.skip_not_finite=3"]) == ExitCode.FINISHED
    assert calls
    epochs = [r["step"] for r in records(finished, "validation")]
    assert saved_steps(workdir) == epochs
    assert_same_end(workdir, finished)
    for record in records(workdir, "train"):
        assert record["seconds_left"] >= 0 and record["seconds"] > 0


def make_watch(tmp_path, log, **options):
    return Watch(
        "stage2",
        log,
        total_steps=9,
        batch_size=4,
        ids=[f"{i}.jpg" for i in range(20)],
        last_checkpoint=lambda: tmp_path / "checkpoints" / "3",
        **options,
    )


ROWS = {
    "record": np.array([7, 3, 19, 0]),
    # Slot 0 is padded, slot 1 begins at row 2, slot 2 at an image of its own.
    "seed_valid": np.array([False, True, True]),
    "seed_index": np.array([0, 2, 5]),
    "seed_record": np.array([-1, 19, 11]),
}


def test_the_record_names_every_image_and_what_the_slots_began_as(tmp_path):
    path = tmp_path / "metrics.jsonl"
    sums = {"not_finite": np.int32(0b1001), "loss": np.float32(np.inf)}
    with (
        RunLog(path) as log,
        pytest.raises(NotFiniteError, match="loss and BatchNorm statistics are") as one,
    ):
        make_watch(tmp_path, log, skip=0).check(5, sums, ROWS)
    assert json.loads(path.read_text()) == {
        "kind": "not_finite",
        "stage": "stage2",
        "step": 5,
        "what": ["loss", "BatchNorm statistics"],
        "loss": "inf",
        "skipped": False,
        "images": ["7.jpg", "3.jpg", "19.jpg", "0.jpg"],
        "seeds": [
            {"slot": 1, "row": 2, "image": "19.jpg"},
            {"slot": 2, "row": None, "image": "11.jpg"},
        ],
    }
    assert "(loss inf). Its batch: 7.jpg, 3.jpg, 19.jpg, ... (all 4 " in str(one.value)
    assert one.value.exit_code == ExitCode.NOT_FINITE


def test_only_bad_steps_in_a_row_are_too_many(tmp_path):
    good = {"not_finite": np.int32(0), "loss": np.float32(1)}
    bad = {"not_finite": np.int32(1), "loss": np.float32(np.nan)}
    with RunLog(tmp_path / "metrics.jsonl") as log:
        watch = make_watch(tmp_path, log, skip=2)
        for step, sums in enumerate([bad, bad, good, bad, bad, good], 1):
            watch.check(step, sums, ROWS)
        watch.check(7, bad, ROWS)
        # A run that goes on with what it had counted.
        again = make_watch(tmp_path, log, skip=2, in_a_row=watch.in_a_row)
        again.check(8, bad, ROWS)
        with pytest.raises(NotFiniteError, match="step 9/9"):
            again.check(9, bad, ROWS)


def test_a_step_that_is_left_out_is_counted_and_not_averaged():
    meter = StepMeter(batch_size=4, total_steps=9, first_step=0)
    good = {"not_finite": 0, "loss": 2.0, "correct": 3, "trained": 4}
    meter.add(good)
    meter.add(good | {"not_finite": 1, "loss": np.nan, "correct": 0})
    record = meter.take(2)
    found = [record[name] for name in ("loss", "accuracy", "not_finite_steps")]
    assert found == [2.0, 0.75, 1]
    meter.add(good | {"not_finite": 1, "loss": np.nan})
    record = {"stage": "s", "epoch": 1, "epochs": 1, "step": 3, "total_steps": 9}
    record |= meter.take(3)
    assert record["loss"] is None
    assert "no step learned" in progress_line(record)
