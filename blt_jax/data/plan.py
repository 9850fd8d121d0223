"""The batch plan: which records, seeds and slots a step has, on every host alike."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from blt_jax.choices import choose
from blt_jax.data import randomness
from blt_jax.data.sampler import Sampler

MAX_WIDTHS = 4
# Each width is another program to compile, and a padded slot costs about a tenth of a
# hallucinated one: no more widths than keep the padding to this share of the seeds.
PADDING = 0.15
PROBED_STEPS = 1000


class Plan(NamedTuple):
    """One step's records, before anything is read.

    records: [B] int64 record ids, the row order of the global batch.
    seeds: [n_T] int64 record ids of the images to perturb.
    seed_ordinals: [n_T] int32; seed_source "batch": the row of the seed, else B + j.
    slots: K, the number of hallucination slots, >= n_T and a multiple of the devices.
    """

    records: np.ndarray
    seeds: np.ndarray
    seed_ordinals: np.ndarray
    slots: int


class BatchPlan:
    """A pure function step -> Plan of (seed, step) and the labels (Alg. 1 lines 3-8).

    Records, seeds and ordinals depend neither on `num_devices` nor on hosts; only the
    number of slots is rounded to the devices.

    labels: class of each training record [N] int.
    sampler: item -> record id; step t has the items t B ... (t + 1) B - 1.
    batch_size: B, a multiple of `num_devices`.
    tail_mask: [C] bool, the classes to hallucinate.
    tail_fraction: p, share of the tail rows that become seeds; 0 turns it off.
    seed: of the choice of rows.
    first_step: earlier steps have no seeds.
    seed_source: "batch": the seed is the batch row itself (Alg. 1 line 8); "augmented":
      the same record, cropped and augmented anew; "dataset": a random training record
      of the same class (the released code).
    rounding: of p times the number of tail rows; "ceil" (paper) or "floor" (code).
    """

    def __init__(
        self,
        labels: np.ndarray,
        sampler: Sampler,
        *,
        batch_size: int,
        tail_mask: np.ndarray,
        tail_fraction: float,
        seed: int,
        num_devices: int = 1,
        first_step: int = 0,
        seed_source: str = "batch",
        rounding: str = "ceil",
    ):
        labels = np.asarray(labels)
        tail_mask = np.asarray(tail_mask, bool)
        if batch_size < 1 or num_devices < 1 or batch_size % num_devices:
            raise ValueError(
                f"batch_size: {batch_size} is not a multiple of the {num_devices} "
                "devices; change batch_size or the number of devices"
            )
        if not 0.0 <= tail_fraction <= 1.0:
            raise ValueError(
                f"hallucination.tail_fraction: {tail_fraction} is not in [0, 1]"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(tail_mask):
            raise ValueError(
                f"labels: {labels.min()} ... {labels.max()} do not fit a tail mask of "
                f"{len(tail_mask)} classes"
            )
        self.batch_size = int(batch_size)
        self.num_devices = int(num_devices)
        self.num_records = len(labels)
        self.first_step = int(first_step)
        self.tail_fraction = float(tail_fraction)
        self.seed_source = seed_source
        self.rounding = rounding
        self.seed = randomness.check_seed(seed)
        self._round = choose("rounding", rounding, ROUNDINGS)
        self._choose_seeds = choose(
            "hallucination.seed_source", seed_source, SEED_SOURCES
        )
        self._sampler = sampler
        self._labels = labels
        self._tail_record = tail_mask[labels]
        order = np.argsort(labels, kind="stable").astype(np.int64)
        self._by_class = np.split(
            order, np.cumsum(np.bincount(labels, minlength=len(tail_mask)))[:-1]
        )
        self._probe: np.ndarray | None = None
        self.widths = self._choose_widths()

    def __call__(self, step: int) -> Plan:
        """Return the plan of one step, step >= 0."""
        size = self.batch_size
        records = self._sampler.take(step * size, (step + 1) * size)
        tail_rows = np.flatnonzero(self._tail_record[records])
        count = self.num_seeds(len(tail_rows)) if step >= self.first_step else 0
        if not count:
            empty = np.zeros(0, np.int64)
            return Plan(records, empty, empty.astype(np.int32), 0)
        words = randomness.philox(self.seed, randomness.SEED_ROWS, step=step)
        order = np.argsort(words.random_raw(len(tail_rows)), kind="stable")
        rows = np.sort(tail_rows[order[:count]])
        seeds, ordinals = self._choose_seeds(self, step, records, rows)
        return Plan(records, seeds, ordinals.astype(np.int32), self.slots(count))

    def num_seeds(self, num_tail: int) -> int:
        """Return n_T for a number of tail rows (Alg. 1 line 5)."""
        # Nine digits take the binary error off products such as 0.07 * 100.
        return min(num_tail, self._round(round(self.tail_fraction * num_tail, 9)))

    def slots(self, num_seeds: int) -> int:
        """Return the smallest slot width that holds a number of seeds."""
        if not num_seeds:
            return 0
        return next(width for width in self.widths if width >= num_seeds)

    def mean_padding(self) -> float:
        """Return padded slots / seeds over the first 1000 hallucinating steps."""
        seeds = self._seed_counts()
        if not seeds.sum():
            return 0.0
        slots = np.array([self.slots(int(n)) for n in seeds])
        return float((slots - seeds).sum() / seeds.sum())

    def _seed_counts(self) -> np.ndarray:
        """Return n_T of the first 1000 steps that may hallucinate [1000] int64."""
        if self._probe is None:
            if not self.tail_fraction or not self._tail_record.any():
                self._probe = np.zeros(0, np.int64)
                return self._probe
            counts = []
            for step in range(self.first_step, self.first_step + PROBED_STEPS):
                start = step * self.batch_size
                records = self._sampler.take(start, start + self.batch_size)
                counts.append(self.num_seeds(int(self._tail_record[records].sum())))
            self._probe = np.array(counts, np.int64)
        return self._probe

    def _choose_widths(self) -> tuple[int, ...]:
        if not self.tail_fraction or not self._tail_record.any():
            return ()
        widths = optimal_widths(
            self._seed_counts(), multiple_of=self.num_devices, tolerance=PADDING
        )
        # A batch of tail images only may come at any later step.
        largest = _round_up(self.num_seeds(self.batch_size), self.num_devices)
        return tuple(sorted({*widths, largest} - {0}))


def optimal_widths(
    seed_counts: np.ndarray,
    *,
    multiple_of: int = 1,
    max_widths: int = MAX_WIDTHS,
    tolerance: float = 0.0,
) -> tuple[int, ...]:
    """Choose the slot widths with the fewest padded slots, ascending.

    Exact: some best choice has its widths among the counts (rounded up), so that
    dynamic programming over their distinct values finds it. Each further width up to
    the number of distinct values saves slots. Counts of 0 need no width.

    seed_counts: [n] int, number of seeds of each step.
    """
    counts = np.asarray(seed_counts, np.int64)
    rounded = _round_up(counts[counts > 0], multiple_of)
    values, times = np.unique(rounded, return_counts=True)
    num = len(values)
    if not num:
        return ()
    steps_up_to = np.concatenate([[0], np.cumsum(times)])
    # cost[j] = fewest slots for the j smallest values, with the widths used so far;
    # the last width serves the values i ... j - 1 and equals value j - 1.
    served = steps_up_to[None, 1:] - steps_up_to[:-1, None]
    slots = np.where(served > 0, served * values[None, :], np.inf)
    cost = np.full(num + 1, np.inf)
    cost[0] = 0.0
    starts: list[np.ndarray] = []
    enough = (1 + tolerance) * counts.sum()
    for _ in range(min(max_widths, num)):
        total = cost[:-1, None] + slots
        starts.append(np.argmin(total, axis=0))
        cost = np.concatenate([[np.inf], np.min(total, axis=0)])
        if cost[num] <= enough:
            break
    return _trace(starts, values)


def slot_layout(plan: Plan, num_devices: int) -> np.ndarray:
    """Return for each slot the index of its seed or -1 [K] int, device by device.

    Device d owns the slots d K/D ... (d + 1) K/D - 1. Seed j goes to device j % D, so
    that no device has two valid slots more than another.
    """
    layout = np.full((num_devices, plan.slots // num_devices), -1, np.int64)
    seeds = np.arange(len(plan.seeds))
    layout[seeds % num_devices, seeds // num_devices] = seeds
    return layout.reshape(-1)


def _trace(starts: list[np.ndarray], values: np.ndarray) -> tuple[int, ...]:
    """Walk back through the choices of the dynamic programme."""
    widths = []
    end = len(values)
    for start in reversed(starts):
        widths.append(int(values[end - 1]))
        end = int(start[end - 1])
    return tuple(reversed(widths))


def _seeds_from_batch(
    plan: BatchPlan, step: int, records: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    del plan, step
    return records[rows], rows


def _seeds_augmented(
    plan: BatchPlan, step: int, records: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    del step
    return records[rows], plan.batch_size + np.arange(len(rows))


def _seeds_from_dataset(
    plan: BatchPlan, step: int, records: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    words = randomness.philox(plan.seed, randomness.SEED_RECORDS, step=step)
    draws = randomness.uniform(words.random_raw(len(rows)))
    seeds = np.empty(len(rows), np.int64)
    for j, label in enumerate(plan._labels[records[rows]]):
        members = plan._by_class[label]
        seeds[j] = members[min(int(draws[j] * len(members)), len(members) - 1)]
    return seeds, plan.batch_size + np.arange(len(rows))


def _round_up(number: Any, multiple: int) -> Any:
    """Round an int or an array of ints up to a multiple."""
    return -(-number // multiple) * multiple


ROUNDINGS: dict[str, Callable[[float], int]] = {
    "ceil": math.ceil,
    "floor": math.floor,
}

SeedChoice = Callable[
    [BatchPlan, int, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]
]
SEED_SOURCES: dict[str, SeedChoice] = {
    "batch": _seeds_from_batch,
    "augmented": _seeds_augmented,
    "dataset": _seeds_from_dataset,
}
