"""Worker processes that make batches, where threads are not enough.

Threads share one interpreter lock; processes each have their own. They start in a
second or more and each hold the data set's lists. What they are sent imports neither
grain nor jax, and they touch no accelerator.

Not grain's own workers: those hold twice the batches that they are told to, and leave
shared memory behind when the reader stops early (0.2.18).
"""

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, Protocol


class Elements(Protocol):
    """Elements by number, made in whichever process asks."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: int, /) -> Any: ...


def batches(
    source: Elements, start: int = 0, *, num_workers: int, buffer: int
) -> Iterator[Any]:
    """Iterate over the elements of a source from `start` on, made by processes.

    Order and content are those of the source, whatever the number of workers. The
    workers end when the iterator is exhausted, closed or let go of, and with the
    process that started them.

    num_workers: processes, at least 1.
    buffer: elements held at most, ready or being made, besides the one being used.

    Raises:
      ValueError: fewer elements in the buffer than workers, or a source that cannot be
        sent to another process.
      OSError: while iterating, when a worker has been killed.
    """
    if num_workers < 0:
        raise ValueError(f"data.workers: {num_workers} is below 0")
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
    return _made(sent, start, len(source), num_workers, buffer)


def _made(
    sent: bytes, start: int, stop: int, num_workers: int, buffer: int
) -> Iterator[Any]:
    # A fork would copy locks held by other threads, jax's among them.
    executor = ProcessPoolExecutor(
        min(num_workers, stop - start),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare,
        initargs=(sent,),
    )
    ahead: deque[Future[Any]] = deque()
    rest = iter(range(start, stop))

    def ask(count: int) -> None:
        ahead.extend(executor.submit(_element, item) for item in islice(rest, count))

    try:
        ask(buffer)
        while ahead:
            element = _result(ahead.popleft())
            ask(1)
            yield element
    finally:
        for future in ahead:
            future.cancel()
        executor.shutdown(wait=True, cancel_futures=True)


def _result(future: "Future[Any]") -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise OSError(
            "data.workers: a worker process has died; for want of memory, perhaps: set "
            "data.workers or data.buffer lower. A script that uses workers needs the "
            'guard `if __name__ == "__main__":`'
        ) from None


# The source, in a worker.
_source: Any = None


def _prepare(sent: bytes) -> None:
    # Before anything is imported that could look for accelerators: they belong to the
    # process that trains.
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Ctrl-C reaches the whole group; the process that reads then ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _source
    _source = pickle.loads(sent)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _element(item: int) -> Any:
    return _source[item]
