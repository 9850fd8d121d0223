"""How far a long task is, on stderr: share, rate and remaining time."""

import math
import sys
import time
from collections.abc import Callable
from typing import TextIO

SECONDS_BETWEEN = 5.0


class Progress:
    """A line now and then: `images: 1200/5000 (24 %), 310/s, 12s left`.

    clock: seconds, for tests.
    """

    def __init__(
        self,
        what: str,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._what = what
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._start = self._last = clock()
        self._first: int | None = None
        self._told = False

    def __call__(self, done: int, total: int) -> None:
        """Tell that `done` of `total` items are finished."""
        now = self._clock()
        if self._first is None:
            # What an earlier run has done says nothing of the speed of this one.
            self._first, self._start = done, now
        if now - self._last < SECONDS_BETWEEN and done < total:
            return
        if done >= total and not self._told:
            return  # short tasks say nothing
        self._last, self._told = now, True
        speed = (done - self._first) / max(now - self._start, 1e-9)
        left = f"{duration((total - done) / speed)} left" if speed > 0 else ""
        print(
            f"{self._what}: {done}/{total} ({100 * done // max(total, 1)} %), "
            f"{speed:.0f}/s, {left or 'waiting'}",
            file=self._stream,
            flush=True,
        )


def duration(seconds: float) -> str:
    """Seconds as 1h02m, 3m05s or 9s."""
    whole = math.ceil(max(seconds, 0))
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    if whole >= 60:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole}s"
