"""Records of several arms and seeds, as rows: means, deviations, paired differences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from blt_jax.reports.fields import ResultsError
from blt_jax.reports.published import Published, published
from blt_jax.reports.records import Recipe, Record, by_arm
from blt_jax.reports.results import ALL_GROUPS, CHECKPOINTS
from blt_jax.reports.seeds import Spread, accuracy, over_seeds, paired_difference


@dataclass(frozen=True)
class Row:
    """One arm by one checkpoint: accuracies, fractions, by group.

    difference: to the baseline, seed by seed; None for the baseline itself, or
    without one. published: the paper's figures of that row and data set.
    """

    arm: str
    checkpoint: str
    n: int
    accuracy: Mapping[str, Spread]
    difference: Mapping[str, Spread] | None
    published: Published | None


@dataclass(frozen=True)
class Budget:
    """What one arm cost; means over its seeds, None where not known."""

    arm: str
    seeds: Sequence[int]
    appended: float | None  # images, over stage 2
    evaluations: float | None  # of the image gradient, for each appended image
    reached: float | None  # share of the ascents that met their threshold
    minutes: Mapping[str, float | None]  # of each stage


@dataclass(frozen=True)
class Summary:
    """A table: rows for each checkpoint in turn, budgets, and what all share."""

    split: str
    baseline: str | None
    rows: Sequence[Row]
    budgets: Sequence[Budget]
    recipe: Mapping[str, Sequence[Any]]  # field -> its values, mostly one
    same_stage1: bool  # whether the arms of each seed went on from one stage 1
    records: Sequence[Record]

    @property
    def dataset(self) -> str:
        """Of all the records."""
        return self.records[0].recipe.dataset


def summarise(
    records: Iterable[Record],
    *,
    baseline: str | None = None,
    split: str = "test",
    published_rows: Mapping[str, str] | None = None,
    checkpoints: Sequence[str] = CHECKPOINTS,
) -> Summary:
    """Rows of all arms, in the order in which their records first appear.

    baseline: the arm whose accuracies are subtracted, seed by seed. published_rows:
    arm -> row of the paper's table (`blt_jax.reports.published`); an arm it does not
    name has none.

    Raises ResultsError: no record, an unknown baseline, records of other classes or of
    another data set than the first, or without a checkpoint or split.
    """
    records = list(records)
    arms = by_arm(records)
    _check_comparable(records)
    if baseline is not None and baseline not in arms:
        raise ResultsError(
            f"the baseline {baseline!r} is not among the arms: {', '.join(arms)}"
        )
    rows = []
    for checkpoint in checkpoints:
        found = {
            arm: _accuracies(of_arm, checkpoint, split) for arm, of_arm in arms.items()
        }
        for arm, spreads in found.items():
            difference = None
            if baseline not in (None, arm):
                first = found[str(baseline)]
                difference = {
                    g: paired_difference(spreads[g], first[g]) for g in ALL_GROUPS
                }
            row = (published_rows or {}).get(arm, "")
            printed = published(records[0].recipe.dataset, row)
            n = len(arms[arm])
            rows.append(Row(arm, checkpoint, n, spreads, difference, printed))
    return Summary(
        split=split,
        baseline=baseline,
        rows=rows,
        budgets=[_budget(arm, of_arm) for arm, of_arm in arms.items()],
        recipe=_recipe(records),
        same_stage1=_same_stage1(records),
        records=records,
    )


def _accuracies(
    records: Sequence[Record], checkpoint: str, split: str
) -> dict[str, Spread]:
    return {
        g: accuracy(records, g, checkpoint=checkpoint, split=split) for g in ALL_GROUPS
    }


def _check_comparable(records: Sequence[Record]) -> None:
    first = records[0]
    for record in records[1:]:
        if record.recipe.dataset != first.recipe.dataset:
            raise ResultsError(
                f"{record.name} is of {record.recipe.dataset}, {first.name} of "
                f"{first.recipe.dataset}; a table is of one data set"
            )
        if record.class_counts != first.class_counts:
            raise ResultsError(
                f"{record.name}: class_counts are not those of {first.name}, so that "
                "their accuracies cannot be compared"
            )


def _budget(arm: str, records: Sequence[Record]) -> Budget:
    def mean(values: Iterable[float | None]) -> float | None:
        return over_seeds(dict(enumerate(values))).mean

    ascents = [record.ascent for record in records]
    seconds = {s: mean(r.seconds[s] for r in records) for s in ("stage1", "stage2")}
    return Budget(
        arm,
        [record.seed for record in records],
        mean(a.hallucinated for a in ascents),
        mean(a.evaluations / a.hallucinated for a in ascents if a.hallucinated),
        # Of images made once, in a bank, the updates are not counted.
        mean(a.reached / a.hallucinated for a in ascents if a.iterations),
        {stage: None if s is None else s / 60 for stage, s in seconds.items()},
    )


def _recipe(records: Sequence[Record]) -> dict[str, list[Any]]:
    """Each field of the recipes but the digest, with its different values in order."""
    return {
        name: _distinct(getattr(record.recipe, name) for record in records)
        for name in (field.name for field in fields(Recipe))
        if name != "stage1"
    }


def _distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _same_stage1(records: Sequence[Record]) -> bool:
    digests: dict[int, set[str]] = {}
    for record in records:
        digests.setdefault(record.seed, set()).add(record.recipe.stage1)
    return all(len(of_seed) == 1 for of_seed in digests.values())
