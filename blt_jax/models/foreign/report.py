"""What an import took over and what it did not: to print, and to keep."""

from typing import Any, NamedTuple

from blt_jax.models.foreign.array_files import one_line

_SHOWN = 8  # names of a list that is printed


class Report(NamedTuple):
    """What an import took over, and what it did not.

    Attributes:
      program: whose names the file has: a key of FOREIGN_NAMES[backbone].
      backbone: ours.
      matched: arrays that were taken over.
      parameters: numbers in them.
      drawn: our arrays that the file has not; they are as a new model's.
      unused: arrays of the file that have no use here.
      notes: why, one line each.
    """

    program: str
    backbone: str
    matched: int
    parameters: int
    drawn: tuple[str, ...]
    unused: tuple[str, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report to print."""
        lines = [
            f"{self.program} weights for {self.backbone}: {self.matched} arrays "
            f"matched, {self.parameters} numbers"
        ]
        for what, names in (
            ("drawn anew", self.drawn),
            ("unused, from the file", self.unused),
        ):
            lines.append(f"{what}: {_some(names)}")
        return lines + [f"note: {note}" for note in self.notes]

    def summary(self) -> dict[str, Any]:
        """The report in the description of a checkpoint, JSON-able."""
        return {
            **self._asdict(),
            "drawn": list(self.drawn),
            "unused": [one_line(name, 80) for name in self.unused],
            "notes": list(self.notes),
        }


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(one_line(name, 80) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{shown}{more}" if names else "nothing"
