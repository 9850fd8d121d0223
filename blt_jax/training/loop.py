"""One stage: steps, a validation and a checkpoint each epoch, and resuming.

The loop dispatches step t and then reads the numbers of step t - 1, so the device
never waits for the log; the next batch is on its way meanwhile.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from blt_jax.data.progress import duration
from blt_jax.hallucination.targets import Confusion, confusion_pools, empty_confusion
from blt_jax.training.bank import tell_of_bank
from blt_jax.training.checkpoint import FOLDER, CheckpointError
from blt_jax.training.checkpointer import Checkpointer
from blt_jax.training.interruption import InterruptionError
from blt_jax.training.log import RunLog, StepMeter, progress_line
from blt_jax.training.mesh import put_replicated
from blt_jax.training.not_finite import Watch
from blt_jax.training.programs import Program, compile_steps
from blt_jax.training.stage import Stage
from blt_jax.training.state import TrainState
from blt_jax.training.validation_event import validation_event, validation_line

# Batches on the devices: the one in use, and the next one.
_IN_FLIGHT = 2


def train_stage(stage: Stage, stop: Callable[[int], bool] = lambda step: False) -> None:
    """Train from the last checkpoint, or from the start, to the last step.

    A finished stage returns at once. The same call resumes an interrupted one at
    the step after its last checkpoint, and ends with the same parameters. `stop` is
    asked after every step; when it says so, the state is saved and InterruptionError
    raised.
    """
    first_process = jax.process_index() == 0
    stage.folder.mkdir(parents=True, exist_ok=True)
    with (
        Checkpointer(stage.folder, keep=stage.keep) as checkpointer,
        RunLog(stage.folder / "metrics.jsonl", silent=not first_process) as log,
    ):
        good, damaged = checkpointer.newest_good()
        for told in damaged:
            log.write(
                {"kind": "damaged", "stage": stage.name, "problem": told},
                f"{stage.name}: {told}; going on from step {good}",
            )
        first_step = good or 0
        if first_step >= stage.total_steps:
            log.write(
                {"kind": "skipped", "stage": stage.name, "step": first_step},
                f"{stage.name}: finished before, at step {first_step}",
            )
            return
        if stop(first_step):
            raise InterruptionError(
                f"asked to stop: {stage.name} is at step {first_step}/"
                f"{stage.total_steps}; the same command goes on from there"
            )
        if first_process:
            log.send_to(stage.sinks(first_step))
        state, confusion, interval = _begin(stage, checkpointer, log)
        _train(stage, state, confusion, first_step, interval, checkpointer, log, stop)


def _begin(
    stage: Stage, checkpointer: Checkpointer, log: RunLog
) -> tuple[TrainState, Confusion, Mapping[str, Any]]:
    """State and confusion on the devices, new or from the last checkpoint.

    The third is what the log's current interval has added up so far.
    """
    confusion = empty_confusion(stage.num_validation, stage.num_classes)
    if checkpointer.latest_step is None:
        log.write({"kind": "begun", "stage": stage.name, "step": 0})
        state = put_replicated(stage.create_state(), stage.mesh)
        checkpointer.check_space(state, confusion)
        return stage.begin(state), put_replicated(confusion, stage.mesh), {}
    shapes = stage.shapes()
    checkpointer.check_space(shapes, confusion)
    state, confusion, meta = checkpointer.restore(shapes, confusion, stage.mesh)
    if meta["key"] != stage.meta["key"]:
        raise CheckpointError(
            f"{stage.folder}: the checkpoint was made with another config.seed; use "
            "that one, or a new --workdir"
        )
    if meta.get("frozen") != stage.meta.get("frozen"):
        raise CheckpointError(
            f"{stage.folder}: the checkpoint was made with the bank of another frozen "
            "model; restore config.hallucination.frozen_model, or use a new --workdir"
        )
    log.write(
        {"kind": "resumed", "stage": stage.name, "step": meta["step"]},
        f"{stage.name}: resumed at step {meta['step']}/{stage.total_steps}",
    )
    return state, confusion, meta["interval"]


def _train(
    stage: Stage,
    state: TrainState,
    confusion: Confusion,
    first_step: int,
    interval: Mapping[str, Any],
    checkpointer: Checkpointer,
    log: RunLog,
    stop: Callable[[int], bool],
) -> None:
    if stage.changes:
        log.write(
            {
                "kind": "config_changed",
                "stage": stage.name,
                "step": first_step,
                "changes": list(stage.changes),
            }
        )
    if stage.bank is not None:
        tell_of_bank(stage.bank, log, stage=stage.name)
    key = put_replicated(stage.key, stage.mesh)
    programs = _compile(stage, state, confusion, key, log)
    meter = StepMeter(
        batch_size=stage.batch_size,
        total_steps=stage.total_steps,
        first_step=first_step,
        interval=interval,
    )
    watch = Watch(
        stage.name,
        log,
        total_steps=stage.total_steps,
        batch_size=stage.batch_size,
        ids=stage.ids,
        skip=stage.skip_not_finite,
        last_checkpoint=lambda: _last_checkpoint(stage, checkpointer),
        in_a_row=interval.get("not_finite_in_a_row", 0),
    )

    def save(done: int, scores: Mapping[str, Any] | None = None) -> None:
        meta = {
            **stage.meta,
            "stage": stage.name,
            "epoch": done // stage.steps_per_epoch,
            "validation": scores,
            "interval": meter.interval() | {"not_finite_in_a_row": watch.in_a_row},
        }
        score = None if scores is None else float(scores["overall"])
        begin = time.monotonic()
        checkpointer.save(state, confusion, meta, step=done, score=score)
        log.write(
            {
                "kind": "saving",
                "stage": stage.name,
                "step": done,
                "seconds": time.monotonic() - begin,  # the run waited for it
            }
        )

    def read(
        done: int, sums: Mapping[str, jax.Array], rows: Mapping[str, np.ndarray]
    ) -> None:
        """Wait for the numbers of a step; raises NotFiniteError."""
        numbers = jax.device_get(sums)
        watch.check(done, numbers, rows)
        meter.add(numbers)
        meter.replaced(_replaced(rows, stage))
        if done % stage.log_every == 0:
            _report(stage, done, meter, log)
        else:
            log.watch(lambda: _place(stage, done) | meter.now(done))

    previous: tuple[int, dict[str, jax.Array], Mapping[str, np.ndarray]] | None = None
    batches = _on_devices(stage.batches(first_step), stage)
    for step in range(first_step, stage.total_steps):
        asked = time.monotonic()
        batch, rows = next(batches)
        meter.waited(time.monotonic() - asked)

        program = programs[len(batch["seed_label"])]
        with jax.transfer_guard("disallow"):
            state, sums = program(state, batch, confusion, key)
        # This step is queued; only now wait for the numbers of the one before.
        if previous is not None:
            read(*previous)
        done = step + 1
        previous = (done, sums, rows)

        stopping = stop(done)
        end_of_epoch = done % stage.steps_per_epoch == 0
        saving = stage.checkpoint_every and done % stage.checkpoint_every == 0
        if end_of_epoch or stopping or saving:
            # What is saved has been seen to be finite.
            read(*previous)
            previous = None
            if end_of_epoch and done % stage.log_every:
                _report(stage, done, meter, log)

        paused = time.monotonic()
        if stopping:
            log.hide()
        elif end_of_epoch:
            log.busy(f"{stage.name}: validating")
        if stage.complete and (end_of_epoch or stopping or saving):
            state = stage.complete(state, log)
        if end_of_epoch:
            evaluation = stage.validate(state)
            scores = stage.score(evaluation)
            confusion = put_replicated(
                confusion_pools(
                    evaluation.labels, evaluation.predictions, stage.num_classes
                ),
                stage.mesh,
            )
            save(done, scores)
            event = validation_event(stage, done, evaluation, scores)
            event["seconds"] = time.monotonic() - paused
            log.write(event, validation_line(event))
            meter.pause(time.monotonic() - paused)
        elif stopping or saving:
            save(done)
            meter.pause(time.monotonic() - paused)
        if stopping:
            checkpointer.wait()
            raise InterruptionError(
                f"asked to stop: saved {stage.name} at step {done}/"
                f"{stage.total_steps}; the same command goes on from there"
            )
    checkpointer.wait()


def _compile(
    stage: Stage,
    state: TrainState,
    confusion: Confusion,
    key: jax.Array,
    log: RunLog,
) -> dict[int, Program]:
    """The compiled step for each number of slots; an event of its own in the log."""
    begin = time.monotonic()
    compiled = compile_steps(
        stage.train_step,
        state,
        confusion,
        key,
        widths=stage.widths,
        batch_size=stage.batch_size,
        image_size=stage.image_size,
        mesh=stage.mesh,
        seed_dtype=stage.seed_dtype,
    )
    seconds = time.monotonic() - begin
    log.write(
        {
            "kind": "compile",
            "stage": stage.name,
            "slots": {str(slots): one.seconds for slots, one in compiled.items()},
            "seconds": seconds,
        },
        f"{stage.name}: compiled the step for {', '.join(map(str, stage.widths))} "
        f"slots in {duration(seconds)}",
    )
    return {slots: one.program for slots, one in compiled.items()}


def _on_devices(
    batches: Iterable[Mapping[str, np.ndarray]], stage: Stage
) -> Iterator[tuple[dict[str, jax.Array], dict[str, np.ndarray]]]:
    """Send the batches to the devices, each while the one before is used.

    With each comes what the host keeps of it: all but the images.
    """
    ahead: deque[tuple[dict[str, jax.Array], dict[str, np.ndarray]]] = deque()
    for batch in batches:
        kept = {n: array for n, array in batch.items() if not n.endswith("image")}
        ahead.append((stage.place(batch), kept))
        if len(ahead) == _IN_FLIGHT:
            yield ahead.popleft()
    yield from ahead


def _last_checkpoint(stage: Stage, checkpointer: Checkpointer) -> Path | None:
    checkpointer.wait()
    step = checkpointer.latest_step
    return None if step is None else stage.folder / FOLDER / str(step)


def _replaced(batch: Mapping[str, np.ndarray], stage: Stage) -> int:
    """Images of this host that took the place of bad files, each read counted once."""
    # A seed that is a batch row is the same image.
    own = batch["seed_index"] >= stage.batch_size
    return int(batch["replaced"].sum() + (batch["seed_replaced"] & own).sum())


def _report(stage: Stage, done: int, meter: StepMeter, log: RunLog) -> None:
    record = {"kind": "train", **_place(stage, done), **meter.take(done)}
    log.write(record, progress_line(record))


def _place(stage: Stage, done: int) -> dict[str, Any]:
    """Where a stage is after so many steps."""
    return {
        "stage": stage.name,
        "epoch": (done - 1) // stage.steps_per_epoch + 1,
        "epochs": stage.epochs,
        "step": done,
        "total_steps": stage.total_steps,
    }
