"""Tables, written into a page from the files that `bench` and `reproduce` left.

    python -m blt_jax.reports.benchmarks docs/benchmarks.md [--check]

Between the lines `<!-- table: FILE -->` and `<!-- end -->` of the page stands the table
of one file, which is a measurement (JSON) or a table already (Markdown); its path is
relative to the page. All else on the page is left alone.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
_BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NO_VALUE = "-"


def _number(name: str, form: str = ".2f") -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row.get(name)
        return _NO_VALUE if value is None else format(value, form)

    return cell


def _word(name: str) -> Callable[[Row], str]:
    return lambda row: _NO_VALUE if row.get(name) is None else str(row[name])


def _milliseconds(name: str) -> Callable[[Row], str]:
    """Median and quartiles."""

    def cell(row: Row) -> str:
        if name not in row:
            return _NO_VALUE
        ms = row[name]
        digits = 0 if ms["median"] >= 100 else 1
        q1, median, q3 = (f"{ms[key]:.{digits}f}" for key in ("q1", "median", "q3"))
        return f"{median} ({q1}-{q3})"

    return cell


def _ratio(row: Row) -> str:
    if "ratio" not in row:
        return str(row.get("failed", _NO_VALUE))
    text = f"{row['ratio']:.2f} ({row['ratio_q1']:.2f}-{row['ratio_q3']:.2f})"
    return f"{text}, tie" if row["tie"] else text


def _share(row: Row) -> str:
    return f"{row['hallucinated'] / row['batch']:.4f}"


def _percent(name: str) -> Callable[[Row], str]:
    return _number(name, ".0%")


_WORK: dict[str, Callable[[Row], str]] = {
    "network": _word("backbone"),
    "px": _word("image_size"),
    "batch": _word("batch"),
}
# Kind of measurement -> heading -> what stands below it.
COLUMNS: dict[str, dict[str, Callable[[Row], str]]] = {
    "overhead": {
        "step rule": _word("step_rule"),
        "p": _word("tail_fraction"),
        "γ": _word("gamma"),
        **_WORK,
        "f": _share,
        "k": _number("mean_iterations"),
        "reached": _percent("reached"),
        "occupancy": _number("occupancy"),
        "vanilla ms": _milliseconds("vanilla_ms"),
        "BLT ms": _milliseconds("blt_ms"),
        "BLT / vanilla": _ratio,
        "floor": _number("floor_ratio"),
        "overhead / floor's": _number("overhead_over_floor"),
    },
    "ascent": {
        "step rule": _word("step_rule"),
        "step bound": _number("max_step", "g"),
        "form": _word("form"),
        "px": _word("image_size"),
        "images": _word("batch"),
        "ms": _milliseconds("ms"),
        "/ plain": _ratio,
        "iterations": _number("mean_iterations"),
        "reached": _percent("reached"),
        "occupancy": _number("occupancy"),
        "MB": _number("temporary_mb", ".0f"),
        "compile s": _number("compile_seconds", ".1f"),
    },
    "step": {
        "library": _word("library"),
        **_WORK,
        "dtype": _word("dtype"),
        "ms": _milliseconds("ms"),
        "images/s": _number("images_per_second", ".0f"),
        "/ baseline": _ratio,
        "compile s": _number("compile_seconds", ".1f"),
    },
    "input": {
        "source": _word("source"),
        "stage": _word("stage"),
        "page cache": _word("cache"),
        "px": _word("image_size"),
        "batch": _word("batch"),
        "ms": _milliseconds("ms"),
        "images/s": _number("images_per_second", ".0f"),
        "times as fast": _ratio,
        "share of demand": _number("share_of_demand"),
    },
    "scaling": {
        "devices": _word("devices"),
        "BLT": lambda row: "yes" if row["hallucination"] else "no",
        **_WORK,
        "ms": _milliseconds("ms"),
        "images/s": _number("images_per_second", ".0f"),
        "/ first row": _ratio,
    },
}


def format_benchmark(content: Mapping[str, Any]) -> str:
    """Markdown of one file's rows, under what was run, on what.

    content: the document that `blt-jax bench` writes. Times are medians and, in
    brackets, quartiles. Raises ValueError for a kind without columns.
    """
    words = content["command"].split()
    kind = words[2] if words[:2] == ["blt-jax", "bench"] else ""
    if kind not in COLUMNS:
        raise ValueError(
            f"command {content['command']!r}: not a measurement with a table; known "
            f"are {', '.join(COLUMNS)}"
        )
    columns, rows = COLUMNS[kind], content["rows"]
    cells = [list(columns)] + [[cell(row) for cell in columns.values()] for row in rows]
    lines = [" | ".join(line) for line in cells]
    lines.insert(1, " | ".join("---" for _ in columns))
    versions = content["versions"]
    names = [n for n in ("jax", "torch", "torchvision") if versions.get(n)]
    made_with = ", ".join(f"{name} {versions[name]}" for name in names)
    rounds = sorted({row["n"] for row in rows if row["n"]})
    return "\n".join(
        [
            f"`{content['command']}`",
            "",
            f"{content['device']}; {made_with}; n = {', '.join(map(str, rounds))}.",
            "",
            *(f"| {line} |" for line in lines),
            "",
        ]
    )


def fill_page(page: Path) -> str:
    """The text of a page with its tables made anew.

    Raises ValueError or OSError, naming the file, for one that is missing or strange.
    """

    def table(block: re.Match[str]) -> str:
        file = page.parent / block[2]
        if file.suffix == ".md":
            return f"{block[1]}{file.read_text()}{block[3]}"
        try:
            made = format_benchmark(json.loads(file.read_text()))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{file}: not a file of `bench` ({error})") from error
        return f"{block[1]}{made}{block[3]}"

    return _BLOCK.sub(table, page.read_text())


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 1 when --check finds a page that is out of date."""
    parser = argparse.ArgumentParser(
        prog="python -m blt_jax.reports.benchmarks", description=__doc__
    )
    parser.add_argument("page", type=Path, help="Markdown file with blocks to fill")
    parser.add_argument("--check", action="store_true", help="only compare")
    arguments = parser.parse_args(argv)
    try:
        filled = fill_page(arguments.page)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if not arguments.check:
        arguments.page.write_text(filled)
    elif filled != arguments.page.read_text():
        print(f"{arguments.page} differs from its files", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
