"""Section of the report: where the time of a run went."""

from collections.abc import Mapping, Sequence
from html import escape

from blt_jax.data.progress import duration
from blt_jax.reports.run.files import Run
from blt_jax.reports.run.history import TIME_PARTS, time_parts
from blt_jax.reports.run.page import Section, missing, paragraph, table

_ESTIMATED = ("training", "ascent")


def time_section(runs: Sequence[Run]) -> Section:
    """Where the time went, as far as the log tells."""
    found = [time_parts(run) for run in runs]
    if not any(sum(parts.values()) for parts in found):
        return Section("Time", "time", missing("No time is logged yet."))
    bars, rows = "", []
    for run, parts in zip(runs, found, strict=True):
        bars += f"<h3>{escape(run.name)}</h3>{_bar(parts)}"
    for number, name in enumerate(TIME_PARTS):
        star = " (estimated)" if name in _ESTIMATED else ""
        swatch = f'<span class="swatch t{number}"></span>'
        cells = [_cell(parts[name], sum(parts.values())) for parts in found]
        rows.append([f"{swatch}{escape(name)}{star}", *cells])
    totals = [duration(sum(parts.values())) for parts in found]
    rows.append(["together", *totals])
    told = table(["part", *(run.name for run in runs)], rows, caption="Time by part")
    note = paragraph(
        "Read off the clock of the host: waiting for data (steps that could not be "
        "sent for want of a batch), evaluation after each epoch, the part of saving a "
        "checkpoint that the run waits for, compilation. Ascent and training are one "
        "program on the device; their sum is measured, and it is split by the "
        "operations counted: an evaluation of the ascent costs two forward passes, an "
        "image trained with three; a bank of images made before the steps is ascent as "
        "a whole. Not in it: starting up, reading lists and the evaluation at the end.",
        "faint",
    )
    return Section("Time", "time", bars + told + note)


def _bar(parts: Mapping[str, float]) -> str:
    """The parts side by side, as long as their shares."""
    total = max(sum(parts.values()), 1e-9)
    pieces = "".join(
        f'<span class="t{number}" style="flex:{parts[name] / total:.4f}" '
        f'title="{escape(name)}: {parts[name] / total:.0%}"></span>'
        for number, name in enumerate(TIME_PARTS)
        if parts[name]
    )
    return f'<div class="stack" aria-hidden="true">{pieces}</div>'


def _cell(seconds: float, total: float) -> str:
    share = f"{seconds / max(total, 1e-9):.0%}"
    return f'{duration(seconds)}<span class="delta">{share}</span>'
