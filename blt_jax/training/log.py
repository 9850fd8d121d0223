"""What a run tells: JSON lines in a file, and a line for the person watching."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from blt_jax.data.progress import duration
from blt_jax.training.live_line import LiveLine, live_words
from blt_jax.training.sinks import Sink

# Among the sums of a step: how many seeds took 0, 1, ... updates.
HISTOGRAM = "iterations_histogram"


class RunLog:
    """Appends records to `metrics.jsonl`, and prints them for a person.

    On a terminal the numbers of the training are one line that changes. A silent log
    (a process other than the first) does nothing.
    """

    def __init__(self, path: Path, *, silent: bool = False) -> None:
        self.path = path
        self._file = None
        self._line = LiveLine()
        self._sinks: Sequence[Sink] = ()
        if not silent:
            _drop_half_line(path)
            self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._line.hide()
        for sink in self._sinks:
            sink.close()
        if self._file:
            self._file.close()

    def send_to(self, sinks: Sequence[Sink]) -> None:
        """Give every later record to these as well; they are closed with the log."""
        self._sinks = sinks

    def write(self, record: Mapping[str, Any], line: str | None = None) -> None:
        """One record, and, if given, one line on the terminal."""
        if self._file is None:
            return
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for sink in self._sinks:
            sink.add(record)
        if record.get("kind") == "train" and self._line.live:
            self._line.show(lambda columns: live_words(record, columns))
        elif line is not None:
            print(line, flush=True)

    def watch(self, record: Callable[[], Mapping[str, Any]]) -> None:
        """What a training record would be now, for a person at a terminal alone."""
        if self._file is not None and self._line.due():
            now = record()
            self._line.show(lambda columns: live_words(now, columns))

    def busy(self, words: str) -> None:
        """What the run does in place of steps, for a person at a terminal alone."""
        if self._file is not None:
            self._line.show(lambda columns: words)

    def hide(self) -> None:
        """Leave the terminal as it was, before something that may end the process."""
        self._line.hide()


def _drop_half_line(path: Path) -> None:
    """A process that was killed may have left half a record."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


class StepMeter:
    """Adds up what the steps of one logging interval report, and times them."""

    def __init__(
        self,
        *,
        batch_size: int,
        total_steps: int,
        first_step: int,
        interval: Mapping[str, Any] | None = None,
    ) -> None:
        """interval: the `interval` of the run that is gone on with."""
        self._batch_size = batch_size
        self._total_steps = total_steps
        self._first_step = first_step
        self._begin = time.monotonic()
        self._paused = 0.0
        self._clear()
        if interval:
            self._sums.update(interval["sums"])
            self._steps = interval["steps"]
            self._not_finite = interval["not_finite"]
            self._bad_files = interval["bad_files"]
            self._waited = interval["waited"]
            if interval.get(HISTOGRAM):
                self._histogram = np.asarray(interval[HISTOGRAM])
            self._interval_begin -= interval["seconds"]

    def interval(self) -> dict[str, Any]:
        """What has been added up since the last report, as JSON-able values.

        With it a resumed run reports what one that was never interrupted does.
        """
        return {
            "sums": dict(self._sums),
            "steps": self._steps,
            "not_finite": self._not_finite,
            "bad_files": self._bad_files,
            "waited": self._waited,
            HISTOGRAM: self._histogram.tolist(),
            "seconds": time.monotonic() - self._interval_begin,
        }

    def _clear(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._histogram = np.zeros(0, np.int64)  # its length comes with the first
        self._steps = 0
        self._not_finite = 0
        self._waited = 0.0
        self._bad_files = 0
        self._interval_begin = time.monotonic()

    def add(self, sums: Mapping[str, Any]) -> None:
        """The sums of one step, on the host; one that was left out is only counted."""
        self._steps += 1
        if sums["not_finite"]:
            self._not_finite += 1
            return
        for name, value in sums.items():
            if name == HISTOGRAM:
                took = np.asarray(value, np.int64)
                known = self._histogram if len(self._histogram) else 0
                self._histogram = known + took
            else:
                self._sums[name] += float(value)

    def waited(self, seconds: float) -> None:
        """Time in which the step could not be dispatched for want of a batch."""
        self._waited += seconds

    def replaced(self, bad_files: int) -> None:
        """Images of a step, on this host, that took the place of bad files."""
        self._bad_files += bad_files

    def pause(self, seconds: float) -> None:
        """Leave out time that belongs to validation or saving."""
        self._interval_begin += seconds
        self._paused += seconds

    def take(self, step: int) -> dict[str, Any]:
        """What `now` says, and begin another interval."""
        record = self.now(step)
        self._clear()
        return record

    def now(self, step: int) -> dict[str, Any]:
        """Averages and rates since the last `take`; `step` is the steps done.

        Ratios are None where nothing was hallucinated, those of the ascent also where
        seeds were appended as they are, and the loss where every step
        was left out. `iterations_histogram`: how many seeds took 0, 1, ... updates.
        """
        seconds = max(time.monotonic() - self._interval_begin, 1e-9)
        sums, steps = self._sums, self._steps
        learned = steps - self._not_finite
        trained = sums["trained"]
        hallucinated = sums["hallucinated"]

        # Appended seeds that no step has moved have no iterations.
        moved = hallucinated if "iterations" in sums else 0.0

        def per_moved(name: str) -> float | None:
            return sums[name] / moved if moved else None

        needed = sums["iterations"] + moved
        busy = max(time.monotonic() - self._begin - self._paused, 0.0)
        to_do = max(self._total_steps - step, 0)
        left = to_do * busy / max(step - self._first_step, 1)
        return {
            "loss": sums["loss"] / learned if learned else None,
            "accuracy": sums["correct"] / trained if trained else None,
            "images_per_second": steps * self._batch_size / seconds,
            "hallucinated_per_second": hallucinated / seconds,
            "hallucinated": int(hallucinated),
            "padded": int(sums["padded"]),
            "no_confusing_class": int(sums["no_confusing_class"]),
            "mean_iterations": per_moved("iterations"),
            "reached_fraction": per_moved("reached"),
            HISTOGRAM: self._histogram.tolist() if moved else None,
            "occupancy": sums["evaluations"] / needed if needed else None,
            "stopped_early": int(sums["stopped_early"]),
            "non_finite": int(sums["non_finite"]),
            "not_finite_steps": self._not_finite,
            "bad_files": self._bad_files,
            "data_wait": min(self._waited / seconds, 1.0),
            "seconds": seconds,
            "seconds_left": left,
        }


def progress_line(record: Mapping[str, Any]) -> str:
    """One line for a person: where the run is, how fast, how long still."""
    parts = [
        f"{record['stage']} epoch {record['epoch']}/{record['epochs']} "
        f"step {record['step']}/{record['total_steps']}",
        "no step learned" if record["loss"] is None else f"loss {record['loss']:.3f}",
        f"{record['images_per_second']:.0f} img/s",
    ]
    if record["hallucinated"]:
        parts.append(f"+{record['hallucinated_per_second']:.0f} hallucinated/s")
    if record["mean_iterations"] is not None:
        parts[-1] += (
            f", {record['mean_iterations']:.1f} iterations, "
            f"{record['reached_fraction']:.0%} reached"
        )
    if record["not_finite_steps"]:
        parts.append(f"{record['not_finite_steps']} steps not finite, left out")
    if record["bad_files"]:
        parts.append(f"{record['bad_files']} bad files replaced")
    parts.append(f"data wait {record['data_wait']:.0%}")
    parts.append(f"ETA {duration(record['seconds_left'])}")
    return "  ".join(parts)
