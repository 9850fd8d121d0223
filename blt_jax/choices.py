"""Names that a user chooses from, with an error that a person can act on."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def check_choice(what: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not known; `what` is the setting, for the message.

    Raises:
      ValueError: lists the known names, the nearest first.
    """
    known = list(known)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    names = ", ".join(near + [other for other in known if other not in near])
    raise ValueError(f"{what}: unknown name {name!r}; choose one of: {names}")


def choose(what: str, name: str, table: Mapping[str, T]) -> T:
    """Return `table[name]`, or raise as `check_choice` does."""
    check_choice(what, name, table)
    return table[name]
