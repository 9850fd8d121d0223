"""Bars: arms by shot (Fig. 3e, 5c), and what each class gained (Fig. 4)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from blt_jax.reports.fields import ResultsError
from blt_jax.reports.figures.parts import (
    Arms,
    accuracies,
    group_label,
    group_words,
    percent,
    scatter_seeds,
    seeds_words,
    signed,
    with_values,
)
from blt_jax.reports.figures.style import (
    BLACK,
    COLUMN_WIDTH,
    GREY,
    PAGE_WIDTH,
    SHOT_LOOKS,
    Drawing,
    add_legend,
    look,
    new_figure,
    style,
)
from blt_jax.reports.records import Record
from blt_jax.reports.results import ALL_GROUPS
from blt_jax.reports.seeds import Spread, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
_POINTS_UP_TO = 6  # arms; the bars of more are too narrow for points of single seeds


def draw_arms(
    arms: Arms,
    *,
    groups: Sequence[str] = ALL_GROUPS,
    checkpoint: str = "best",
    split: str = "test",
) -> Drawing:
    """Accuracy of several arms side by side, a cluster for each group (Fig. 3e).

    A group that no arm has classes of is left out. Raises ResultsError when nothing
    is left, or a record lacks that checkpoint or split.
    """
    spreads = accuracies(arms, groups, checkpoint=checkpoint, split=split)
    shown = with_values(groups, spreads.values(), split)
    with style():
        width = COLUMN_WIDTH if len(arms) * len(shown) <= 24 else PAGE_WIDTH
        figure, (axes,) = new_figure(width=width, height=2.0)
        for number, arm in enumerate(arms):
            _bars(axes, arm, [spreads[arm][g] for g in shown], number, len(arms))
        axes.set_xticks(range(len(shown)), [group_label(g) for g in shown])
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel("Accuracy (%)")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.02)
        add_legend(figure, axes)
    numbers = {
        arm: {group: spread.numbers() for group, spread in by_group.items()}
        for arm, by_group in spreads.items()
    }
    seeds = seeds_words(arms, points=len(arms) <= _POINTS_UP_TO)
    return Drawing(
        figure,
        f"{group_words(shown)} on {split}, {seeds}.",
        {"checkpoint": checkpoint, "split": split, "arms": numbers},
    )


def draw_dynamic_against_static(
    arms: Arms, *, checkpoint: str = "best", split: str = "test"
) -> Drawing:
    """Few-shot and overall accuracy of hallucinating anew and only once (Fig. 5c)."""
    groups = ("few", "overall")
    return draw_arms(arms, groups=groups, checkpoint=checkpoint, split=split)


def draw_gains(
    arm: Sequence[Record],
    baseline: Sequence[Record],
    *,
    names: tuple[str, str] | None = None,
    checkpoint: str = "best",
    split: str = "test",
) -> Drawing:
    """Each class's accuracy less the baseline's, classes sorted by count (Fig. 4).

    Differences are taken seed by seed, then averaged; seeds that only one of the two
    has are left out. names: of the two in the figure, else their arms'.

    Raises ResultsError when no seed is common, or the classes are not the same.
    """
    pairs = _pairs(arm, baseline)
    first, second = names or (pairs[0][0].arm, pairs[0][1].arm)
    record = pairs[0][0]
    counts = np.asarray(record.class_counts)
    order = np.argsort(-counts, kind="stable")
    gains = {
        new.seed: _per_class(new, checkpoint, split)
        - _per_class(old, checkpoint, split)
        for new, old in pairs
    }
    mean = np.mean(list(gains.values()), axis=0)[order]
    masks = dict(zip(("many", "medium", "few"), record.masks, strict=True))
    averages = {
        name: over_seeds({seed: _mean(gain[mask]) for seed, gain in gains.items()})
        for name, mask in masks.items()
    }
    with style():
        figure, (axes,) = new_figure(width=COLUMN_WIDTH, height=1.9)
        _gain_steps(axes, mean, {n: m[order] for n, m in masks.items()}, averages)
        axes.axhline(0, color=BLACK, linewidth=0.7)
        axes.set_xlim(0, len(mean))
        axes.set_xlabel(f"Class, by training images ({counts.max()} to {counts.min()})")
        axes.set_ylabel(f"Gain over {second}\n(percentage points)")
        add_legend(figure, axes, title="Average gain (percentage points)")
    return Drawing(
        figure,
        f"Accuracy on {split} of {first} less that of {second} for each class; in the "
        f"legend the averages by shot. {_pairs_words(len(pairs))}.",
        {
            "checkpoint": checkpoint,
            "split": split,
            "arm": first,
            "baseline": second,
            "seeds": sorted(gains),
            "average_gain": {n: spread.numbers() for n, spread in averages.items()},
            "classes": [
                {
                    "name": record.class_names[label],
                    "training_images": int(counts[label]),
                    "gain": None if np.isnan(gain) else float(gain),
                }
                for label, gain in zip(order, mean, strict=True)
            ],
        },
    )


def _bars(
    axes: "Axes", arm: str, spreads: Sequence[Spread], number: int, of: int
) -> None:
    """One arm's bars, the number-th in each cluster, with their spread and seeds."""
    appearance, width = look(number), 0.84 / of
    places = np.arange(len(spreads)) + (number - (of - 1) / 2) * width
    axes.bar(
        places,
        percent([spread.mean for spread in spreads]),
        0.92 * width,
        yerr=percent([spread.std for spread in spreads]),
        color=appearance.colour,
        hatch=appearance.hatch,
        edgecolor="white",  # of the hatch
        linewidth=0,
        error_kw={"elinewidth": 0.8, "capsize": min(2.0, 8 / of), "capthick": 0.8},
        label=arm,
    )
    for place, spread in zip(places, spreads, strict=True):
        if spread.n > 1 and of <= _POINTS_UP_TO:
            scatter_seeds(axes, [place + 0.24 * width] * spread.n, spread)


def _gain_steps(
    axes: "Axes",
    gains: np.ndarray,
    masks: Mapping[str, np.ndarray],
    averages: Mapping[str, Spread],
) -> None:
    """Filled steps for each group, whose classes are neighbours."""
    for name, mask in masks.items():
        average = averages[name].mean
        places = np.flatnonzero(mask)
        if average is None or not places.size:
            continue
        begin, end = places[0], places[-1] + 1
        axes.stairs(
            100 * np.nan_to_num(gains[begin:end]),
            np.arange(begin, end + 1),
            fill=True,
            color=SHOT_LOOKS[name].colour,
            label=f"{name.capitalize()} {signed(100 * average)}",
        )
        if end < len(gains):
            axes.axvline(end, color=GREY, linewidth=0.7, linestyle=":")


def _pairs(
    arm: Sequence[Record], baseline: Sequence[Record]
) -> list[tuple[Record, Record]]:
    """Records of the seeds that both have."""
    old = {record.seed: record for record in baseline}
    pairs = [(record, old[record.seed]) for record in arm if record.seed in old]
    if not pairs:
        raise ResultsError(
            "gains are taken seed by seed, but the arm has the seeds "
            f"{sorted(r.seed for r in arm)} and the baseline {sorted(old)}"
        )
    first = pairs[0][0]
    for record in (record for pair in pairs for record in pair):
        same = (record.class_names, record.class_counts)
        if same != (first.class_names, first.class_counts):
            raise ResultsError(
                f"{record.name}: its classes are not those of {first.name}"
            )
    return pairs


def _pairs_words(number: int) -> str:
    return "One seed" if number == 1 else f"Mean of {number} seeds, paired"


def _per_class(record: Record, checkpoint: str, split: str) -> np.ndarray:
    """[C] float64, NaN where a class has no image."""
    return np.array(record.find(checkpoint, split).per_class, np.float64)


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
