"""`record.json`: all that tables and figures need of one finished arm and seed.

```
{"format": 1, "arm": "blt_newton", "system": "blt", "seed": 0,
 "overrides": {"hallucination.step_rule": "newton"},
 "recipe": {"config": "tiny_imagenet_lt_small", "dataset": "tiny_imagenet_lt",
            "backbone": "resnet10_narrow", "image_size": 32, "batch_size": 128,
            "epochs": [20, 10], "stage1": "<digest>", "flops": 12345,
            "shots": {"many": 100, "few": 20}},
 "class_names": ["newt", ...], "class_counts": [500, ...],
 "results": {"best": {"val": E, "test": E}, "last": {"val": E, "test": E}},
 "ascent": {"hallucinated": n, "iterations": n, "reached": n, "evaluations": n,
            "trained": n},
 "seconds": {"stage1": s, "stage2": s},
 "environment": {"device": "...", "versions": {"jax": "..."}, "revision": "..."}}
```
E is an evaluation as in `results.json` with two fields more: "per_class", the accuracy
of each class (null: no image), and "error_by_rank", of `blt_jax.metrics.error_by_rank`.

`flops` are those of one image's forward pass, two for a multiply-add; null: not known.
`shots` may be absent: the groups of the paper, more than 100 and at most 20 training
images. `ascent` are totals over stage 2: images appended, ascent updates, thresholds
met, evaluations of the network's image gradient, and images trained with, appended
ones included. Of a bank of images only the evaluations count. Seconds may be null.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blt_jax.data.shots import ShotMasks, shot_masks
from blt_jax.data.whole_file import write_whole
from blt_jax.metrics.confusion import error_by_rank
from blt_jax.reports.fields import Fields, ResultsError
from blt_jax.reports.results import (
    CHECKPOINTS,
    Evaluation,
    find,
    read_evaluation,
)

FILE_NAME = "record.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class DetailedEvaluation(Evaluation):
    """An evaluation with [C] accuracies or None, and [C - 1] errors, largest first."""

    per_class: tuple[float | None, ...]
    error_by_rank: tuple[float, ...]  # empty: no tail class has images in the split


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What arms that are compared have in common."""

    config: str
    dataset: str
    backbone: str
    image_size: int
    batch_size: int
    epochs: tuple[int, ...]  # of each stage
    # Digest of the configuration of stage 1, which arms share; also where it was not
    # trained, because it has no epochs or a checkpoint took its place.
    stage1: str
    flops: float | None = None
    shots: Mapping[str, int] = field(default_factory=lambda: {"many": 100, "few": 20})


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """Totals over stage 2; all 0 but `trained` for an arm that appends nothing."""

    hallucinated: int = 0
    iterations: int = 0
    reached: int = 0
    evaluations: int = 0
    trained: int = 0


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a run was made with and on; None: not known."""

    device: str
    versions: Mapping[str, str | None]
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One arm and seed; `results` by checkpoint ("best", "last") and split."""

    arm: str
    system: str
    seed: int
    overrides: Mapping[str, Any]
    recipe: Recipe
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    results: Mapping[str, Mapping[str, DetailedEvaluation]]
    ascent: Ascent
    seconds: Mapping[str, float | None]
    environment: Environment
    file: Path | None = field(default=None, compare=False)  # where it was read

    def find(self, checkpoint: str, split: str) -> DetailedEvaluation:
        """The evaluation of that checkpoint on that split, or a ResultsError."""
        return find(self.results, checkpoint, split, self.name)

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.file or f"arm {self.arm!r}, seed {self.seed}")

    @property
    def masks(self) -> ShotMasks:
        """[C] bool each: the many-, medium- and few-shot classes."""
        return shot_masks(np.asarray(self.class_counts), **self.recipe.shots)


def evaluation_of(assessed: Mapping[str, Any], tail: np.ndarray) -> DetailedEvaluation:
    """What a record holds of `blt_jax.training.assess.assess`.

    tail: [C] bool, the classes whose errors are ranked (`tail_mask`).
    """
    num_classes = len(assessed["classes"])
    counts = np.zeros((num_classes, num_classes), np.int64)
    for true, predicted, count in assessed["confusion"]:
        counts[true, predicted] = count
    known = read_evaluation(Fields(assessed, "evaluation"))
    return DetailedEvaluation(
        **vars(known),
        per_class=tuple(one["accuracy"] for one in assessed["classes"]),
        error_by_rank=tuple(error_by_rank(counts, tail).tolist()),
    )


def write_record(path: str | Path, record: Record) -> None:
    """Write `record.json`, in a folder or at a full path ending in .json.

    The folder is made where there is none. An interruption leaves the old file or the
    new one, never half of one. Raises ResultsError for a record that `read_record`
    would refuse.
    """
    path = _file(path)
    content = {"format": FORMAT, **asdict(record)}
    del content["file"]
    record_from(content, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1) + "\n")


def read_record(path: str | Path) -> Record:
    """Read `record.json`, from a folder or a full path.

    Raises ResultsError: no such file, not of this format, or a field missing or wrong.
    """
    path = _file(path)
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path}: not JSON ({error})") from None
    return record_from(found, str(path), file=path)


def read_records(paths: Iterable[str | Path]) -> list[Record]:
    """Read several; raises ResultsError too when two are of one arm and seed."""
    records: dict[tuple[str, int], Record] = {}
    for path in paths:
        record = read_record(path)
        before = records.setdefault((record.arm, record.seed), record)
        if before is not record:
            raise ResultsError(
                f"{record.name}: arm {record.arm!r}, seed {record.seed} is also in "
                f"{before.name}; keep one of them"
            )
    return list(records.values())


def by_arm(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records of each arm in the order of seeds; arms as they first appear.

    Raises ResultsError when there is no record at all.
    """
    arms: dict[str, list[Record]] = {}
    for record in records:
        arms.setdefault(record.arm, []).append(record)
    if not arms:
        raise ResultsError("there are no records; run an arm first")
    return {arm: sorted(found, key=lambda r: r.seed) for arm, found in arms.items()}


def record_from(content: Any, where: str, *, file: Path | None = None) -> Record:
    """The record that the JSON of one file holds, every field checked."""
    fields = Fields(content, where)
    if fields.values.get("format") != FORMAT:
        raise ResultsError(f"{where}: not a record of format {FORMAT}")
    class_names = fields.texts("class_names")
    num_classes = len(class_names)
    seconds = fields.inside("seconds")
    return Record(
        arm=fields.text("arm"),
        system=fields.text("system"),
        seed=fields.count("seed"),
        overrides=dict(fields.inside("overrides").values),
        recipe=_recipe(fields.inside("recipe")),
        class_names=class_names,
        class_counts=fields.counts("class_counts", num_classes),
        results=_results(fields.inside("results"), num_classes),
        ascent=Ascent(**{n: fields.inside("ascent").count(n) for n in _ASCENT}),
        seconds={name: seconds.amount(name) for name in ("stage1", "stage2")},
        environment=_environment(fields.inside("environment")),
        file=file,
    )


_ASCENT = ("hallucinated", "iterations", "reached", "evaluations", "trained")


def _recipe(fields: Fields) -> Recipe:
    shots = {"many": 100, "few": 20}
    if "shots" in fields.values:
        found = fields.inside("shots")
        shots = {name: found.count(name) for name in shots}
        if shots["few"] > shots["many"]:
            raise found.wrong("few", f"is {shots['few']}, above many {shots['many']}")
    return Recipe(
        config=fields.text("config"),
        dataset=fields.text("dataset"),
        backbone=fields.text("backbone"),
        stage1=fields.text("stage1"),
        image_size=fields.count("image_size"),
        batch_size=fields.count("batch_size"),
        epochs=fields.counts("epochs"),
        flops=fields.amount("flops"),
        shots=shots,
    )


def _results(
    fields: Fields, num_classes: int
) -> dict[str, dict[str, DetailedEvaluation]]:
    for name in fields.values:
        if name not in CHECKPOINTS:
            known = ", ".join(CHECKPOINTS)
            raise fields.wrong(name, f"is not a checkpoint; known: {known}")
    return {
        name: {split: _evaluation(e, num_classes) for split, e in splits.each().items()}
        for name, splits in fields.each().items()
    }


def _evaluation(fields: Fields, num_classes: int) -> DetailedEvaluation:
    errors = tuple(value or 0.0 for value in fields.shares("error_by_rank"))
    if len(errors) not in (0, num_classes - 1):
        raise fields.wrong(
            "error_by_rank", f"has {len(errors)} values, not {num_classes - 1} or none"
        )
    return DetailedEvaluation(
        **vars(read_evaluation(fields)),
        per_class=fields.shares("per_class", num_classes),
        error_by_rank=errors,
    )


def _environment(fields: Fields) -> Environment:
    versions = fields.inside("versions")
    return Environment(
        device=fields.text("device"),
        versions={name: versions.text_or_none(name) for name in versions.values},
        revision=fields.text_or_none("revision"),
    )


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path / FILE_NAME
