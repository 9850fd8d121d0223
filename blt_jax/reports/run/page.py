"""Parts of an HTML page without anything from elsewhere; every text is escaped."""

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from blt_jax.reports.run.style import style_sheet
from blt_jax.reports.run.svg import mark

# Nothing is loaded, whatever may have found its way into the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Section:
    """A part of the page: its title, the name in its address, and ready HTML."""

    title: str
    name: str
    body: str


def page(title: str, *, top: str, sections: Sequence[Section], foot: str) -> str:
    """The whole page. top, foot: ready HTML."""
    links = "".join(
        f'<li><a href="#{one.name}">{escape(one.title)}</a></li>' for one in sections
    )
    bodies = "".join(
        f'<section id="{one.name}"><h2>{escape(one.title)}</h2>{one.body}</section>\n'
        for one in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title>{style_sheet()}</head>\n<body>"
        f"<header>{top}</header>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n'
        f"<main>\n{bodies}</main>\n<footer>{foot}</footer></body></html>\n"
    )


def paragraph(text: str, style: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(style)}>{escape(text)}</p>"


def short(text: str, longest: int = 34) -> str:
    """Text of one line, cut off where it is longer; the whole shows under the mouse."""
    if len(text) <= longest:
        return escape(text)
    return (
        f'<span title="{escape(text)}">{escape(text[: longest - 1].rstrip())}…</span>'
    )


def missing(text: str, command: str = "") -> str:
    """What is not there and why; and the command that gives it."""
    told = f" <code>{escape(command)}</code>" if command else ""
    return f'<p class="missing">{escape(text)}{told}</p>'


def figure(chart: str, title: str, text: str = "") -> str:
    """A chart below its title and what has to be said of it."""
    said = f"<br>{escape(text)}" if text else ""
    return (
        f"<figure><figcaption><b>{escape(title)}</b>{said}</figcaption>{chart}</figure>"
    )


def figures(parts: Iterable[str]) -> str:
    """Figures side by side, as many as there is room for."""
    return f'<div class="figures">{"".join(parts)}</div>'


def legend(entries: Iterable[tuple[str, str, str]]) -> str:
    """What the series are: (text, class, shape of the mark)."""
    items = "".join(
        f'<li><svg viewBox="0 0 30 12" aria-hidden="true">'
        f'<polyline class="line {style}" points="0,6 30,6"/>'
        f"{mark(shape, 15, 6, 3.5, style)}</svg>{escape(text)}</li>"
        for text, style, shape in entries
    )
    return f'<ul class="legend">{items}</ul>'


def table(
    heading: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str,
    text: Container[int] = (),
) -> str:
    """A table that scrolls in itself; the first cell of each row is its heading.

    rows: ready HTML of each cell. text: columns that are not numbers, and stand to the
    left.
    """

    def style(number: int) -> str:
        return _class("text" if number in text else "")

    head = "".join(
        f'<th scope="col"{style(number)}>{escape(name)}</th>'
        for number, name in enumerate(heading)
    )
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(
            f"<td{style(number)}>{cell}</td>" for number, cell in enumerate(row[1:], 1)
        )
        + "</tr>"
        for row in rows
    )
    told = escape(caption)
    return (
        f'<div class="told"><p class="faint">{told}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{told}">'
        f'<table aria-label="{told}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


def details(title: str, body: str) -> str:
    """What opens on demand; body: ready HTML."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def listing(values: Mapping[str, Any]) -> str:
    """A mapping as indented JSON."""
    return f"<pre>{escape(json.dumps(values, indent=1, ensure_ascii=False))}</pre>"


def _class(style: str) -> str:
    return f' class="{style}"' if style else ""
