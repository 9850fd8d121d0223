"""What became of the trials of one fault: a row of the table."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fault.tiny import Ending

LONGEST = 3000  # characters of what went wrong


@dataclass
class Row:
    """One fault. A trial that raises AssertionError was not survived."""

    fault: str
    trials: int = 0
    failures: list[str] = field(default_factory=list)
    seen: str = ""  # the line that a person sees, of the last trial that has one
    notes: dict[str, int] = field(default_factory=dict)  # how often what was hit

    @property
    def survived(self) -> int:
        """Trials that went well."""
        return self.trials - len(self.failures)

    @contextmanager
    def trial(self, what: str, *, count: int = 1) -> Iterator[None]:
        """One trial, or `count` that can only be judged together."""
        self.trials += count
        try:
            yield
        except AssertionError as error:
            self.lost(what, error, count=count)

    def lost(self, what: str, error: AssertionError, *, count: int) -> None:
        """Tell what went wrong in trials that were counted."""
        text = str(error)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]}\n...\n{text[-LONGEST // 2 :]}"
        self.failures += [f"{what}: {text}"] * count

    def note(self, what: str) -> None:
        """Count something that a reader of the table may want to know."""
        self.notes[what] = self.notes.get(what, 0) + 1


def same(found: Ending, expected: Ending) -> None:
    """Assert that a run ended as another did, in every bit and every record."""
    assert found.digest == expected.digest, "the end differs: another digest"
    missing = sorted(expected.metrics.keys() - found.metrics.keys())
    extra = sorted(found.metrics.keys() - expected.metrics.keys())
    assert not missing and not extra, f"records missing {missing}, extra {extra}"
    for key, record in expected.metrics.items():
        assert found.metrics[key] == record, f"{key}: {found.metrics[key]} != {record}"


def last_line(said: str) -> str:
    """The last line that a program printed."""
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def plain(said: str) -> None:
    """Assert that a person was not shown the inside of the program."""
    for inside in ("Traceback", "ERROR:absl", "WARNING:absl", "never awaited"):
        assert inside not in said, f"{inside}:\n{said}"
