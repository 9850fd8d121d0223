"""One JSON object, taken field by field; what is wrong is one line with its place."""

import math
from collections.abc import Mapping
from typing import Any


class ResultsError(ValueError):
    """Results that cannot be used; the message says which and why."""


class Fields:
    """The fields of one JSON object; each method checks and returns one of them.

    values: what the JSON holds there. where: file, and what else leads to the object.
    path: the names above, for an object within an object, "results.best.".
    Every method raises ResultsError when the field is missing or of another kind.
    """

    def __init__(self, values: Any, where: str, *, path: str = "") -> None:
        self.values, self.where, self.path = values, where, path
        if not isinstance(values, Mapping):
            name = path.removesuffix(".") or "the whole"
            raise ResultsError(f"{where}: {name} is {_shown(values)}, not an object")

    def inside(self, name: str) -> "Fields":
        """The object of that name."""
        return Fields(self._take(name), self.where, path=f"{self.path}{name}.")

    def each(self) -> "dict[str, Fields]":
        """The objects within this one, by name."""
        return {name: self.inside(name) for name in self.values}

    def text(self, name: str) -> str:
        """A string."""
        value = self._take(name)
        return self._check(name, value, isinstance(value, str), "text")

    def text_or_none(self, name: str) -> str | None:
        """A string or null."""
        return None if self._take(name) is None else self.text(name)

    def count(self, name: str) -> int:
        """A whole number, 0 or more."""
        value = self._take(name)
        return self._check(name, value, _is_count(value), "a whole number from 0 on")

    def amount(self, name: str) -> float | None:
        """A number, 0 or more, or null."""
        value = self._take(name)
        fine = value is None or (_is_number(value) and value >= 0)
        return self._check(name, value, fine, "a number from 0 on, or null")

    def share(self, name: str) -> float | None:
        """A number in [0, 1], or null."""
        return self._share(name, self._take(name))

    def shares(self, name: str, length: int | None = None) -> tuple[float | None, ...]:
        """As many numbers in [0, 1], or null, as there should be."""
        values = self._list(name, length)
        return tuple(self._share(f"{name}[{i}]", v) for i, v in enumerate(values))

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self._list(name)
        for i, value in enumerate(values):
            self._check(f"{name}[{i}]", value, isinstance(value, str), "text")
        return tuple(values)

    def counts(self, name: str, length: int | None = None) -> tuple[int, ...]:
        """As many whole numbers, 0 or more, as there should be."""
        values = self._list(name, length)
        for i, value in enumerate(values):
            self._check(f"{name}[{i}]", value, _is_count(value), "a count")
        return tuple(values)

    def wrong(self, name: str, message: str) -> ResultsError:
        """The error that says what is wrong with a field."""
        return ResultsError(f"{self.where}: {self.path}{name} {message}")

    def _take(self, name: str) -> Any:
        if name not in self.values:
            raise ResultsError(
                f"{self.where}: field '{self.path}{name}' is missing"
            ) from None
        return self.values[name]

    def _list(self, name: str, length: int | None = None) -> list[Any]:
        values = self._take(name)
        if not isinstance(values, list | tuple):
            raise self.wrong(name, f"is {_shown(values)}, not a list")
        if length is not None and len(values) != length:
            raise self.wrong(name, f"has {len(values)} values, not {length}")
        return list(values)

    def _share(self, name: str, value: Any) -> float | None:
        if value is not None and not (_is_number(value) and 0 <= value <= 1):
            raise self.wrong(name, f"is {_shown(value)}, which is not in [0, 1]")
        return value

    def _check(self, name: str, value: Any, fine: bool, kind: str) -> Any:
        if not fine:
            raise self.wrong(name, f"is {_shown(value)}, not {kind}")
        return value


def _is_number(value: Any) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _shown(value: Any) -> str:
    """A value on one line, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
