"""What runs in a worker process, and how elements come from there.

An element is pickled with its arrays beside it (protocol 5): their bytes go from the
array through the pipe into the array, without a copy in between. No shared memory: a
process that is killed would leave it behind.
"""

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Failure(NamedTuple):
    """An exception that the source raised in a worker.

    error: the exception itself, if it is a ValueError or OSError that can be sent.
    summary: its type and message on one line.
    trace: where it was raised.
    """

    error: Exception | None
    summary: str
    trace: str


class Answer(NamedTuple):
    """An element, or why there is none."""

    element: Any
    failure: Failure | None


def run(connection: Connection) -> None:
    """Answer, as a worker process: the pickled source comes first, then numbers."""
    _end_with_parent()
    # Before anything is imported that could look for accelerators: they belong to the
    # process that trains.
    os.environ["JAX_PLATFORMS"] = "cpu"
    source = None
    try:
        sent = connection.recv_bytes()
        while True:
            item = connection.recv()
            try:
                if source is None:
                    source = pickle.loads(sent)
                    sent = b""
                packed = _pack(Answer(source[item], None))
            except Exception as error:
                packed = _pack(Answer(None, _failure(error)))
            _send(connection, *packed)
    except (EOFError, ConnectionError):
        pass  # the other end is closed


def receive(connection: Connection) -> Answer:
    """Receive the answer to one number.

    Raises:
      EOFError, ConnectionError: the worker has ended.
    """
    data, sizes = pickle.loads(connection.recv_bytes())
    buffers = [np.empty(size, np.uint8) for size in sizes]
    for buffer in buffers:
        view = buffer.data
        while view:
            count = os.readv(connection.fileno(), [view])
            if not count:
                raise EOFError
            view = view[count:]
    answer: Answer = pickle.loads(data, buffers=buffers)
    return answer


def _pack(answer: Answer) -> tuple[bytes, list[memoryview]]:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
    return data, [buffer.raw() for buffer in buffers]


def _send(connection: Connection, data: bytes, views: list[memoryview]) -> None:
    connection.send_bytes(pickle.dumps((data, [view.nbytes for view in views])))
    for view in views:
        while view:
            view = view[os.write(connection.fileno(), view) :]


def _failure(error: Exception) -> Failure:
    summary = " ".join(traceback.format_exception_only(error)[-1].split())
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, ValueError | OSError):
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            # Such as a class with other arguments than its message.
            return Failure(None, summary, trace)
        return Failure(error, summary, trace)
    return Failure(None, summary, trace)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        # The kernel also ends a process that is stopped, or that does not come back
        # from a call in C; the thread below could not. Linux means the thread that
        # started this process: `workers` keeps one for each worker.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
