"""Worker processes that make batches, where threads are not enough.

Threads share one interpreter lock; processes each have their own. They start in a
second or more and each hold the data set's lists. What they are sent imports neither
grain nor jax, and they touch no accelerator.

Each worker has a pipe of its own and, in the process that reads, a thread that starts
it, hands it one number after the other and receives what it makes. So it is known which
worker has which batch, and a worker that is lost takes no other with it.

Not grain's own workers: those hold twice the batches that they are told to, leave
shared memory behind when the reader stops early, and are waited for without end when
one of them is stopped or exits with code 0 (0.2.18). Not ProcessPoolExecutor: it cannot
tell which worker had what, and its shutdown waits for a stopped one.
"""

import atexit
import multiprocessing
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any, Protocol

from blt_jax.data.worker_process import Answer, Failure, receive, run
from blt_jax.exit_codes import ExitCode

STALL_SECONDS = 600.0
# For processes that were killed and for their threads.
_SECONDS_TO_END = 5.0
# Sent to all processes of a group at once, by a terminal or a scheduler. What is to be
# done about them is for the process that reads, which may want more batches first.
_SIGNALS_OF_GROUP = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class WorkerError(OSError):
    """A worker process died, failed, or gave nothing for too long."""

    exit_code = ExitCode.WORKER_LOST


class Elements(Protocol):
    """Elements by number, made in whichever process asks."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: int, /) -> Any: ...


def batches(
    source: Elements,
    start: int = 0,
    *,
    num_workers: int,
    buffer: int,
    stall_seconds: float = STALL_SECONDS,
) -> Iterator[Any]:
    """Iterate over the elements of a source from `start` on, made by processes.

    Order and content are those of the source, whatever the number of workers. The
    workers end when the iterator is exhausted, closed or let go of, and with the
    process that started them, however that ends.

    num_workers: processes, at least 1.
    buffer: elements held at most, ready or being made, besides the one being used.
    stall_seconds: the longest wait for one element, the start of the workers included;
      above 0.

    Raises:
      ValueError: fewer elements in the buffer than workers, or a source that cannot be
        sent to another process.
      WorkerError: while iterating, in place of an element whose worker was killed,
        ended, gave nothing in time, or met an exception that is neither a ValueError
        nor an OSError. Those two are raised as they are. A note on the exception tells
        the worker, the number of the element and where it was raised.
    """
    if num_workers < 1:
        raise ValueError(f"data.workers: {num_workers} is no number of processes")
    if buffer < num_workers:
        raise ValueError(
            f"data.buffer: {buffer} batches are fewer than data.workers {num_workers}; "
            "each makes one: set data.buffer as high"
        )
    try:
        sent = pickle.dumps(source)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ValueError(
            f"data.workers: the data cannot be sent to other processes ({error}); set "
            "data.workers to 0"
        ) from None
    return _made(
        sent,
        range(start, len(source)),
        num_workers=num_workers,
        buffer=buffer,
        stall_seconds=stall_seconds,
    )


def _made(
    sent: bytes, items: range, *, num_workers: int, buffer: int, stall_seconds: float
) -> Iterator[Any]:
    # The first process to be started would start it, and undo the mask of `_serve`.
    resource_tracker.ensure_running()
    crew = _Crew(items, buffer)
    # An iterator that nobody closes. Before multiprocessing's own, which would wait for
    # a stopped worker.
    atexit.register(crew.end)
    try:
        for number in range(min(num_workers, len(items))):
            crew.hire(_Worker(number, sent))
        for item in items:
            yield crew.take(item, stall_seconds)
    finally:
        crew.end()
        atexit.unregister(crew.end)


class _Worker:
    """A process, the pipe to it, and the element it has been asked for."""

    def __init__(self, number: int, sent: bytes):
        # A fork would copy locks held by other threads, jax's among them.
        context = multiprocessing.get_context("spawn")
        self._number = number
        self._sent = sent
        self._connection, self._other_end = context.Pipe()
        self._ready = False
        self.item = -1
        self.process = context.Process(
            target=run,
            args=(self._other_end,),
            name=f"blt-worker-{number}",
            daemon=True,
        )

    def __str__(self) -> str:
        return f"data worker {self._number} (process {self.process.pid})"

    def start(self) -> None:
        self.process.start()
        # Of this process; the pipe then ends where the worker does.
        self._other_end.close()

    def make(self) -> Any:
        """Return the element asked for; raises as `batches` says."""
        try:
            if not self._ready:
                # Here and not with the process: that would wait for it at its start.
                self._connection.send_bytes(self._sent)
            self._connection.send(self.item)
            answer: Answer = receive(self._connection)
        except (EOFError, ConnectionError):
            raise WorkerError(self._lost()) from None
        self._ready = True
        if answer.failure is not None:
            raise self._error(answer.failure)
        return answer.element

    def _error(self, failure: Failure) -> Exception:
        error = failure.error or WorkerError(
            f"{self} failed at batch {self.item}: {failure.summary}; --traceback shows "
            "where"
        )
        error.add_note(f"In {self}, at batch {self.item}:\n{failure.trace}")
        return error

    def _lost(self) -> str:
        self.process.join(_SECONDS_TO_END)
        code = self.process.exitcode
        if code is None:
            what = "has closed its pipe"
        elif code < 0:
            what = f"was ended by {_name_of_signal(-code)}"
        else:
            what = f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            why = "for want of memory, perhaps: set data.workers or data.buffer lower"
        elif code == 1 and not self._ready:
            why = 'a script that uses workers needs `if __name__ == "__main__":`'
        else:
            why = "with data.workers=0 the same batches are made without processes"
        return f"{self} {what} at batch {self.item}; {why}"


class _Crew:
    """Workers, the elements dealt out to them, and those that are ready."""

    def __init__(self, items: range, buffer: int):
        self._changed = threading.Condition()  # guards all of these
        self._rest = items  # not yet dealt out
        self._limit = items.start + buffer  # the first that must wait
        self._buffer = buffer
        self._ready: dict[int, tuple[Any, Exception | None]] = {}
        self._workers: list[_Worker] = []
        self._threads: list[threading.Thread] = []
        self._ended = False

    def hire(self, worker: _Worker) -> None:
        thread = threading.Thread(
            target=self._serve, args=(worker,), name=worker.process.name, daemon=True
        )
        self._workers.append(worker)
        self._threads.append(thread)
        thread.start()

    def take(self, item: int, stall_seconds: float) -> Any:
        """Wait for an element; elements are taken in order."""
        waited = 0.0
        with self._changed:
            while item not in self._ready:
                if waited >= stall_seconds:
                    raise WorkerError(self._stalled(item, stall_seconds))
                # In small parts: all processes may have been stopped and set going
                # again together, and that time is not the workers'.
                part = min(1.0, stall_seconds - waited)
                began = time.monotonic()
                self._changed.wait(part)
                waited += min(time.monotonic() - began, part)
            element, error = self._ready.pop(item)
            self._limit = item + 1 + self._buffer
            self._changed.notify_all()
        if error is not None:
            raise error
        return element

    def end(self) -> None:
        """End all workers, whatever they do, and their threads."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            # A stopped process ends by nothing else; and a worker has nothing to save.
            for worker in self._workers:
                if worker.process.pid is not None:
                    worker.process.kill()
        for thread in self._threads:
            thread.join(_SECONDS_TO_END)
        for worker in self._workers:
            if worker.process.pid is not None:
                worker.process.join(_SECONDS_TO_END)
        self._workers, self._threads = [], []

    def _serve(self, worker: _Worker) -> None:
        # What this thread starts inherits the mask, from its first instruction on.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS_OF_GROUP)
        while self._deal(worker):
            made: tuple[Any, Exception | None]
            try:
                self._start(worker)
                made = worker.make(), None
            except Exception as error:
                made = None, error
            with self._changed:
                self._ready[worker.item] = made
                self._changed.notify_all()
            del made  # an element, while this waits

    def _deal(self, worker: _Worker) -> bool:
        """Give a worker its next element; False: the workers are to end."""
        with self._changed:
            # Also when nothing is left to deal: Linux ends a worker with its thread.
            while not self._ended:
                if self._rest and self._rest[0] < self._limit:
                    worker.item, self._rest = self._rest[0], self._rest[1:]
                    return True
                self._changed.wait()
            return False

    def _start(self, worker: _Worker) -> None:
        with self._changed:  # no process is started that `end` does not see
            if worker.process.pid is None and not self._ended:
                worker.start()

    def _stalled(self, item: int, stall_seconds: float) -> str:
        slow = next(worker for worker in self._workers if worker.item == item)
        return (
            f"{slow} has not finished batch {item} after {stall_seconds:g} seconds: a "
            "file system that hangs, or a stopped process, perhaps; where batches take "
            "that long set data.stall_seconds higher"
        )


def _name_of_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
