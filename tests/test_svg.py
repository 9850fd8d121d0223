"""Charts: where things stand on them, and that names cannot break out."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from blt_jax.reports.run.svg import Axis, Plot, heat_map, mark, percent, shares_axis

NASTY = "<script>&\"'"


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0, 1, False, [0, 0.25, 0.5, 0.75, 1]),
        (0, 35, False, [0, 10, 20, 30]),
        (0, 5.1, False, [0, 2, 4]),
        (1, 7, False, [2, 4, 6]),
        (4, 130, True, [5, 10, 20, 50, 100]),
        (4, 700, True, [5, 10, 20, 50, 100, 200, 500]),
        (1, 2000, True, [1, 10, 100, 1000]),
        (3, 3, False, [3]),
    ],
)
def test_ticks_are_round(
    low: float, high: float, log: bool, expected: list[float]
) -> None:
    ticks = Axis(label="x", low=low, high=high, log=log).ticks()
    assert ticks == pytest.approx(expected)


def test_epochs_are_whole() -> None:
    ticks = Axis(label="x", low=1, high=3, whole=True).ticks()
    assert ticks == [1, 2, 3]
    ticks = Axis(label="x", low=20, high=30, whole=True).ticks()
    assert ticks == [20, 25, 30]


def test_places_on_an_axis() -> None:
    assert Axis(label="x", low=10, high=1000, log=True).share(100) == pytest.approx(0.5)
    assert Axis(label="x", low=2, high=4).share(3) == 0.5
    assert Axis(label="x", low=2, high=4).share(7) == 1.0  # beyond: at the end
    assert Axis(label="x", low=2, high=2).share(2) == 0.5
    assert shares_axis("y", [0.13, 0.07]).high == 0.2
    assert shares_axis("y", []).high == 1.0
    assert percent(0.025) == "2.5 %"


def test_a_chart_is_xml_with_its_marks_in_place() -> None:
    x, y = (Axis(label=NASTY, low=0, high=10) for _ in range(2))
    plot = Plot(x, y, description=NASTY)
    plot.line([(0, 0), (5, 10)], "g-few")
    plot.dots([(0, 0), (10, 10)], "g-few", titles=[NASTY, "end"])
    plot.bar(2, 4, 5, "r0", NASTY)
    plot.divide(5, NASTY)
    tree = ElementTree.fromstring(plot.svg())
    assert tree.get("aria-label") == NASTY
    texts = [one.text for one in tree.iter("text")]
    assert texts.count(NASTY) == 3
    assert {one.text for one in tree.iter("title")} == {NASTY, "end"}
    first, last = tree.iter("circle")
    left, bottom = float(first.get("cx", "")), float(first.get("cy", ""))
    right, top = float(last.get("cx", "")), float(last.get("cy", ""))
    assert left < right and top < bottom
    line = tree.find("polyline")
    assert line is not None
    ends = [float(v) for v in re.split("[ ,]", line.get("points", ""))]
    assert ends == pytest.approx([left, bottom, (left + right) / 2, top])
    bar = tree.find("rect")
    assert bar is not None
    assert float(bar.get("height", "")) == pytest.approx((bottom - top) / 2, abs=0.1)
    assert float(bar.get("width", "")) == pytest.approx((right - left) / 5, abs=0.1)


def test_every_shape_is_drawn() -> None:
    for shape in "os^D":
        ElementTree.fromstring(mark(shape, 1, 2, 3, "g-many"))


def test_heat_map_draws_what_is_not_nothing() -> None:
    shares = np.array([[1.0, 0.0, 0.0], [0.25, 0.0, 0.75]])
    chart = heat_map(
        shares,
        rows=[NASTY, "b"],
        columns=["a", "a name that is too long", "c"],
        row_label="true",
        column_label="predicted",
        description="shares",
        titles=lambda row, column: f"{NASTY} {row} {column}",
    )
    tree = ElementTree.fromstring(chart)
    cells = [one for one in tree.iter("rect") if one.get("class") == "cell"]
    # As strong as the root of the share.
    assert [one.get("fill-opacity") for one in cells] == ["1.00", "0.50", "0.87"]
    titles = [one.text for one in tree.iter("title")]
    assert titles == [f"{NASTY} 0 0", f"{NASTY} 1 0", f"{NASTY} 1 2"]
    assert float(cells[1].get("y", "")) > float(cells[0].get("y", ""))
    assert "a name that…" in {one.text for one in tree.iter("text")}


def test_labels_of_many_rows_are_left_out_evenly() -> None:
    names = [f"row {number}" for number in range(200)]
    chart = heat_map(
        np.eye(200),
        rows=names,
        columns=names,
        row_label="true",
        column_label="predicted",
        description="shares",
        titles=lambda row, column: "",
    )
    texts = [one.text for one in ElementTree.fromstring(chart).iter("text")]
    shown = [int(t[4:]) for t in texts if t and t.startswith("row")]
    assert 10 < len(shown) < 60
    assert len(set(np.diff([n for n in shown if n]))) <= 3
