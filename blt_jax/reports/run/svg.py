"""Charts as inline SVG: axes, lines, points, bars and heat maps, coloured by CSS.

A series names a class (of `style.py`), which gives it its colour on light and on dark.
Every text is escaped.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 360, 230  # of a chart, in units that are about a pixel
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 18, 42
Point = tuple[float, float]


def percent(share: float) -> str:
    """A share as a label: 0.25 -> 25 %."""
    return f"{100 * share:.6g} %"


def plain(value: float) -> str:
    """A number as a label, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What a direction shows: its range, ends included, and the labels on it."""

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False  # labels at whole numbers only
    form: Callable[[float], str] = plain

    def share(self, value: float) -> float:
        """Where on the axis a value is, from 0 to 1; what is beyond stops at the end.

        A logarithmic one takes values above 0.
        """
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5

    def ticks(self) -> list[float]:
        """Four or so round numbers from end to end; powers of ten and 2, 5 if log."""
        if self.log:
            first, last = math.log10(self.low), math.log10(self.high)
            factors = (1, 2, 5) if last - first < 3 else (1,)
            powers = range(math.floor(first), math.ceil(last) + 1)
            found = [factor * 10.0**power for power in powers for factor in factors]
        else:
            rough = max((self.high - self.low) / 4, 1.0 if self.whole else 1e-12)
            size = 10.0 ** math.floor(math.log10(rough))
            steps = (1, 2, 5, 10) if self.whole else (1, 2, 2.5, 5, 10)
            step = next(f * size for f in steps if f * size >= 0.999 * rough)
            first = math.ceil(self.low / step - 1e-9)
            last = math.floor(self.high / step + 1e-9)
            found = [number * step for number in range(first, last + 1)]
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        return [t for t in found if self.low - slack <= t <= self.high + slack]


def shares_axis(label: str, values: Iterable[float]) -> Axis:
    """From 0 to a round percentage above the largest of the shares."""
    highest = max(values, default=1.0)
    tops = (0.05, 0.1, 0.2, 0.25, 0.4, 0.5, 0.6, 0.8, 1.0)
    high = next((top for top in tops if top >= highest), 1.0)
    return Axis(label=label, low=0, high=high, form=percent)


class Plot:
    """A chart with two axes; marks are added, and `svg` gives the whole."""

    def __init__(self, x: Axis, y: Axis, *, description: str) -> None:
        """description: what a person who cannot see the chart is told."""
        self.x, self.y, self.description = x, y, description
        self._marks: list[str] = []

    def _at(self, point: Point) -> Point:
        x, y = self.x.share(point[0]), self.y.share(point[1])
        across, down = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
        return _LEFT + x * across, HEIGHT - _BOTTOM - y * down

    def line(self, points: Sequence[Point], style: str) -> None:
        """Connect the points in order."""
        if len(points) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self._at, points))
            self._marks.append(f'<polyline class="line {style}" points="{path}"/>')

    def dots(
        self,
        points: Sequence[Point],
        style: str,
        *,
        titles: Sequence[str] = (),
        shape: str = "o",
        sizes: Sequence[float] = (),
    ) -> None:
        """A mark at each point; titles show under the mouse, sizes are radii."""
        for number, point in enumerate(points):
            size = sizes[number] if sizes else 3.0
            told = f"<title>{escape(titles[number])}</title>" if titles else ""
            self._marks.append(mark(shape, *self._at(point), size, style, told))

    def bar(
        self, left: float, right: float, height: float, style: str, title: str
    ) -> None:
        """A bar from the axis up; left and right are values of x."""
        x0, y = self._at((left, height))
        x1, bottom = self._at((right, self.y.low))
        self._marks.append(
            f'<rect class="bar {style}" x="{x0:.1f}" y="{y:.1f}" '
            f'width="{x1 - x0:.1f}" height="{bottom - y:.1f}">'
            f"<title>{escape(title)}</title></rect>"
        )

    def divide(self, x: float, label: str) -> None:
        """A line from top to bottom with a label."""
        at = self._at((x, self.y.high))[0]
        self._marks.append(
            f'<path class="divide" d="M{at:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>'
            f'<text class="note" x="{at:.1f}" y="{_TOP - 6}" text-anchor="middle">'
            f"{escape(label)}</text>"
        )

    def svg(self) -> str:
        """The chart, wide as its surroundings."""
        parts = []
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        for tick in self.y.ticks():
            y = self._at((self.x.low, tick))[1]
            parts.append(
                f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/><text class="tick" '
                f'x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">'
                f"{escape(self.y.form(tick))}</text>"
            )
        parts.append(f'<path class="axis" d="M{_LEFT} {bottom}H{right}"/>')
        for tick in self.x.ticks():
            x = self._at((tick, self.y.low))[0]
            parts.append(
                f'<path class="axis" d="M{x:.1f} {bottom}v4"/><text class="tick" '
                f'x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">'
                f"{escape(self.x.form(tick))}</text>"
            )
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<text class="label" x="{(_LEFT + right) / 2}" y="{HEIGHT - 7}" '
            f'text-anchor="middle">{escape(self.x.label)}</text>'
            f'<text class="label" x="11" y="{middle}" text-anchor="middle" '
            f'transform="rotate(-90 11 {middle})">{escape(self.y.label)}</text>'
        )
        return _svg(WIDTH, HEIGHT, self.description, parts + self._marks)


def mark(
    shape: str, x: float, y: float, size: float, style: str, inside: str = ""
) -> str:
    """One mark: "o" a circle, "s" a square, "^" a triangle, "D" a diamond."""
    if shape == "o":
        form, tag = f'cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"', "circle"
    else:
        corners = {
            "s": "M{x} {y}m-{r} -{r}h{d}v{d}h-{d}z",
            "^": "M{x} {y}m0 -{d}l{d} {h}h-{w}z",
            "D": "M{x} {y}m0 -{d}l{d} {d}l-{d} {d}l-{d} -{d}z",
        }[shape]
        numbers = {
            "s": {"r": 0.9 * size, "d": 1.8 * size},
            "^": {"d": 1.15 * size, "h": 2.1 * size, "w": 2.3 * size},
            "D": {"d": 1.2 * size},
        }[shape]
        known = {name: f"{value:.1f}" for name, value in numbers.items()}
        path = corners.format(x=f"{x:.1f}", y=f"{y:.1f}", **known)
        form, tag = f'd="{path}"', "path"
    return f'<{tag} class="dot {style}" {form}>{inside}</{tag}>'


def heat_map(
    shares: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    row_label: str,
    column_label: str,
    description: str,
    titles: Callable[[int, int], str],
    square: bool = True,
) -> str:
    """Cells of a colour as strong as the root of their share, so that small ones show.

    shares: [rows, columns] in [0, 1], rows downwards; cells of 0 are empty. titles:
    what a cell says under the mouse. Labels are left out evenly where there is no room
    for all. square: else flatter cells.
    """
    height, width = shares.shape
    shown = [_shortened(text) for text in rows]
    left = 28 + 6.2 * max(map(len, shown))
    across = WIDTH - left - 6
    cell = across / width
    tall = cell if square else max(min(cell, 190 / height), 8)
    top, bottom = 6, 6 + tall * height
    parts = [
        f'<rect class="ground" x="{left:.1f}" y="{top}" width="{across:.1f}" '
        f'height="{tall * height:.1f}"/>'
    ]
    for row, column in zip(*np.nonzero(shares), strict=True):
        x, y = left + cell * column, top + tall * row
        strength = math.sqrt(shares[row, column])
        parts.append(
            f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" '
            f'height="{tall:.1f}" fill-opacity="{strength:.2f}">'
            f"<title>{escape(titles(int(row), int(column)))}</title></rect>"
        )
    for number in _some(height, room=tall * height / 13):
        y = top + tall * (number + 0.5) + 3.5
        parts.append(
            f'<text class="tick" x="{left - 5:.1f}" y="{y:.1f}" text-anchor="end">'
            f"{escape(shown[number])}</text>"
        )
    below = [_shortened(text) for text in columns]
    longest = max(map(len, below))
    for number in _some(width, room=across / (6.2 * longest + 8)):
        x = left + cell * (number + 0.5)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 14:.1f}" '
            f'text-anchor="middle">{escape(below[number])}</text>'
        )
    middle = (top + bottom) / 2
    parts.append(
        f'<text class="label" x="{left + across / 2:.1f}" y="{bottom + 33:.1f}" '
        f'text-anchor="middle">{escape(column_label)}</text>'
        f'<text class="label" x="11" y="{middle:.1f}" text-anchor="middle" '
        f'transform="rotate(-90 11 {middle:.1f})">{escape(row_label)}</text>'
    )
    return _svg(WIDTH, math.ceil(bottom + 40), description, parts)


def _some(count: int, *, room: float) -> range:
    """Every n-th of so many, so that they fit."""
    return range(0, count, max(1, math.ceil(count / max(room, 1))))


def _shortened(text: str, longest: int = 12) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _svg(width: int, height: int, description: str, parts: Iterable[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(description)}">{"".join(parts)}</svg>'
    )
