"""What hallucination costs in time, measured on a finished run (Sec. 3.1)."""

import json
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from blt_jax.bench.document import document, write_document
from blt_jax.bench.measure import Options, measure
from blt_jax.bench.workload import load_workload
from blt_jax.data.whole_file import write_whole
from blt_jax.reports.benchmarks import format_benchmark
from blt_jax.reports.fields import ResultsError
from blt_jax.reports.records import Record

_RULES = ("gradient", "accumulated", "newton")
_PAPER = (
    "From the paper's times (Sec. 3.1: 3 h 53 min on top of 3 h 10 min, for "
    "ImageNet-LT on its own hardware) follows 2.23."
)


def write_timing(
    records: Sequence[Record], config: ConfigDict, folder: Path, name: str
) -> list[Path]:
    """NAME.json, as `blt-jax bench overhead` writes it, and NAME.md.

    Measured once, on the best checkpoint of the first record; a file that is there is
    only formatted. Raises ResultsError where there is neither.
    """
    measured = folder / f"{name}.json"
    if not measured.exists():
        checkpoint = next((r.file.parent for r in records if r.file), None)
        if checkpoint is None:
            raise ResultsError(f"no finished run below {folder} to measure on")
        options = Options(
            step_rules=_RULES,
            tail_fractions=(config.hallucination.tail_fraction,),
            gammas=(config.sampler.gamma,),
        )
        rows = measure(
            "overhead",
            lambda devices: load_workload(config, str(checkpoint), num_devices=devices),
            options,
        )
        # What would measure the same again.
        command = [
            *("blt-jax", "bench", "overhead"),
            *(f"--checkpoint={checkpoint}", f"--out={measured}"),
            *("--step_rules", *_RULES),
            *("--tail_fractions", *map(str, options.tail_fractions)),
            *("--gammas", *map(str, options.gammas)),
        ]
        write_document(measured, document(command, list(rows)))
    table = format_benchmark(json.loads(measured.read_text()))
    path = folder / f"{name}.md"
    write_whole(path, f"{table}\n{_PAPER}\n")
    return [path, measured]
