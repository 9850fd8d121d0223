"""A vanilla training step, alone or beside the same step in PyTorch.

The compared steps do the same work: normalise uint8 images, forward, backward, SGD.
Our step as it is used also augments on the device, which PyTorch users do on the
host; that is a row of its own.
"""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from blt_jax.bench.timing import Arm, interleave, milliseconds, ratio
from blt_jax.bench.workload import StepWork, Workload

NO_AUGMENTATION = {
    "augment.flip": False,
    "augment.rotation": 0.0,
    "augment.brightness": 0.0,
    "augment.contrast": 0.0,
    "augment.saturation": 0.0,
}


def step(
    workload: Workload, *, against_torch: bool, rounds: int
) -> Iterator[dict[str, Any]]:
    """Rows for our step without and with augmentation, and for PyTorch's.

    `ratio` is to PyTorch eager where it takes part, else to our first row. A library
    that fails has a row that says why.
    """
    vanilla = {"hallucination.enabled": False}
    works = {
        "blt_jax": workload.step(rounds=rounds, changes=vanilla | NO_AUGMENTATION),
        "blt_jax augmented": workload.step(rounds=rounds, changes=vanilla),
    }
    peers = _torch_steps(workload, works["blt_jax"]) if against_torch else {}
    arms = {name: work.arm() for name, work in works.items()}
    arms |= {name: peer.arm for name, peer in peers.items() if peer.arm}
    timed = interleave(arms, rounds=rounds)
    baseline = "torch eager" if "torch eager" in timed else "blt_jax"
    for name in [*works, *peers]:
        row: dict[str, Any] = {
            "library": name,
            "n": rounds,
            **workload.columns,
        }
        if name in works:
            row["first_loss"] = float(timed[name].results[0]["loss"])
            row["compile_seconds"] = works[name].compile_seconds
        else:
            row["dtype"] = peers[name].dtype
            row["first_loss"] = peers[name].first_loss
            row["compile_seconds"] = peers[name].compile_seconds
        if name not in timed:
            yield row | {"n": 0, "failed": peers[name].failure}
            continue
        took = milliseconds(timed[name])
        yield row | {
            "ms": took,
            "images_per_second": 1000 * row["batch"] / took["median"],
            **ratio(timed[name], timed[baseline]),
            "ratio_to": baseline,
        }


class _Peer(NamedTuple):
    arm: Arm | None  # None: it failed
    dtype: str
    first_loss: float | None
    compile_seconds: float | None
    failure: str | None = None


def _torch_steps(workload: Workload, work: StepWork) -> dict[str, _Peer]:
    """PyTorch eager and compiled, each after its first step, on the same batches."""
    from blt_jax.bench import peer

    batches = [
        peer.place(np.array(batch["image"]), np.array(batch["label"]))
        for batch in work.batches
    ]

    def prepared(*, compiled: bool) -> _Peer:
        run = peer.make_torch_step(
            workload.setup.model,
            workload.params,
            workload.batch_stats,
            workload.setup.normalisation,
            learning_rates={
                group: workload.setup.config.stage2[f"{group}_lr"]
                for group in ("backbone", "head")
            },
            compiled=compiled,
        )
        begin = time.perf_counter()
        try:
            loss = run(*batches[0])
        except (
            Exception
        ) as error:  # of many kinds, where torch.compile lacks a compiler
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            return _Peer(None, peer.DTYPE, None, None, reason)
        seconds = time.perf_counter() - begin
        arm = Arm(lambda number: batches[number], lambda batch: run(*batch))
        return _Peer(arm, peer.DTYPE, loss, seconds if compiled else None)

    return {
        "torch eager": prepared(compiled=False),
        "torch compiled": prepared(compiled=True),
    }
