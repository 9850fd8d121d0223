"""What a working directory tells of its run: everything that the report needs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from blt_jax.data.shots import ShotMasks, shot_masks, tail_mask
from blt_jax.reports.fields import Fields, ResultsError
from blt_jax.reports.results import (
    FILE_NAME,
    Evaluation,
    read_evaluation,
    read_results,
)

STAGES = ("stage1", "stage2")
EVALUATION = "evaluation.json"

Event = Mapping[str, Any]  # one line of metrics.jsonl


@dataclass(frozen=True, kw_only=True)
class Run:
    """One working directory; what it does not hold (yet) is empty or None."""

    name: str
    workdir: Path
    config: Mapping[str, Any]  # config.json, "derived" included
    environment: Mapping[str, Any]
    events: Mapping[str, Sequence[Event]]  # by stage, in the order written
    finished: bool  # whether `train` has evaluated it: results.json is there
    # By checkpoint and split: those of results.json, else that of evaluation.json.
    results: Mapping[str, Mapping[str, Evaluation]]
    evaluation: Mapping[str, Any] | None  # of the best checkpoint, as `assess` gives it
    changed: datetime  # when a file of it was last written, UTC

    def last(self, stage: str, kind: str) -> dict[int, Event]:
        """The events of a kind by step; a resumed run's later one holds."""
        return last_by_step(self.events[stage], kind)

    def planned_epochs(self, stage: str) -> int:
        """Epochs that the configuration gives a stage."""
        return int(_field(self.config, stage, "epochs", 0))

    @property
    def shares_stage1(self) -> bool:
        """Whether stage 1 is that of another run."""
        return bool(_field(self.config, "stage1", "checkpoint", ""))

    @property
    def hallucinates(self) -> bool:
        """Whether stage 2 appends images."""
        return bool(_field(self.config, "hallucination", "enabled", False))

    def masks(self, class_counts: ArrayLike) -> ShotMasks:
        """[C] bool each: many-, medium- and few-shot classes, as configured."""
        many = _field(self.config, "evaluation", "many", 100)
        few = _field(self.config, "evaluation", "few", 20)
        return shot_masks(np.asarray(class_counts), many=many, few=few)

    def tail(self, class_counts: ArrayLike) -> np.ndarray:
        """[C] bool: the classes to hallucinate, as configured."""
        rule = self.config.get("tail", {})
        known = {n: rule[n] for n in ("rule", "value", "classes") if n in rule}
        return tail_mask(np.asarray(class_counts), **known)


def read_run(workdir: str | Path) -> Run:
    """Read a working directory, of a finished, running or interrupted run.

    Raises ResultsError: it is none, or a file in it is not what its name says.
    """
    workdir = Path(workdir)
    config = _json(workdir / "config.json")
    if config is None:
        raise ResultsError(
            f"{workdir}: not a working directory of a run, there is no config.json; "
            "give what --workdir was when training"
        )
    evaluation = _evaluation(workdir / EVALUATION)
    if finished := (workdir / FILE_NAME).exists():
        results = read_results(workdir).checkpoints
    else:
        results = _evaluated(evaluation, str(workdir / EVALUATION))
    logs = [workdir / stage / "metrics.jsonl" for stage in STAGES]
    names = ("config.json", FILE_NAME, EVALUATION)
    files = [workdir / name for name in names] + logs
    written = max(path.stat().st_mtime for path in files if path.exists())
    return Run(
        name=workdir.resolve().name,
        workdir=workdir,
        config=config,
        environment=_json(workdir / "environment.json") or {},
        events={s: read_events(log) for s, log in zip(STAGES, logs, strict=True)},
        finished=finished,
        results=results,
        evaluation=evaluation,
        changed=datetime.fromtimestamp(written, UTC),
    )


def read_runs(workdirs: Sequence[str | Path]) -> list[Run]:
    """Read several; those of one name are told apart by the folders they lie in.

    Raises ResultsError as `read_run` does, and for a directory given twice.
    """
    runs = [read_run(workdir) for workdir in workdirs]
    paths = [run.workdir.resolve() for run in runs]
    for path in paths:
        if paths.count(path) > 1:
            raise ResultsError(f"{path} is given twice; name each run once")
    return [
        Run(**{**vars(run), "name": _telling(path, paths)})
        for run, path in zip(runs, paths, strict=True)
    ]


def _telling(path: Path, paths: Sequence[Path]) -> str:
    """As much of the end of a path as no other one has."""
    for length in range(1, len(path.parts)):
        end = path.parts[-length:]
        if sum(other.parts[-length:] == end for other in paths) == 1:
            return "/".join(end)
    return str(path)


def _field(config: Mapping[str, Any], group: str, name: str, default: Any) -> Any:
    return config.get(group, {}).get(name, default)


def _json(path: Path) -> dict[str, Any] | None:
    """The mapping in a file; None: no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ResultsError(f"{path}: holds no fields, but {type(found).__name__}")
    return found


def _evaluation(path: Path) -> dict[str, Any] | None:
    found = _json(path)
    if found is not None and not {"classes", "confusion"} <= set(found):
        raise ResultsError(
            f"{path}: not an evaluation, it holds no classes or no confusion; "
            "blt-jax evaluate --out writes it anew"
        )
    return found


def _evaluated(
    evaluation: Mapping[str, Any] | None, where: str
) -> dict[str, dict[str, Evaluation]]:
    if evaluation is None:
        return {}
    fields = Fields(evaluation, where)
    return {"best": {fields.text("split"): read_evaluation(fields)}}


def last_by_step(events: Sequence[Event], kind: str) -> dict[int, Event]:
    """The events of a kind in the order of steps.

    A resumed run does the steps after its checkpoint again, and one that was killed
    before its first checkpoint all of them; what was told of them before counts no
    more, even where the log's intervals are others now.
    """
    found: dict[int, Event] = {}
    for event in events:
        if event["kind"] in ("begun", "resumed"):
            found = {step: e for step, e in found.items() if step <= event["step"]}
        elif event["kind"] == kind:
            found[event["step"]] = event
    return {step: found[step] for step in sorted(found)}


def read_events(log: Path) -> list[Event]:
    """The lines of a log, none where there is no file.

    The last one may be half written still. Raises ResultsError for another one that is
    no event.
    """
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8").splitlines()
    found: list[Event] = []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            found.append({"kind": event["kind"], **event})
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise ResultsError(f"{log}:{number}: not an event ({error})") from None
    return found
