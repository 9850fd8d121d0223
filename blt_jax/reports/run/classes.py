"""Sections of the report: accuracy of each class, and which are taken for which."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blt_jax.metrics.confusion import divide_or_nan
from blt_jax.reports.results import GROUPS
from blt_jax.reports.run.files import EVALUATION, Run
from blt_jax.reports.run.page import (
    Section,
    figure,
    figures,
    missing,
    paragraph,
    short,
    table,
)
from blt_jax.reports.run.svg import Axis, Plot, heat_map, plain, shares_axis
from blt_jax.reports.run.training import SHAPES, group_legend

_EACH = 50  # classes at most, to have a row of their own in the confusion
_GROUPS = 20  # rows of the confusion of more classes
_PAIRS = 15
_TITLED = 3000  # points at most that say their class: the page stays small


class Classes:
    """What an evaluation says of each class, [C], and of each pair of them, [P].

    Only pairs of true and predicted class that occur: of thousands of classes few do.
    """

    def __init__(self, run: Run, evaluation: Mapping[str, Any]) -> None:
        found = evaluation["classes"]
        self.names = [str(one["name"]) for one in found]
        self.counts = np.array([one["training_images"] for one in found])
        pairs = np.array(evaluation["confusion"], np.int64).reshape(-1, 3)
        self.true, self.predicted, self.together = pairs.T
        self.right = self.true == self.predicted
        self.images = self._by_class(self.together)
        self.accuracy = divide_or_nan(
            self._by_class(self.together * self.right), self.images
        )
        self.groups = run.masks(self.counts)
        self.tail = run.tail(self.counts)

    def _by_class(self, values: np.ndarray) -> np.ndarray:
        """Sums over the pairs of each true class, [C] int64."""
        sums = np.bincount(self.true, weights=values, minlength=len(self.names))
        return sums.astype(np.int64)


def without_evaluation(run: Run) -> str:
    """What to do about a run whose classes are not known."""
    return missing(
        f"{run.name}: there is no {EVALUATION} in its working directory, so nothing is "
        "known of single classes; it is written at the end of training, or by",
        evaluate_command(run),
    )


def evaluate_command(run: Run) -> str:
    """What writes the evaluation of a run where the report finds it."""
    words = [f"--checkpoint={run.workdir}", f"--out={run.workdir / EVALUATION}"]
    return shlex.join(["blt-jax", "evaluate", *words])


def classes_section(runs: Sequence[Run]) -> Section:
    """Accuracy against training images, a point a class."""
    charts, absent = [], ""
    for run in runs:
        if run.evaluation is None:
            absent += without_evaluation(run)
        else:
            charts.append(_scatter(run, Classes(run, run.evaluation)))
    body = absent
    if charts:
        body = group_legend(GROUPS) + figures(charts) + absent
        body += paragraph(
            "The line is the mean over classes of about as many training images.",
            "faint",
        )
    return Section("Classes", "classes", body)


def _scatter(run: Run, classes: Classes) -> str:
    known = np.isfinite(classes.accuracy) & (classes.counts > 0)
    counts, accuracy = classes.counts[known], classes.accuracy[known]
    low, high = (counts.min(), counts.max()) if counts.size else (1, 10)
    plot = Plot(
        Axis(
            label="training images of the class",
            low=max(low / 1.15, 0.5),
            high=high * 1.15,
            log=True,
        ),
        shares_axis("accuracy", accuracy),
        description=f"{run.name}: accuracy of each class against its training images",
    )
    for name, mask in zip(GROUPS, classes.groups, strict=True):
        chosen = np.flatnonzero(known & mask)
        titles = [
            f"{classes.names[c]}: {plain(classes.counts[c])} training images, "
            f"{classes.accuracy[c]:.1%} of {classes.images[c]}"
            for c in chosen
        ]
        plot.dots(
            [(float(classes.counts[c]), float(classes.accuracy[c])) for c in chosen],
            f"g-{name}",
            shape=SHAPES[name],
            titles=titles if counts.size <= _TITLED else (),
        )
    order = np.argsort(counts, kind="stable")
    parts = np.array_split(order, min(8, max(counts.size // 3, 1)))
    trend = [
        (float(np.exp(np.log(counts[part]).mean())), float(accuracy[part].mean()))
        for part in parts
        if part.size
    ]
    plot.line(trend, "g-overall")
    text = f"{counts.size} classes, {_split(run)} split."
    return figure(f'<div class="points">{plot.svg()}</div>', run.name, text)


def confusion_section(runs: Sequence[Run]) -> Section:
    """A map of the whole, and the pairs in which most tail images are lost."""
    maps, pairs, absent = [], [], ""
    for run in runs:
        if run.evaluation is None:
            absent += missing(f"{run.name}: not known; see Classes.")
            continue
        classes = Classes(run, run.evaluation)
        maps.append(_map(run, classes))
        pairs.append(_pairs(run, classes))
    body = figures(maps) + f'<div class="tables">{"".join(pairs)}</div>'
    return Section("Confusion", "confusion", (body if maps else "") + absent)


def _map(run: Run, classes: Classes) -> str:
    order = np.argsort(-classes.counts, kind="stable")
    if order.size <= _EACH:
        parts, text = np.split(order, order.size), "Classes by training images."
        labels = [classes.names[part[0]] for part in parts]
    else:
        parts = np.array_split(order, _GROUPS)
        labels = [_range(classes.counts[part]) for part in parts]
        text = (
            f"{order.size} classes in {_GROUPS} groups by training images, which are "
            "the labels; within a group right and wrong count together."
        )
    place = np.empty(order.size, np.int64)  # of each class among the parts
    for number, part in enumerate(parts):
        place[part] = number
    sums = np.zeros((len(parts), len(parts)), np.int64)
    cells = (place[classes.true], place[classes.predicted])
    np.add.at(sums, cells, classes.together)
    images = sums.sum(axis=1, keepdims=True)
    shares = sums / np.maximum(images, 1)
    chart = heat_map(
        shares,
        rows=labels,
        columns=labels,
        row_label="true class",
        column_label="predicted class",
        description=f"{run.name}: share of each true class by predicted class",
        titles=lambda row, column: (
            f"{labels[row]} as {labels[column]}: {sums[row, column]} of "
            f"{images[row, 0]} ({shares[row, column]:.0%})"
        ),
    )
    text += f" Stronger: a larger share of the row; {_split(run)} split."
    return figure(chart, run.name, text)


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{high}–{low}" if high > low else str(low)


def _pairs(run: Run, classes: Classes) -> str:
    """The pairs of true tail class and mistaken class with the most images.

    A single image makes no pair, where there are others.
    """
    wrong = np.flatnonzero(~classes.right & classes.tail[classes.true])
    images = classes.together[wrong]
    least = min(2, images.max(initial=0))
    share = images / np.maximum(classes.images[classes.true[wrong]], 1)
    # Of as many images the pair that takes more of its class comes first.
    order = [n for n in np.lexsort((-share, -images)) if images[n] >= least]
    rows = []
    for number in order[:_PAIRS]:
        true = classes.true[wrong[number]]
        predicted = classes.predicted[wrong[number]]
        rows.append(
            [
                short(classes.names[true]),
                short(classes.names[predicted]),
                f"{images[number]} of {classes.images[true]}",
                f"{share[number]:.0%}",
                f"{plain(classes.counts[true])} / {plain(classes.counts[predicted])}",
            ]
        )
    if not rows:
        reason = "there is no tail class" if not classes.tail.any() else "none is wrong"
        return paragraph(f"{run.name}: no tail image is taken for another; {reason}.")
    return table(
        ["tail class", "taken for", "images", "share", "training images of both"],
        rows,
        caption=f"Most confused tail pairs, {run.name}",
        text=(1,),
    )


def _split(run: Run) -> str:
    return str((run.evaluation or {}).get("split", "test"))
