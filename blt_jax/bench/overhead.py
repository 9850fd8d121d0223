"""What hallucination costs: steps with it against the same steps without.

The floor is what cannot be avoided. A vanilla step costs 3 forward passes an image, an
evaluation of the ascent 2, a hallucinated image in the batch 3; with f hallucinated
images for each image of the batch and k updates on average, of which each image
needs one more evaluation, the floor is 1 + f (2 (k + 1) / 3 + 1) vanilla steps.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax

from blt_jax.bench.timing import Timed, interleave, milliseconds, ratio
from blt_jax.bench.workload import Workload

_VANILLA = "vanilla"
_SUMS = ("hallucinated", "padded", "iterations", "reached", "evaluations")


def overhead(
    workload: Workload,
    *,
    step_rules: Sequence[str],
    tail_fractions: Sequence[float],
    gammas: Sequence[float],
    rounds: int,
) -> Iterator[dict[str, Any]]:
    """Rows for every combination; those of one gamma are timed together.

    Without a tail fraction there is nothing for a rule to do: p = 0 is one row.
    """
    for gamma in gammas:
        balanced = {"sampler.gamma": gamma}
        works = {
            _VANILLA: workload.step(
                rounds=rounds,
                changes={**balanced, "hallucination.enabled": False},
            )
        }
        cases = [(rule, p) for p in tail_fractions for rule in step_rules if p]
        cases += [(step_rules[0], p) for p in tail_fractions if not p]
        for rule, p in cases:
            changes = {
                **balanced,
                "hallucination.enabled": True,
                "hallucination.step_rule": rule,
                "hallucination.tail_fraction": p,
            }
            works[f"{rule} {p}"] = workload.step(rounds=rounds, changes=changes)
        timed = interleave(
            {name: work.arm() for name, work in works.items()}, rounds=rounds
        )
        for rule, p in cases:
            name = f"{rule} {p}"
            yield {
                "step_rule": rule,
                "tail_fraction": p,
                "gamma": gamma,
                "n": rounds,
                **workload.columns,
                **_row(timed[name], timed[_VANILLA], workload.columns["batch"]),
                "slots": sorted(works[name].compiled),
                "compile_seconds": works[name].compile_seconds,
                "vanilla_compile_seconds": works[_VANILLA].compile_seconds,
            }


def floor_ratio(hallucinated: float, batch: int, mean_iterations: float) -> float:
    """Duration of a step with hallucination at its floor, in vanilla steps."""
    return 1 + hallucinated / batch * (2 * (mean_iterations + 1) / 3 + 1)


def _row(blt: Timed, vanilla: Timed, batch: int) -> dict[str, Any]:
    results = jax.device_get(blt.results)
    sums = {
        name: sum(float(result[name]) for result in results if name in result)
        for name in _SUMS
    }
    hallucinated = sums["hallucinated"]
    compared = ratio(blt, vanilla)
    row: dict[str, Any] = {
        "hallucinated": hallucinated / len(blt.results),
        "mean_iterations": None,
        "reached": None,
        "occupancy": None,
        "padded": sums["padded"] / len(blt.results),
        "vanilla_ms": milliseconds(vanilla),
        "blt_ms": milliseconds(blt),
        **compared,
        "floor_ratio": 1.0,
        "overhead_over_floor": None,
    }
    if hallucinated:
        iterations = sums["iterations"] / hallucinated
        floor = floor_ratio(row["hallucinated"], batch, iterations)
        row |= {
            "mean_iterations": iterations,
            "reached": sums["reached"] / hallucinated,
            "occupancy": sums["evaluations"] / (sums["iterations"] + hallucinated),
            "floor_ratio": floor,
            "overhead_over_floor": (compared["ratio"] - 1) / (floor - 1),
        }
    return row
