"""Times of several arms, taken in turns, with their spread.

A machine's speed drifts by more than most differences that one wants to see. So each
round runs every arm once, in an order that rotates, and arms are compared within
rounds.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Arm(NamedTuple):
    """Something to time, once a round."""

    prepare: Callable[[int], Any]  # round -> what `run` takes; not timed
    run: Callable[[Any], Any]  # timed: must return when everything is computed


class Timed(NamedTuple):
    """What one arm took and gave, by round."""

    seconds: np.ndarray  # [rounds]
    results: list[Any]  # what `run` returned


def interleave(arms: Mapping[str, Arm], *, rounds: int) -> dict[str, Timed]:
    """Run every arm once in each round, after one round that does not count.

    rounds: at least 5, or quartiles mean nothing (ValueError).
    """
    if rounds < 5:
        raise ValueError(f"--rounds {rounds}: at least 5 are needed for quartiles")
    names = list(arms)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    results: dict[str, list[Any]] = {name: [] for name in names}
    for number in range(-1, rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            argument = arms[name].prepare(max(number, 0))
            begin = time.perf_counter()
            result = arms[name].run(argument)
            took = time.perf_counter() - begin
            if number >= 0:
                seconds[name].append(took)
                results[name].append(result)
    return {name: Timed(np.array(seconds[name]), results[name]) for name in names}


def forgetting(arm: Arm) -> Arm:
    """The arm without its results: the batches of all rounds would fill the memory.

    Its batch is given back before the next round, where it costs no time that counts.
    """
    held: list[Any] = []

    def prepare(number: int) -> Any:
        held.clear()
        return arm.prepare(number)

    def run(argument: Any) -> None:
        held.append(arm.run(argument))

    return Arm(prepare, run)


def spread(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Median and quartiles, as they stand in a document."""
    q1, median, q3 = np.percentile(values, (25, 50, 75))
    return {"median": float(median), "q1": float(q1), "q3": float(q3)}


def milliseconds(timed: Timed) -> dict[str, float]:
    """Median and quartiles of an arm's times in milliseconds."""
    return spread(1000 * timed.seconds)


def ratio(timed: Timed, baseline: Timed) -> dict[str, Any]:
    """How many times the baseline an arm takes, compared round by round.

    Returns `ratio` (the median), `ratio_q1`, `ratio_q3`, and `tie`: whether the
    difference is smaller than the spread, so that nothing should be made of it.
    """
    found = spread(timed.seconds / baseline.seconds)
    return {
        "ratio": found["median"],
        "ratio_q1": found["q1"],
        "ratio_q3": found["q3"],
        "tie": abs(found["median"] - 1) <= found["q3"] - found["q1"],
    }
