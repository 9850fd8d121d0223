"""Whole runs: both stages, skipping, killing and resuming, and what must not leak."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from blt_jax import main
from blt_jax.config import ConfigError, load_config
from blt_jax.training import run, sinks
from blt_jax.training.assess import assess
from blt_jax.training.checkpoint import find_checkpoint, load_checkpoint
from blt_jax.training.checkpointer import Checkpointer
from blt_jax.training.inference import load
from blt_jax.training.interruption import InterruptionError
from blt_jax.training.log import RunLog
from blt_jax.training.loop import _begin, train_stage
from blt_jax.training.run import train
from blt_jax.training.setup import evaluate_split, prepare
from blt_jax.training.stages import make_plan, make_stage

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "batch_size": 32,
        "data": {"kind": "synthetic", "num_classes": 4, "image_size": 8, "resize": 8,
                 "crop": "pad"},
        "model": {"backbone": "resnet10_small"},
        "hallucination": {"max_iterations": 3, "threshold": (0.5, 0.9)},
        "stage1": {"epochs": 3, "backbone_lr": 0.02, "head_lr": 0.02},
        "stage2": {"epochs": 3, "milestones": (3,), "head_lr": 0.02},
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
    """A working directory of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    command = ["train", f"--config={config_file}", f"--workdir={workdir}"]
    assert main.run(command) == 0
    return workdir


def all_records(workdir, stage):
    lines = (workdir / stage / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def records(workdir, stage, kind):
    return [r for r in all_records(workdir, stage) if r["kind"] == kind]


def arrays_of(workdir, which="last"):
    arrays, _ = load_checkpoint(find_checkpoint(workdir, which=which), confusion=True)
    return arrays


def assert_same_arrays(mine, theirs):
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)


def same_arrays(mine, theirs):
    equal = jax.tree.map(np.array_equal, mine, theirs)
    return all(jax.tree.leaves(equal))


def test_a_run_leaves_what_it_promises(finished):
    for name in (
        *("config.json", "environment.json", "class_map.json", "results.json"),
        "evaluation.json",
    ):
        assert json.loads((finished / name).read_text())
    derived = json.loads((finished / "config.json").read_text())["derived"]
    assert derived["stage1"]["slot_widths"] == []
    assert derived["stage2"]["slot_widths"]
    trained = records(finished, "stage2", "train")
    assert all(r["hallucinated"] == 0 for r in trained if r["epoch"] == 1)
    assert sum(r["hallucinated"] for r in trained) > 0
    later = [r for r in trained if r["hallucinated"]]
    assert all(0 <= r["mean_iterations"] <= 3 for r in later)
    assert any(r["mean_iterations"] > 0 for r in later)
    for r in later:
        histogram = np.array(r["iterations_histogram"])
        assert histogram.sum() == r["hallucinated"]
        assert histogram @ np.arange(4) / histogram.sum() == pytest.approx(
            r["mean_iterations"]
        )
    assert all(0 <= r["reached_fraction"] <= 1 for r in later)
    assert all(r["occupancy"] >= 1 for r in later)
    assert len(records(finished, "stage2", "validation")) == 3


def test_the_evaluation_beside_the_results_is_the_best_one_in_detail(finished):
    found = json.loads((finished / "evaluation.json").read_text())
    best = json.loads((finished / "results.json").read_text())["checkpoints"]["best"]
    assert best["test"] == {name: found[name] for name in best["test"]}
    calibrated = found["calibration"]
    assert sum(calibrated["overall"]["count"]) == found["images"]
    groups = [calibrated[name] for name in ("many", "medium", "few")]
    assert sum(sum(one["count"]) for one in groups if one) == found["images"]
    # The mean of the bins' accuracies is that over images.
    counts = np.array(calibrated["overall"]["count"])
    accuracies = np.array(calibrated["overall"]["accuracy"], float)
    right = counts[counts > 0] @ accuracies[counts > 0]
    assert right / found["images"] == pytest.approx(found["micro"])


def test_one_compilation_for_each_number_of_slots(finished):
    (compiled,) = records(finished, "stage2", "compile")
    widths = json.loads((finished / "config.json").read_text())["derived"]["stage2"]
    assert list(compiled["slots"]) == ["0", *map(str, widths["slot_widths"])]
    assert all(
        0 < seconds <= compiled["seconds"] for seconds in compiled["slots"].values()
    )
    # All of it before the first step.
    kinds = [r["kind"] for r in all_records(finished, "stage2")]
    assert kinds.index("compile") < kinds.index("train")


def test_stage_2_begins_with_the_backbone_of_stage_1(finished, config_file):
    config = load_config(config_file)
    setup = prepare(config, finished)
    state = make_stage(setup, "stage2", make_plan(setup, "stage2")).create_state()
    stage1, _ = load_checkpoint(find_checkpoint(finished / "stage1"))
    assert_same_arrays(state.params["backbone"], stage1["params"]["backbone"])
    assert_same_arrays(state.batch_stats, stage1["batch_stats"])
    assert not same_arrays(state.params["head"], stage1["params"]["head"])


def test_a_resumed_stage_2_asks_nothing_of_stage_1(finished, config_file, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(workdir / "stage1")
    setup = prepare(load_config(config_file), workdir)
    stage = make_stage(setup, "stage2", make_plan(setup, "stage2"))
    with Checkpointer(stage.folder) as saved, RunLog(workdir / "log.jsonl") as log:
        state, confusion, _ = _begin(stage, saved, log)
    found = {"params": state.params, "batch_stats": state.batch_stats}
    assert_same_arrays({**found, "confusion": confusion._asdict()}, arrays_of(finished))


def test_a_finished_run_is_not_trained_again(finished, config_file, capsys):
    before = arrays_of(finished)
    train(load_config(config_file), finished)
    printed = capsys.readouterr().out
    assert "stage1: finished before" in printed
    assert "stage2: finished before" in printed
    assert_same_arrays(arrays_of(finished), before)


@pytest.mark.slow
def test_terminated_then_killed_in_stage_2_and_started_again(
    finished, config_file, tmp_path
):
    workdir = tmp_path / "killed"
    # The same devices and compiler settings as in this process.
    program = (
        "import jax, sys; "
        "jax.config.update('jax_num_cpu_devices', 8); "
        "jax.config.update('jax_disable_most_optimizations', True); "
        "from blt_jax.main import run; sys.exit(run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "train"]
    command += [f"--config={config_file}", f"--workdir={workdir}"]
    command += ["--config.checkpoint.every_steps=3"]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }

    def interrupt(number, epoch):
        """Start, send a signal once that epoch has begun; the code, the last step."""
        with subprocess.Popen(command, env=environment) as process:
            log = workdir / "stage2" / "metrics.jsonl"
            deadline = time.monotonic() + 240
            while process.poll() is None and time.monotonic() < deadline:
                if log.exists() and f'"epoch": {epoch}' in log.read_text():
                    break
                time.sleep(0.02)
            os.kill(process.pid, number)
        with Checkpointer(workdir / "stage2") as checkpointer:
            return process.returncode, checkpointer.latest_step

    total = records(finished, "stage2", "train")[-1]["total_steps"]
    code, terminated = interrupt(signal.SIGTERM, epoch=1)
    assert (code, 0 < terminated < total) == (os.EX_TEMPFAIL, True)
    # The middle of the second epoch: past a checkpoint, before the next.
    code, interrupted = interrupt(signal.SIGKILL, epoch=2)
    assert (code, terminated <= interrupted < total) == (-signal.SIGKILL, True)

    answer = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240
    )
    assert answer.returncode == 0, answer.stderr
    assert f"stage2: resumed at step {interrupted}/{total}" in answer.stdout
    assert_same_arrays(arrays_of(workdir), arrays_of(finished))


@pytest.mark.slow
def test_begun_on_one_device_and_continued_on_eight_and_back(
    finished, config_file, tmp_path
):
    config = load_config(config_file)
    config.stage1.checkpoint = str(finished / "stage1")

    def go_on(workdir, devices, until=None):
        setup = prepare(config, workdir, num_devices=devices)
        stage = make_stage(setup, "stage2", make_plan(setup, "stage2", per_epoch=3))
        stage = dataclasses.replace(stage, epochs=2, steps_per_epoch=3, log_every=1)
        train_stage(stage, lambda done: done == until)

    whole, moved = tmp_path / "whole", tmp_path / "moved"
    go_on(whole, 8)
    for devices, until in ((1, 2), (8, 4)):
        with pytest.raises(InterruptionError, match=f"at step {until}/6"):
            go_on(moved, devices, until)
    go_on(moved, 1)
    assert [r["step"] for r in records(moved, "stage2", "resumed")] == [2, 4]
    expected = {r["step"]: r for r in records(whole, "stage2", "train")}
    found = {r["step"]: r for r in records(moved, "stage2", "train")}
    assert list(expected) == list(found) == [1, 2, 3, 4, 5, 6]
    for step, record in found.items():
        assert record["hallucinated"] == expected[step]["hallucinated"]
        np.testing.assert_allclose(record["loss"], expected[step]["loss"], rtol=1e-4)
    assert sum(record["hallucinated"] for record in found.values()) > 0


def test_the_test_split_cannot_reach_training(finished, config_file, tmp_path):
    """Scrambled test labels change nothing; scrambled validation labels do."""
    config = load_config(config_file)

    def train_with(name, **labels):
        setup = prepare(config, tmp_path / name)
        splits = {
            split: dataclasses.replace(getattr(setup.dataset, split), labels=changed)
            for split, changed in labels.items()
        }
        setup = dataclasses.replace(
            setup, dataset=dataclasses.replace(setup.dataset, **splits)
        )
        for stage in ("stage1", "stage2"):
            train_stage(make_stage(setup, stage, make_plan(setup, stage)))
        assess(setup, setup.workdir, "test")
        return arrays_of(setup.workdir)

    dataset = prepare(config, tmp_path).dataset
    whole = arrays_of(finished)
    # Every test image gets another class than its own.
    scrambled = train_with("test", test=(dataset.test.labels + 1) % 4)
    assert_same_arrays(scrambled, whole)
    # Without a validation image of classes 2 and 3, the tail, nothing is hallucinated.
    scrambled = train_with("val", val=dataset.val.labels % 2)
    assert not same_arrays(scrambled["confusion"], whole["confusion"])
    assert not same_arrays(scrambled["params"], whole["params"])


@pytest.mark.parametrize("images", [1, 31, 33])
def test_evaluation_counts_every_image_once(finished, config_file, images):
    setup = prepare(load_config(config_file), finished)
    split = setup.dataset.test.head(images)
    classifier = load(finished)
    evaluation = evaluate_split(setup, split, classifier.params, classifier.batch_stats)
    alone = [
        classifier.predict(split.source[i][None]).classes[0, 0] for i in range(images)
    ]
    np.testing.assert_array_equal(evaluation.predictions, alone)
    np.testing.assert_array_equal(evaluation.labels, split.labels)


def test_balanced_arm_takes_over_stage_1(finished, config_file, tmp_path):
    workdir = tmp_path / "balanced"
    command = ["train", f"--config={config_file}", f"--workdir={workdir}"]
    command += [
        "--config.hallucination.enabled=False",
        f"--config.stage1.checkpoint={finished / 'stage1'}",
    ]
    assert main.run(command) == 0
    assert not (workdir / "stage1").exists()
    best = json.loads((workdir / "results.json").read_text())["checkpoints"]["best"]
    assert best["test"]["images"] == len(
        prepare(load_config(config_file), workdir).dataset.test
    )
    trained = records(workdir, "stage2", "train")
    assert trained and not any(r["hallucinated"] for r in trained)
    (compiled,) = records(workdir, "stage2", "compile")
    assert list(compiled["slots"]) == ["0"]


def test_smoke_run_writes_nothing(config_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.run(["train", f"--config={config_file}", "--smoke"]) == 0
    assert "smoke run passed" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_smoke_run_of_the_smallest_stages_has_two_batches(
    config_file, tmp_path, monkeypatch
):
    """A split of one batch, stages of one epoch; and nothing is sent anywhere."""
    monkeypatch.setitem(sinks.SINKS, "paper", None)
    monkeypatch.setitem(sinks._PACKAGES, "paper", ("json", "paper"))
    found = []

    def look(stage):
        batches = itertools.islice(stage.batches(0), stage.total_steps)
        found.append((len(list(batches)), stage.sinks(0)))

    monkeypatch.setattr(run, "train_stage", look)
    images = len(prepare(load_config(config_file), tmp_path).dataset.train)
    changes = ["stage1.epochs=1", "stage2.epochs=1", "log_sinks=('paper',)"]
    changes += [f"batch_size={images // 8 * 8}"]
    run.smoke(load_config(config_file, [f"--config.{one}" for one in changes]))
    assert found == [(2, ()), (2, ())]


def test_smoke_run_looks_at_the_sinks(config_file, capsys):
    command = ["train", f"--config={config_file}", "--smoke"]
    assert main.run([*command, "--config.log_sinks=('paper',)"]) == 2
    assert "unknown name 'paper'" in capsys.readouterr().err


def test_another_configuration_is_refused(finished, config_file):
    config = load_config(config_file, ["--config.stage2.head_lr=0.5"])
    with pytest.raises(ConfigError, match=r"stage2\.head_lr  +0\.02  +0\.5\n"):
        train(config, finished)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.data.kind=lists", "--config.data.root=nowhere"], "nowhere"),
        (["--config.stage2.epoch=3"], "did you mean 'epochs'"),
        (["--config.stage1.checkpoint=nowhere"], "no checkpoint at nowhere"),
        (["--config.batch_size=36"], "not divisible by the 8 devices"),
        (["--config.batch_size=100000"], "larger than the training split"),
        (["--config.model.backbone=resnet11"], "resnet10"),
        (["--config.tail.value=1.0"], "no class is a tail class"),
        (["--system=static_random"], "come from a finished run of 'neither'; give --c"),
        (
            ["--system=static_random", "--config.hallucination.frozen_model=nowhere"],
            "no checkpoint at nowhere",
        ),
    ],
)
def test_wrong_use_gets_one_line(config_file, tmp_path, capsys, arguments, message):
    command = ["train", f"--config={config_file}", f"--workdir={tmp_path / 'run'}"]
    assert main.run(command + arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_absent_or_unfit_checkpoint_gets_one_line(
    finished, config_file, tmp_path, capsys
):
    assert main.run(["evaluate", f"--checkpoint={tmp_path / 'none'}"]) == 2
    assert "no checkpoint at" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main.run(["evaluate", f"--checkpoint={tmp_path / 'empty'}"]) == 2
    assert "no finished checkpoints/STEP" in capsys.readouterr().err
    command = ["evaluate", f"--checkpoint={finished}", f"--config={config_file}"]
    assert main.run([*command, "--config.data.num_classes=5"]) == 2
    assert "trained on 4 classes" in capsys.readouterr().err


def test_evaluate_writes_what_it_found(finished, tmp_path, capsys):
    out = tmp_path / "new" / "val.json"
    command = ["evaluate", f"--checkpoint={finished}", "--split=val", f"--out={out}"]
    assert main.run(command) == 0
    assert "accuracy in %" in capsys.readouterr().out
    found = json.loads(out.read_text())
    confusion = np.asarray(found["confusion"])
    assert confusion[:, 2].sum() == found["images"] == len(found["predictions"])
    hits = confusion[confusion[:, 0] == confusion[:, 1], 2].sum()
    np.testing.assert_allclose(found["micro"], hits / found["images"])
    per_class = [c["accuracy"] for c in found["classes"]]
    np.testing.assert_allclose(found["overall"], np.mean(per_class))


def test_check_and_picture(finished, config_file, tmp_path, capsys):
    assert main.run(["check", f"--config={config_file}", "--verify_images"]) == 0
    printed = capsys.readouterr().out
    assert (
        re.search(r"all \d+ images can be read", printed) and "parameters: " in printed
    )
    picture = tmp_path / "picture.png"
    command = ["hallucinate", f"--checkpoint={finished}", f"--out={picture}"]
    assert main.run([*command, "--target=0", "--count=2"]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
