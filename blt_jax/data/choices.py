"""Look up a name in a literal dict, with an error that a person can act on."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def choose(what: str, name: str, table: Mapping[str, T]) -> T:
    """Return `table[name]`; `what` is the name of the setting, for the message.

    Raises:
      ValueError: unknown name; lists the known ones, the nearest first.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=len(table), cutoff=0.0)
    names = ", ".join([*near, *(key for key in table if key not in near)])
    raise ValueError(f"{what}: unknown name {name!r}; choose one of: {names}")
