"""The batch plan: a pure function, the same on every host, with few padded slots."""

import itertools

import numpy as np
import pytest

from blt_jax.data.plan import BatchPlan, optimal_widths, slot_layout
from blt_jax.data.sampler import GammaBalancedSampler, ShuffledSampler

COUNTS = [60, 30, 12, 6, 3]
LABELS = np.repeat(np.arange(5), COUNTS)
TAIL = np.array(COUNTS) <= 12


def make_plan(**options):
    sampler = GammaBalancedSampler(LABELS, gamma=0.9, seed=4)
    options = {"batch_size": 16, "tail_mask": TAIL, "tail_fraction": 0.5} | options
    return BatchPlan(LABELS, sampler, seed=4, **options)


def test_rows_are_the_sampler_and_seeds_are_tail_rows():
    plan = make_plan()
    for step in range(30):
        records, seeds, ordinals, slots = plan(step)
        np.testing.assert_array_equal(
            records, plan._sampler.take(16 * step, 16 * step + 16)
        )
        tail_rows = [row for row in range(16) if TAIL[LABELS[records[row]]]]
        assert len(seeds) == -(-len(tail_rows) // 2)  # ceil(n / 2)
        assert len(set(ordinals.tolist())) == len(seeds)
        assert set(ordinals.tolist()) <= set(tail_rows)
        np.testing.assert_array_equal(records[ordinals], seeds)
        assert slots >= len(seeds) and slots in (0, *plan.widths)
        assert records.dtype == seeds.dtype == np.int64 and ordinals.dtype == np.int32


def test_every_tail_row_is_chosen_as_often():
    # All rows are tail rows: each of the 16 is a seed half of the time.
    plan = make_plan(tail_mask=np.ones(5, bool))
    times = sum(
        np.bincount(plan(step).seed_ordinals, minlength=16) for step in range(2000)
    )
    assert times.sum() == 2000 * 8
    assert abs(times / 2000 - 0.5).max() < 0.05


def test_a_step_can_be_read_alone_and_devices_change_nothing():
    forwards = [make_plan()(step) for step in range(20)]
    plan = make_plan()
    for step in (19, 3, 11):
        alone, eight = plan(step), make_plan(num_devices=8)(step)
        for name in ("records", "seeds", "seed_ordinals"):
            expected = getattr(forwards[step], name)
            np.testing.assert_array_equal(getattr(alone, name), expected)
            np.testing.assert_array_equal(getattr(eight, name), expected)
        assert eight.slots % 8 == 0


def test_off_and_first_step():
    off = make_plan(tail_fraction=0.0)
    assert off.widths == () and off(3).slots == 0 and len(off(3).seeds) == 0
    assert off.mean_padding() == 0.0
    assert make_plan(tail_mask=np.zeros(5, bool)).widths == ()
    late = make_plan(first_step=10)
    assert [late(step).slots > 0 for step in (8, 9, 10, 11)] == [0, 0, 1, 1]
    np.testing.assert_array_equal(late(10).seeds, make_plan()(10).seeds)
    np.testing.assert_array_equal(late(2).records, make_plan()(2).records)


def test_rounding():
    up, down = make_plan(), make_plan(rounding="floor")
    assert [up.num_seeds(n) for n in range(5)] == [0, 1, 1, 2, 2]
    assert [down.num_seeds(n) for n in range(5)] == [0, 0, 1, 1, 2]
    # 0.07 * 100 is 7.000000000000001 and 0.29 * 100 is 28.999999999999996.
    assert make_plan(tail_fraction=0.07).num_seeds(100) == 7
    assert make_plan(tail_fraction=0.29, rounding="floor").num_seeds(100) == 29
    assert make_plan(tail_fraction=1.0).num_seeds(16) == 16


def test_augmented_seeds_are_the_rows_records_with_ordinals_of_their_own():
    plan, batch = make_plan(seed_source="augmented"), make_plan()
    for step in range(20):
        ours, rows = plan(step), batch(step)
        np.testing.assert_array_equal(ours.seeds, rows.seeds)
        np.testing.assert_array_equal(
            ours.seed_ordinals, 16 + np.arange(len(ours.seeds))
        )


def test_seeds_from_the_data_set():
    plan, batch = make_plan(seed_source="dataset"), make_plan()
    same = total = 0
    seen = np.zeros(len(LABELS), int)
    for step in range(400):
        ours, rows = plan(step), batch(step)
        np.testing.assert_array_equal(ours.records, rows.records)
        np.testing.assert_array_equal(LABELS[ours.seeds], LABELS[rows.seeds])
        np.testing.assert_array_equal(
            ours.seed_ordinals, 16 + np.arange(len(ours.seeds))
        )
        same += int((ours.seeds == rows.seeds).sum())
        total += len(ours.seeds)
        seen += np.bincount(ours.seeds, minlength=len(LABELS))
    assert same < total / 2
    # Uniform within the class.
    for label in np.flatnonzero(TAIL):
        members = np.flatnonzero(label == LABELS)
        share = seen[members] / seen[members].sum()
        np.testing.assert_allclose(share, 1 / COUNTS[label], rtol=0.4)


@pytest.mark.parametrize("multiple", [1, 2])
def test_widths_against_brute_force(multiple):
    random = np.random.RandomState(0)
    for _ in range(20):
        seeds = random.randint(0, 14, 40) + random.randint(0, 3) * 2
        candidates = sorted({-(-n // multiple) * multiple for n in seeds if n})

        def padded(widths, seeds=seeds):
            if max(widths) < seeds.max():
                return np.inf
            return sum(min(w for w in widths if w >= n) - n for n in seeds if n)

        best = min(
            padded(widths)
            for k in (1, 2, 3, 4)
            for widths in itertools.combinations(candidates, k)
        )
        ours = optimal_widths(seeds, multiple_of=multiple)
        assert len(ours) <= 4 and all(width % multiple == 0 for width in ours)
        assert padded(ours) == best


def test_fewest_widths_among_equals_and_nothing_to_do():
    assert optimal_widths(np.array([3, 3, 5, 0])) == (3, 5)
    assert optimal_widths(np.array([3, 5, 6]), multiple_of=8) == (8,)
    assert optimal_widths(np.zeros(4, int)) == ()


def test_widths_of_a_plan():
    for devices in (1, 2, 8):
        plan = make_plan(num_devices=devices)
        assert len(plan.widths) <= 5
        assert all(width % devices == 0 for width in plan.widths)
        assert plan.widths[-1] == 8  # ceil(0.5 * 16): a batch of tail images only
        seeds = np.array([len(plan(step).seeds) for step in range(1000)])
        slots = np.array([plan(step).slots for step in range(1000)])
        assert (slots >= seeds).all() and (slots[seeds == 0] == 0).all()
        assert plan.mean_padding() == pytest.approx((slots - seeds).sum() / seeds.sum())


def test_layout_is_even_and_device_major():
    plan = make_plan(num_devices=4)
    for step in range(20):
        plan_step = plan(step)
        layout = slot_layout(plan_step, 4)
        assert len(layout) == plan_step.slots
        assert sorted(layout[layout >= 0]) == list(range(len(plan_step.seeds)))
        devices = layout.reshape(4, -1)
        per_device = (devices >= 0).sum(axis=1)
        assert per_device.max() - per_device.min() <= 1
        for j in range(len(plan_step.seeds)):
            assert devices[j % 4, j // 4] == j


def test_shuffled_epochs_use_every_record_once():
    plan = BatchPlan(
        LABELS,
        ShuffledSampler(len(LABELS), per_epoch=96, seed=0),
        batch_size=16,
        tail_mask=TAIL,
        tail_fraction=0.0,
        seed=0,
    )
    epoch = np.concatenate([plan(step).records for step in range(6)])
    assert len(set(epoch.tolist())) == 96


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"num_devices": 3}, "batch_size: 16 is not a multiple of the 3"),
        ({"tail_fraction": 1.5}, "tail_fraction"),
        ({"seed_source": "bach"}, "seed_source.*: batch,"),
        ({"rounding": "up"}, "rounding"),
        ({"tail_mask": TAIL[:3]}, "3 classes"),
    ],
)
def test_refuses(options, word):
    with pytest.raises(ValueError, match=word):
        make_plan(**options)


def test_tolerance_takes_the_fewest_widths_that_keep_to_it():
    # One width pads 10 slots to 10 seeds, two pad 1, three none.
    counts = np.array([1, 2, 2, 5])
    assert optimal_widths(counts) == (1, 2, 5)
    assert optimal_widths(counts, tolerance=0.1) == (2, 5)
    assert optimal_widths(counts, tolerance=1.0) == (5,)
