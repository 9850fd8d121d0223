"""Train what is missing of a list of arms, one after another; keep a record of each.

Every arm and seed has a directory of its own, in which its run resumes; one whose
record is there is not run again. First stages that are the same are trained once.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from blt_jax.config import ConfigError, flatten
from blt_jax.data.progress import duration
from blt_jax.reports.records import FILE_NAME, Record, read_record, write_record
from blt_jax.reproduce.arms import Arm, Plan, plan
from blt_jax.reproduce.outcome import make_record
from blt_jax.training.run import train

Report = Callable[[Sequence[Record]], None]


def run_arms(
    arms: Sequence[Arm],
    *,
    seeds: Sequence[int],
    config_file: str,
    overrides: Sequence[str],
    out: Path,
    report: Report,
    stop: Callable[[], bool] = lambda: False,
) -> list[Record]:
    """Run every arm with every seed; returns their records in that order.

    All arms of the first seed come first, so that there is something to compare early.
    `report` gets the records that there are whenever another one has come; `stop` is
    asked after every step. Raises what `train` raises; the same call goes on.
    """
    plans = [
        plan(arm, seed, config_file, overrides, out) for seed in seeds for arm in arms
    ]
    done = {one.workdir: _finished(one) for one in plans}
    begin, begun = time.monotonic(), sum(map(bool, done.values()))
    for one in plans:
        if done[one.workdir]:
            continue
        finished = sum(map(bool, done.values()))
        print(_status(one, finished, len(plans), begin, finished - begun), flush=True)
        done[one.workdir] = _run(one, config_file, stop)
        report([record for record in done.values() if record])
    return [record for record in done.values() if record]


def _run(one: Plan, config_file: str, stop: Callable[[], bool]) -> Record:
    if one.config.stage1.checkpoint == str(one.stage1_workdir):
        train(one.stage1, one.stage1_workdir, stop=stop)
    setup = train(one.config, one.workdir, stop=stop)
    write_record(one.workdir, make_record(one, setup, config_file))
    # The next arm is another program; this one's would only fill the memory.
    jax.clear_caches()
    return read_record(one.workdir)


def _finished(one: Plan) -> Record | None:
    """The record of an earlier run; raises ConfigError if that was another one."""
    if not (one.workdir / FILE_NAME).exists():
        return None
    record = read_record(one.workdir)
    asked = flatten(one.config.to_dict())
    overrides = json.loads(json.dumps(one.arm.overrides()))  # lists, as in the record
    if (
        record.recipe.stage1 != one.stage1_digest
        or dict(record.overrides) != overrides
        or record.recipe.epochs != (asked["stage1.epochs"], asked["stage2.epochs"])
    ):
        raise ConfigError(
            f"{one.workdir} holds a run of another configuration; give another --out, "
            "or remove that directory"
        )
    return record


def _status(one: Plan, finished: int, total: int, begin: float, since: int) -> str:
    left = ""
    if since:
        seconds = (time.monotonic() - begin) / since * (total - finished)
        left = f", about {duration(seconds)} left"
    now = f"now {one.arm.name}, seed {one.seed}"
    return f"{finished} of {total} runs finished{left}; {now}"


def records_in(out: Path, arms: Sequence[Arm], seeds: Sequence[int]) -> list[Record]:
    """The records of these arms that are there, without running anything."""
    paths = [
        out / "runs" / arm.name / f"seed{seed}" / FILE_NAME
        for seed in seeds
        for arm in arms
    ]
    return [read_record(path) for path in paths if path.exists()]


def config_name(config_file: str) -> str:
    """What results call a configuration: its file without folder and suffix."""
    return Path(config_file).stem
