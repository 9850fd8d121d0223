"""One step on more and more devices: the same batch, split.

On CPU the devices are virtual and share the processor, so that the best to hope for
is a time that does not grow; what it grows by is what splitting costs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from blt_jax.bench.timing import interleave, milliseconds, ratio
from blt_jax.bench.workload import Workload


def scaling(
    load: Callable[[int], Workload], *, devices: Sequence[int], rounds: int
) -> Iterator[dict[str, Any]]:
    """Rows for each number of devices, vanilla and with hallucination.

    load: number of devices -> the workload on so many. All are timed in turns; ratios
    are to the first number of devices.
    """
    workloads = {count: load(count) for count in devices}
    works = {
        (count, enabled): workload.step(
            rounds=rounds, changes={"hallucination.enabled": enabled}
        )
        for count, workload in workloads.items()
        for enabled in ((False, True) if workload.trained else (False,))
    }
    timed = interleave({str(k): w.arm() for k, w in works.items()}, rounds=rounds)
    for (count, enabled), work in works.items():
        mine = timed[str((count, enabled))]
        columns, took = workloads[count].columns, milliseconds(mine)
        yield {
            "devices": count,
            "virtual": jax.default_backend() == "cpu",
            "hallucination": enabled,
            "n": rounds,
            **columns,
            "ms": took,
            "images_per_second": 1000 * columns["batch"] / took["median"],
            **ratio(mine, timed[str((devices[0], enabled))]),
            "compile_seconds": work.compile_seconds,
        }
