"""Points: accuracy against the network's cost (Fig. 5a, b), and trade-offs of arms."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from blt_jax.reports.fields import ResultsError
from blt_jax.reports.figures.name_places import place_names
from blt_jax.reports.figures.parts import (
    Arms,
    accuracies,
    check_arms,
    group_label,
    percent,
    round_log_ticks,
    seeds_words,
    with_values,
)
from blt_jax.reports.figures.style import (
    COLUMN_WIDTH,
    GREY,
    PAGE_WIDTH,
    Drawing,
    add_legend,
    look,
    new_figure,
    style,
)
from blt_jax.reports.records import Record
from blt_jax.reports.seeds import Spread, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_accuracy_against_flops(
    arms: Arms, *, group: str = "overall", checkpoint: str = "best", split: str = "test"
) -> Drawing:
    """Accuracy against the forward pass's operations, by backbone (Fig. 5a, b).

    arms: label -> its records of all seeds and backbones, told apart by the recipe.
    Raises ResultsError for a record without FLOPs.
    """
    spreads: dict[str, dict[str, Spread]] = {}
    flops: dict[str, float] = {}
    everything: dict[str, list[Record]] = {}
    check_arms(arms)
    for arm, records in arms.items():
        by_backbone: dict[str, list[Record]] = {}
        for record in sorted(records, key=_flops):
            by_backbone.setdefault(record.recipe.backbone, []).append(record)
            flops[record.recipe.backbone] = _flops(record)
        named = {f"{arm}, {name}": found for name, found in by_backbone.items()}
        everything |= named
        found = accuracies(named, [group], checkpoint=checkpoint, split=split)
        with_values([group], found.values(), split)
        spreads[arm] = {
            name: row[group]
            for name, row in zip(by_backbone, found.values(), strict=True)
        }
    with style():
        figure, (axes,) = new_figure(width=COLUMN_WIDTH, height=2.2)
        for number, (arm, by_name) in enumerate(spreads.items()):
            appearance = look(number)
            axes.errorbar(
                [flops[name] / 1e9 for name in by_name],
                percent([spread.mean for spread in by_name.values()]),
                percent([spread.std for spread in by_name.values()]),
                color=appearance.colour,
                marker=appearance.marker,
                linestyle="none",
                elinewidth=0.8,
                capsize=2,
                label=arm,
            )
        round_log_ticks(axes)
        axes.set_xlabel("Forward pass of one image (GFLOP)")
        axes.set_ylabel(f"{group_label(group)} accuracy (%)")
        axes.margins(x=0.12, y=0.15)
        add_legend(figure, axes)
        _name_backbones(axes, spreads, flops)
    return Drawing(
        figure,
        f"{group_label(group)} accuracy on {split} against the operations of one "
        f"image's forward pass, {seeds_words(everything)}.",
        {
            "checkpoint": checkpoint,
            "split": split,
            "group": group,
            "flops": flops,
            "arms": {
                arm: {name: spread.numbers() for name, spread in by_name.items()}
                for arm, by_name in spreads.items()
            },
        },
    )


def draw_pareto(
    arms: Arms, *, cost: bool = False, checkpoint: str = "best", split: str = "test"
) -> Drawing:
    """Few-shot accuracy against many-shot accuracy, or against the ascent's cost.

    cost: whether the horizontal axis is image gradients evaluated per trained image,
    where less is better. Arms that no other arm beats on both axes, by their means,
    are joined by a line.

    Raises ResultsError when no arm has both values; one that lacks one is left out,
    and the numbers name it.
    """
    spreads = accuracies(arms, ("many", "few"), checkpoint=checkpoint, split=split)
    across = {
        arm: _cost(records) if cost else spreads[arm]["many"]
        for arm, records in arms.items()
    }
    few = {arm: spreads[arm]["few"] for arm in arms}
    shown = [arm for arm in arms if across[arm].n and few[arm].n]
    if not shown:
        raise ResultsError(f"no arm has the accuracies on {split} of a trade-off")
    points = {arm: (_mean(across[arm]), _mean(few[arm])) for arm in shown}
    best = non_dominated(points, less_is_better=cost)
    scale = 1 if cost else 100
    places = {arm: (scale * x, 100 * y) for arm, (x, y) in points.items()}
    front = [places[arm] for arm in best]
    with style():
        width = COLUMN_WIDTH if len(shown) <= 8 else PAGE_WIDTH
        figure, (axes,) = new_figure(width=width, height=2.6)
        axes.plot(*zip(*front, strict=True), color=GREY, linewidth=0.9, zorder=1)
        axes.grid(axis="x")
        bars = []
        for number, arm in enumerate(shown):
            widths = (scale * (across[arm].std or 0), 100 * (few[arm].std or 0))
            bars += _cross(axes, places[arm], widths, number)
        axes.set_xlabel(
            "Image gradients per trained image" if cost else "Many-shot accuracy (%)"
        )
        axes.set_ylabel("Few-shot accuracy (%)")
        axes.margins(0.12)
        place_names(axes, list(places.values()), shown, lines=[front, *bars])
    against = (
        "the ascent's image gradients per trained image"
        if cost
        else "many-shot accuracy"
    )
    return Drawing(
        figure,
        f"Few-shot accuracy on {split} against {against}, "
        f"{seeds_words(arms)}; the line joins what no other arm beats "
        "on both.",
        {
            "checkpoint": checkpoint,
            "split": split,
            "horizontal": "image gradients per trained image" if cost else "many",
            "arms": {
                arm: {"horizontal": across[arm].numbers(), "few": few[arm].numbers()}
                for arm in shown
            },
            "non_dominated": best,
            "left_out": [arm for arm in arms if arm not in shown],
        },
    )


def _name_backbones(
    axes: "Axes",
    spreads: Mapping[str, Mapping[str, Spread]],
    flops: Mapping[str, float],
) -> None:
    """A thin line through the points of each backbone, and its name beside them."""
    bars: dict[str, list[float]] = {}
    highest: dict[str, float] = {}
    for by_name in spreads.values():
        for name, spread in by_name.items():
            if spread.mean is not None:
                ends = [spread.mean + d for d in (-(spread.std or 0), spread.std or 0)]
                bars.setdefault(name, []).extend(ends)
                highest[name] = max(spread.mean, highest.get(name, 0.0))
    across = {name: flops[name] / 1e9 for name in highest}
    lines = [
        [(across[name], 100 * min(ends)), (across[name], 100 * max(ends))]
        for name, ends in bars.items()
    ]
    for (x, low), (_, high) in lines:
        axes.plot([x, x], [low, high], color=GREY, linewidth=0.7, zorder=1)
    points = [(across[name], 100 * top) for name, top in highest.items()]
    place_names(axes, points, list(highest), lines=lines)


def non_dominated(
    points: Mapping[str, tuple[float, float]], *, less_is_better: bool = False
) -> list[str]:
    """The names no other point beats on one axis without losing on the other.

    points: (horizontal, vertical) by name. More is better, but on the horizontal axis
    where less_is_better. Ordered from left to right; equal points all stay.
    """
    sign = -1 if less_is_better else 1

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and sign * (one[0] - other[0]) >= 0 and one[1] >= other[1]

    kept = [
        name
        for name, point in points.items()
        if not any(beats(other, point) for other in points.values())
    ]
    return sorted(kept, key=lambda name: points[name])


def _cross(
    axes: "Axes",
    place: tuple[float, float],
    widths: tuple[float, float],
    number: int,
) -> list[list[tuple[float, float]]]:
    """One arm's point and the deviations of both its coordinates; returns the lines."""
    appearance, (x, y), (dx, dy) = look(number), place, widths
    axes.errorbar(
        [x],
        [y],
        xerr=[dx] if dx else None,
        yerr=[dy] if dy else None,
        color=appearance.colour,
        marker=appearance.marker,
        markersize=5,
        markeredgecolor="white",
        markeredgewidth=0.4,
        linestyle="none",
        elinewidth=0.7,
        zorder=3,
    )
    return [[(x - dx, y), (x + dx, y)], [(x, y - dy), (x, y + dy)]]


def _flops(record: Record) -> float:
    if not record.recipe.flops:
        raise ResultsError(f"{record.name}: recipe.flops is missing, which is drawn")
    return record.recipe.flops


def _cost(records: Sequence[Record]) -> Spread:
    return over_seeds(
        {
            r.seed: r.ascent.evaluations / r.ascent.trained
            if r.ascent.trained
            else None
            for r in records
        }
    )


def _mean(spread: Spread) -> float:
    return float(np.nan if spread.mean is None else spread.mean)
