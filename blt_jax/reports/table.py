"""The many / medium / few / overall table of several arms, first row as baseline.

python -m blt_jax.reports.table runs/digits_lt/balanced runs/digits_lt/blt
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from blt_jax.reports.fields import ResultsError
from blt_jax.reports.results import (
    ACCURACIES,
    CHECKPOINTS,
    GROUPS,
    Evaluation,
    Results,
    read_results,
)

STYLES = ("text", "markdown")
HEADINGS = {"top5": "top-5"}


def format_table(
    arms: Sequence[Results],
    split: str = "test",
    *,
    checkpoint: str = "best",
    style: str = "text",
) -> str:
    """The table of one split: accuracies in percent, differences to the first row.

    arms: rows in order. style: 'text' (aligned) or 'markdown'. "-" stands for an
    accuracy that does not exist, and for its difference.

    Raises:
      ValueError: no arm, unknown style, or an arm without that checkpoint or split.
    """
    if not arms:
        raise ValueError("a table needs at least one arm")
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; choose one of: {', '.join(STYLES)}")
    found = [arm.find(checkpoint, split) for arm in arms]
    rows = [["arm", *(f"{HEADINGS.get(key, key):>5}" for key in ACCURACIES)]]
    for number, (arm, evaluation) in enumerate(zip(arms, found, strict=True)):
        baseline = found[0] if number else None
        rows.append([arm.arm, *(_cell(evaluation, baseline, k) for k in ACCURACIES)])
    table = _markdown(rows) if style == "markdown" else _text(rows)
    lines = [_caption(split, found), "", *table, "", *_notes(arms, found, checkpoint)]
    return "\n".join(lines) + "\n"


def _cell(evaluation: Evaluation, baseline: Evaluation | None, key: str) -> str:
    value = getattr(evaluation, key)
    if value is None:
        return "    -"
    text = f"{100 * value:5.1f}"  # of equal width, so that numbers stand in line
    if baseline is None:
        return text
    first = getattr(baseline, key)
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    change = "-" if first is None else f"{round(100 * (value - first), 1) + 0.0:+.1f}"
    return f"{text} ({change})"


def _caption(split: str, evaluations: Sequence[Evaluation]) -> str:
    covered = list(dict.fromkeys(map(_covers, evaluations)))
    caption = f"Accuracy in % on {split}: {covered[0]}"
    if len(covered) > 1:
        others = " and ".join(covered[1:])
        caption += f"\nThe rows cannot be compared: others cover {others}"
    return caption


def _covers(evaluation: Evaluation) -> str:
    images = f"{evaluation.images} images"
    counts = evaluation.group_classes
    if counts is None:
        return images
    groups = ", ".join(f"{counts[name]} {name}" for name in GROUPS)
    return f"{images}, {groups}-shot classes"


def _notes(
    arms: Sequence[Results], evaluations: Sequence[Evaluation], checkpoint: str
) -> list[str]:
    steps = ", ".join(
        f"{arm.arm} {evaluation.step}"
        for arm, evaluation in zip(arms, evaluations, strict=True)
    )
    notes = [
        "many, medium, few, overall: means of per-class accuracies; micro: over images",
        f"the {checkpoint} checkpoint of each, by step: {steps}",
    ]
    if len(arms) > 1:
        notes.append(f"in brackets: difference to {arms[0].arm}, in percentage points")
    return notes


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.strip() for cell in row) + " |" for row in rows]
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return [lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]


def _text(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of the working directories named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m blt_jax.reports.table",
        description="Accuracies of finished runs, side by side; the first one is the "
        "baseline of the differences.",
    )
    parser.add_argument("workdir", nargs="+", type=Path, help="holds results.json")
    parser.add_argument("--split", default="test", help="default: test")
    parser.add_argument("--which", default="best", choices=CHECKPOINTS)
    parser.add_argument("--style", default="text", choices=STYLES)
    options = parser.parse_args(arguments)
    try:
        arms = [read_results(path) for path in options.workdir]
        table = format_table(
            arms, options.split, checkpoint=options.which, style=options.style
        )
    except ResultsError as error:
        sys.exit(f"error: {error}")
    print(table, end="")


if __name__ == "__main__":
    main()
