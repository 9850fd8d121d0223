"""The format of checkpoints, and what makes an older one into that of today.

FORMAT is raised when something in a checkpoint changes its meaning: an array its name,
shape or order of axes, a field of the description its sense. The commit that does so
adds the upgrade from the format before, and keeps a small checkpoint of that one in
`tests/checkpoints`. A field that is only added raises nothing: where it is absent, its
default holds (`ModelSpec`, `default_config`).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

FORMAT = 2

Description = dict[str, Any]
Items = dict[str, Any]


class Upgrade(NamedTuple):
    """One format becomes the next.

    Attributes:
      description: without its digests, which are of the arrays as they were saved.
      arrays: "params" and "batch_stats", and "confusion" where it is there; nested
        dicts of NumPy arrays.
    """

    description: Callable[[Description], Description]
    arrays: Callable[[Items], Items]


# From this format to the next one. Format 1 had no digests, and was never released.
UPGRADES: dict[int, Upgrade] = {}


def format_of(meta: Mapping[str, Any]) -> int:
    """The format that a description names; ValueError if it names none."""
    version = meta.get("format")
    if type(version) is not int:
        raise ValueError(f"its format is {version!r}, not a whole number")
    return version


def refusal(version: int) -> str:
    """Why checkpoints of a format cannot be read; "": they can."""
    if version > FORMAT:
        return (
            f"checkpoint format {version}, made by a newer blt-jax; this one reads up "
            f"to format {FORMAT}: upgrade blt-jax"
        )
    if any(older not in UPGRADES for older in range(version, FORMAT)):
        oldest = min(UPGRADES, default=FORMAT)
        return (
            f"checkpoint format {version}, older than {oldest}, the oldest that "
            "blt-jax reads"
        )
    return ""


def upgraded_description(meta: Mapping[str, Any]) -> Description:
    """A description as format FORMAT has it.

    "format" and "digests" stay what they are, as they are about the arrays on disk.
    """
    kept = {name: meta[name] for name in ("format", "digests")}
    result = {name: value for name, value in meta.items() if name not in kept}
    for version in range(meta["format"], FORMAT):
        result = UPGRADES[version].description(result)
    return {**result, **kept}


def upgraded_arrays(version: int, arrays: Mapping[str, Any]) -> Items:
    """Arrays of a checkpoint of format `version` as format FORMAT has them."""
    result = dict(arrays)
    for older in range(version, FORMAT):
        result = UPGRADES[older].arrays(result)
    return result
