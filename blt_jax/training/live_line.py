"""One line at the foot of a terminal that says how a run goes, and what it says."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from blt_jax.data.progress import duration

_BETWEEN = 0.25  # seconds; a person reads no faster


class LiveLine:
    """A line that is drawn anew in its place; what is printed meanwhile goes above it.

    Only on a terminal: elsewhere `live` is False and nothing is ever drawn. It is cut
    to the width of the terminal. Messages that the process prints past Python's own
    streams (XLA's) cannot be kept apart from it.

    clock: seconds, for tests.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._clock = clock
        self._next = clock()
        self._drawn: Live | None = None

    def due(self) -> bool:
        """Whether a change would be drawn now: on a terminal, a few times a second."""
        return self.live and self._clock() >= self._next

    def show(self, words: Callable[[int], str]) -> None:
        """Draw the line that `words` makes for a number of columns."""
        if not self.live:
            return
        self._next = self._clock() + _BETWEEN
        if self._drawn is None:
            # As it was printed: no colours for numbers, no breaks but the terminal's.
            console = Console(
                file=sys.stdout, force_terminal=True, highlight=False, soft_wrap=True
            )
            self._drawn = Live(
                console=console,
                auto_refresh=False,
                transient=True,
                # One that leads to a file is no business of the terminal's.
                redirect_stderr=sys.stderr.isatty(),
            )
            self._drawn.start()
            # Hidden, it would stay so after a signal that ends the process at once.
            console.show_cursor(True)
        line = words(self._drawn.console.width)
        text = Text(line, no_wrap=True, overflow="ellipsis")
        self._drawn.update(text, refresh=True)

    def hide(self) -> None:
        """Take the line away and leave the terminal as it was."""
        if self._drawn is not None:
            drawn, self._drawn = self._drawn, None
            drawn.stop()


def live_words(record: Mapping[str, Any], columns: int) -> str:
    """The numbers of a training record in about 80 columns, what counts most first."""
    speed = f"{record['images_per_second']:.0f}"
    if record["hallucinated"]:
        speed += f"+{record['hallucinated_per_second']:.0f}"
    parts = [
        f"{record['stage']} ep {record['epoch']}/{record['epochs']} "
        f"{record['step']}/{record['total_steps']}",
        "no step learned" if record["loss"] is None else f"loss {record['loss']:.3f}",
        f"ETA {duration(record['seconds_left'])}",
        f"{speed} img/s",
    ]
    if record["mean_iterations"] is not None:
        reached = record["reached_fraction"]
        parts.append(f"{record['mean_iterations']:.1f} it {reached:.0%}")
    parts.append(f"wait {record['data_wait']:.0%}")
    if record["not_finite_steps"]:
        parts.append(f"{record['not_finite_steps']} not finite")
    if record["bad_files"]:
        parts.append(f"{record['bad_files']} bad files")
    wide = "  ".join(parts)
    return wide if len(wide) < columns else " ".join(parts)
