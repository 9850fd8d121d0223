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
from blt_jax.reproduce.arms import Plan
from blt_jax.reproduce.outcome import make_record
from blt_jax.training.continuation import ChangedError, changed_fields, has_begun
from blt_jax.training.run import train

Report = Callable[[Sequence[Record]], None]
# Paths within --out, which may be moved or spelt otherwise.
_PLACES = ("stage1.checkpoint", "hallucination.frozen_model")
_MEND = "use the configuration of then, give another --out, or remove that directory"


def run_arms(
    plans: Sequence[Plan],
    *,
    config_file: str,
    report: Report,
    stop: Callable[[], bool] = lambda: False,
) -> list[Record]:
    """Run what is not finished, in that order; returns the records of all.

    `report` gets the records that there are whenever another one has come; `stop` is
    asked after every step. Raises what `train` raises, and ConfigError for a finished
    run of another configuration; the same call goes on.
    """
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
    frozen = one.config.hallucination.frozen_model
    if frozen and not has_begun(Path(frozen)):
        raise ConfigError(
            f"{one.workdir} needs the checkpoints of {frozen}, which are not there: "
            f"let that arm run too (--arms), without its {FILE_NAME} if only a copy of "
            "that is there"
        )
    if one.config.stage1.checkpoint == str(one.stage1_workdir):
        train(one.stage1, one.stage1_workdir, stop=stop)
    setup = train(one.config, one.workdir, allow_change=_PLACES, stop=stop)
    write_record(one.workdir, make_record(one, setup, config_file))
    # The next arm is another program; this one's would only fill the memory.
    jax.clear_caches()
    return read_record(one.workdir)


def _finished(one: Plan) -> Record | None:
    """The record of an earlier run; raises ConfigError if that was another one.

    Of a record that was copied here alone, only what it says itself is compared.
    """
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
            f"{one.workdir} holds a run of another configuration: {_MEND}"
        )
    try:
        changed_fields(one.config, one.workdir, _PLACES)
    except ChangedError as error:
        table = str(error).rpartition("\n")[0]  # what follows it is said to `train`
        raise ChangedError(f"{table}\nThe run is finished: {_MEND}") from None
    return record


def _status(one: Plan, finished: int, total: int, begin: float, since: int) -> str:
    left = ""
    if since:
        seconds = (time.monotonic() - begin) / since * (total - finished)
        left = f", about {duration(seconds)} left"
    now = f"now {one.arm.name}, seed {one.seed}"
    return f"{finished} of {total} runs finished{left}; {now}"


def records_in(plans: Sequence[Plan]) -> list[Record]:
    """The records of what is finished, without running anything.

    Raises ConfigError for a finished run of another configuration.
    """
    return [record for record in map(_finished, plans) if record]
