"""Being asked to stop: save first, at the same step on every host.

SIGTERM is what SLURM sends before the time limit, Kubernetes before it takes a pod
away, and a cloud before it takes a preemptible machine back.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

import jax
from orbax.checkpoint import multihost


class InterruptionError(Exception):
    """A run was asked to stop, and has saved; the same command goes on from there."""


class StopRequest:
    """While this context is open, SIGTERM is a request instead of an end.

    With several hosts a request to one of them holds for all, and JAX's own handler
    takes it. Outside the main thread Python cannot handle signals; nothing is
    changed there.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: object = None
        self._handles = (
            jax.process_count() == 1
            and threading.current_thread() is threading.main_thread()
        )

    def __enter__(self) -> Self:
        if self._handles:
            self._previous = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._previous)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def reached(self, step: int) -> bool:
        """Whether to stop after this step; every host asks after each of its steps.

        All of them get the same answer for the same step.
        """
        if jax.process_count() > 1:
            return multihost.reached_preemption(step)
        return self._asked
