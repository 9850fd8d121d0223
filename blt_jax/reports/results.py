"""`results.json`: the accuracies of one arm, written when its training is finished.

```
{"format": 1, "arm": "blt",
 "checkpoints": {"best": {"test": {
     "step": 1240, "images": 360,
     "many": 0.93, "medium": 0.81, "few": null, "overall": 0.85, "micro": 0.86,
     "top5": 0.99, "group_classes": {"many": 3, "medium": 4, "few": 0}}}}}
```
Below `checkpoints` stand "best" (by validation), "last" or both, and below each the
splits it was evaluated on. Accuracies are fractions, null where the group has no
images: `many`, `medium`, `few` and `overall` are means of per-class accuracies
(Sec. 4), `micro` is over images, `top5` the share of images whose label is among the
first five. `group_classes` counts the classes of each group; it may be null.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from blt_jax.data.whole_file import write_whole
from blt_jax.reports.fields import Fields, ResultsError

FILE_NAME = "results.json"
FORMAT = 1
ACCURACIES = ("many", "medium", "few", "overall", "micro", "top5")
GROUPS = ("many", "medium", "few")
ALL_GROUPS = (*GROUPS, "overall")
CHECKPOINTS = ("best", "last")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One checkpoint on one split: accuracies in [0, 1] or None, and their extent."""

    step: int
    images: int
    many: float | None
    medium: float | None
    few: float | None
    overall: float | None
    micro: float | None
    top5: float | None
    group_classes: Mapping[str, int] | None = None


E = TypeVar("E", bound=Evaluation)


def find(
    results: Mapping[str, Mapping[str, E]], checkpoint: str, split: str, whose: str
) -> E:
    """The evaluation of that checkpoint on that split; `whose` is for the message.

    Raises ResultsError, which says what there is.
    """
    if split in results.get(checkpoint, {}):
        return results[checkpoint][split]
    known = [f"{name} on {each}" for name in results for each in results[name]]
    raise ResultsError(
        f"{whose} has no results of {checkpoint} on {split}; it has: "
        f"{', '.join(known) or 'none'}"
    )


@dataclass(frozen=True)
class Results:
    """One arm: its name, and evaluations by checkpoint ("best", "last") and split."""

    arm: str
    checkpoints: Mapping[str, Mapping[str, Evaluation]]

    def find(self, checkpoint: str, split: str) -> Evaluation:
        """The evaluation of that checkpoint on that split, or a ResultsError."""
        return find(self.checkpoints, checkpoint, split, f"arm {self.arm!r}")


def write_results(
    path: str | Path, *, arm: str, results: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write `results.json`, in a working directory or at a full path.

    results: by checkpoint, the evaluation as a mapping with the fields of `Evaluation`
    and "split"; what else it holds is not written. An interruption leaves the old file
    or the new one, never half of one.

    Raises:
      ResultsError: unknown checkpoint, a field missing, or an accuracy not in [0, 1].
    """
    path = _file(path)
    checkpoints = {}
    for name, found in results.items():
        if "split" not in found:
            raise ResultsError(
                f"{path}: the evaluation of {name} does not name its split"
            )
        checkpoints[name] = {
            found["split"]: read_evaluation(Fields(found, f"{path}: {name}"))
        }
    _check_names(path, checkpoints)
    content = {"format": FORMAT, **asdict(Results(arm, checkpoints))}
    write_whole(path, json.dumps(content, indent=2) + "\n")


def read_results(path: str | Path) -> Results:
    """Read `results.json`, from a working directory or a full path.

    Raises:
      ResultsError: no such file, not of this format, or a field missing or wrong.
    """
    path = _file(path)
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ResultsError(
            f"no {path}; it appears when the training there is finished"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ResultsError(f"{path}: not a results file of format {FORMAT}")
    try:
        checkpoints = {
            name: {
                split: read_evaluation(Fields(values, f"{path}: {name} on {split}"))
                for split, values in splits.items()
            }
            for name, splits in found["checkpoints"].items()
        }
        arm = found["arm"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path}: a field is missing or wrong ({error})") from error
    _check_names(path, checkpoints)
    return Results(arm, checkpoints)


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path / FILE_NAME


def _check_names(path: Path, checkpoints: Mapping[str, Any]) -> None:
    for name in checkpoints:
        if name not in CHECKPOINTS:
            known = ", ".join(CHECKPOINTS)
            raise ResultsError(f"{path}: unknown checkpoint {name!r}; known: {known}")


def read_evaluation(fields: Fields) -> Evaluation:
    """The fields that belong to an evaluation, checked; others are left alone."""
    step, images = fields.count("step"), fields.count("images")
    accuracies = {key: fields.share(key) for key in ACCURACIES}
    groups = None
    if fields.values.get("group_classes") is not None:
        found = fields.inside("group_classes")
        if set(found.values) != set(GROUPS):
            raise fields.wrong("group_classes", f"must name {', '.join(GROUPS)}")
        groups = {name: found.count(name) for name in GROUPS}
    return Evaluation(step=step, images=images, **accuracies, group_classes=groups)


def print_accuracies(name: str, split: str, result: dict[str, Any]) -> None:
    """Print one evaluation for the person who waits for it."""
    shown = [
        "-" if result[column] is None else f"{100 * result[column]:.1f}"
        for column in ACCURACIES
    ]
    print(f"\n{name} on {split} ({result['images']} images), accuracy in %:")
    print("  ".join(f"{column:>8}" for column in ACCURACIES))
    print("  ".join(f"{value:>8}" for value in shown))
