"""Sections of the report: the runs and their state, and the table of accuracies."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from blt_jax.reports.results import ACCURACIES, GROUPS, Evaluation
from blt_jax.reports.run.files import STAGES, Run
from blt_jax.reports.run.page import Section, details, missing, paragraph, table

_HEADINGS = {"top5": "top-5"}
_NOTHING = "–"
_MINUS = "−"


class Outcome(NamedTuple):
    """What is known of a run: accuracies by name, and what they are of."""

    values: dict[str, float | None]
    split: str
    images: int | None
    told: str  # which checkpoint
    group_classes: dict[str, int] | None


def outcome(run: Run, checkpoint: str = "best") -> Outcome | None:
    """The test result of that checkpoint, else validation's; None: there is nothing.

    Of an unfinished run the best so far is that of the latest stage, by overall
    accuracy and ties to the later, as checkpoints are chosen.
    """
    splits = run.results.get(checkpoint, {})
    for split in ("test", "val"):
        if split in splits:
            return _of(splits[split], split, f"{checkpoint}, step {splits[split].step}")
    for stage in reversed(STAGES):
        done = list(run.last(stage, "validation").values())
        if done:
            best = max(done, key=lambda e: (e.get("overall") or 0.0, e["step"]))
            shown = best if checkpoint == "best" else done[-1]
            values = {name: shown.get(name) for name in ACCURACIES}
            told = f"{checkpoint} so far, {stage} epoch {shown['epoch']}"
            return Outcome(values, "val", None, told, None)
    return None


def _of(found: Evaluation, split: str, told: str) -> Outcome:
    values = {name: getattr(found, name) for name in ACCURACIES}
    groups = None if found.group_classes is None else dict(found.group_classes)
    return Outcome(values, split, found.images, told, groups)


def status(run: Run) -> str:
    """How far a run has come."""
    if run.finished:
        return "finished"
    for stage in reversed(STAGES):
        done = [e for k in ("train", "validation") for e in run.last(stage, k).values()]
        if done:
            # Of one step the validation is the later event.
            last = max(done, key=lambda e: (e["step"], e["kind"] == "validation"))
            planned = run.planned_epochs(stage)
            final = not run.planned_epochs("stage2") or stage == "stage2"
            if final and last["kind"] == "validation" and last["epoch"] == planned:
                evaluated = run.evaluation is not None
                return "finished" if evaluated else "trained to the end, not evaluated"
            return f"not finished: {stage}, epoch {last['epoch']} of {planned}"
    return "not finished: no step is logged yet"


def heading(runs: Sequence[Run]) -> str:
    """The top of the page: what it is about, and the main result in a sentence."""
    run, others = runs[-1], runs[:-1]
    title = escape(run.name)
    if others:
        title += f" against {escape(', '.join(one.name for one in others))}"
    return (
        f'<p class="kicker">Training report</p><h1>{title}</h1>'
        f'<p class="lead">{_sentence(runs)}</p>{paragraph(_recipe(run), "faint")}'
    )


def _sentence(runs: Sequence[Run]) -> str:
    """The result of the last run, and what it gains over the first."""
    known = outcome(runs[-1])
    if known is None:
        return "Nothing has been measured yet."
    before = outcome(runs[0]) if len(runs) > 1 else None
    parts = []
    for name, words in (("overall", "overall"), ("few", "on few-shot classes")):
        value = known.values[name]
        if value is not None:
            text = f"<b>{100 * value:.1f} %</b> {words}"
            change = _change(known, before, name)
            parts.append(f"{text} ({change})" if change else text)
    where = {"test": "on the test split", "val": "in validation"}[known.split]
    against = ""
    if any(_change(known, before, name) for name in ("overall", "few")):
        against = f"; in brackets the difference to {escape(runs[0].name)} in points"
    accuracies = " and ".join(parts) or "no accuracy at all"
    return f"Accuracy {where}: {accuracies}{against}."


def _recipe(run: Run) -> str:
    config = run.config
    data, model = config.get("data", {}), config.get("model", {})
    place = str(data.get("root") or "").rstrip("/").rsplit("/", 1)[-1]
    epochs = [str(run.planned_epochs(s)) for s in STAGES if run.planned_epochs(s)]
    parts = [
        place or data.get("tfds_name") or data.get("kind"),
        f"{data.get('image_size')} px",
        model.get("backbone"),
        f"batches of {config.get('batch_size')}",
        f"{' + '.join(epochs)} epochs",
    ]
    return " · ".join(str(part) for part in parts if part)


def results_section(runs: Sequence[Run]) -> Section:
    """The table of all runs, the first one as baseline of the differences."""
    best = [outcome(run) for run in runs]
    if not any(best):
        body = missing(
            "No accuracy yet: the first stands in the log after the first epoch."
        )
    else:
        body = _table(runs, best, "best by validation")
        body += _notes(runs, best)
        last = [outcome(run, "last") for run in runs]
        if any(last):
            body += details("The last checkpoints", _table(runs, last, "the last one"))
    return Section("Results", "results", body + _states(runs))


def _table(runs: Sequence[Run], outcomes: Sequence[Outcome | None], which: str) -> str:
    columns = [_HEADINGS.get(name, name) for name in ACCURACIES]
    rows = []
    for number, (run, known) in enumerate(zip(runs, outcomes, strict=True)):
        before = outcomes[0] if number else None
        cells = [_cell(known, before, name) for name in ACCURACIES]
        split = known.split if known else _NOTHING
        told = f' <span class="faint">{escape(known.told)}</span>' if known else ""
        rows.append([escape(run.name), *cells, f"{escape(split)}{told}"])
    compared = f", and difference to {runs[0].name} in points" if len(runs) > 1 else ""
    caption = f"Accuracy in %{compared}; of each run the checkpoint {which}"
    heading = ["run", *columns, "split"]
    return table(heading, rows, caption=caption, text=(len(heading) - 1,))


def _cell(known: Outcome | None, before: Outcome | None, name: str) -> str:
    value = known.values[name] if known else None
    if known is None or value is None:
        return _NOTHING
    change = _change(known, before, name)
    delta = f'<span class="delta">{change}</span>' if change else ""
    return f"{100 * value:.1f}{delta}"


def _change(known: Outcome, before: Outcome | None, name: str) -> str:
    """The difference in points; empty where there is nothing to compare with."""
    first = before.values[name] if before and before.split == known.split else None
    value = known.values[name]
    if first is None or value is None:
        return ""
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    points = round(100 * (value - first), 1) + 0.0
    return f"{points:+.1f}".replace("-", _MINUS)


def _notes(runs: Sequence[Run], outcomes: Sequence[Outcome | None]) -> str:
    known = [one for one in outcomes if one]
    notes = [
        "many, medium, few and overall are means of per-class accuracies; micro is "
        "over images; top-5: the label is among the first five."
    ]
    for images, groups in {
        (one.images, tuple((one.group_classes or {}).values())) for one in known
    }:
        if images and groups:
            named = ", ".join(f"{n} {g}" for n, g in zip(groups, GROUPS, strict=True))
            notes.append(f"{images} images; {named}-shot classes.")
    extents = {(one.split, one.images, str(one.group_classes)) for one in known}
    if len(extents) > 1:
        notes.append(
            "The rows are not of the same images; differences stand only where the "
            "split is the same."
        )
    if len(runs) > 1:
        notes.append("One run each: differences of a point or two may be chance.")
    return paragraph(" ".join(notes), "faint")


def _states(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        started = str(run.environment.get("started") or _NOTHING)
        changed = f"{run.changed:%Y-%m-%d %H:%M} UTC"
        cells = [status(run), _moment(started), changed, str(run.workdir)]
        rows.append([escape(run.name), *map(escape, cells)])
    return table(
        ["run", "state", "last start", "last entry", "working directory"],
        rows,
        caption="The runs",
        text=range(1, 5),
    )


def _moment(text: str) -> str:
    return f"{text[:16].replace('T', ' ')} UTC" if "T" in text else text
