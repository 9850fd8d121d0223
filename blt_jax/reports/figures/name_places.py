"""Names beside the points of a figure, where they cover neither points nor lines."""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from blt_jax.reports.figures.style import GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top

_NEAR = 5  # points from the middle of a marker
_MARKER = 3  # points from its middle to its edge
_CROWD = 60  # points to the markers that compete for room
_THIN = 20  # how much worse a thin line through things is than its area
_DISTANCES = (_NEAR, 9, 14, 20, 27, 35, 45, 60)
_ANGLES = range(0, 360, 30)


def place_names(
    axes: "Axes",
    points: Sequence[Point],
    names: Sequence[str],
    *,
    lines: Sequence[Sequence[Point]] = (),
) -> None:
    """Write each name beside its point, the last thing done to a figure.

    points, and lines through points to keep clear of: in the data's units. Of many
    places around a point, near ones first, the one that covers the least is taken; a
    thin line leads back to the point from one further off, and covers things too.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # places the axes, and fixes their limits
    figure.set_layout_engine("none")
    axes.set_autoscale_on(False)
    to_pixels = axes.transData.transform
    pixels_per_point = figure.dpi / 72
    centres = to_pixels(np.array(points, np.float64))
    taken = [_square(centre, _MARKER * pixels_per_point) for centre in centres]
    for line in lines:
        for place in _along(to_pixels(np.array(line, np.float64)), pixels_per_point):
            taken.append(_square(place, pixels_per_point))
    frame = axes.get_window_extent().extents
    leaders: list[Box] = []
    # Those in the thick of it choose first: they have the least room.
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1)
    neighbours = np.sum(apart < _CROWD * pixels_per_point, axis=-1)
    for number in np.argsort(-neighbours, stable=True):
        point, centre, name = points[number], centres[number], names[number]
        text = axes.annotate(name, point, fontsize=7)
        size = text.get_window_extent()
        text.remove()
        tried: list[tuple[int, int, Box, list[Box]]] = []
        for distance, angle in itertools.product(_DISTANCES, _ANGLES):
            box = _box(centre, angle, distance * pixels_per_point, size)
            leader = _leader(centre, box, pixels_per_point) if distance > _NEAR else []
            covered = _overlap(box, taken) + _outside(box, frame)
            crossed = sum(_overlap(part, taken) for part in leader)
            covered += _THIN * (crossed + _overlap(box, leaders))
            tried.append((round(covered), distance, box, leader))
        _, distance, box, leader = min(tried, key=lambda one: one[:2])
        _write(axes, name, point, centre, box, pixels_per_point, led=bool(leader))
        taken.append(box)
        leaders += leader


def _write(
    axes: "Axes",
    name: str,
    point: Point,
    centre: np.ndarray,
    box: Box,
    pixels_per_point: float,
    *,
    led: bool,
) -> None:
    """A name in its box, and the line to it from its point where it is led there."""
    low, high = np.array(box[:2]), np.array(box[2:])
    x, y = ((low + high) / 2 - centre) / pixels_per_point
    x_end, y_end = (np.clip(centre, low, high) - low) / (high - low)
    line = {
        "arrowstyle": "-",
        "color": GREY,
        "linewidth": 0.5,
        "shrinkA": 0,
        "relpos": (float(x_end), float(y_end)),
    }
    axes.annotate(
        name,
        point,
        (float(x), float(y)),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=7,
        zorder=5,
        arrowprops=line if led else None,
    )


def _leader(centre: np.ndarray, box: Box, pixels_per_point: float) -> list[Box]:
    """What the line covers from a marker's edge to the nearest place of a box."""
    way = np.clip(centre, box[:2], box[2:]) - centre
    edge = 2**0.5 * _MARKER * pixels_per_point / np.hypot(*way)  # as a share of the way
    line = np.stack([centre + min(edge, 1) * way, centre + way])
    half = pixels_per_point / 2
    return [_square(place, half) for place in _along(line, half)]


def _square(centre: np.ndarray, half: float) -> Box:
    return centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half


def _along(line: np.ndarray, step: float) -> Iterator[np.ndarray]:
    """Places on a line through points [n, 2], at most two steps apart."""
    for begin, end in itertools.pairwise(line):
        number = 1 + int(np.hypot(*(end - begin)) / (2 * step))
        for share in np.linspace(0, 1, number + 1):
            yield begin + share * (end - begin)


def _box(centre: np.ndarray, angle: float, distance: float, size: "Bbox") -> Box:
    """A box of that size in that direction, its edge at that distance."""
    across, up = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    x = centre[0] + across * (distance + size.width / 2)
    y = centre[1] + up * (distance + size.height / 2)
    half_width, half_height = size.width / 2, size.height / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


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
