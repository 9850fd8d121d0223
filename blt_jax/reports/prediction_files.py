"""Predictions as a table in a file, CSV or Parquet, there whole or not at all.

Columns: path, error, then class_1, name_1, probability_1 and so on, most likely first;
empty (CSV) or null (Parquet) after an error.
"""

import csv
import importlib.util
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from blt_jax.training.predict import FilePrediction
from blt_jax.training.workdir import NotSavedError

# Rows of a Parquet row group: groups of a batch each would be read slowly.
_GROUP = 65_536


class _Table(Protocol):
    def write(self, rows: Sequence[FilePrediction]) -> None: ...

    def close(self) -> None: ...


class _Csv:
    """Names as the bytes that they are, even where these are no text."""

    def __init__(self, path: Path, names: Sequence[str], top: int) -> None:
        self._names, self._top = names, top
        self._file = path.open("wb")
        self._write([_header(top)])

    def write(self, rows: Sequence[FilePrediction]) -> None:
        self._write([self._cells(row) for row in rows])

    def _cells(self, row: FilePrediction) -> list[object]:
        cells: list[object] = [row.path, row.error]
        for number, p in zip(row.classes.tolist(), row.probabilities, strict=True):
            cells += [number, self._names[number], f"{p:.6g}"]
        return cells + [""] * (2 + 3 * self._top - len(cells))

    def _write(self, rows: Sequence[Sequence[object]]) -> None:
        text = io.StringIO()
        plain = csv.writer(text, lineterminator="\n")
        # Python before 3.13 leaves a lone carriage return as it is, which ends a row.
        quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in rows:
            returns = any("\r" in cell for cell in row if isinstance(cell, str))
            (quoted if returns else plain).writerow(row)
        self._file.write(text.getvalue().encode("utf-8", "surrogateescape"))

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Names are text there: bytes that are none become escapes."""

    def __init__(self, path: Path, names: Sequence[str], top: int) -> None:
        import pyarrow
        from pyarrow import parquet

        self._names, self._top = names, top
        kinds = (pyarrow.int32(), pyarrow.string(), pyarrow.float32())
        types = [pyarrow.string(), pyarrow.string(), *kinds * top]
        self._schema = pyarrow.schema(list(zip(_header(top), types, strict=True)))
        self._table = pyarrow.Table
        self._writer = parquet.ParquetWriter(path, self._schema)
        self._rows: list[FilePrediction] = []

    def write(self, rows: Sequence[FilePrediction]) -> None:
        self._rows += rows
        if len(self._rows) >= _GROUP:
            self._write()

    def _write(self) -> None:
        columns: list[list[Any]] = [
            [_text(row.path) for row in self._rows],
            [_text(row.error) for row in self._rows],
        ]
        for place in range(self._top):
            known = [len(row.classes) > place for row in self._rows]
            pairs = list(zip(self._rows, known, strict=True))
            classes = [int(row.classes[place]) if k else None for row, k in pairs]
            columns += [
                classes,
                [None if c is None else self._names[c] for c in classes],
                [float(row.probabilities[place]) if k else None for row, k in pairs],
            ]
        named = dict(zip(self._schema.names, columns, strict=True))
        self._writer.write_table(self._table.from_pydict(named, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        if self._rows:
            self._write()
        self._writer.close()


FORMATS: dict[str, Callable[[Path, Sequence[str], int], _Table]] = {
    ".csv": _Csv,
    ".parquet": _Parquet,
}


def check_out(out: Path) -> None:
    """Refuse a file that cannot be written, before there is anything to write.

    Raises ValueError for an unknown kind of file or a missing package, NotSavedError
    for a place where nothing can be written.
    """
    if out.suffix.lower() not in FORMATS:
        raise ValueError(f"--out {out}: a file that ends in {' or '.join(FORMATS)}")
    if out.suffix.lower() == ".parquet" and not importlib.util.find_spec("pyarrow"):
        raise ValueError(
            f"--out {out}: Parquet needs the package pyarrow, which is not installed: "
            "pip install 'blt-jax[parquet]', or take a file that ends in .csv"
        )
    folder = out.parent
    if out.is_dir():
        raise NotSavedError(f"--out {out}: is a folder; name a file in it")
    if not folder.is_dir():
        raise NotSavedError(f"--out {out}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise NotSavedError(
            f"--out {out}: nothing can be written into {folder}; mend its permissions, "
            "or use another --out"
        )


@contextmanager
def prediction_file(
    out: Path, *, names: Sequence[str], top: int, paths: Sequence[str]
) -> Iterator[Callable[[Sequence[FilePrediction]], None]]:
    """Open the file, give what writes rows to it, and put it in place at the end.

    names: of the classes. top: predictions of an image. paths: all that will come, to
    see whether there is space for them. Raises NotSavedError.
    """
    longest = max(len(name.encode()) for name in names)
    needed = sum(map(len, paths)) + len(paths) * top * (longest + 20)
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise NotSavedError(
            f"--out {out}: {len(paths)} rows take up to {needed} bytes, and {free} are "
            "free there; make space, or use another --out"
        )
    partial = out.with_name(f"{out.name}.partial")
    with _told(out):
        table = FORMATS[out.suffix.lower()](partial, names, top)

    def write(rows: Sequence[FilePrediction]) -> None:
        with _told(out):
            table.write(rows)

    try:
        yield write
        with _told(out):
            table.close()
            os.replace(partial, out)
    except BaseException:
        with suppress(Exception):
            table.close()
        with suppress(OSError):
            partial.unlink()
        raise


@contextmanager
def _told(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotSavedError(
            f"--out {out}: not written, {error.strerror or error}; mend that, or use "
            "another --out"
        ) from None


def _header(top: int) -> list[str]:
    columns = ("class", "name", "probability")
    numbered = [f"{name}_{place + 1}" for place in range(top) for name in columns]
    return ["path", "error", *numbered]


def _text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
