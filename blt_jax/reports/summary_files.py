"""A summary as Markdown, for people, CSV, for spreadsheets, and JSON, for programs."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blt_jax.data.whole_file import write_whole
from blt_jax.reports.published import SOURCES
from blt_jax.reports.results import ALL_GROUPS
from blt_jax.reports.seeds import Spread
from blt_jax.reports.summary import Budget, Row, Summary

_CHECKPOINTS = {"best": "Best by validation", "last": "Last epoch"}
_NOTHING = "-"


def write_summary(
    folder: str | Path, name: str, summary: Summary, *, title: str, command: str
) -> list[Path]:
    """Write NAME.md, NAME.csv and NAME.json; returns their paths.

    command: what made the table, for the JSON; there the records' files are relative
    to the folder. The same records give the same bytes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "md": format_markdown(summary, title=title),
        "csv": format_csv(summary),
        "json": format_json(summary, title=title, command=command, folder=folder),
    }
    for suffix, text in content.items():
        write_whole(folder / f"{name}.{suffix}", text)
    return [folder / f"{name}.{suffix}" for suffix in content]


def format_markdown(summary: Summary, *, title: str) -> str:
    """A table for each checkpoint, percent, then what each arm cost."""
    parts = [f"**{title}.** {caption(summary)}"]
    for checkpoint in dict.fromkeys(row.checkpoint for row in summary.rows):
        rows = [row for row in summary.rows if row.checkpoint == checkpoint]
        heading = _CHECKPOINTS.get(checkpoint, checkpoint)
        parts += [f"{heading}, accuracy in %:", _accuracy_table(summary, rows)]
    parts += ["Budget, means over seeds:", _budget_table(summary.budgets)]
    return "\n\n".join(parts) + "\n"


def caption(summary: Summary) -> str:
    """Recipe, seeds and how to read the numbers."""
    recipe = {name: _either(values) for name, values in summary.recipe.items()}
    epochs = _either(
        [" + ".join(map(str, stages)) for stages in summary.recipe["epochs"]]
    )
    seeds = sorted({record.seed for record in summary.records})
    shots = summary.recipe["shots"][0]
    sentences = [
        f"{recipe['dataset']}, {summary.split} split; configuration "
        f"{recipe['config']}: {recipe['backbone']}, {recipe['image_size']} px, "
        f"batches of {recipe['batch_size']}, {epochs} epochs; "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}.",
        f"Means of per-class accuracies; many: more than {shots['many']} training "
        f"images, few: at most {shots['few']}.",
    ]
    if len(seeds) > 1:
        sentences.append("± is the sample standard deviation over seeds.")
    if summary.baseline is not None:
        sentences.append(
            f"Differences (Δ) are to {summary.baseline}, in percentage points, taken "
            "seed by seed."
        )
    sentences.append(
        "The arms of each seed go on from one stage 1."
        if summary.same_stage1
        else "Not all arms of a seed go on from one stage 1."
    )
    if any(row.published for row in summary.rows):
        sentences.append(f"Paper: its {SOURCES[summary.dataset]}.")
    return " ".join(sentences)


def format_csv(summary: Summary) -> str:
    """A line an arm and checkpoint; accuracies, the paper's too, are fractions."""
    heading = ["arm", "checkpoint", "split", "n"]
    heading += [f"{g}_{what}" for g in ALL_GROUPS for what in ("mean", "std")]
    heading += ["baseline", "difference_n"]
    heading += [
        f"{g}_difference_{what}" for g in ALL_GROUPS for what in ("mean", "std")
    ]
    heading += [f"{g}_paper" for g in ALL_GROUPS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    for row in summary.rows:
        known, nothing = row.difference or {}, Spread(None, None, {})
        paired = max((spread.n for spread in known.values()), default=None)
        ours = [row.accuracy[g] for g in ALL_GROUPS]
        differences = [known.get(g, nothing) for g in ALL_GROUPS]
        writer.writerow(
            [row.arm, row.checkpoint, summary.split, row.n]
            + [_fraction(v) for s in ours for v in (s.mean, s.std)]
            + ["" if paired is None else summary.baseline, paired]
            + [_fraction(v) for s in differences for v in (s.mean, s.std)]
            + [
                _fraction(v and v / 100)
                for v in row.published or [None] * len(ALL_GROUPS)
            ]
        )
    return text.getvalue()


def format_json(
    summary: Summary, *, title: str, command: str, folder: str | Path
) -> str:
    """Everything, with what it was made from and made with."""
    environments = [record.environment for record in summary.records]
    content = {
        "format": 1,
        "title": title,
        "caption": caption(summary),
        "command": command,
        "split": summary.split,
        "baseline": summary.baseline,
        "devices": sorted({e.device for e in environments}),
        "versions": _versions([e.versions for e in environments]),
        "revisions": sorted({e.revision for e in environments if e.revision}),
        "recipe": summary.recipe,
        "same_stage1": summary.same_stage1,
        "rows": [_row(row) for row in summary.rows],
        "budgets": [vars(budget) for budget in summary.budgets],
        "records": sorted(
            Path(os.path.relpath(record.file, folder)).as_posix()
            for record in summary.records
            if record.file is not None
        ),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _accuracy_table(summary: Summary, rows: Sequence[Row]) -> str:
    names = [group.capitalize() for group in ALL_GROUPS]
    paper = any(row.published for row in rows)
    differs = summary.baseline is not None
    lines = [["Arm", "Seeds", *names]]
    lines[0] += [f"Δ {name.lower()}" for name in names] if differs else []
    lines[0] += [f"Paper: {' / '.join(names).lower()}"] if paper else []
    for row in rows:
        cells = [row.arm, str(row.n)]
        cells += [_plus_minus(row.accuracy[g], ".1f") for g in ALL_GROUPS]
        if differs:
            known = row.difference or {}
            cells += [
                _plus_minus(known[g], "+.1f") if g in known else _NOTHING
                for g in ALL_GROUPS
            ]
        if paper:
            printed = row.published
            cells.append(" / ".join(map(str, printed)) if printed else _NOTHING)
        lines.append(cells)
    return _markdown(lines)


def _budget_table(budgets: Sequence[Budget]) -> str:
    heading = ["Arm", "Seeds", "Appended images", "Image gradients / appended"]
    lines = [[*heading, "Threshold met (%)", "Stage 1 (min)", "Stage 2 (min)"]]
    for b in budgets:
        lines.append(
            [
                b.arm,
                ", ".join(map(str, b.seeds)),
                _number(b.appended, ",.0f"),
                _number(b.evaluations, ".1f"),
                _number(None if b.reached is None else 100 * b.reached, ".0f"),
                _number(b.minutes["stage1"], ".1f"),
                _number(b.minutes["stage2"], ".1f"),
            ]
        )
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def _plus_minus(spread: Spread, form: str) -> str:
    """Percent with one decimal, and the deviation where there is one."""
    if spread.mean is None:
        return _NOTHING
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    text = format(round(100 * spread.mean, 1) + 0.0, form)
    return text if spread.std is None else f"{text} ± {100 * spread.std:.1f}"


def _number(value: float | None, form: str) -> str:
    return _NOTHING if value is None else format(value, form)


def _fraction(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _either(values: Sequence[Any]) -> str:
    return " or ".join(map(str, values))


def _row(row: Row) -> dict[str, Any]:
    difference = row.difference
    printed = row.published
    return {
        "arm": row.arm,
        "checkpoint": row.checkpoint,
        "n": row.n,
        **{g: row.accuracy[g].numbers() for g in ALL_GROUPS},
        "difference": difference and {g: difference[g].numbers() for g in ALL_GROUPS},
        "paper_percent": printed and printed._asdict(),
    }


def _versions(
    found: Sequence[Mapping[str, str | None]],
) -> dict[str, list[str]]:
    """Package -> its versions in the records, mostly one."""
    versions: dict[str, set[str]] = {}
    for one in found:
        for name, version in one.items():
            if version is not None:
                versions.setdefault(name, set()).add(version)
    return {name: sorted(values) for name, values in sorted(versions.items())}
