"""Sections of the report: curves over the epochs, and the ascent by epoch."""

from collections.abc import Sequence

import numpy as np

from blt_jax.reports.results import ALL_GROUPS
from blt_jax.reports.run.files import STAGES, Run
from blt_jax.reports.run.history import (
    ascent_by_epoch,
    losses,
    stage_offset,
    validations,
)
from blt_jax.reports.run.page import (
    Section,
    figure,
    figures,
    legend,
    missing,
    paragraph,
)
from blt_jax.reports.run.style import run_style
from blt_jax.reports.run.svg import Axis, Plot, heat_map, shares_axis

SHAPES = {"many": "o", "medium": "s", "few": "^", "overall": "D"}


def run_legend(runs: Sequence[Run], shown: Sequence[int]) -> str:
    """Which colour is which of the runs shown; nothing for a single one."""
    entries = [(runs[number].name, run_style(number), "o") for number in shown]
    return legend(entries) if len(shown) > 1 else ""


def group_legend(groups: Sequence[str] = ALL_GROUPS) -> str:
    """Which colour and shape is which group."""
    named = {"overall": "overall"}
    return legend(
        (named.get(one, f"{one}-shot"), f"g-{one}", SHAPES[one]) for one in groups
    )


def curves_section(runs: Sequence[Run]) -> Section:
    """Validation accuracy by shot and training loss, over the epochs."""
    found = [validations(run) for run in runs]
    charts, keys = [], run_legend(runs, range(len(runs)))
    values = [y for curves in found for name in ALL_GROUPS for _, y in curves[name]]
    share = shares_axis("accuracy", values)
    if not values:
        charts.append(missing("No epoch has been validated yet."))
    elif len(runs) == 1:
        keys = group_legend()
        plot = Plot(_epochs(runs), share, description=_told(runs, "all groups"))
        for name in ALL_GROUPS:
            plot.line(found[0][name], f"g-{name}")
            plot.dots(
                found[0][name],
                f"g-{name}",
                shape=SHAPES[name],
                titles=[
                    f"{name}, epoch {x:g}: {100 * y:.1f} %" for x, y in found[0][name]
                ],
            )
        charts.append(_figure(plot, runs, "Validation accuracy by shot"))
    else:
        for name in ALL_GROUPS:
            plot = Plot(_epochs(runs), share, description=_told(runs, f"{name}"))
            for number, curves in enumerate(found):
                plot.line(curves[name], run_style(number))
                plot.dots(
                    curves[name],
                    run_style(number),
                    titles=[
                        f"{runs[number].name}, epoch {x:g}: {100 * y:.1f} %"
                        for x, y in curves[name]
                    ],
                    sizes=[2.2] * len(curves[name]),
                )
            title = "Overall" if name == "overall" else f"{name.capitalize()}-shot"
            charts.append(_figure(plot, runs, f"{title} validation accuracy"))
    charts.append(_losses(runs))
    shared = [
        run.name for run in runs if run.shares_stage1 and not run.events["stage1"]
    ]
    note = f"Stage 1 of {', '.join(shared)} is that of another run." if shared else ""
    told = paragraph(note, "faint") if note else ""
    return Section("Curves", "curves", keys + figures(charts) + told)


def _losses(runs: Sequence[Run]) -> str:
    found = [losses(run) for run in runs]
    values = [y for stages in found for curve in stages for _, y in curve]
    if not values:
        return missing("No training loss is logged yet.")
    loss = Axis(label="loss", low=0, high=max(values) * 1.02)
    plot = Plot(_epochs(runs), loss, description=_told(runs, "training loss"))
    for number, stages in enumerate(found):
        for curve in stages:
            plot.line(curve, run_style(number))
    return _figure(plot, runs, "Training loss")


def _epochs(runs: Sequence[Run]) -> Axis:
    planned = [sum(run.planned_epochs(stage) for stage in STAGES) for run in runs]
    begins = [stage_offset(run, s) for run in runs for s in STAGES if run.events[s]]
    low = min(begins, default=0)
    return Axis(label="epoch", low=low, high=max(*planned, low + 1), whole=True)


def _told(runs: Sequence[Run], what: str) -> str:
    names = ", ".join(run.name for run in runs)
    return f"Curve over epochs of {what}; runs: {names}"


def _figure(plot: Plot, runs: Sequence[Run], title: str) -> str:
    begins = {stage_offset(run, "stage2") for run in runs if run.events["stage2"]}
    if len(begins) == 1 and min(begins) > plot.x.low:
        plot.divide(begins.pop(), "stage 2")
    return figure(plot.svg(), title)


def ascent_section(runs: Sequence[Run]) -> Section:
    """How many updates seeds took, and how many met their threshold."""
    found = {number: ascent_by_epoch(run) for number, run in enumerate(runs)}
    found = {number: epochs for number, epochs in found.items() if epochs}
    if not found:
        return Section(
            "Ascent",
            "ascent",
            missing(
                "No image has been moved by gradient ascent: hallucination is off, its "
                "first epoch has not come yet, or seeds are appended as they are."
            ),
        )
    last = max(epoch for epochs in found.values() for epoch in epochs)
    across = Axis(label="epoch of stage 2", low=1, high=max(last, 2), whole=True)
    charts, unknown = [], []
    for number, epochs in found.items():
        histograms = {e: one["histogram"] for e, one in epochs.items()}
        if any(histogram is None for histogram in histograms.values()):
            unknown.append(runs[number].name)
            continue
        charts += _histograms(runs[number].name, histograms, run_style(number))
    for name, title, y in (
        ("reached", "Thresholds reached", shares_axis("share of images", [1.0])),
        ("mean_iterations", "Mean number of updates", _updates(found)),
    ):
        plot = Plot(across, y, description=f"{title} by epoch")
        for number, epochs in found.items():
            points = [(float(e), one[name]) for e, one in epochs.items()]
            titles = [f"{runs[number].name}, epoch {x:g}: {y:.3g}" for x, y in points]
            plot.line(points, run_style(number))
            plot.dots(points, run_style(number), titles=titles)
        charts.append(figure(plot.svg(), title))
    body = paragraph(
        "Each seed is moved until the probability of its confusing class meets the "
        "threshold drawn for it, or the updates are used up."
    )
    if unknown:
        body += missing(
            f"The log of {', '.join(unknown)} has no histogram of updates: it was "
            "written before there was one. Means and reached shares are complete."
        )
    return Section(
        "Ascent", "ascent", body + run_legend(runs, list(found)) + figures(charts)
    )


def _updates(found: dict[int, dict[int, dict[str, float]]]) -> Axis:
    means = [
        one["mean_iterations"] for epochs in found.values() for one in epochs.values()
    ]
    return Axis(label="updates", low=0, high=max(1.0, np.ceil(max(means))))


def _histograms(name: str, by_epoch: dict[int, np.ndarray], style: str) -> list[str]:
    """Over all epochs as bars, and each epoch as a column of a heat map."""
    total = np.sum(list(by_epoch.values()), axis=0)
    shares = total / max(total.sum(), 1)
    plot = Plot(
        Axis(label="updates", low=-0.5, high=len(total) - 0.5, whole=True),
        shares_axis("share of images", shares),
        description=f"{name}: share of images by number of updates",
    )
    for updates, share in enumerate(shares):
        title = f"{updates} updates: {int(total[updates]):,} images, {share:.1%}"
        plot.bar(updates - 0.42, updates + 0.42, float(share), style, title)
    epochs = sorted(by_epoch)
    columns = np.stack(
        [by_epoch[e] / max(by_epoch[e].sum(), 1) for e in epochs], axis=1
    )
    chart = heat_map(
        columns[::-1] / max(columns.max(), 1e-9),
        rows=[str(n) for n in reversed(range(len(total)))],
        columns=[str(epoch) for epoch in epochs],
        row_label="updates",
        column_label="epoch of stage 2",
        description=f"{name}: share of images by number of updates and epoch",
        titles=lambda row, column: (
            f"epoch {epochs[column]}, {len(total) - 1 - row} updates: "
            f"{columns[::-1][row, column]:.1%} of the images"
        ),
        square=False,
    )
    return [
        figure(plot.svg(), f"Updates, {name}", f"{int(total.sum()):,} images."),
        figure(chart, f"Updates by epoch, {name}", "Stronger: more of its images."),
    ]
