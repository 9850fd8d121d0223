"""Threads that decode images: they share out the rows of a batch."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class DecodingThreads:
    """Threads shared by all elements of a data set, started when first needed."""

    def __init__(self, num_threads: int):
        if num_threads < 0:
            raise ValueError(f"data.threads: {num_threads} is below 0")
        self._num_threads = num_threads
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["DecodingThreads"], tuple[int]]:
        # In another process threads are started anew.
        return DecodingThreads, (self._num_threads,)

    def each(self, function: Callable[[int], None], count: int) -> None:
        """Call function(0) ... function(count - 1); the first error is raised."""
        if self._num_threads < 2 or count < 2:
            for number in range(count):
                function(number)
            return
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(
                    self._num_threads, thread_name_prefix="blt-decode"
                )
        # A few tasks a thread: one an image costs more than a small image itself.
        tasks = min(count, 4 * self._num_threads)
        bounds = [count * task // tasks for task in range(tasks + 1)]

        def run(task: int) -> None:
            for number in range(bounds[task], bounds[task + 1]):
                function(number)

        for _ in self._executor.map(run, range(tasks)):
            pass
