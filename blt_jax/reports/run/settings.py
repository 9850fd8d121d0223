"""Sections of the report: the configuration, and what the runs were made with."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from blt_jax.reports.run.files import Run
from blt_jax.reports.run.page import Section, details, listing, missing, table

_ABSENT = "–"


def config_section(runs: Sequence[Run], defaults: Mapping[str, Any]) -> Section:
    """Fields that are not at their default in some run; all of them on demand.

    defaults: every field, by dotted name.
    """
    flat = [_flat(run.config) for run in runs]
    names = sorted({name for fields in flat for name in fields})
    rows = []
    for name in names:
        default = _text(defaults[name]) if name in defaults else _ABSENT
        values = [_text(f[name]) if name in f else _ABSENT for f in flat]
        if any(value != default for value in values):
            shown = [_code(value, value != values[0]) for value in values]
            rows.append([f"<code>{escape(name)}</code>", _code(default), *shown])
    heading = ["field", "default", *(run.name for run in runs)]
    told = "Fields that are not at their default"
    if len(runs) > 1:
        told += f"; bold: not as in {runs[0].name}"
    body = table(heading, rows, caption=told, text=range(1, len(heading)))
    for run in runs:
        body += details(f"The whole configuration of {run.name}", listing(run.config))
    return Section("Configuration", "config", body)


def environment_section(runs: Sequence[Run]) -> Section:
    """Versions, devices and revision of each run, at its last start."""
    found = [_facts(run.environment) for run in runs]
    names = list(dict.fromkeys(name for facts in found for name in facts))
    absent = "".join(
        missing(f"{run.name}: there is no environment.json in its working directory.")
        for run in runs
        if not run.environment
    )
    rows = [
        [escape(name), *(escape(facts.get(name, _ABSENT)) for facts in found)]
        for name in names
    ]
    heading = ["", *(run.name for run in runs)]
    text = range(1, len(heading))
    body = table(heading, rows, caption="At the last start", text=text)
    return Section("Environment", "environment", (body if rows else "") + absent)


def _facts(environment: Mapping[str, Any]) -> dict[str, str]:
    facts: dict[str, str] = {}
    for name, value in environment.items():
        if isinstance(value, Mapping):
            facts |= {str(n): str(v) for n, v in value.items() if v is not None}
        elif isinstance(value, list):
            shown = value if len(value) < 3 else [value[0], "...", value[-1]]
            facts[name] = f"{len(value)}: {', '.join(map(str, shown))}"
        elif value is not None:
            facts[name.replace("_", " ")] = str(value)
    return facts


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name, without what the program derived."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            if prefix or name != "derived":
                flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _code(text: str, differs: bool = False) -> str:
    code = f"<code>{escape(text)}</code>"
    return f"<b>{code}</b>" if differs else code
