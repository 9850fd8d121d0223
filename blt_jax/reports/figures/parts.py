"""What the figures have in common: accuracies of their arms, words, points, bars."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from blt_jax.reports.fields import ResultsError
from blt_jax.reports.figures.style import BLACK
from blt_jax.reports.records import Record
from blt_jax.reports.seeds import Spread, accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Arms = Mapping[str, Sequence[Record]]  # label -> records, one a seed


def check_arms(arms: Arms) -> None:
    """Raise ResultsError for no arm at all, or one without records."""
    if not arms:
        raise ResultsError("a figure needs at least one arm")
    for arm, records in arms.items():
        if not records:
            raise ResultsError(f"arm {arm!r} has no records; run it first")


def accuracies(
    arms: Arms, groups: Sequence[str], *, checkpoint: str, split: str
) -> dict[str, dict[str, Spread]]:
    """Spreads by arm and group. Raises ResultsError as `check_arms` does."""
    check_arms(arms)
    return {
        arm: {
            g: accuracy(records, g, checkpoint=checkpoint, split=split) for g in groups
        }
        for arm, records in arms.items()
    }


def with_values(
    groups: Sequence[str], found: Iterable[Mapping[str, Spread]], split: str
) -> list[str]:
    """The groups of which anything has an accuracy; raises ResultsError for none."""
    spreads = list(found)
    shown = [g for g in groups if any(by_group[g].n for by_group in spreads)]
    if not shown:
        raise ResultsError(f"no arm has an accuracy of {', '.join(groups)} on {split}")
    return shown


def group_label(group: str) -> str:
    """What stands in a figure for a group of classes."""
    return "Overall" if group == "overall" else f"{group.capitalize()}-shot"


def group_words(groups: Sequence[str]) -> str:
    """The beginning of a caption."""
    names = [group_label(group) for group in groups]
    return f"{', '.join([names[0], *map(str.lower, names[1:])])} accuracy"


def seeds_words(arms: Arms, *, points: bool = False) -> str:
    """What a caption says about seeds. points: whether single seeds are drawn."""
    numbers = sorted({len(records) for records in arms.values()})
    if numbers == [1]:
        return "one seed"
    many = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    words = f"mean and sample standard deviation of {many} seeds"
    return f"{words}, small points single ones" if points else words


def percent(values: Sequence[float | None]) -> np.ndarray:
    """Fractions as percent, float64; NaN, which is not drawn, for None."""
    return 100 * np.array(values, np.float64)


def signed(value: float) -> str:
    """A difference with its sign, a true minus; never -0.0."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")


def scatter_seeds(axes: "Axes", places: Sequence[float], spread: Spread) -> None:
    """A small faint point for each single seed."""
    heights = percent(list(spread.values.values()))
    axes.plot(
        places,
        heights,
        linestyle="none",
        marker="o",
        markersize=1.8,
        markerfacecolor="white",
        markeredgecolor=BLACK,
        markeredgewidth=0.4,
        alpha=0.7,
        zorder=4,
    )


def round_log_ticks(axes: "Axes") -> None:
    """A logarithmic horizontal axis with ticks at 1, 2, 5, 10, 20 and so on."""
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
