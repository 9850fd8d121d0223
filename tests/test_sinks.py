"""What TensorBoard and Weights & Biases get, read back from their files."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from blt_jax import main
from blt_jax.config import ConfigError, load_config
from blt_jax.training import sinks
from blt_jax.training.interruption import InterruptionError
from blt_jax.training.log import RunLog
from blt_jax.training.run import train
from blt_jax.training.sinks import check_sinks, open_sinks, scalars


def train_record(step, **more):
    return {
        "kind": "train",
        "stage": "stage2",
        "epoch": 1,
        "epochs": 3,
        "step": step,
        "total_steps": 30,
        "loss": 10.0 - step,
        "mean_iterations": None,
        "hallucinated": step,
        **more,
    }


VALIDATION = {
    "kind": "validation",
    "stage": "stage2",
    "step": 20,
    "few": 0.25,
    "medium": None,
    "never_confused_classes": ["a"],
}


def test_scalars_have_stable_tags():
    record = train_record(3, seconds={"data": 0.5, "eval": {"host": 2}}, spread=[1, 2])
    assert dict(scalars(record)) == {
        "train/epoch": 1,
        "train/loss": 7.0,
        "train/hallucinated": 3,
        "train/seconds/data": 0.5,
        "train/seconds/eval/host": 2,
    }
    assert dict(scalars(VALIDATION)) == {"val/few": 0.25}
    assert list(scalars({"kind": "resumed", "step": 3, "number": 1})) == []


def records(data):
    """The records of an event file: length, its check, content, its check."""
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield data[at + 12 : at + 12 + length]
        at += 16 + length


def series(folder):
    """(tag, step) -> value as TensorBoard shows it, what was purged left out."""
    event_pb2 = pytest.importorskip(
        "tensorboardX.proto.event_pb2", reason="needs tensorboardX (extra tb)"
    )
    shown = {}
    for file in sorted((folder / "tensorboard").iterdir()):
        for number, record in enumerate(records(file.read_bytes())):
            event = event_pb2.Event.FromString(record)
            if number == 0:
                assert event.file_version == "brain.Event:2"
            if event.session_log.status == event_pb2.SessionLog.START:
                shown = {at: v for at, v in shown.items() if at[1] < event.step}
            for value in event.summary.value:
                assert (value.tag, event.step) not in shown, "twice"
                shown[value.tag, event.step] = value.simple_value
    return shown


def test_tensorboard_goes_on_without_steps_that_are_computed_again(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs tensorboardX (extra tb)")
    for first_step, steps in ((0, (10, 20, 30)), (20, (30, 40)), (0, (10,))):
        with RunLog(tmp_path / "metrics.jsonl") as log:
            log.send_to(open_sinks(("tensorboard",), tmp_path, first_step, {}))
            for step in steps:
                log.write(train_record(step, run=first_step))
                # It is in the file at once.
                assert series(tmp_path)["train/loss", step] == 10.0 - step
            log.write({"kind": "compile", "seconds": 3.0})
        if first_step == 20:
            run = {s: v for (tag, s), v in series(tmp_path).items() if "run" in tag}
            assert run == {10: 0, 20: 0, 30: 20, 40: 20}
    # Begun anew, after a damaged checkpoint.
    assert {step for _, step in series(tmp_path)} == {10}
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 9


class Broken:
    def __init__(self, fails):
        self.fails, self.asked = fails, []

    def open(self, folder, first_step, config):
        self.meet("open")
        return self

    def add(self, record):
        self.meet("add")

    def close(self):
        self.meet("close")

    def meet(self, what):
        self.asked.append(what)
        if what == self.fails:
            raise RuntimeError("no\nroute to host")


@pytest.mark.parametrize(
    ("fails", "asked"),
    [
        ("open", ["open"]),
        ("add", ["open", "add"]),
        ("close", ["open", "add", "add", "close"]),
    ],
)
def test_one_that_fails_is_told_of_once_and_left_out(
    tmp_path, monkeypatch, capsys, fails, asked
):
    broken, whole = Broken(fails), Broken("")
    monkeypatch.setitem(sinks.SINKS, "broken", broken.open)
    monkeypatch.setitem(sinks.SINKS, "whole", whole.open)
    with RunLog(tmp_path / "metrics.jsonl") as log:
        log.send_to(open_sinks(("broken", "whole"), tmp_path, 0, {}))
        log.write(train_record(1))
        log.write(train_record(2))
    assert broken.asked == asked
    assert whole.asked == ["open", "add", "add", "close"]
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("broken: no route to host; the run goes on without it")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_full_disk_ends_tensorboard_alone(tmp_path, capsys):
    event_file_writer = pytest.importorskip(
        "tensorboardX.event_file_writer", reason="needs tensorboardX (extra tb)"
    )
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tensorboard,) = open_sinks(("tensorboard",), tmp_path, 0, {})
    writer = tensorboard._sink._writer._py_recordio_writer
    assert isinstance(writer, event_file_writer.RecordWriter)
    writer._writer = open("/dev/full", "wb")  # noqa: SIM115
    for step in (1, 2, 3):
        tensorboard.add(train_record(step))
    tensorboard.close()
    (told,) = capsys.readouterr().err.splitlines()
    assert "tensorboard: [Errno 28] No space left on device" in told


def test_unknown_and_missing_ones_are_refused_before_the_start(monkeypatch):
    check_sinks(())
    with pytest.raises(ValueError, match="choose one of: tensorboard, wandb"):
        check_sinks(("tensorbord",))
    monkeypatch.setattr(sinks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'blt-jax\[tb\]'"):
        check_sinks(("tensorboard",))


def test_are_named_on_the_command_line(tmp_path):
    (tmp_path / "c.py").write_text("def get_config():\n    return {}\n")
    both = "--config.log_sinks=('tensorboard', 'wandb')"
    config = load_config(tmp_path / "c.py", [both])
    assert config.log_sinks == ("tensorboard", "wandb")


WANDB = """
import json, sys
from pathlib import Path
from blt_jax.training.sinks import open_sinks

folder, first = Path(sys.argv[1]), int(sys.argv[2])
(sink,) = open_sinks(("wandb",), folder, first, {"batch_size": 8, "data": {"root": ""}})
for record in json.loads(sys.argv[3]):
    sink.add(record)
sink.close()
"""


def log_blocks(data):
    """The records of a .wandb file: LevelDB's log, blocks of 32 KiB with parts."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


@pytest.mark.slow  # its service takes seconds to start and to end
def test_wandb_offline_goes_on_in_the_same_run(tmp_path, monkeypatch):
    internal = pytest.importorskip(
        "wandb.proto.wandb_internal_pb2", reason="needs wandb (extra wandb)"
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    folder = tmp_path / "arm" / "stage2"
    folder.mkdir(parents=True)
    for first_step, steps in ((0, (10, 20, 30)), (20, (30, 40))):
        sent = [train_record(step, run=first_step) for step in steps]
        if first_step == 0:
            sent.insert(2, VALIDATION)
        done = subprocess.run(
            [sys.executable, "-c", WANDB, folder, str(first_step), json.dumps(sent)],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=Path(__file__).parents[1],
        )
        assert (done.returncode, done.stderr) == (0, "")
    shown, runs = {}, []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in map(
            internal.Record.FromString, log_blocks(Path(file).read_bytes())
        ):
            if record.HasField("run"):
                runs.append((record.run.run_id, record.run.run_group))
                names = {one.key: one.value_json for one in record.run.config.update}
                assert json.loads(names["batch_size"]) == 8
            if record.HasField("history"):
                step = record.history.step.num
                for item in record.history.item:
                    key = item.key or "/".join(item.nested_key)
                    if not key.startswith("_"):
                        assert (key, step) not in shown, "twice"
                        shown[key, step] = json.loads(item.value_json)
    assert len(runs) == 2 and len(set(runs)) == 1 and runs[0][1] == "arm"
    losses = {step: v for (key, step), v in shown.items() if key == "train/loss"}
    assert losses == {10: 0.0, 20: -10.0, 30: -20.0, 40: -30.0}
    assert shown["train/run", 30] == 0 and shown["train/run", 40] == 20
    assert shown["val/few", 20] == 0.25


RUN = """
def get_config():
    return {
        "batch_size": 32,
        "data": {"kind": "synthetic", "num_classes": 4, "image_size": 8, "resize": 8,
                 "crop": "pad"},
        "model": {"backbone": "resnet10_small"},
        "hallucination": {"enabled": False},
        "stage1": {"epochs": 0},
        "stage2": {"epochs": 2, "head_lr": 0.02},
        "evaluation": {"batch_size": 32},
        "checkpoint": {"every_steps": 4},
        "log_every": 1,
        "log_sinks": ("tensorboard",),
    }
"""


@pytest.mark.slow  # a whole run
def test_an_interrupted_run_has_the_scalars_of_its_log(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs tensorboardX (extra tb)")
    (tmp_path / "c.py").write_text(RUN)
    config = load_config(tmp_path / "c.py")
    asked = iter(range(100))
    with pytest.raises(InterruptionError):
        train(config, tmp_path / "run", stop=lambda: next(asked) >= 3)
    command = [
        "train",
        f"--config={tmp_path / 'c.py'}",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert main.run(command) == 0
    folder = tmp_path / "run" / "stage2"
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    expected = {(t, r["step"]): v for r in lines for t, v in scalars(r)}
    shown = series(folder)
    assert set(shown) == set(expected)
    assert shown == pytest.approx(expected, rel=1e-6)
    assert {tag for tag, _ in shown} >= {"train/loss", "val/few", "val/overall"}


def test_a_name_that_is_none_is_refused_by_the_run(tmp_path):
    (tmp_path / "c.py").write_text(RUN.replace('"tensorboard"', '"paper"'))
    with pytest.raises(ValueError, match="unknown name 'paper'") as caught:
        train(load_config(tmp_path / "c.py"), tmp_path / "run")
    assert not isinstance(caught.value, ConfigError)
    assert not (tmp_path / "run").exists()
