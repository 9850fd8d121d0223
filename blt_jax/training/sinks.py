"""Where the numbers of a run go besides its log: TensorBoard, Weights & Biases.

Both get the scalars of `metrics.jsonl` as `train/loss`, `val/few` and so on, by the
step of the stage. A run that goes on after an interruption goes on in the same series.
Whatever one of them meets (a full disk, a network that is gone) ends that one alone.
"""

import importlib.util
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from blt_jax.choices import check_choice
from blt_jax.data.whole_file import write_whole

# Kinds of records that hold scalars of a step, and what their tags begin with.
TAGS = {"train": "train", "validation": "val", "saving": "saving"}
_PLACE = ("step", "total_steps", "epochs")
_WANDB_FILE = "wandb.json"


class Sink(Protocol):
    """Takes records as the log does."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Take the scalars of a record, if it has any."""

    def close(self) -> None:
        """Finish what has been begun."""


class TensorBoard:
    """An event file in `tensorboard/` of the stage's folder; shown with tensorboardX.

    What an earlier process wrote of steps after `first_step` is marked as void.
    """

    def __init__(
        self, folder: Path, first_step: int, config: Mapping[str, Any]
    ) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        del config
        folder = folder / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        # tensorboardX's own writer has a queue and a thread: after an error in the
        # thread the queue fills up, and the training would wait for ever.
        self._writer = EventsWriter(
            os.fspath(folder / "events"), filename_suffix=f".{time.time_ns()}"
        )
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step=first_step + 1, session_log=start)

    def add(self, record: Mapping[str, Any]) -> None:
        """One event with all scalars of the record."""
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(record)
        ]
        if values:
            self._write(step=record["step"], summary=Summary(value=values))

    def _write(self, *, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=time.time(), step=step, **what))
        self._writer.flush()  # or a run that is killed would lose them

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases for each stage; WANDB_MODE=offline needs no network.

    `wandb.json` in the stage's folder holds the run's name there and the last step
    that was sent, of each kind: what a resumed run computes again is not sent again.
    WANDB_PROJECT and WANDB_ENTITY tell where it goes, as for every user of wandb.
    """

    def __init__(
        self, folder: Path, first_step: int, config: Mapping[str, Any]
    ) -> None:
        import wandb

        del first_step  # what has been sent tells more
        self._file = folder / _WANDB_FILE
        if self._file.exists():
            known = json.loads(self._file.read_text("utf-8"))
        else:
            known = {"id": secrets.token_hex(4), "sent": {}}
        self._id, self._sent = known["id"], known["sent"]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "blt-jax"),
            id=self._id,
            resume="allow",
            name=f"{folder.parent.name}/{folder.name}",
            group=folder.parent.name,
            dir=os.fspath(folder),
            config=dict(config),
            settings=wandb.Settings(
                # The terminal is the live line's; a network that hangs ends nothing.
                console="off",
                silent=True,
                init_timeout=60,
                finish_timeout=60,
            ),
        )
        self._remember()

    def add(self, record: Mapping[str, Any]) -> None:
        """Send the scalars of a record unless its step has been sent."""
        values = dict(scalars(record))
        if not values or record["step"] <= self._sent.get(record["kind"], -1):
            return
        self._run.log(values, step=record["step"])
        self._sent[record["kind"]] = record["step"]
        self._remember()

    def _remember(self) -> None:
        known = {"id": self._id, "sent": self._sent}
        write_whole(self._file, json.dumps(known) + "\n")

    def close(self) -> None:
        """Wait until all is sent, a minute at most."""
        self._run.finish()


# (folder of the stage, step it goes on from, configuration) -> sink
SINKS: dict[str, Callable[[Path, int, Mapping[str, Any]], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
}
_PACKAGES = {"tensorboard": ("tensorboardX", "tb"), "wandb": ("wandb", "wandb")}


def check_sinks(names: Sequence[str]) -> None:
    """Refuse a sink that there is not, or whose package is missing. ValueError."""
    for name in names:
        check_choice("config.log_sinks", name, SINKS)
        package, extra = _PACKAGES[name]
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"config.log_sinks: {name!r} needs the package {package}, which is not "
                f"installed: pip install 'blt-jax[{extra}]'"
            )


def open_sinks(
    names: Sequence[str], folder: Path, first_step: int, config: Mapping[str, Any]
) -> tuple[Sink, ...]:
    """The named sinks of a stage that goes on after `first_step`; none ever raises."""
    return tuple(
        _Guarded(name, partial(SINKS[name], folder, first_step, config))
        for name in names
    )


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Tag and value of each number in a record, numbers in groups included."""
    if record.get("kind") in TAGS:
        yield from _numbers(record, TAGS[record["kind"]])


def _numbers(group: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in group.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}/{name}")
        elif isinstance(value, int | float) and name not in _PLACE:
            yield f"{prefix}/{name}", value


class _Guarded:
    """A sink whose first error is told, and the last thing heard of it."""

    def __init__(self, name: str, open_sink: Callable[[], Sink]) -> None:
        self._name = name
        self._sink: Sink | None = None
        self._try(lambda: self._open(open_sink))

    def _open(self, open_sink: Callable[[], Sink]) -> None:
        self._sink = open_sink()

    def add(self, record: Mapping[str, Any]) -> None:
        if self._sink is not None:
            sink = self._sink
            self._try(lambda: sink.add(record))

    def close(self) -> None:
        if self._sink is not None:
            self._try(self._sink.close)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # of another's library: it can be anything
            self._sink = None
            reason = " ".join(str(error).split()) or type(error).__name__
            print(
                f"{self._name}: {reason}; the run goes on without it, and all numbers "
                "are in metrics.jsonl",
                file=sys.stderr,
                flush=True,
            )
