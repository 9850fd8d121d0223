"""Being asked to stop: save first, at the same step on every host.

SIGTERM is what SLURM sends before the time limit, Kubernetes before it takes a pod
away, and a cloud before it takes a preemptible machine back; SIGUSR1 is what SLURM's
--signal often asks for, and SIGINT is Ctrl-C.
"""

import ctypes
import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from orbax.checkpoint import multihost

from blt_jax.exit_codes import ExitCode

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# How often this process has asked. A request to several processes is answered at one
# question, that after the latest which any of them has asked: the count must neither
# leap, as steps do when a run is resumed, nor begin anew, as they do with each stage.
_QUESTIONS = itertools.count(1)


class InterruptionError(Exception):
    """A run was asked to stop, and has saved; the same command goes on from there."""

    exit_code = ExitCode.INTERRUPTED


class StopRequest:
    """While this context is open, a first signal of SIGNALS is a request to stop.

    A second one ends the process at once, whatever it is busy with. With several
    processes a request to one of them holds for all. Outside the main thread Python
    cannot handle signals; nothing is changed there.
    """

    def __init__(self) -> None:
        self._asked = False
        self._tell_others = _jax_handler() if jax.process_count() > 1 else None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        # Python runs handlers only between two of its own instructions, and a step or
        # a compilation may take long. A byte of each signal comes through at once.
        self._read, write = socket.socketpair()
        write.setblocking(False)
        self._write, self._wakeup = write, signal.set_wakeup_fd(write.fileno())
        threading.Thread(target=self._end_at_the_second, daemon=True).start()
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._previous:
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._write.close()  # ends the thread

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self._asked:
            print(
                f"{signal.Signals(number).name}: saving after this step; a second "
                "signal ends at once",
                file=sys.stderr,
                flush=True,
            )
            if self._tell_others:
                self._tell_others(signal.SIGTERM)
        self._asked = True

    def _end_at_the_second(self) -> None:
        seen = bytearray()
        while numbers := self._read.recv(16):
            seen += bytes(number for number in numbers if number in SIGNALS)
            if len(seen) > 1:
                os._exit(128 + seen[1])
        self._read.close()

    def reached(self) -> bool:
        """Whether to stop now; every host asks at the same places, after each step.

        All of them get the same answer to the same question.
        """
        if jax.process_count() > 1:
            return multihost.reached_preemption(next(_QUESTIONS))
        return self._asked


def _jax_handler() -> Callable[[int], None] | None:
    """What JAX installed for SIGTERM, which makes all processes stop alike.

    It is written in C++, and Python would not say where it is.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    c_signal = ctypes.CDLL(None).signal
    c_signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    c_signal.restype = ctypes.c_void_p
    address = c_signal(signal.SIGTERM, None)
    c_signal(signal.SIGTERM, address)
    return ctypes.CFUNCTYPE(None, ctypes.c_int)(address) if address else None
