"""Means and sample standard deviations over seeds, and differences seed by seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blt_jax.reports.fields import ResultsError
from blt_jax.reports.records import Record


@dataclass(frozen=True)
class Spread:
    """One number over seeds.

    mean: None without a value. std: of the sample (n - 1), None below two values.
    values: by seed; a seed without a value is left out.
    """

    mean: float | None
    std: float | None
    values: Mapping[int, float]

    @property
    def n(self) -> int:
        """How many seeds have a value."""
        return len(self.values)

    def numbers(self) -> dict[str, object]:
        """As JSON holds it."""
        by_seed = {str(seed): value for seed, value in self.values.items()}
        return {"mean": self.mean, "std": self.std, "n": self.n, "by_seed": by_seed}


def over_seeds(values: Mapping[int, float | None]) -> Spread:
    """The spread of what each seed gave; None, NaN: it gave nothing."""
    known = {s: v for s, v in values.items() if v is not None and not math.isnan(v)}
    mean = statistics.fmean(known.values()) if known else None
    std = statistics.stdev(known.values()) if len(known) > 1 else None
    return Spread(mean, std, known)


def accuracy(
    records: Sequence[Record], group: str, *, checkpoint: str, split: str
) -> Spread:
    """One accuracy of one arm over its seeds.

    group: many, medium, few, overall, micro or top5. Raises ResultsError for a record
    without that checkpoint or split, and for two records of one seed.
    """
    first: dict[int, Record] = {}
    for record in records:
        if record.seed in first:
            raise ResultsError(
                f"{record.name}: stands for the same arm and seed as "
                f"{first[record.seed].name}; a mean takes each seed once"
            )
        first[record.seed] = record
    return over_seeds(
        {r.seed: getattr(r.find(checkpoint, split), group) for r in records}
    )


def paired_difference(first: Spread, baseline: Spread) -> Spread:
    """First less baseline, seed by seed, over the seeds that both have."""
    return over_seeds(
        {
            seed: value - baseline.values[seed]
            for seed, value in first.values.items()
            if seed in baseline.values
        }
    )
