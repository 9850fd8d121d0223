"""The kinds of measurement, by the name that `blt-jax bench` takes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blt_jax.bench.ascent import ascent, draw_seeds, read_seeds
from blt_jax.bench.input import InputOptions, input_rows
from blt_jax.bench.overhead import overhead
from blt_jax.bench.scaling import scaling
from blt_jax.bench.step import step
from blt_jax.bench.workload import Workload
from blt_jax.choices import choose

Rows = Iterator[dict[str, Any]]
Load = Callable[[int | None], Workload]  # number of devices; None: all


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is varied; an empty sequence stands for the configuration's own value."""

    rounds: int = 10
    step_rules: Sequence[str] = ("gradient", "newton")
    tail_fractions: Sequence[float] = ()  # overhead; empty: the configured one and 0
    gammas: Sequence[float] = ()  # overhead
    max_steps: Sequence[float] = ()  # ascent, newton
    seeds: Path | None = None  # ascent: .npz with seeds; None: drawn
    count: int = 32  # ascent: seeds to draw
    devices: Sequence[int] = (1, 2, 4, 8)  # scaling
    against_torch: bool = False  # step
    source: Path | None = None  # input: folder of photographs
    batch: int = 64  # input
    cores: int | None = None  # input; None: all
    demand: bool = False  # input: measure what the configured step consumes
    against_torchvision: bool = False  # input


def measure(kind: str, load: Load, options: Options) -> Rows:
    """Rows of one kind of measurement, as each becomes known.

    load: reads data and weights for a number of devices. Raises ValueError for an
    unknown kind.
    """
    return choose("bench", kind, KINDS)(load, options)


def _overhead(load: Load, options: Options) -> Rows:
    workload = load(None)
    config = workload.setup.config
    return overhead(
        workload,
        step_rules=options.step_rules,
        tail_fractions=options.tail_fractions
        or (config.hallucination.tail_fraction, 0.0),
        gammas=options.gammas or (config.sampler.gamma,),
        rounds=options.rounds,
    )


def _ascent(load: Load, options: Options) -> Rows:
    workload = load(1)
    return ascent(
        workload,
        read_seeds(options.seeds, workload)
        if options.seeds
        else draw_seeds(workload, options.count),
        step_rules=options.step_rules,
        max_steps=options.max_steps or (workload.setup.config.hallucination.max_step,),
        rounds=options.rounds,
    )


def _step(load: Load, options: Options) -> Rows:
    return step(load(None), against_torch=options.against_torch, rounds=options.rounds)


def _scaling(load: Load, options: Options) -> Rows:
    return scaling(load, devices=options.devices, rounds=options.rounds)


def _input(load: Load, options: Options) -> Rows:
    if options.source is None:
        raise ValueError("input: give --source, a folder of photographs")
    wanted = InputOptions(
        source=options.source,
        batch=options.batch,
        cores=options.cores,
        torchvision=options.against_torchvision,
    )
    demand = None
    if options.demand:
        # Before the process is confined to some cores.
        workload = load(None)
        config = workload.setup.config
        wanted = replace(
            wanted, batch=config.batch_size, image_size=config.data.image_size
        )
        rows = step(workload, against_torch=False, rounds=options.rounds)
        augmented = next(row for row in rows if row["library"] == "blt_jax augmented")
        demand = augmented["images_per_second"]
        # The ratios are to another step, those of the other rows to `released`.
        for name in ("ratio", "ratio_q1", "ratio_q3", "tie", "ratio_to"):
            del augmented[name]
        yield augmented | {"source": "step", "stage": "demand"}
    yield from input_rows(
        wanted,
        rounds=options.rounds,
        demand=demand,
    )


KINDS: dict[str, Callable[[Load, Options], Rows]] = {
    "overhead": _overhead,
    "ascent": _ascent,
    "step": _step,
    "scaling": _scaling,
    "input": _input,
}
