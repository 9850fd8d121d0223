"""Figures: the numbers drawn, by hand; the words in them; files that do not change."""

import builtins
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from made_up_records import ARMS, arms, recipe, record

from blt_jax.reports.fields import ResultsError
from blt_jax.reports.figures import (
    Drawing,
    draw_accuracy_against_flops,
    draw_arms,
    draw_batch_sizes,
    draw_dynamic_against_static,
    draw_error_against_rank,
    draw_gains,
    draw_pareto,
    draw_sweep,
    save_drawing,
)
from blt_jax.reports.figures.name_places import place_names
from blt_jax.reports.figures.scatter import non_dominated
from blt_jax.reports.figures.style import look, new_figure, style
from blt_jax.reports.records import Record

pytest.importorskip("matplotlib", reason="figures need the extra `figures`")


def words(drawing: Drawing) -> str:
    """All text of a figure, legend and axes included, without saving it."""
    from matplotlib.text import Text

    found = [t.get_text() for t in drawing.figure.findobj(Text) if t.get_visible()]
    return "\n".join(found)


def swept(values: tuple[float, ...] = (0, 0.25, 0.5), seeds: int = 3) -> list[Record]:
    return [
        record(
            f"p{p}",
            seed,
            shots=(0.44, 0.33, 0.2 + 0.1 * p),
            overrides={} if p == 0.5 else {"hallucination.tail_fraction": p},
        )
        for p in values
        for seed in range(seeds)
    ]


def of_sizes() -> dict[str, list[Record]]:
    return {
        name: [
            record(f"{name}{size}", s, shots=shots, recipe=recipe(batch_size=size))
            for size in (32, 16)
            for s in range(2)
        ]
        for name, (shots, _) in ARMS.items()
        if name in ("BLT newton", "Sampling")
    }


def of_backbones() -> dict[str, list[Record]]:
    return {
        name: [
            record(f"{name}{net}", s, recipe=recipe(backbone=net, flops=flops))
            for net, flops in [("resnet28", 4e9), ("resnet10", 1e9)]
            for s in range(2)
        ]
        for name in ("BLT", "Sampling")
    }


def test_sweep_by_hand() -> None:
    records = swept()
    drawing = draw_sweep(records, "hallucination.tail_fraction", label="p", default=0.5)
    assert drawing.numbers["values"] == [0, 0.25, 0.5]
    few = [r.find("best", "test").few for r in records[3:6]]
    point = drawing.numbers["groups"]["few"][1]
    assert point["by_seed"] == {str(seed): few[seed] for seed in range(3)}
    assert point["mean"] == pytest.approx(np.mean(few))
    assert point["std"] == pytest.approx(np.std(few, ddof=1))
    (axes,) = drawing.figure.axes
    line = next(one for one in axes.lines if one.get_label() == "Few-shot")
    assert line.get_ydata()[1] == pytest.approx(100 * np.mean(few))
    assert list(line.get_xdata()) == [0, 0.25, 0.5]
    assert "of 3 seeds, small points single ones" in drawing.caption
    assert axes.get_xlabel() == "p"


def test_sweep_needs_the_field_in_every_record() -> None:
    with pytest.raises(ResultsError, match=r"overrides\.model\.alpha is None, but a"):
        draw_sweep(swept(), "model.alpha")


def test_bars_have_the_heights_of_the_numbers() -> None:
    drawing = draw_arms(arms(["Plain", "BLT newton"]))
    (axes,) = drawing.figure.axes
    bars = [c for c in axes.containers if c.get_label() == "BLT newton"]
    heights = [bar.get_height() for bar in bars[0].patches]
    numbers = drawing.numbers["arms"]["BLT newton"]
    assert heights == [
        pytest.approx(100 * numbers[g]["mean"])
        for g in ("many", "medium", "few", "overall")
    ]
    assert axes.get_ylim()[0] == 0


def test_a_group_without_classes_is_left_out() -> None:
    without = arms(["Plain", "BLT newton"], with_few=False, seeds=1)
    drawing = draw_arms(without)
    assert "Few-shot" not in words(drawing)
    assert drawing.numbers["arms"]["Plain"]["few"]["mean"] is None
    assert "one seed" in drawing.caption
    assert "Few" not in words(draw_gains(without["BLT newton"], without["Plain"]))
    with pytest.raises(ResultsError, match="no arm has an accuracy of few on test"):
        draw_arms(without, groups=["few"])
    with pytest.raises(ResultsError, match="no arm has the accuracies on test of a"):
        draw_pareto(without)
    with pytest.raises(ResultsError, match="no arm has errors of tail classes"):
        draw_error_against_rank(without)


def test_dynamic_against_static_shows_few_and_overall() -> None:
    drawing = draw_dynamic_against_static(arms(["Plain", "BLT newton"], seeds=1))
    assert list(drawing.numbers["arms"]["Plain"]) == ["few", "overall"]
    assert "Many-shot" not in words(drawing)


def test_gains_by_hand() -> None:
    def of(seed: int, values: tuple[float | None, ...]) -> Record:
        known = record("arm", seed, classes=4)
        best = {"test": replace(known.find("best", "test"), per_class=values)}
        counts = (10, 500, 50, 200)
        return replace(known, results={"best": best}, class_counts=counts)

    new = [of(0, (0.5, 0.5, 0.5, None)), of(1, (0.7, 0.4, 0.5, 0.1)), of(2, (0,) * 4)]
    old = [of(1, (0.4, 0.6, 0.4, 0.1)), of(0, (0.1, 0.5, 0.5, 0.2))]
    drawing = draw_gains(new, old, names=("BLT", "Plain"))
    assert drawing.numbers["seeds"] == [0, 1]  # seed 2 has no partner
    classes = drawing.numbers["classes"]
    assert [c["training_images"] for c in classes] == [500, 200, 50, 10]
    # Means over both seeds: 0 and -0.2; not known; 0 and 0.1; 0.4 and 0.3.
    assert [c["gain"] for c in classes] == [
        pytest.approx(-0.1),
        None,
        pytest.approx(0.05),
        pytest.approx(0.35),
    ]
    # Many: class 1 alone in seed 0; classes 1 and 3 in seed 1, (-0.2 + 0) / 2.
    many = drawing.numbers["average_gain"]["many"]
    assert many["by_seed"] == {"0": 0.0, "1": pytest.approx(-0.1)}
    text = words(drawing)
    for part in ("Gain over Plain", "Many \N{MINUS SIGN}5.0", "Medium +5.0"):
        assert part in text
    assert "Few +35.0" in text
    with pytest.raises(ResultsError, match=r"arm has the seeds \[2\] and .* \[0, 1\]"):
        draw_gains(new[2:], old)
    with pytest.raises(ResultsError, match="classes are not those of"):
        draw_gains(new, [replace(old[0], class_counts=(1, 2, 3, 4))])


def test_batch_sizes_and_backbones_are_told_apart() -> None:
    by_size = draw_batch_sizes(of_sizes())
    assert list(by_size.numbers["arms"]["Sampling"]) == ["16", "32"]
    assert by_size.numbers["arms"]["Sampling"]["16"]["few"]["n"] == 2
    assert len(by_size.figure.axes) == 4
    by_net = draw_accuracy_against_flops(of_backbones(), group="few")
    assert by_net.numbers["flops"] == {"resnet10": 1e9, "resnet28": 4e9}
    text = words(by_net)
    assert text.count("resnet10") == 1
    assert "Few-shot accuracy (%)" in text
    line = next(one for one in by_net.figure.axes[0].lines if len(one.get_xdata()) == 2)
    assert list(line.get_xdata()) == [1, 4]
    unknown = {"BLT": [record(recipe=recipe(flops=None))]}
    with pytest.raises(ResultsError, match=r"seed 0: recipe\.flops is missing"):
        draw_accuracy_against_flops(unknown)


def test_error_against_rank_averages_over_seeds() -> None:
    def of(seed: int, errors: tuple[float, ...]) -> Record:
        known = record("blt", seed, classes=4)
        best = {"test": replace(known.find("best", "test"), error_by_rank=errors)}
        return replace(known, results={"best": best})

    drawing = draw_error_against_rank(
        {"BLT": [of(0, (0.4, 0.2, 0.0)), of(1, (0.2, 0.1, 0.1))]}, ranks=2
    )
    means = [one["mean"] for one in drawing.numbers["arms"]["BLT"]]
    assert means == [pytest.approx(0.3), pytest.approx(0.15)]


def test_non_dominated_by_hand() -> None:
    points = {"a": (1.0, 9.0), "b": (5, 5), "c": (4, 4), "d": (9, 1), "e": (5, 5)}
    assert non_dominated(points) == ["a", "b", "e", "d"]
    # Where less is better only a remains: nothing is further left or higher.
    assert non_dominated(points, less_is_better=True) == ["a"]
    assert non_dominated({"x": (0, 1), "y": (0, 2)}) == ["y"]


def test_pareto_names_every_arm_and_counts_its_cost() -> None:
    of_arms = arms(["Sampling", "BLT gradient", "BLT newton"], seeds=2)
    drawing = draw_pareto(of_arms, cost=True)
    numbers = drawing.numbers["arms"]["BLT newton"]
    assert numbers["horizontal"]["mean"] == pytest.approx(5300 / 9000)
    assert drawing.numbers["non_dominated"] == ["Sampling", "BLT newton"]
    for arm in of_arms:
        assert words(drawing).count(arm) == 1
    some = of_arms | {"Odd": arms(["Plain"], with_few=False)["Plain"]}
    assert draw_pareto(some).numbers["left_out"] == ["Odd"]


def test_names_cover_neither_points_nor_lines_nor_each_other() -> None:
    with style():
        _, (axes,) = new_figure(width=3.3, height=2.2)
    axes.plot([0, 1], [0, 1], "o")  # the limits
    points = [(0.5, 0.5), (0.53, 0.5), (0.5, 0.5), (1.0, 1.0)]
    line = [(0.5, 0.5), (0.9, 0.5)]
    place_names(axes, points, ["one", "two", "three", "four"], lines=[line])
    boxes = [name.get_window_extent() for name in axes.texts]
    assert len(boxes) == 4
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert not any(box.contains(*at) for at in axes.transData.transform(points))
        along = np.linspace(*axes.transData.transform(line), 100)
        assert not any(box.contains(*at) for at in along)
        assert axes.bbox.padded(1).containsx(box.x1)


def test_no_line_to_a_name_goes_through_another_name() -> None:
    """Thirteen arms of a real Pareto picture, most of them in a corner of it."""
    from matplotlib.text import Text

    many = [25.3, 17.2, 14.5, 11.8, 11.7, 11.9, 11.4, 12.8, 9.6, 12.2, 11.9, 12.5, 12.0]
    few = [0.3, 5.3, 4.8, 6.8, 8.1, 6.1, 7.4, 5.8, 7.9, 7.4, 7.2, 7.0, 7.5]
    points = list(zip(many, few, strict=True))
    with style():
        figure, (axes,) = new_figure(width=6.9, height=2.6)
    axes.plot(many, few, "o")
    axes.margins(0.12)
    place_names(axes, points, [f"an arm called {n}" for n in range(13)])
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(name) for name in axes.texts]
    led = [number for number, name in enumerate(axes.texts) if name.arrow_patch]
    assert led
    for number in led:
        line = axes.texts[number].arrow_patch.get_path()
        others = boxes[:number] + boxes[number + 1 :]
        assert not any(line.intersects_bbox(box, filled=False) for box in others)


def test_files_are_valid_labelled_and_the_same_every_time(tmp_path: Path) -> None:
    saved = []
    for name in ("one", "two"):
        drawing = draw_arms(arms(["Plain", "BLT newton"], seeds=2))
        paths = save_drawing(tmp_path / name, "fig3e", drawing)
        saved.append([path.read_bytes() for path in paths])
    assert [path.name for path in paths] == ["fig3e.png", "fig3e.svg", "fig3e.json"]
    assert saved[0] == saved[1]
    root = ElementTree.fromstring(saved[0][1])
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = {
        "".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")
    }
    assert {"Accuracy (%)", "Few-shot", "Plain", "BLT newton"} <= texts
    assert b"<dc:date>" not in saved[0][1]
    from PIL import Image

    with Image.open(paths[0]) as picture:
        assert picture.size[0] == 660  # 3.3 inches of 200 dots
    content = json.loads(saved[0][2])
    assert content["caption"] == drawing.caption
    assert content["arms"]["Plain"]["few"]["n"] == 2


def test_settings_of_others_are_left_alone() -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 31.0, "axes.grid": False}):
        drawing = draw_arms(arms(["Plain"], seeds=1))
        assert matplotlib.rcParams["font.size"] == 31.0
    (axes,) = drawing.figure.axes
    assert axes.yaxis.label.get_size() == 8
    assert axes.get_xticklabels()[0].get_size() == 7


def test_twelve_series_differ_without_colour() -> None:
    looks = [look(number) for number in range(12)]
    assert len({(one.marker, one.dashes) for one in looks}) == 12
    assert len({one.hatch for one in looks}) == 12


def test_without_matplotlib_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'blt-jax\[figures\]'"):
        draw_arms(arms(["Plain"], seeds=1))


@pytest.mark.parametrize(
    "draw", [draw_arms, draw_batch_sizes, draw_error_against_rank, draw_pareto]
)
def test_no_records_are_refused(draw: Callable[..., Drawing]) -> None:
    with pytest.raises(ResultsError, match="at least one arm"):
        draw({})
    with pytest.raises(ResultsError, match="arm 'BLT' has no records"):
        draw({"BLT": []})
