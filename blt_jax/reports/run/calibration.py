"""Section of the report: whether the probabilities mean what they say."""

from collections.abc import Sequence
from html import escape
from typing import Any

from blt_jax.reports.results import ALL_GROUPS
from blt_jax.reports.run.classes import evaluate_command
from blt_jax.reports.run.files import Run
from blt_jax.reports.run.page import (
    Section,
    figure,
    figures,
    missing,
    paragraph,
    table,
)
from blt_jax.reports.run.svg import Axis, Plot, percent
from blt_jax.reports.run.training import SHAPES, group_legend

_FEW = 10  # images below which a bin's accuracy says little; it is not drawn


def calibration_section(runs: Sequence[Run]) -> Section:
    """Reliability diagrams, and the expected calibration error by shot."""
    charts, rows, absent = [], [], ""
    for run in runs:
        if run.evaluation is None:
            absent += missing(f"{run.name}: not known; see Classes.")
            continue
        found = run.evaluation.get("calibration")
        if not found:
            absent += missing(
                f"{run.name}: its evaluation was written by a version that did not "
                "keep confidences; evaluate again with",
                evaluate_command(run),
            )
            continue
        charts.append(figure(_diagram(run, found), run.name))
        errors = [found.get(name) for name in ALL_GROUPS]
        cells = [f"{100 * one['ece']:.1f}" if one else "–" for one in errors]
        rows.append([escape(run.name), *cells])
    if not charts:
        return Section("Calibration", "calibration", absent)
    told = paragraph(
        "Of images whose most likely class has a probability of, say, 70 %, 70 % "
        "should be right; below the diagonal the classifier is too sure of itself. "
        "Groups are those of the true class; bins of fewer than "
        f"{_FEW} images are not drawn. The expected calibration error is the mean gap "
        "over images (15 bins of equal width, Guo et al. 2017)."
    )
    errors_table = table(
        ["run", *ALL_GROUPS], rows, caption="Expected calibration error in points"
    )
    body = told + group_legend() + figures(charts) + errors_table + absent
    return Section("Calibration", "calibration", body)


def _diagram(run: Run, found: dict[str, Any]) -> str:
    plot = Plot(
        Axis(label="confidence", low=0, high=1, form=percent),
        Axis(label="accuracy", low=0, high=1, form=percent),
        description=f"{run.name}: accuracy against confidence, by shot",
    )
    plot.line([(0, 0), (1, 1)], "diagonal")
    for name in ALL_GROUPS:
        one = found.get(name)
        if not one:
            continue
        bins = [
            bin
            for bin in zip(
                one["confidence"], one["accuracy"], one["count"], strict=True
            )
            if bin[2] >= _FEW
        ]
        points = [(confidence, accuracy) for confidence, accuracy, _ in bins]
        plot.line(points, f"g-{name}")
        plot.dots(
            points,
            f"g-{name}",
            shape=SHAPES[name],
            titles=[
                f"{name}: {accuracy:.0%} of {count} images right, at a mean confidence "
                f"of {confidence:.0%}"
                for confidence, accuracy, count in bins
            ],
        )
    return plot.svg()
