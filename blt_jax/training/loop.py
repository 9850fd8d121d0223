"""One stage: steps, a validation and a checkpoint each epoch, and resuming.

The loop dispatches step t and then reads the numbers of step t - 1, so the device
never waits for the log. Everything comes in as a function; nothing here knows a
configuration, a file format or a model.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from blt_jax.hallucination.targets import (
    Confusion,
    confusion_pools,
    empty_confusion,
)
from blt_jax.training.checkpoint import Checkpointer
from blt_jax.training.evaluate import Evaluation
from blt_jax.training.log import RunLog, StepMeter, duration, progress_line
from blt_jax.training.mesh import put_batch, put_replicated, replicated
from blt_jax.training.state import TrainState

# What goes to the devices; records' ids stay on the host.
_DEVICE_FIELDS = ("image", "label", "index")
_DEVICE_SEED_FIELDS = ("seed_image", "seed_label", "seed_index", "seed_valid")

TrainStep = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage of training is made of."""

    name: str
    folder: Path  # its log and its checkpoints
    epochs: int
    steps_per_epoch: int
    batch_size: int  # over all hosts
    num_classes: int
    train_step: Any  # jitted (state, batch, confusion, key) -> (state, sums)
    batches: Callable[[int], Iterator[Mapping[str, np.ndarray]]]  # from a step on
    create_state: Callable[[], TrainState]  # at step 0
    validate: Callable[[TrainState], Evaluation]
    score: Callable[[Evaluation], dict[str, Any]]  # "overall" chooses the best
    num_validation: int  # images in the validation split
    key: jax.Array  # root of every draw in this stage
    meta: Mapping[str, Any]  # description saved with each checkpoint
    mesh: Mesh
    log_every: int = 50
    checkpoint_every: int | None = None  # steps, besides the end of each epoch
    keep: int = 1

    @property
    def total_steps(self) -> int:
        """Steps of the whole stage."""
        return self.epochs * self.steps_per_epoch


def train_stage(stage: Stage) -> None:
    """Train from the last checkpoint, or from the start, to the last step.

    A finished stage returns at once. The same call resumes an interrupted one at
    the step after its last checkpoint, and ends with the same parameters.
    """
    first_process = jax.process_index() == 0
    stage.folder.mkdir(parents=True, exist_ok=True)
    with (
        Checkpointer(stage.folder, keep=stage.keep) as checkpointer,
        RunLog(stage.folder / "metrics.jsonl", silent=not first_process) as log,
    ):
        first_step = checkpointer.latest_step or 0
        if first_step >= stage.total_steps:
            log.write(
                {"kind": "skipped", "stage": stage.name, "step": first_step},
                f"{stage.name}: finished before, at step {first_step}",
            )
            return
        state, confusion = _begin(stage, checkpointer, log)
        _train(stage, state, confusion, first_step, checkpointer, log)


def _begin(
    stage: Stage, checkpointer: Checkpointer, log: RunLog
) -> tuple[TrainState, Confusion]:
    """State and confusion on the devices, new or from the last checkpoint."""
    state = put_replicated(stage.create_state(), stage.mesh)
    confusion = empty_confusion(stage.num_validation, stage.num_classes)
    if checkpointer.latest_step is not None:
        state, confusion, _ = checkpointer.restore(
            state, confusion, replicated(stage.mesh)
        )
        step = checkpointer.latest_step
        log.write(
            {"kind": "resumed", "stage": stage.name, "step": step},
            f"{stage.name}: resumed at step {step}/{stage.total_steps}",
        )
    return state, put_replicated(confusion, stage.mesh)


def _train(
    stage: Stage,
    state: TrainState,
    confusion: Confusion,
    first_step: int,
    checkpointer: Checkpointer,
    log: RunLog,
) -> None:
    key = put_replicated(stage.key, stage.mesh)
    programs = Programs(stage.train_step, log, stage.name)
    meter = StepMeter(
        batch_size=stage.batch_size,
        total_steps=stage.total_steps,
        first_step=first_step,
    )
    previous: dict[str, jax.Array] | None = None
    batches = stage.batches(first_step)
    for step in range(first_step, stage.total_steps):
        asked = time.monotonic()
        batch = _for_devices(next(batches), stage.mesh)
        meter.waited(time.monotonic() - asked)

        before = time.monotonic()
        program = programs.get(state, batch, confusion, key)
        meter.pause(time.monotonic() - before)
        with jax.transfer_guard("disallow"):
            state, sums = program(state, batch, confusion, key)
        # This step is queued; only now wait for the numbers of the one before.
        if previous is not None:
            meter.add(jax.device_get(previous))
            if step % stage.log_every == 0:
                _report(stage, step, meter, log)
        previous = sums

        done = step + 1
        end_of_epoch = done % stage.steps_per_epoch == 0
        if end_of_epoch:
            meter.add(jax.device_get(previous))
            previous = None
            _report(stage, done, meter, log)

        paused = time.monotonic()
        if end_of_epoch:
            evaluation = stage.validate(state)
            scores = stage.score(evaluation)
            confusion = put_replicated(
                confusion_pools(
                    evaluation.labels, evaluation.predictions, stage.num_classes
                ),
                stage.mesh,
            )
            _save(stage, checkpointer, state, confusion, done, scores)
            record = {
                "kind": "validation",
                "stage": stage.name,
                "epoch": done // stage.steps_per_epoch,
                "step": done,
                **scores,
                "seconds": time.monotonic() - paused,
            }
            log.write(record, _validation_line(record))
            meter.pause(time.monotonic() - paused)
        elif stage.checkpoint_every and done % stage.checkpoint_every == 0:
            _save(stage, checkpointer, state, confusion, done, None)
            meter.pause(time.monotonic() - paused)
    checkpointer.wait()


class Programs:
    """The compiled step for each number of slots, compiled when first needed.

    A compilation is an event of its own in the log, never part of a step's time.
    """

    def __init__(self, train_step: Any, log: RunLog, stage: str) -> None:
        self._train_step = train_step
        self._log = log
        self._stage = stage
        self._programs: dict[int, TrainStep] = {}

    def get(self, *arguments: Any) -> TrainStep:
        """The program for these arguments' number of slots."""
        slots = arguments[1]["seed_label"].shape[0]
        if slots not in self._programs:
            begin = time.monotonic()
            self._programs[slots] = self._train_step.lower(*arguments).compile()
            seconds = time.monotonic() - begin
            self._log.write(
                {
                    "kind": "compile",
                    "stage": self._stage,
                    "slots": slots,
                    "seconds": seconds,
                },
                f"{self._stage}: compiled the step with {slots} slots in "
                f"{duration(seconds)}",
            )
        return self._programs[slots]


def _for_devices(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    names = (*_DEVICE_FIELDS, *_DEVICE_SEED_FIELDS)
    return put_batch({name: batch[name] for name in names}, mesh)


def _save(
    stage: Stage,
    checkpointer: Checkpointer,
    state: TrainState,
    confusion: Confusion,
    step: int,
    scores: Mapping[str, Any] | None,
) -> None:
    meta = {
        **stage.meta,
        "stage": stage.name,
        "epoch": step // stage.steps_per_epoch,
        "validation": scores,
    }
    score = None if scores is None else float(scores["overall"])
    checkpointer.save(state, confusion, meta, step=step, score=score)


def _report(stage: Stage, done: int, meter: StepMeter, log: RunLog) -> None:
    record = {
        "kind": "train",
        "stage": stage.name,
        "epoch": (done - 1) // stage.steps_per_epoch + 1,
        "epochs": stage.epochs,
        "step": done,
        "total_steps": stage.total_steps,
        **meter.take(done),
    }
    log.write(record, progress_line(record))


def _validation_line(record: Mapping[str, Any]) -> str:
    shots = ", ".join(
        f"{name} {record[name]:.1%}"
        for name in ("many", "medium", "few", "overall")
        if record.get(name) is not None
    )
    return (
        f"{record['stage']} epoch {record['epoch']} validation: {shots} "
        f"({duration(record['seconds'])})"
    )
