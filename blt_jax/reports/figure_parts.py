"""What the figures have in common: accuracies of their arms, words, points, bars."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from blt_jax.reports.fields import ResultsError
from blt_jax.reports.figure_style import BLACK, GREY
from blt_jax.reports.records import Record
from blt_jax.reports.seeds import Spread, accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Arms = Mapping[str, Sequence[Record]]  # label -> records, one a seed
ALL_GROUPS = ("many", "medium", "few", "overall")


def accuracies(
    arms: Arms, groups: Sequence[str], *, checkpoint: str, split: str
) -> dict[str, dict[str, Spread]]:
    """Spreads by arm and group. Raises ResultsError for no arm, or one without any."""
    if not arms:
        raise ResultsError("a figure needs at least one arm")
    for arm, records in arms.items():
        if not records:
            raise ResultsError(f"arm {arm!r} has no records; run it first")
    return {
        arm: {
            g: accuracy(records, g, checkpoint=checkpoint, split=split) for g in groups
        }
        for arm, records in arms.items()
    }


def group_label(group: str) -> str:
    """What stands in a figure for a group of classes."""
    return "Overall" if group == "overall" else f"{group.capitalize()}-shot"


def group_words(groups: Sequence[str]) -> str:
    """The beginning of a caption."""
    names = [group_label(group) for group in groups]
    return f"{', '.join([names[0], *map(str.lower, names[1:])])} accuracy"


def seeds_words(arms: Arms) -> str:
    """What a caption says about seeds and bars."""
    numbers = sorted({len(records) for records in arms.values()})
    if numbers == [1]:
        return "one seed"
    many = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return (
        f"mean of {many} seeds with the sample standard deviation; small points are "
        "single seeds"
    )


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


def place_names(
    axes: "Axes",
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    *,
    avoid: Sequence[tuple[float, float]] = (),
) -> None:
    """Write a name beside each point where it covers no point and no other name.

    points, avoid: in the data's units; names stay clear of both. Of the places around
    a point, near ones first, the one with the least overlap is taken; a thin line
    leads back to the point from one further off.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # places the axes, and fixes their limits
    figure.set_layout_engine("none")
    to_pixels = axes.transData.transform
    centres = to_pixels(np.array([*points, *avoid], np.float64))
    per_point = figure.dpi / 72
    half = 3.0 * per_point
    taken = [(x - half, y - half, x + half, y + half) for x, y in centres]
    frame = axes.get_window_extent().extents
    for centre, name in zip(centres, names, strict=False):
        text = axes.annotate(
            name, (0, 0), xycoords="figure pixels", fontsize=7, zorder=5
        )
        box = text.get_window_extent()
        boxes = [
            (distance, _box(centre, angle, distance * per_point, box.width, box.height))
            for distance in (5, 9, 14, 20, 27)
            for angle in range(0, 360, 30)
        ]
        distance, best = min(
            boxes, key=lambda b: (_overlap(b[1], taken) + _outside(b[1], frame), b[0])
        )
        text.remove()
        middle = ((best[0] + best[2]) / 2, (best[1] + best[3]) / 2)
        axes.annotate(
            name,
            centre,
            middle,
            xycoords="figure pixels",
            textcoords="figure pixels",
            ha="center",
            va="center",
            fontsize=7,
            zorder=5,
            arrowprops=(
                {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0}
                if distance > 5
                else None
            ),
        )
        taken.append(best)


Box = tuple[float, float, float, float]  # left, bottom, right, top


def _box(
    centre: np.ndarray, angle: float, distance: float, width: float, height: float
) -> Box:
    """A box of that size in that direction, its edge at that distance."""
    across, up = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    x = centre[0] + across * (distance + width / 2)
    y = centre[1] + up * (distance + height / 2)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(box: Box, others: Sequence[Box]) -> float:
    """Area that a box shares with others."""
    return sum(
        max(0.0, min(box[2], o[2]) - max(box[0], o[0]))
        * max(0.0, min(box[3], o[3]) - max(box[1], o[1]))
        for o in others
    )


def _outside(box: Box, frame: Sequence[float]) -> float:
    """How far a box stands out of a frame, weighed as area."""
    width, height = box[2] - box[0], box[3] - box[1]
    outside = max(0.0, frame[0] - box[0]) + max(0.0, box[2] - frame[2])
    above = max(0.0, frame[1] - box[1]) + max(0.0, box[3] - frame[3])
    return outside * height + above * width
