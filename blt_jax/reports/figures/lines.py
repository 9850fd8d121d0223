"""Lines: accuracy against a field's value or the batch size, errors against rank."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from blt_jax.reports.fields import ResultsError
from blt_jax.reports.figures.parts import (
    Arms,
    accuracies,
    check_arms,
    group_label,
    group_words,
    percent,
    round_log_ticks,
    scatter_seeds,
    seeds_words,
    with_values,
)
from blt_jax.reports.figures.style import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    SHOT_LOOKS,
    Drawing,
    Look,
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


def draw_sweep(
    records: Sequence[Record],
    field: str,
    *,
    label: str | None = None,
    default: float | None = None,
    groups: Sequence[str] = ALL_GROUPS,
    checkpoint: str = "best",
    split: str = "test",
) -> Drawing:
    """Accuracy against the value of one field (Fig. 3a to 3d).

    field: "model.alpha"; its value is read from the records' overrides. label: of the
    axis, "α". default: the value in records that do not override the field.

    Raises ResultsError for a record without a value of the field.
    """
    by_value = _split(records, lambda record: _value(record, field, default))
    spreads = accuracies(
        {f"{field}={value:g}": found for value, found in by_value.items()},
        groups,
        checkpoint=checkpoint,
        split=split,
    )
    values = list(by_value)
    columns = {g: [by_group[g] for by_group in spreads.values()] for g in groups}
    shown = with_values(groups, spreads.values(), split)
    with style():
        figure, (axes,) = new_figure(width=COLUMN_WIDTH, height=2.1)
        for group in shown:
            _line(axes, group_label(group), values, columns[group], SHOT_LOOKS[group])
        axes.set_xlabel(label or field)
        axes.set_ylabel("Accuracy (%)")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        add_legend(figure, axes)
    return Drawing(
        figure,
        f"{group_words(shown)} on {split} against {field}; "
        f"{seeds_words({str(v): f for v, f in by_value.items()}, points=True)}.",
        {
            "checkpoint": checkpoint,
            "split": split,
            "field": field,
            "values": values,
            "groups": {g: [s.numbers() for s in columns[g]] for g in shown},
        },
    )


def draw_batch_sizes(
    arms: Arms,
    *,
    groups: Sequence[str] = ALL_GROUPS,
    checkpoint: str = "best",
    split: str = "test",
) -> Drawing:
    """Accuracy of a few arms against the batch size, a panel each group (Fig. 3f).

    arms: label -> its records of all seeds and batch sizes, told apart by the recipe.
    """
    spreads: dict[str, dict[int, dict[str, Spread]]] = {}
    everything: dict[str, list[Record]] = {}
    check_arms(arms)
    for arm, records in arms.items():
        split_up = _split(records, lambda record: record.recipe.batch_size)
        named = {f"{arm} {size}": found for size, found in split_up.items()}
        everything |= named
        rows = accuracies(named, groups, checkpoint=checkpoint, split=split)
        spreads[arm] = dict(zip(split_up, rows.values(), strict=True))
    everywhere = [row for by_size in spreads.values() for row in by_size.values()]
    shown = with_values(groups, everywhere, split)
    sizes = sorted({size for by_size in spreads.values() for size in by_size})
    with style():
        lines = -(-len(shown) // 2)
        height = 0.3 + 1.2 * lines
        figure, panels = new_figure(lines, 2, width=COLUMN_WIDTH, height=height)
        for axes, group in zip(panels, shown, strict=False):
            for number, (arm, by_size) in enumerate(spreads.items()):
                column = [s[group] for s in by_size.values()]
                _line(axes, arm, list(by_size), column, look(number))
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()
            axes.margins(x=0.08)
            axes.set_title(group_label(group))
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        figure.supxlabel("Batch size (images)", fontsize=8)
        figure.supylabel("Accuracy (%)", fontsize=8)
        add_legend(figure, panels[0])
    return Drawing(
        figure,
        f"{group_words(shown)} on {split} against the batch size; "
        f"{seeds_words(everything, points=True)}.",
        {
            "checkpoint": checkpoint,
            "split": split,
            "arms": {
                arm: {
                    str(size): {g: s.numbers() for g, s in by_group.items()}
                    for size, by_group in by_size.items()
                }
                for arm, by_size in spreads.items()
            },
        },
    )


def draw_error_against_rank(
    arms: Arms, *, ranks: int = 20, checkpoint: str = "best", split: str = "test"
) -> Drawing:
    """Average error of the tail classes by rank of the mistaken class (Fig. 5d).

    ranks: how many to draw, the most confusing class first.

    Raises ResultsError when no arm has tail classes in that split.
    """
    check_arms(arms)
    curves = {
        arm: [
            over_seeds({r.seed: _error(r, rank, checkpoint, split) for r in records})
            for rank in range(_length(records, ranks, checkpoint, split))
        ]
        for arm, records in arms.items()
    }
    if not any(curves.values()):
        raise ResultsError(f"no arm has errors of tail classes on {split} to rank")
    with style():
        width = COLUMN_WIDTH if len(arms) <= 6 else PAGE_WIDTH
        figure, (axes,) = new_figure(width=width, height=2.1)
        for number, (arm, curve) in enumerate(curves.items()):
            if curve:
                places = list(range(1, len(curve) + 1))
                _line(axes, arm, places, curve, look(number), seeds=False)
        axes.set_xlabel("Rank of the mistaken class (1: most confused)")
        axes.set_ylabel("Average error of\ntail classes (%)")
        axes.set_ylim(bottom=0)
        round_log_ticks(axes)
        add_legend(figure, axes)
    return Drawing(
        figure,
        f"Average error of the tail classes on {split} against the rank of the class "
        f"mistaken for them, {seeds_words(arms)}.",
        {
            "checkpoint": checkpoint,
            "split": split,
            "arms": {a: [s.numbers() for s in curve] for a, curve in curves.items()},
        },
    )


def _line(
    axes: "Axes",
    label: str,
    places: Sequence[float],
    spreads: Sequence[Spread],
    appearance: Look,
    *,
    seeds: bool = True,
) -> None:
    """The means, a band of the standard deviation, and the single seeds."""
    means = percent([spread.mean for spread in spreads])
    bands = np.nan_to_num(percent([spread.std for spread in spreads]))
    (line,) = axes.plot(
        places,
        means,
        color=appearance.colour,
        linestyle=appearance.dashes,
        marker=appearance.marker,
        markersize=4.5 if seeds else 3,
        label=label,
    )
    line.set_zorder(3)
    if bands.any():
        axes.fill_between(
            places,
            means - bands,
            means + bands,
            color=appearance.colour,
            alpha=0.18,
            linewidth=0,
        )
    for place, spread in zip(places, spreads, strict=True):
        if seeds and spread.n > 1:
            scatter_seeds(axes, [place] * spread.n, spread)


def _split(records: Sequence[Record], key: Any) -> dict[Any, list[Record]]:
    """Records by a value of theirs, ascending."""
    found: dict[Any, list[Record]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record)
    return dict(sorted(found.items()))


def _value(record: Record, field: str, default: float | None) -> float:
    value = record.overrides.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ResultsError(
            f"{record.name}: overrides.{field} is {value!r}, but a sweep needs a number"
        )
    return value


def _length(records: Sequence[Record], ranks: int, checkpoint: str, split: str) -> int:
    lengths = [len(r.find(checkpoint, split).error_by_rank) for r in records]
    return min([ranks, *lengths])


def _error(record: Record, rank: int, checkpoint: str, split: str) -> float:
    return record.find(checkpoint, split).error_by_rank[rank]
